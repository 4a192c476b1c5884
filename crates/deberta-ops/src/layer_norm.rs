//! Layer normalization: y = (x − μ) / √(σ² + ε) · γ + β over the last axis, σ² the biased variance.
//!
//! The mean and the variance are two passes, accumulated in `f64`; E[x²] − E[x]² is not used, as it loses every digit
//! where |μ| ≫ σ. A row that holds NaN becomes NaN.

use ndarray::{Array2, ArrayView1, ArrayView2, Zip};

use crate::Real;

/// Normalizes each row of `x`, which may be wider than the result.
///
/// # Shapes
/// `x` [N, E], `weight` (γ) [E], `bias` (β) [E]; returns [N, E].
///
/// # Panics
/// If the shapes do not agree.
pub fn layer_norm<S: Real, T: Real>(
    x: ArrayView2<'_, S>,
    weight: ArrayView1<'_, T>,
    bias: ArrayView1<'_, T>,
    eps: f64,
) -> Array2<T> {
    let mut y = Array2::zeros(x.raw_dim());
    let width = x.ncols() as f64;
    for (x, mut y) in x.rows().into_iter().zip(y.rows_mut()) {
        // 1. μ
        let mean = x.iter().map(|&v| v.wide()).sum::<f64>() / width;
        // 2. σ²
        let variance = x.iter().map(|&v| (v.wide() - mean).powi(2)).sum::<f64>() / width;
        // 3. normalize, scale, shift
        let scale = 1.0 / (variance + eps).sqrt();
        Zip::from(&mut y).and(x).and(weight).and(bias).for_each(|y, &x, &gamma, &beta| {
            *y = T::of((x.wide() - mean) * scale * gamma.wide() + beta.wide());
        });
    }
    y
}

#[cfg(test)]
mod tests {
    use deberta_testkit::oracle;
    use ndarray::{Array1, array};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn equals_the_definition(seed in any::<u64>(), n in 1usize..5, e in 1usize..40, shift in -1e3f64..1e3) {
            let mut rng = oracle::Rng::new(seed);
            let x = rng.matrix(n, e) + shift;
            let (weight, bias) = (rng.vector(e), rng.vector(e));
            let y = layer_norm(x.view(), weight.view(), bias.view(), 1e-7);
            for r in 0..n {
                let mean = x.row(r).sum() / e as f64;
                let variance = x.row(r).iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / e as f64;
                for c in 0..e {
                    let expected = (x[[r, c]] - mean) / (variance + 1e-7).sqrt() * weight[c] + bias[c];
                    // One rounding of x − μ at |μ| ≤ 1e3, amplified by at most 1/√ε where the row is constant.
                    let tolerance = oracle::ROUNDING_F64 * 1e3 / (variance + 1e-7).sqrt();
                    prop_assert!((y[[r, c]] - expected).abs() <= tolerance);
                }
            }
        }
    }

    #[test]
    fn a_large_mean_loses_nothing() {
        // Exact in f32: 2²³ ± 1. The mean of squares would need 47 bits.
        let x = array![[8_388_607.0_f32, 8_388_609.0]];
        let y: Array2<f32> = layer_norm(x.view(), Array1::ones(2).view(), Array1::zeros(2).view(), 0.0);
        assert_eq!(y, array![[-1.0, 1.0]]);
    }

    #[test]
    fn a_constant_row_becomes_the_bias_and_nan_stays_nan() {
        let x = array![[3.0, 3.0], [f64::NAN, 1.0]];
        let y: Array2<f64> = layer_norm(x.view(), array![2.0, 2.0].view(), array![0.5, -0.5].view(), 1e-7);
        assert_eq!(y.row(0), array![0.5, -0.5]);
        assert!(y.row(1).iter().all(|v| v.is_nan()));
    }
}
