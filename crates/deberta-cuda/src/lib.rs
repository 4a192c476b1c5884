//! DeBERTa-v2 and v3 on a GPU, with CUDA kernels of its own.
//!
//! No CUDA toolkit is needed to build this crate, nor to run it: the driver's libraries are found at run time, and the
//! kernels in `kernels/` are compiled for the GPU that is there. Without one, everything but [`device`]'s implementation
//! for CUDA is still proven: the tests compile the same kernels for the CPU and check every access, barrier and result.
//!
//! [`device`] is what the forward pass asks of a device; [`source`] the kernels as text; [`ops`] one function for each
//! kernel, under the names of `deberta-ops`.

pub mod cuda;
pub mod device;
pub mod error;
pub mod measure;
pub mod model;
pub mod ops;
pub mod packing;
pub mod source;

mod conv_layer;
mod disentangled_attention;
mod embeddings;
mod encoder;
mod enhanced_mask_decoder;
mod heads;
mod layer;
mod pass;
mod replay;
mod staged;
mod tensors;
mod weights;

pub use cuda::CudaDevice;
pub use device::{Arg, Array, Device, Element, Gemm, Launch, Matrix, Memory, Precision};
pub use error::CudaError;
pub use model::Model;
pub use ops::Ops;
pub use source::{File, Module};
pub use staged::slots;
