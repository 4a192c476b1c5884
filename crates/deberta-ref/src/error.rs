//! What can go wrong between a directory and outputs. Every error is one sentence that names the file.

use std::path::PathBuf;

use deberta_model::{ConfigError, ModelError};
use thiserror::Error;

/// An error of this library.
#[derive(Debug, Error)]
pub enum Error {
    /// A file that cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A model directory without a configuration.
    #[error("{}: no configuration found; a model directory holds config.json (or Microsoft's model_config.json)", path.display())]
    NoConfig {
        /// The directory.
        path: PathBuf,
    },
    /// A configuration that cannot be read or run.
    #[error("{}: {source}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ConfigError,
    },
    /// Weights that cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] deberta_checkpoint::Error),
    /// Weights or inputs that do not fit the model.
    #[error("{}: {source}", path.display())]
    Model {
        /// The model directory, or the file of the inputs.
        path: PathBuf,
        /// What does not fit.
        source: ModelError,
    },
    /// A precision that a device does not compute in.
    #[error("--precision {precision} is not computed on {device}; use {others}")]
    Precision {
        /// The precision.
        precision: crate::Precision,
        /// The device.
        device: &'static str,
        /// What would do.
        others: &'static str,
    },
    /// A GPU that is not there or cannot do what is asked.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Cuda(#[from] deberta_cuda::CudaError),
    /// A program without the part that knows GPUs.
    #[cfg(not(feature = "cuda"))]
    #[error("this program was built without CUDA (cargo feature `cuda`); use --device cpu")]
    NoCuda,
    /// A tensor file that cannot be written.
    #[error("{}: cannot be written as safetensors: {source}", path.display())]
    TensorFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: safetensors::SafeTensorError,
    },
    /// Not a dump.
    #[error("{}: {}", path.display(), deberta_checkpoint::OneLine(problem))]
    Dump {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Dumps that cannot be compared, or one whose tensors contradict themselves.
    #[error(transparent)]
    Verify(#[from] deberta_verify::VerifyError),
    /// A tensor of a type that its name cannot have.
    #[error("{}: `{tensor}` is {found}, expected {expected}", path.display())]
    TensorType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type, or a value it holds.
        found: String,
        /// What would do.
        expected: &'static str,
    },
    /// A file of sequence lengths that holds something else.
    #[error("{}: {reason}; the file holds one length a line", path.display())]
    Lengths {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor file without inputs.
    #[error("{}: holds none of {expected}; the inputs of a forward pass are found by these names", path.display())]
    NoInputs {
        /// The file.
        path: PathBuf,
        /// The names looked for.
        expected: String,
    },
}

impl Error {
    /// Adds the path to what the system says.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
