//! What a prediction of a tensor is measured by, once the tensor itself has been judged.

use super::{has_heads, magnitude, masks, within};
use crate::compare::Row;
use crate::dtype::Dtype;
use crate::measure::{Errors, Layout};
use crate::tensor::Tensor;

/// What any other values would have to be within, to pass for a tensor.
#[derive(Clone, Debug)]
pub(crate) struct Yardstick {
    pub(super) name: String,
    /// Of the noise of the whole.
    pub(super) level: f64,
    /// Of an element: this times its magnitude …
    pub(super) relative: f64,
    /// … plus this.
    pub(super) absolute: f64,
    /// The unit roundoff of what was computed in.
    pub(super) unit: f64,
    pub(super) computed_in: Dtype,
}

/// How far a prediction is from what was found.
#[derive(Clone, Debug)]
pub(crate) struct Fit {
    pub within: bool,
    /// rms(error) / rms(prediction).
    pub noise: f64,
    pub max_abs: f64,
    /// Elements of which one alone is a number.
    pub non_finite: usize,
}

impl Fit {
    /// For choosing among fits: less is nearer.
    pub fn score(&self) -> f64 {
        if self.non_finite > 0 || self.noise.is_nan() { f64::INFINITY } else { self.noise }
    }
}

impl Yardstick {
    pub(super) fn none(name: &str, computed_in: Dtype) -> Self {
        Self { name: name.to_owned(), level: 0.0, relative: 0.0, absolute: 0.0, unit: 0.0, computed_in }
    }
}

impl Row {
    /// Measures a prediction against what was found, by the budget of this tensor.
    pub(crate) fn fit(&self, shape: &[usize], heads: usize, prediction: &[f64], found: &[f64]) -> Fit {
        let by = &self.yardstick;
        let layout = Layout::of(shape, Some(heads).filter(|_| has_heads(&by.name)));
        let errors = Errors::new(prediction, found, &layout, magnitude(&by.name), masks(&by.name));
        let finite = || errors.error.iter().filter(|e| e.is_finite()).map(|e| e.abs());
        let element = |(e, m): (&f64, &f64)| e.is_nan() || within(e.abs(), by.relative * m + by.absolute);
        let elements = errors.error.iter().zip(&errors.magnitude).all(element);
        Fit {
            within: errors.non_finite.is_empty() && within(errors.noise, by.level) && elements,
            noise: errors.noise,
            max_abs: finite().fold(0.0, f64::max),
            non_finite: errors.non_finite.len(),
        }
    }

    /// The relative noise that is always there.
    pub(crate) fn rounding(&self) -> f64 {
        self.yardstick.unit
    }

    /// What the actual dump was computed in.
    pub(crate) fn computed_in(&self) -> Dtype {
        self.yardstick.computed_in
    }

    /// Whether what was found in the place of this tensor is what `other` should hold.
    pub(crate) fn holds(&self, other: &Tensor, found: &Tensor) -> bool {
        if other.shape() != found.shape() {
            return false;
        }
        let (x, y) = (other.widened(), found.widened());
        self.fit(other.shape(), 1, &x, &y).within
    }
}
