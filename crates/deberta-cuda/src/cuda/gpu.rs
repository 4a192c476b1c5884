//! A GPU: its context, one stream, its memory, and the kernels that were compiled for it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::Arc;

use cudarc::driver::sys::{
    CUdevice_attribute_enum as Attribute, CUfunction, CUfunction_attribute_enum as FunctionAttribute,
    CUgraphInstantiate_flags, CUmodule, CUstreamCaptureMode,
};
use cudarc::driver::{CudaContext, CudaGraph, CudaStream, DriverError, result};

use super::cache::{Cache, entry};
use super::compile::{PORTABLE, compile, is_ptx};
use super::cublas_lt::CublasLt;
use super::library::{has_cublas_lt, require_driver};
use super::pool::{CudaMemory, Kept, Pool, failed};
use super::said;
use crate::device::{Arg, Device, Gemm, Launch, Memory};
use crate::error::CudaError;
use crate::ops::Ops;
use crate::source::Module;

/// The lowest compute capability that has bfloat16, asynchronous copies and the TF32 that the kernels use.
const LOWEST: (i32, i32) = (8, 0);

/// Scratch memory for matrix products, as NVIDIA advises for Hopper.
const WORKSPACE: usize = 32 << 20;

/// Shared memory a block may take without asking.
const PLAIN_SHARED_MEMORY: usize = 48 << 10;

/// A GPU.
pub struct CudaDevice {
    // In the order in which they are dropped.
    cublas: Option<(CublasLt, CudaMemory)>,
    kernels: RefCell<Kernels>,
    pool: Arc<Pool>,
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
    cache: Cache,
    /// Whether the driver has refused machine code of the compiler that is here, as an older driver does.
    refuses: Cell<bool>,
    capability: (i32, i32),
    shared_memory_limit: usize,
}

/// A CUDA graph, and the memory between its kernels.
pub struct Recording {
    // In the order in which they are dropped.
    graph: CudaGraph,
    _kept: Kept,
}

#[derive(Default)]
struct Kernels {
    modules: HashMap<Module, CUmodule>,
    functions: HashMap<(Module, &'static str), CUfunction>,
}

impl CudaDevice {
    /// The GPU of that number, from 0.
    ///
    /// # Errors
    /// [`CudaError::NoDriver`], [`CudaError::NoDevice`].
    pub fn open(ordinal: usize) -> Result<Self, CudaError> {
        require_driver()?;
        let none = |error| CudaError::NoDevice { reason: said(error) };
        let context = CudaContext::new(ordinal).map_err(none)?;
        let capability = context.compute_capability().map_err(none)?;
        if capability < LOWEST {
            let reason = format!(
                "its compute capability is {}.{}, and the kernels need {}.{} (Ampere) or later",
                capability.0, capability.1, LOWEST.0, LOWEST.1
            );
            return Err(CudaError::NoDevice { reason });
        }
        let limit =
            context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN).map_err(none)?;
        let stream = context.new_stream().map_err(none)?;
        let pool = Pool::new(Arc::clone(&context));
        let cublas = if has_cublas_lt() {
            let workspace = pool.allocate(WORKSPACE)?;
            let place = (workspace.address(), WORKSPACE);
            Some((CublasLt::new(place)?, workspace))
        } else {
            None
        };
        Ok(Self {
            cublas,
            kernels: RefCell::default(),
            pool,
            stream,
            context,
            cache: Cache::of_user(),
            refuses: Cell::new(false),
            capability,
            shared_memory_limit: usize::try_from(limit).unwrap_or(PLAIN_SHARED_MEMORY),
        })
    }

    /// The card's name.
    ///
    /// # Errors
    /// What the driver says.
    pub fn name(&self) -> Result<String, CudaError> {
        self.context.name().map_err(call("cuDeviceGetName"))
    }

    /// The newest CUDA that the driver serves, such as `13.0`.
    ///
    /// # Errors
    /// What the driver says.
    pub fn driver_version(&self) -> Result<String, CudaError> {
        let mut version = 0;
        // SAFETY: the driver is loaded, and writes one number.
        unsafe { cudarc::driver::sys::cuDriverGetVersion(&mut version) }
            .result()
            .map_err(call("cuDriverGetVersion"))?;
        Ok(format!("{}.{}", version / 1000, version % 1000 / 10))
    }

    /// Whether matrix products go to cublasLt; else to a kernel of our own.
    pub fn has_cublas_lt(&self) -> bool {
        self.cublas.is_some()
    }

    /// The same device with all products by our own kernel.
    #[must_use]
    pub fn with_own_products(mut self) -> Self {
        self.cublas = None;
        self
    }

    /// Waits for everything launched before.
    ///
    /// # Errors
    /// What a kernel did wrong.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        self.stream.synchronize().map_err(call("cuStreamSynchronize"))
    }

    /// The kernel of that name, compiled if need be.
    fn function(&self, module: Module, kernel: &'static str) -> Result<CUfunction, CudaError> {
        let mut kernels = self.kernels.borrow_mut();
        if let Some(&function) = kernels.functions.get(&(module, kernel)) {
            return Ok(function);
        }
        let loaded = match kernels.modules.get(&module) {
            Some(&loaded) => loaded,
            None => {
                let loaded = self.load(module)?;
                kernels.modules.insert(module, loaded);
                loaded
            }
        };
        let name = CString::new(kernel).expect("kernels have plain names");
        // SAFETY: the module is loaded, and stays so as long as this device.
        let function = unsafe { result::module::get_function(loaded, name) };
        let function = function.map_err(|error| launch_failed(module, kernel, said(error)))?;
        kernels.functions.insert((module, kernel), function);
        Ok(function)
    }

    /// The code of a module: machine code from disk, else of the compiler; where the driver takes neither, PTX from disk, else
    /// of the compiler.
    fn load(&self, module: Module) -> Result<CUmodule, CudaError> {
        self.context.bind_to_thread().map_err(call("cuCtxSetCurrent"))?;
        let (major, minor) = self.capability;
        // Code for an older card of the same generation runs too.
        let same: Vec<String> = (0..=minor).rev().map(|minor| architecture((major, minor))).collect();
        let mut problem = None;
        for architectures in [&same[..], &[PORTABLE.to_owned()]] {
            // SAFETY: the image is whole: its digest was right.
            let taken = |code: Vec<u8>| unsafe { load_image(&code) }.ok();
            let names = architectures.iter().map(|architecture| entry(&module, architecture));
            if let Some(loaded) = names.into_iter().find_map(|name| self.cache.get(&name).find_map(taken)) {
                return Ok(loaded);
            }
            let own = &architectures[0];
            if !is_ptx(own) && self.refuses.get() {
                continue;
            }
            match self.compile(module, own) {
                Ok(loaded) => return Ok(loaded),
                Err(error) => problem = problem.or(Some(error)),
            }
        }
        Err(problem.expect("PTX at least was asked for"))
    }

    fn compile(&self, module: Module, architecture: &str) -> Result<CUmodule, CudaError> {
        let compiled = compile(&module, architecture)?;
        // SAFETY: the image comes from the compiler.
        let loaded = unsafe { load_image(&compiled.code) }.map_err(|error| {
            self.refuses.set(true);
            CudaError::Compile { module: module.to_string(), log: said(error) }
        })?;
        // Without a place to keep it, it is compiled again the next time.
        let _ = self.cache.put(&entry(&module, architecture), &compiled.code);
        Ok(loaded)
    }
}

/// # Safety
/// The image is a whole ELF file, or PTX that ends in zero.
unsafe fn load_image(image: &[u8]) -> Result<CUmodule, DriverError> {
    // SAFETY: see above.
    unsafe { result::module::load_data(image.as_ptr().cast()) }
}

/// The name of an architecture, such as `sm_80`.
pub fn architecture(capability: (i32, i32)) -> String {
    format!("sm_{}{}", capability.0, capability.1)
}

impl Device for CudaDevice {
    type Memory = CudaMemory;
    type Recording = Recording;

    fn allocate(&self, bytes: usize) -> Result<CudaMemory, CudaError> {
        self.pool.allocate(bytes)
    }

    fn upload(&self, to: &CudaMemory, bytes: &[u8]) -> Result<(), CudaError> {
        assert!(bytes.len() <= to.bytes(), "{} bytes do not fit into {}", bytes.len(), to.bytes());
        self.context.bind_to_thread().map_err(|error| failed(bytes.len(), error))?;
        // SAFETY: the memory is as large, and the copy has ended before the bytes go: where a GPU reads pageable memory of the
        // host itself, nothing says that the call copies them first.
        let copied = unsafe { result::memcpy_htod_async(to.address(), bytes, self.stream.cu_stream()) };
        copied.and_then(|()| self.stream.synchronize()).map_err(|error| failed(bytes.len(), error))
    }

    fn download(&self, from: &CudaMemory, bytes: &mut [u8]) -> Result<(), CudaError> {
        assert!(bytes.len() <= from.bytes(), "{} bytes are not in {}", bytes.len(), from.bytes());
        self.context.bind_to_thread().map_err(|error| failed(bytes.len(), error))?;
        // SAFETY: the memory is as large, and the copy has ended before anybody looks at the bytes.
        let copied = unsafe { result::memcpy_dtoh_async(bytes, from.address(), self.stream.cu_stream()) };
        copied.and_then(|()| self.stream.synchronize()).map_err(|error| failed(bytes.len(), error))
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<(), CudaError> {
        let function = self.function(launch.module, launch.kernel)?;
        let failed = |error| launch_failed(launch.module, launch.kernel, said(error));
        self.context.bind_to_thread().map_err(failed)?;
        if launch.shared_bytes > PLAIN_SHARED_MEMORY {
            let bytes = i32::try_from(launch.shared_bytes).expect("far below 2³¹");
            let most = FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is loaded.
            unsafe { result::function::set_function_attribute(function, most, bytes) }.map_err(failed)?;
        }
        let mut values: Vec<u64> = launch.arguments.iter().map(bits).collect();
        let mut pointers: Vec<*mut c_void> = values.iter_mut().map(|value| std::ptr::from_mut(value).cast()).collect();
        let [x, y, z] = launch.grid;
        let [i, j, k] = launch.block;
        let shared = u32::try_from(launch.shared_bytes).expect("far below 2³²");
        // SAFETY: the arguments are those that the kernel declares, by whoever wrote the wrapper in `ops`; the driver copies
        // them before the call returns.
        unsafe { result::launch_kernel(function, (x, y, z), (i, j, k), shared, self.stream.cu_stream(), &mut pointers) }
            .map_err(failed)
    }

    fn gemm(&self, gemm: &Gemm<'_>) -> Result<(), CudaError> {
        if gemm.out.rows() == 0 {
            return Ok(());
        }
        if let Some((cublas, _)) = &self.cublas {
            self.context.bind_to_thread().map_err(call("cuCtxSetCurrent"))?;
            // SAFETY: matrices are memory of a device, and there is one context a device.
            if unsafe { cublas.product(gemm, self.stream.cu_stream())? } {
                return Ok(());
            }
        }
        Ops::new(self, gemm.precision).gemm(gemm)
    }

    fn record<T>(&self, mut body: impl FnMut() -> Result<T, CudaError>) -> Result<(Recording, T), CudaError> {
        let (kept, recorded) = self.pool.apart(|| {
            // Compiles kernels, chooses algorithms, and takes memory, which the second time is there.
            body()?;
            // Relaxed: if it is not, it may be taken all the same.
            let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
            self.stream.begin_capture(mode).map_err(call("cuStreamBeginCapture"))?;
            let made = body();
            let graph = self.stream.end_capture(CUgraphInstantiate_flags(0));
            let made = made?;
            let graph = graph.map_err(call("cuStreamEndCapture"))?;
            let nothing = || CudaError::Call { call: "cuStreamEndCapture", said: "nothing was recorded".to_owned() };
            Ok::<_, CudaError>((graph.ok_or_else(nothing)?, made))
        });
        let (graph, made) = recorded?;
        Ok((Recording { graph, _kept: kept }, made))
    }

    fn replay(&self, recording: &Recording) -> Result<(), CudaError> {
        recording.graph.launch().map_err(call("cuGraphLaunch"))
    }

    fn shared_memory_limit(&self) -> usize {
        self.shared_memory_limit
    }

    fn taken(&self) -> usize {
        self.pool.taken()
    }

    fn trim(&self) {
        self.pool.trim();
    }
}

impl Drop for CudaDevice {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_err() {
            return;
        }
        // What fails now fails for want of a device.
        let _ = self.stream.synchronize();
        for module in self.kernels.borrow_mut().modules.drain() {
            // SAFETY: nothing runs any more, and no function of the module is used after this.
            let _ = unsafe { result::module::unload(module.1) };
        }
    }
}

/// An argument as the driver reads it: from the first bytes, in little endian.
fn bits(argument: &Arg) -> u64 {
    match *argument {
        Arg::Pointer(address) => address,
        Arg::Int(value) => u64::from(value.cast_unsigned()),
        Arg::Float(value) => u64::from(value.to_bits()),
    }
}

fn launch_failed(module: Module, kernel: &'static str, reason: String) -> CudaError {
    CudaError::Launch { kernel, module: module.to_string(), reason }
}

fn call(call: &'static str) -> impl Fn(DriverError) -> CudaError {
    move |error| CudaError::Call { call, said: said(error) }
}
