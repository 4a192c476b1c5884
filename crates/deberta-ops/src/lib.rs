//! Single operations of DeBERTa on ndarray and BLAS, generic over `f32` and `f64`.
//!
//! Every operation is one function of arrays to an array, in a module of its own that opens with its equation. None
//! keeps state, and none knows what model it serves. Shapes use one legend throughout the project: B batch, L sequence
//! length (Q and K where query and key lengths differ), H heads, D head size, E hidden size, R relative rows, V
//! vocabulary, C classes.
//!
//! States are of the type of the data. What leads from one state to the next, reductions (the moments of layer norm, the denominator of softmax, losses, small products), residual
//! sums and transcendental functions, is taken in `f64` whatever that type is and rounded once, so that in `f32` what remains is the
//! rounding of the states themselves and of the large matrix products.

#[cfg(feature = "openblas")]
extern crate openblas_src as _;

mod activation;
mod buffers;
mod conv1d;
mod cross_entropy;
mod dispatch;
mod gather;
mod head_scores;
mod layer_norm;
mod linear;
mod look_up;
mod masked_softmax;
mod panels;
mod product;
mod real;
mod shared;
mod threads;
mod tile;
mod transpose;
mod vector;
mod vectorized;

pub use activation::Activation;
pub use buffers::{Buffer, clear_buffers, give, recycle, take, unwritten};
pub use conv1d::conv1d;
pub use cross_entropy::{
    LossError, binary_cross_entropy_with_logits, cross_entropy, cross_entropy_each, mean_squared_error,
    soft_cross_entropy,
};
pub use gather::{gather_c2p, gather_p2c, gather_rows};
pub use head_scores::{Lanes, add_skewed, exponentials};
pub use layer_norm::{layer_norm, panels_layer_norm, residual_layer_norm};
pub use linear::{SMALL_PRODUCT, accumulates_wide, linear, linear_wide, narrow, wide};
pub use look_up::{At, LookUp};
pub use masked_softmax::{Hidden, masked_softmax};
pub use panels::Panels;
pub use product::{Affine, product};
pub use real::Real;
pub use shared::SharedRows;
pub use threads::{for_each, set_threads, threads};
pub use tile::{LANES, Tiles};
pub use transpose::{to_lanes, to_rows};
