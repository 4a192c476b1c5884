//! The rate of the matrix product that the model itself uses: the same library, the same threads, the same process.

use std::time::{Duration, Instant};

use deberta_model::Real;
use ndarray::Array2;
use ndarray::linalg::general_mat_mul;

/// C = A·Bᵀ, the product of a linear map: 1024 tokens through the feed-forward of the base model, large enough for a
/// library to be at its best and small enough to be timed beside every pass.
pub struct MatrixProduct<T> {
    a: Array2<T>, // [1024, 768]
    b: Array2<T>, // [3072, 768]
    c: Array2<T>, // [1024, 3072]
}

impl<T: Real> MatrixProduct<T> {
    /// Tokens, inputs and outputs.
    pub const SIZES: [usize; 3] = [1024, 768, 3072];

    /// Matrices of ordinary numbers, and one product to warm up.
    pub fn new() -> Self {
        let [n, i, o] = Self::SIZES;
        let number = |(r, c): (usize, usize)| T::of(((r * 7 + c * 13) % 17) as f64 / 17.0 - 0.5);
        let mut product = Self {
            a: Array2::from_shape_fn((n, i), number),
            b: Array2::from_shape_fn((o, i), number),
            c: Array2::zeros((n, o)),
        };
        product.time();
        product
    }

    /// How long one product takes.
    pub fn time(&mut self) -> Duration {
        let start = Instant::now();
        general_mat_mul(T::one(), &self.a, &self.b.t(), T::zero(), &mut self.c);
        start.elapsed()
    }
}

impl<T: Real> Default for MatrixProduct<T> {
    fn default() -> Self {
        Self::new()
    }
}
