//! What can go wrong on a device.

use std::path::PathBuf;

/// What a device could not do.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
    /// A kernel's source did not compile.
    #[error("the kernels of {module} do not compile: {log}")]
    Compile {
        /// The file, precision and head size.
        module: String,
        /// What the compiler said.
        log: String,
    },
    /// A kernel did not start, or failed.
    #[error("the kernel {kernel} of {module} failed: {reason}")]
    Launch {
        /// The kernel's name.
        kernel: &'static str,
        /// The file, precision and head size.
        module: String,
        /// What the device said.
        reason: String,
    },
    /// Memory was not to be had, or a copy failed.
    #[error("{bytes} bytes of device memory: {reason}")]
    Memory {
        /// The number of bytes.
        bytes: usize,
        /// What the device said.
        reason: String,
    },
    /// There is no driver.
    #[error("no CUDA: the driver's library (libcuda) is not on this machine; use --device cpu")]
    NoDriver,
    /// There is no GPU, or none that will do.
    #[error("no GPU that can be used: {reason}; use --device cpu")]
    NoDevice {
        /// What the driver said, or what the GPU lacks.
        reason: String,
    },
    /// There is no compiler.
    #[error("no compiler for the kernels: libnvrtc is not found{}; install NVIDIA's NVRTC (pip install nvidia-cuda-nvrtc) and name its folder in DEBERTA_NVRTC, or name a folder of compiled kernels in DEBERTA_KERNELS", .folder.as_ref().map(|f| format!(" in {}", f.display())).unwrap_or_default())]
    NoCompiler {
        /// Where it was said to be.
        folder: Option<PathBuf>,
    },
    /// A library refused a call.
    #[error("{call}: {said}")]
    Call {
        /// The function.
        call: &'static str,
        /// What it said.
        said: String,
    },
    /// Weights or inputs that do not fit the model.
    #[error(transparent)]
    Model(#[from] deberta_model::ModelError),
    /// No kernel is made for what was asked.
    #[error("the attention kernel {rung} does not do this: {reason}")]
    Unsupported {
        /// The kernel's name.
        rung: &'static str,
        /// What it lacks.
        reason: String,
    },
}
