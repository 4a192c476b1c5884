//! What the tests of every crate share: where fixtures and third-party data lie, how a tensor file is read, and how a
//! test that cannot run says so. Depends on no implementation crate, so that nothing here can be wrong in the same way
//! as what it checks.

mod goldens;
pub mod mistaken;
pub mod oracle;
mod paths;
mod tensors;

pub use goldens::{Case, Distance, F32_FACTOR, F64_BOUND, Manifest, distance};
pub use paths::{fixtures, program, skipped, third_party};
pub use tensors::{Tensor, TensorFile};
