//! What the naive f64 oracles in the crates' tests share: reproducible random arrays, and the rounding they may differ by.

use ndarray::{Array1, Array2};

/// Bound on the relative rounding of one `f64` operation on numbers of order one, with room for a different order of
/// summation: 16 units of 2⁻⁵². Multiply it by the number of terms.
pub const ROUNDING_F64: f64 = 16.0 * f64::EPSILON;

/// A small deterministic generator (SplitMix64, Steele et al. 2014), so that a seed in a failure message replays it.
pub struct Rng(u64);

impl Rng {
    /// Starts at `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in \[−1, 1).
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    /// An index below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next_u64() % bound as u64).expect("below a usize")
    }

    /// `n` numbers in \[−1, 1).
    pub fn vector(&mut self, n: usize) -> Array1<f64> {
        Array1::from_shape_simple_fn(n, || self.unit())
    }

    /// `rows` × `columns` numbers in \[−1, 1).
    pub fn matrix(&mut self, rows: usize, columns: usize) -> Array2<f64> {
        Array2::from_shape_simple_fn((rows, columns), || self.unit())
    }
}
