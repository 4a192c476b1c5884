//! The one place that knows CUDA: the GPU as a [`crate::Device`].
//!
//! Nothing here is linked: the driver, the compiler and cublasLt are opened when the first GPU is.

mod cache;
mod compile;
mod cublas_lt;
mod gpu;
mod library;
mod pool;

use cudarc::driver::DriverError;

pub use cache::{Cache, KERNELS_FOLDER, entry};
pub use compile::{Compiled, PORTABLE, Resources, compile};
pub use gpu::{CudaDevice, Recording, architecture};
pub use library::NVRTC_FOLDER;
pub use pool::CudaMemory;

/// What the driver says about an error.
fn said(error: DriverError) -> String {
    let text = error.error_string().ok().map(|text| text.to_string_lossy().into_owned());
    text.unwrap_or_else(|| format!("{:?}", error.0))
}
