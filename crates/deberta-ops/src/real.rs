//! The two number types of the implementation.

use ndarray::NdFloat;

/// `f32` or `f64`: what the architecture is written over.
pub trait Real: NdFloat + std::iter::Sum + Default {
    /// The type's name as safetensors files and command lines spell it.
    const NAME: &'static str;

    /// The nearest value of this type.
    fn of(value: f64) -> Self;

    /// The value, widened without loss.
    fn wide(self) -> f64;
}

impl Real for f32 {
    const NAME: &'static str = "f32";

    #[expect(clippy::cast_possible_truncation, reason = "rounding to nearest is what this function is for")]
    fn of(value: f64) -> Self {
        value as f32
    }

    fn wide(self) -> f64 {
        self.into()
    }
}

impl Real for f64 {
    const NAME: &'static str = "f64";

    fn of(value: f64) -> Self {
        value
    }

    fn wide(self) -> f64 {
        self
    }
}
