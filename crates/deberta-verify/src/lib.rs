//! Verification: compares the intermediates of two implementations and names the operation that is wrong.
//!
//! [`compare()`] takes two [`Dump`]s of named tensors, puts them in the order of computation ([`order`]), measures each
//! pair ([`measure`]) against a budget that rounding explains ([`budget`]), and says which tensor is the first to
//! diverge. [`report`] shows the outcome as a table, as JSON, or as one page of HTML.
//!
//! The crate knows tensors and names, and no model: it depends on no other crate of this project.

#[cfg(feature = "openblas")]
extern crate openblas_src as _;

pub mod adapt;
pub mod budget;
pub mod compare;
pub mod diagnose;
mod dtype;
mod dump;
mod error;
mod heat_map;
mod judge;
mod mask;
pub mod measure;
pub mod order;
pub mod report;
mod tensor;

pub use compare::{Comparison, Difference, Finding, Options, Positions, Row, Verdict, compare};
pub use diagnose::{Cause, Knowledge, Weights};
pub use dtype::Dtype;
pub use dump::{Dump, Origin};
pub use error::VerifyError;
pub use heat_map::{HeatMap, Panel};
pub use tensor::{Keep, Tensor};
