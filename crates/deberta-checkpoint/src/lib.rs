//! Checkpoints: readers for every format DeBERTa was published in, and a writer of safetensors that proves its output.
//!
//! [`Checkpoint::open`] takes a file or folder of any format and lists its tensors: name, type, shape, and where the bytes
//! lie. Files are mapped; nothing is copied before it is asked for, and nothing a file says is run or trusted.

mod array;
mod checkpoint;
pub mod convert;
mod error;
mod hdf5;
pub mod inspect;
mod locate;
pub mod name_map;
mod npy;
mod npz;
mod pickle;
mod safetensors;
mod storage;
mod tensor;
mod tensor_bundle;
mod torch_legacy;
mod torch_tensors;
mod torch_zip;
mod view;

pub use ::safetensors::Dtype;
pub use array::Element;
pub use checkpoint::Checkpoint;
pub use error::{Error, OneLine};
pub use locate::model_directory;
pub use name_map::{Resolved, resolve};
pub use pickle::{PickleError, RefusedGlobal};
pub use tensor::{Format, Other, TensorInfo};
