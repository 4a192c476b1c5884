//! The libraries that a GPU needs, found at run time: the driver (`libcuda`, which comes with the card's driver), the
//! compiler (`libnvrtc`) and the matrix products (`libcublasLt`). Only the driver is indispensable.
//!
//! The loader looks where the system's loader looks. A folder in [`NVRTC_FOLDER`] comes first: the wheels of PyPI put
//! theirs where no loader looks.

use std::path::{Path, PathBuf};

use cudarc::{cublaslt, driver, nvrtc};

use crate::error::CudaError;

/// The environment variable that names a folder with `libnvrtc.so.*` and `libnvrtc-builtins.so.*`.
pub const NVRTC_FOLDER: &str = "DEBERTA_NVRTC";

/// # Errors
/// [`CudaError::NoDriver`].
pub fn require_driver() -> Result<(), CudaError> {
    // SAFETY: loading the driver runs its initializers, which are NVIDIA's own and made to be loaded by any program.
    if unsafe { driver::sys::is_culib_present() } { Ok(()) } else { Err(CudaError::NoDriver) }
}

/// # Errors
/// [`CudaError::NoCompiler`] where there is none, or a folder was named and does not hold it.
pub fn require_nvrtc() -> Result<(), CudaError> {
    if let Some(folder) = std::env::var_os(NVRTC_FOLDER) {
        preload(&PathBuf::from(folder))?;
    }
    // SAFETY: as above.
    if unsafe { nvrtc::sys::is_culib_present() } { Ok(()) } else { Err(CudaError::NoCompiler { folder: None }) }
}

/// Whether matrix products can go to cublasLt.
pub fn has_cublas_lt() -> bool {
    // SAFETY: as above.
    unsafe { cublaslt::sys::is_culib_present() }
}

/// Loads the compiler from `folder`, its built-in headers first. What is loaded once is found by name afterwards.
fn preload(folder: &Path) -> Result<(), CudaError> {
    let missing = || CudaError::NoCompiler { folder: Some(folder.to_owned()) };
    let entries = std::fs::read_dir(folder).map_err(|_| missing())?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    for stem in ["libnvrtc-builtins.so", "libnvrtc.so"] {
        let named = |file: &&PathBuf| file.file_name().is_some_and(|n| n.to_string_lossy().starts_with(stem));
        let file = files.iter().find(named).ok_or_else(missing)?;
        // SAFETY: as above. The library is never unloaded.
        let library = unsafe { libloading::Library::new(file) }.map_err(|_| missing())?;
        std::mem::forget(library);
    }
    Ok(())
}
