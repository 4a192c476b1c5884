//! A CUDA device on the CPU: the very text and defines that NVRTC would be given are compiled by g++ and run with one
//! fiber a thread (`runtime.cpp` says what is checked on the way).
//!
//! Only device.cuh is another file here, device.h, which has no PTX.

pub mod library;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use deberta_cuda::{Arg, CudaError, Device, Gemm, Launch, Matrix, Memory, Module, Precision};

use library::Mutation;
use library::library;

/// The shared memory a block may have on an H100; sm_86 and sm_89 have 101,376 bytes.
const SHARED_MEMORY_LIMIT: usize = 232_448;

/// Memory of the device: a box of words, so that it is aligned to 16 bytes.
pub struct EmulatedMemory {
    words: Box<[u128]>,
    bytes: usize,
    live: Arc<Mutex<BTreeMap<u64, usize>>>,
    kept: Arc<Mutex<Option<Vec<EmulatedMemory>>>>,
}

impl Memory for EmulatedMemory {
    fn address(&self) -> u64 {
        self.words.as_ptr() as u64
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for EmulatedMemory {
    fn drop(&mut self) {
        let address = self.address();
        match &mut *lock(&self.kept) {
            // A recording goes on using it.
            Some(kept) if !self.words.is_empty() => kept.push(Self {
                words: std::mem::take(&mut self.words),
                bytes: self.bytes,
                live: Arc::clone(&self.live),
                kept: Arc::default(),
            }),
            _ if !self.words.is_empty() => drop(lock(&self.live).remove(&address)),
            _ => {}
        }
    }
}

/// A device that runs threads in the order of `seed`; 0 is the order of their numbers.
pub struct EmulatedDevice {
    seed: u64,
    mutation: Option<Mutation>,
    live: Arc<Mutex<BTreeMap<u64, usize>>>,
    /// Where memory goes that is dropped while something is recorded.
    kept: Arc<Mutex<Option<Vec<EmulatedMemory>>>>,
    /// What has been launched since recording began, and is not run.
    steps: RefCell<Option<Vec<Step>>>,
    /// The names of the kernels that were run, `product` among them.
    pub ran: RefCell<Vec<&'static str>>,
}

/// A launch or a product that was recorded.
enum Step {
    Launch {
        module: Module,
        kernel: &'static str,
        grid: [u32; 3],
        block: [u32; 3],
        shared_bytes: usize,
        arguments: Vec<Arg>,
    },
    Product(Gemm<'static>),
}

/// What was recorded, and the memory that only it knows.
pub struct Recording {
    steps: Vec<Step>,
    _kept: Vec<EmulatedMemory>,
}

#[repr(C)]
struct Buffer {
    begin: u64,
    end: u64,
}

type RunKernel = unsafe extern "C" fn(
    kernel: *const c_void,
    arguments: *mut *mut c_void,
    grid: *const u32,
    threads: usize,
    shared_bytes: usize,
    seed: u64,
    buffers: *const Buffer,
    buffer_count: usize,
    report: *mut c_char,
    report_bytes: usize,
) -> bool;

impl EmulatedDevice {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            mutation: None,
            live: Arc::default(),
            kept: Arc::default(),
            steps: RefCell::default(),
            ran: RefCell::default(),
        }
    }

    /// A device whose kernels have been changed, to see that the tests notice.
    pub fn mutated(mutation: Mutation) -> Self {
        Self { mutation: Some(mutation), ..Self::new(0) }
    }
}

impl Device for EmulatedDevice {
    type Memory = EmulatedMemory;
    type Recording = Recording;

    /// Poisoned: every byte 0xFF, which is NaN in every precision.
    fn allocate(&self, bytes: usize) -> Result<EmulatedMemory, CudaError> {
        let words = vec![u128::MAX; bytes.div_ceil(16)].into_boxed_slice();
        let memory = EmulatedMemory { words, bytes, live: Arc::clone(&self.live), kept: Arc::clone(&self.kept) };
        lock(&self.live).insert(memory.address(), bytes);
        Ok(memory)
    }

    fn upload(&self, to: &EmulatedMemory, bytes: &[u8]) -> Result<(), CudaError> {
        assert!(bytes.len() <= to.bytes, "{} bytes do not fit into {}", bytes.len(), to.bytes);
        // SAFETY: as many bytes are there; device memory is only ever reached through its address.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.address() as *mut u8, bytes.len()) };
        Ok(())
    }

    fn download(&self, from: &EmulatedMemory, bytes: &mut [u8]) -> Result<(), CudaError> {
        assert!(bytes.len() <= from.bytes, "{} bytes are not in {}", bytes.len(), from.bytes);
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(from.address() as *const u8, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<(), CudaError> {
        if let Some(steps) = &mut *self.steps.borrow_mut() {
            let Launch { module, kernel, grid, block, shared_bytes, arguments } = *launch;
            steps.push(Step::Launch { module, kernel, grid, block, shared_bytes, arguments: arguments.to_vec() });
            return Ok(());
        }
        self.ran.borrow_mut().push(launch.kernel);
        let failed =
            |reason: String| CudaError::Launch { kernel: launch.kernel, module: launch.module.to_string(), reason };
        let library = library(launch.module, self.mutation)?;
        let name = launch.kernel;
        // SAFETY: the symbols are what the macro KERNEL of device.h makes of every kernel, of these types.
        let (kernel, threads, parameters, run) = unsafe {
            let missing = |e: libloading::Error| failed(e.to_string());
            let kernel = *library.get::<*const c_void>(format!("{name}_call")).map_err(missing)?;
            let threads = **library.get::<*const i32>(format!("{name}_threads")).map_err(missing)?;
            let parameters = **library.get::<*const i32>(format!("{name}_parameters")).map_err(missing)?;
            (kernel, threads, parameters, *library.get::<RunKernel>("emulator_launch").map_err(missing)?)
        };
        if launch.block != [threads as u32, 1, 1] || threads % 32 != 0 {
            return Err(failed(format!("launched with {:?} threads, and made for {threads}", launch.block)));
        }
        if launch.arguments.len() != parameters as usize {
            return Err(failed(format!("launched with {} arguments of {parameters}", launch.arguments.len())));
        }
        if launch.grid.contains(&0) || launch.grid[1] > 65_535 || launch.grid[2] > 65_535 {
            return Err(failed(format!("no device takes the grid {:?}", launch.grid)));
        }
        let mut values: Vec<[u8; 8]> = launch.arguments.iter().map(argument_bytes).collect();
        let mut pointers: Vec<*mut c_void> = values.iter_mut().map(|v| v.as_mut_ptr().cast()).collect();
        let buffers: Vec<Buffer> = (lock(&self.live).iter())
            .map(|(&address, &bytes)| Buffer { begin: address, end: address + bytes as u64 })
            .collect();
        let mut report = [0 as c_char; 1024];
        // SAFETY: the kernel's accesses are checked against `buffers` before they are made.
        let fine = unsafe {
            run(
                kernel,
                pointers.as_mut_ptr(),
                launch.grid.as_ptr(),
                threads as usize,
                launch.shared_bytes,
                self.seed,
                buffers.as_ptr(),
                buffers.len(),
                report.as_mut_ptr(),
                report.len(),
            )
        };
        // SAFETY: the emulator ends its sentence with a zero.
        let said = || unsafe { CStr::from_ptr(report.as_ptr()) }.to_string_lossy().into_owned();
        if fine { Ok(()) } else { Err(failed(said())) }
    }

    /// Naive, in `f64`, and rounded once.
    fn gemm(&self, gemm: &Gemm<'_>) -> Result<(), CudaError> {
        if let Some(steps) = &mut *self.steps.borrow_mut() {
            // SAFETY: what it refers to lives as long as the recording: it was there before, is kept by it, or returned beside it.
            steps.push(Step::Product(unsafe { std::mem::transmute::<Gemm<'_>, Gemm<'static>>(*gemm) }));
            return Ok(());
        }
        self.ran.borrow_mut().push("product");
        let Gemm { precision, out, x, weight, bias } = gemm;
        assert_eq!((x.columns(), out.rows(), out.columns()), (weight.columns(), x.rows(), weight.rows()));
        let (x, weight) = (read(*precision, x), read(*precision, weight));
        let depth = gemm.x.columns();
        let bias = bias.as_ref().map(|b| read(*precision, b));
        for i in 0..out.rows() {
            for j in 0..out.columns() {
                let (a, b) = (&x[i * depth..][..depth], &weight[j * depth..][..depth]);
                let sum: f64 = a.iter().zip(b).map(|(a, b)| operand(*precision, *a) * operand(*precision, *b)).sum();
                write(*precision, out, i, j, sum + bias.as_ref().map_or(0.0, |b| b[j]));
            }
        }
        Ok(())
    }

    fn record<T>(&self, mut body: impl FnMut() -> Result<T, CudaError>) -> Result<(Recording, T), CudaError> {
        body()?;
        *lock(&self.kept) = Some(Vec::new());
        self.steps.replace(Some(Vec::new()));
        let made = body();
        let steps = self.steps.take().unwrap_or_default();
        let kept = lock(&self.kept).take().unwrap_or_default();
        Ok((Recording { steps, _kept: kept }, made?))
    }

    fn replay(&self, recording: &Recording) -> Result<(), CudaError> {
        for step in &recording.steps {
            match step {
                Step::Launch { module, kernel, grid, block, shared_bytes, arguments } => self.launch(&Launch {
                    module: *module,
                    kernel,
                    grid: *grid,
                    block: *block,
                    shared_bytes: *shared_bytes,
                    arguments,
                })?,
                Step::Product(gemm) => self.gemm(gemm)?,
            }
        }
        Ok(())
    }

    fn shared_memory_limit(&self) -> usize {
        SHARED_MEMORY_LIMIT
    }

    /// What is live: nothing is kept for the next who asks.
    fn taken(&self) -> usize {
        lock(&self.live).values().sum()
    }

    fn trim(&self) {}
}

fn argument_bytes(argument: &Arg) -> [u8; 8] {
    let mut bytes = [0xAB; 8];
    match argument {
        Arg::Pointer(p) => bytes.copy_from_slice(&p.to_ne_bytes()),
        Arg::Int(i) => bytes[..4].copy_from_slice(&i.to_ne_bytes()),
        Arg::Float(f) => bytes[..4].copy_from_slice(&f.to_ne_bytes()),
    }
    bytes
}

/// What a product sees of a number.
fn operand(precision: Precision, value: f64) -> f64 {
    match precision {
        Precision::Tf32 => {
            let bits = (value as f32).to_bits();
            f64::from(f32::from_bits((bits + 0x1000) & 0xffff_e000))
        }
        _ => value,
    }
}

/// The elements of a matrix in device memory, row by row.
pub fn read(precision: Precision, matrix: &Matrix<'_>) -> Vec<f64> {
    let places = (0..matrix.rows()).flat_map(|i| (0..matrix.columns()).map(move |j| (i, j)));
    places
        .map(|(i, j)| {
            let address = matrix.address() + ((i * matrix.stride() + j) * precision.bytes()) as u64;
            // SAFETY: a `Matrix` lies within memory that outlives it.
            unsafe {
                match precision {
                    Precision::F32 | Precision::Tf32 => f64::from(*(address as *const f32)),
                    Precision::F16 => (*(address as *const half::f16)).to_f64(),
                    Precision::Bf16 => (*(address as *const half::bf16)).to_f64(),
                }
            }
        })
        .collect()
}

fn write(precision: Precision, matrix: &Matrix<'_>, i: usize, j: usize, value: f64) {
    let address = matrix.address() + ((i * matrix.stride() + j) * precision.bytes()) as u64;
    // SAFETY: as in `read`; nothing else refers to device memory.
    unsafe {
        match precision {
            Precision::F32 | Precision::Tf32 => *(address as *mut f32) = value as f32,
            Precision::F16 => *(address as *mut half::f16) = half::f16::from_f64(value),
            Precision::Bf16 => *(address as *mut half::bf16) = half::bf16::from_f64(value),
        }
    }
}

/// A test that failed elsewhere must not hide what this one finds.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
