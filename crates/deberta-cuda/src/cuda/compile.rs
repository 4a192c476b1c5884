//! From the text of a kernel to code by NVRTC: machine code for one architecture (`sm_80`), or PTX for it and all later ones
//! (`compute_80`), which the driver assembles.

use std::ffi::{CString, c_char, c_int};
use std::ptr::{null, null_mut};

use cudarc::nvrtc::sys::{self, nvrtcProgram, nvrtcResult};

use super::library::require_nvrtc;
use crate::error::CudaError;
use crate::source::Module;

/// What a kernel was compiled to.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The code as the driver loads it: an ELF file, or PTX that ends in zero.
    pub code: Vec<u8>,
    /// What the compiler said, the assembler's account of registers and spills included.
    pub log: String,
}

/// What PTX is made for: the lowest architecture that is supported.
pub const PORTABLE: &str = "compute_80";

/// Whether an architecture is a virtual one, whose code is PTX.
pub fn is_ptx(architecture: &str) -> bool {
    architecture.starts_with("compute_")
}

/// Compiles `module` for `architecture`, such as `sm_80` or `compute_80`.
///
/// # Errors
/// No compiler, or a text that it refuses: the error holds what it said.
pub fn compile(module: &Module, architecture: &str) -> Result<Compiled, CudaError> {
    require_nvrtc()?;
    let mut options = vec![format!("--gpu-architecture={architecture}"), "--std=c++17".to_owned()];
    if !is_ptx(architecture) {
        options.push("--ptxas-options=-v".to_owned());
    }
    options.extend(module.defines().into_iter().map(|define| format!("--define-macro={define}")));
    let program = Program::new(module.file.name(), &module.text())?;
    let built = program.build(&options);
    let log = program.log()?;
    if built != nvrtcResult::NVRTC_SUCCESS {
        return Err(CudaError::Compile { module: format!("{module} on {architecture}"), log });
    }
    let code = program.code(is_ptx(architecture))?;
    Ok(Compiled { code: if is_ptx(architecture) { for_older_drivers(&code) } else { code }, log })
}

/// The version of PTX that the shipped text says it is in. What the kernels use is all of 7.0, and their text assembles as that;
/// NVRTC writes its own version at the head, which a driver older than it refuses. 7.4 is that of CUDA 11.4, driver 470.
const PTX_VERSION: &str = ".version 7.4";

fn for_older_drivers(ptx: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(ptx);
    let line = |line: &str| if line.starts_with(".version ") { PTX_VERSION.to_owned() } else { line.to_owned() };
    text.split('\n').map(line).collect::<Vec<_>>().join("\n").into_bytes()
}

struct Program(nvrtcProgram);

impl Program {
    fn new(name: &str, text: &str) -> Result<Self, CudaError> {
        let (name, text) = (c_string(name), c_string(text));
        let mut program = null_mut();
        // SAFETY: both strings end in zero and outlive the call; there are no headers.
        let made = unsafe { sys::nvrtcCreateProgram(&mut program, text.as_ptr(), name.as_ptr(), 0, null(), null()) };
        checked("nvrtcCreateProgram", made)?;
        Ok(Self(program))
    }

    fn build(&self, options: &[String]) -> nvrtcResult {
        let options: Vec<CString> = options.iter().map(|o| c_string(o)).collect();
        let pointers: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
        let count = c_int::try_from(pointers.len()).expect("a handful of options");
        // SAFETY: the program is alive, and as many strings are given as are counted.
        unsafe { sys::nvrtcCompileProgram(self.0, count, pointers.as_ptr()) }
    }

    fn log(&self) -> Result<String, CudaError> {
        let mut size = 0;
        // SAFETY: the program is alive, and the buffer is of the size that the library asks for.
        let bytes = unsafe {
            checked("nvrtcGetProgramLogSize", sys::nvrtcGetProgramLogSize(self.0, &mut size))?;
            let mut bytes = vec![0_u8; size];
            checked("nvrtcGetProgramLog", sys::nvrtcGetProgramLog(self.0, bytes.as_mut_ptr().cast()))?;
            bytes
        };
        Ok(String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned())
    }

    fn code(&self, ptx: bool) -> Result<Vec<u8>, CudaError> {
        let mut size = 0;
        // SAFETY: as above.
        unsafe {
            let sized = if ptx { sys::nvrtcGetPTXSize } else { sys::nvrtcGetCUBINSize };
            checked("the size of nvrtcGetPTX or nvrtcGetCUBIN", sized(self.0, &mut size))?;
            let mut bytes = vec![0_u8; size];
            let got = if ptx { sys::nvrtcGetPTX } else { sys::nvrtcGetCUBIN };
            checked("nvrtcGetPTX or nvrtcGetCUBIN", got(self.0, bytes.as_mut_ptr().cast()))?;
            Ok(bytes)
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: the program is alive, and nothing uses it after this. What cannot be freed is left.
        unsafe { sys::nvrtcDestroyProgram(&mut self.0) };
    }
}

fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', " ")).expect("no zero is left")
}

fn checked(call: &'static str, outcome: nvrtcResult) -> Result<(), CudaError> {
    match outcome {
        nvrtcResult::NVRTC_SUCCESS => Ok(()),
        other => Err(CudaError::Call { call, said: format!("{other:?}") }),
    }
}

/// What the assembler says a kernel takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resources {
    /// The kernel.
    pub kernel: String,
    /// Registers a thread.
    pub registers: usize,
    /// Bytes of shared memory a block, beside what a launch adds.
    pub shared: usize,
    /// Bytes of stack a thread.
    pub stack: usize,
    /// Bytes of registers written to memory for want of room.
    pub spill_stores: usize,
    /// Bytes of them read back.
    pub spill_loads: usize,
}

impl Resources {
    /// Reads the assembler's account of every kernel out of a compiler's log.
    pub fn read(log: &str) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for line in log.lines() {
            if let Some(kernel) = between(line, "Compiling entry function '", "'") {
                all.push(Self {
                    kernel: kernel.to_owned(),
                    registers: 0,
                    shared: 0,
                    stack: 0,
                    spill_stores: 0,
                    spill_loads: 0,
                });
            } else if let Some(last) = all.last_mut() {
                let number = |unit| number_before(line, unit);
                if let (Some(stack), Some(stores), Some(loads)) =
                    (number(" bytes stack frame"), number(" bytes spill stores"), number(" bytes spill loads"))
                {
                    (last.stack, last.spill_stores, last.spill_loads) = (stack, stores, loads);
                }
                if let Some(registers) = number(" registers") {
                    last.registers = registers;
                    last.shared = number(" bytes smem").unwrap_or(0);
                }
            }
        }
        all
    }
}

fn between<'t>(text: &'t str, start: &str, end: &str) -> Option<&'t str> {
    text.split_once(start)?.1.split_once(end).map(|(inner, _)| inner)
}

fn number_before(text: &str, unit: &str) -> Option<usize> {
    let before = text.split_once(unit)?.0;
    let digits = before.rsplit(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shipped_ptx_says_an_older_version_and_nothing_else_changes() {
        let ptx = b"// made\n.version 9.0\n.target sm_80\n\tadd.f32 %f1, %f2, %f3;\n\0";
        let older = for_older_drivers(ptx);
        assert_eq!(older, b"// made\n.version 7.4\n.target sm_80\n\tadd.f32 %f1, %f2, %f3;\n\0");
    }

    #[test]
    fn the_assemblers_account_is_read() {
        let log = "ptxas info    : 0 bytes gmem\n\
            ptxas info    : Compiling entry function 'rows' for 'sm_80'\n\
            ptxas info    : Function properties for rows\n\
            ptxas         .     16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads\n\
            ptxas info    : Used 32 registers, used 1 barriers, 1024 bytes smem, 368 bytes cmem[0]\n\
            ptxas info    : Compiling entry function 'more' for 'sm_80'\n\
            ptxas info    : Used 8 registers, 352 bytes cmem[0]\n";
        let found = Resources::read(log);
        let rows = Resources {
            kernel: "rows".into(),
            registers: 32,
            shared: 1024,
            stack: 16,
            spill_stores: 8,
            spill_loads: 12,
        };
        let more =
            Resources { kernel: "more".into(), registers: 8, shared: 0, stack: 0, spill_stores: 0, spill_loads: 0 };
        assert_eq!(found, [rows, more]);
        assert_eq!(Resources::read("nothing"), []);
    }
}
