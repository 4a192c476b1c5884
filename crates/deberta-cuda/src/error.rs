//! What can go wrong on a device.

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
    /// No kernel is made for what was asked.
    #[error("the attention kernel {rung} does not do this: {reason}")]
    Unsupported {
        /// The kernel's name.
        rung: &'static str,
        /// What it lacks.
        reason: String,
    },
}
