//! Losses: cross-entropy over classes, its form for distributions, binary cross-entropy with logits, squared error.
//!
//! All accumulate in `f64` and return a scalar of the data's type. A mean over no element is NaN (0/0), as in PyTorch.

use ndarray::{Array1, ArrayView1, ArrayView2, ArrayViewD, Zip};
use thiserror::Error;

use crate::Real;

/// A label that no class bears.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("label {label} at index {index} is outside the {classes} classes")]
pub struct LossError {
    /// The label found.
    pub label: i64,
    /// Where it stands, in row-major order.
    pub index: usize,
    /// The number of classes.
    pub classes: usize,
}

/// ℓ_n = log Σ_c exp(x_nc) − x_n,label for each row whose label is not `ignored`, in order.
///
/// # Shapes
/// `logits` [N, C], `labels` \[N\]; returns at most N numbers.
///
/// # Errors
/// A label that is neither `ignored` nor a class.
pub fn cross_entropy_each<T: Real>(
    logits: ArrayView2<'_, T>,
    labels: ArrayView1<'_, i64>,
    ignored: impl Fn(i64) -> bool,
) -> Result<Array1<T>, LossError> {
    let classes = logits.ncols();
    let mut losses = Vec::new();
    for (index, (row, &label)) in logits.rows().into_iter().zip(labels).enumerate() {
        if ignored(label) {
            continue;
        }
        let class = usize::try_from(label).ok().filter(|&c| c < classes);
        let class = class.ok_or(LossError { label, index, classes })?;
        losses.push(T::of(log_sum_exp(row) - row[class].wide()));
    }
    Ok(Array1::from(losses))
}

/// The mean of [`cross_entropy_each`] (`torch.nn.CrossEntropyLoss`).
///
/// # Shapes
/// `logits` [N, C], `labels` \[N\].
///
/// # Errors
/// A label that is neither `ignored` nor a class.
pub fn cross_entropy<T: Real>(
    logits: ArrayView2<'_, T>,
    labels: ArrayView1<'_, i64>,
    ignored: impl Fn(i64) -> bool,
) -> Result<T, LossError> {
    let wide = logits.mapv(Real::wide);
    let losses = cross_entropy_each(wide.view(), labels, ignored)?;
    Ok(T::of(losses.sum() / losses.len() as f64))
}

/// −(1/N) Σ_n Σ_c t_nc · log softmax(x_n)_c, for labels that are distributions.
///
/// # Shapes
/// `logits` and `targets` [N, C].
///
/// # Panics
/// If the shapes differ.
pub fn soft_cross_entropy<T: Real>(logits: ArrayView2<'_, T>, targets: ArrayView2<'_, T>) -> T {
    assert_eq!(logits.dim(), targets.dim(), "one target a logit");
    let mut total = 0.0;
    for (row, target) in logits.rows().into_iter().zip(targets.rows()) {
        let normalizer = log_sum_exp(row);
        total -= Zip::from(row).and(target).fold(0.0, |sum, &x, &t| sum + (x.wide() - normalizer) * t.wide());
    }
    T::of(total / logits.nrows() as f64)
}

/// ℓ = max(x, 0) − x·t + log(1 + e^−|x|) for each pair of logit and target (`torch.nn.BCEWithLogitsLoss` before its
/// reduction).
pub fn binary_cross_entropy_with_logits<T: Real>(logit: T, target: T) -> T {
    let (x, t) = (logit.wide(), target.wide());
    let positive = if x < 0.0 { 0.0 } else { x };
    T::of(positive - x * t + (-x.abs()).exp().ln_1p())
}

/// The mean of (x − t)² over all elements (`torch.nn.MSELoss`).
///
/// # Panics
/// If the shapes differ.
pub fn mean_squared_error<T: Real>(values: ArrayViewD<'_, T>, targets: ArrayViewD<'_, T>) -> T {
    assert_eq!(values.shape(), targets.shape(), "one target a value");
    let sum = Zip::from(&values).and(&targets).fold(0.0, |sum, &x, &t| sum + (x.wide() - t.wide()).powi(2));
    T::of(sum / values.len() as f64)
}

fn log_sum_exp<T: Real>(row: ArrayView1<'_, T>) -> f64 {
    let max = row.iter().fold(f64::NEG_INFINITY, |m, x| if x.is_nan() { f64::NAN } else { m.max(x.wide()) });
    max + row.iter().map(|x| (x.wide() - max).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use approx::assert_relative_eq;
    use ndarray::array;

    use super::*;

    #[test]
    fn cross_entropy_of_known_odds() {
        // Odds 1 : 3 and 1 : 1.
        let logits = array![[0.0, 3.0_f64.ln()], [7.0, 7.0], [1.0, 2.0]];
        let loss = cross_entropy(logits.view(), array![0, 1, -100].view(), |l| l == -100).unwrap();
        assert_relative_eq!(loss, (4.0_f64.ln() + 2.0_f64.ln()) / 2.0, max_relative = 1e-15);
        let each = cross_entropy_each(logits.view(), array![1, 0, 0].view(), |l| l <= 0).unwrap();
        assert_eq!(each.len(), 1);
        assert_relative_eq!(each[0], (4.0_f64 / 3.0).ln(), max_relative = 1e-15);
    }

    #[test]
    fn nothing_to_average_is_nan_and_a_foreign_label_is_an_error() {
        let logits = array![[0.0_f32, 1.0]];
        assert!(cross_entropy(logits.view(), array![-100].view(), |l| l == -100).unwrap().is_nan());
        let error = cross_entropy(logits.view(), array![2].view(), |l| l == -100).unwrap_err();
        assert_eq!(error, LossError { label: 2, index: 0, classes: 2 });
    }

    #[test]
    fn the_other_losses() {
        let logits = array![[0.0, 3.0_f64.ln()]];
        let soft = soft_cross_entropy(logits.view(), array![[0.25, 0.75]].view());
        assert_relative_eq!(soft, 0.25 * 4.0_f64.ln() + 0.75 * (4.0_f64 / 3.0).ln(), max_relative = 1e-15);
        assert_relative_eq!(binary_cross_entropy_with_logits(0.0, 1.0), 2.0_f64.ln(), max_relative = 1e-15);
        assert_eq!(binary_cross_entropy_with_logits(1e4_f32, 1.0), 0.0);
        assert_eq!(binary_cross_entropy_with_logits(-1e4_f32, 1.0), 1e4);
        let squared = mean_squared_error(array![1.0, 5.0].into_dyn().view(), array![2.0, 2.0].into_dyn().view());
        assert_eq!(squared, 5.0);
    }
}
