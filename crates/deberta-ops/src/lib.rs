//! Single operations of DeBERTa on ndarray and BLAS, generic over `f32` and `f64`.

#[cfg(feature = "openblas")]
extern crate openblas_src as _;
