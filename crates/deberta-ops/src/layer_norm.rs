//! Layer normalization: y = (x − μ) / √(σ² + ε) · γ + β over the last axis, σ² the biased variance.
//!
//! The mean and the variance are two passes, accumulated in `f64`; E\[x²\] − E\[x\]² is not used, as it loses every digit
//! where |μ| ≫ σ. A row that holds NaN becomes NaN.

use ndarray::{Array2, ArrayView1, ArrayView2};

use crate::buffers::unwritten;
use crate::dispatch::{dispatched, row_by_row};
use crate::{LANES, Lanes, Panels, Real, SharedRows, for_each};

/// The rows of one job.
const ROWS: usize = 8;

/// Normalizes each row of `x`, which may be wider than the result.
///
/// # Shapes
/// `x` [N, E], `weight` (γ) \[E\], `bias` (β) \[E\]; returns [N, E].
///
/// # Panics
/// If the shapes do not agree.
pub fn layer_norm<S: Real, T: Real>(
    x: ArrayView2<'_, S>,
    weight: ArrayView1<'_, T>,
    bias: ArrayView1<'_, T>,
    eps: f64,
) -> Array2<T> {
    normalize(x.dim(), weight, bias, eps, |i, sum| widen(x.row(i), sum))
}

/// Normalizes each row of x + residual, in one pass over the two.
///
/// # Shapes
/// `x` and `residual` [N, E], `weight` (γ) \[E\], `bias` (β) \[E\]; returns [N, E].
///
/// # Panics
/// If the shapes do not agree.
pub fn residual_layer_norm<S: Real, T: Real>(
    x: ArrayView2<'_, S>,
    residual: ArrayView2<'_, T>,
    weight: ArrayView1<'_, T>,
    bias: ArrayView1<'_, T>,
    eps: f64,
) -> Array2<T> {
    assert_eq!(x.dim(), residual.dim(), "one residual an element");
    normalize(x.dim(), weight, bias, eps, |i, sum| {
        widen(x.row(i), sum);
        match residual.row(i).as_slice() {
            Some(residual) => sum.iter_mut().zip(residual).for_each(|(s, r)| *s += r.wide()),
            None => sum.iter_mut().zip(residual.row(i)).for_each(|(s, r)| *s += r.wide()),
        }
    })
}

/// The same in panels, in which sixteen rows are normalized side by side; the result takes the place of x.
///
/// # Panics
/// If the shapes do not agree.
pub fn panels_layer_norm<T: Real>(
    mut x: Panels<T>,
    residual: &Panels<T>,
    weight: ArrayView1<'_, T>,
    bias: ArrayView1<'_, T>,
    eps: f64,
) -> Panels<T> {
    let (count, width) = (x.count(), x.depth());
    assert_eq!((x.rows(), width), (residual.rows(), residual.depth()), "one residual an element");
    assert_eq!((weight.len(), bias.len()), (width, width), "one weight and bias a column");
    let (weight, bias) = (weight.as_standard_layout(), bias.as_standard_layout());
    let (weight, bias) = (weight.as_slice().unwrap_or_default(), bias.as_slice().unwrap_or_default());
    let shared = x.shared(width * LANES);
    for_each(if width > 0 { count } else { 0 }, |p| {
        // SAFETY: each panel is one job's.
        let x = unsafe { shared.row(p) }.as_chunks_mut().0;
        normalize_lanes(x, residual.panel(p), weight, bias, eps);
    });
    x
}

dispatched! {
    fn normalize_lanes<T>(x: &mut [Lanes<T>], residual: &[Lanes<T>], weight: &[T], bias: &[T], eps: f64) = normalize_lanes_body
}

#[inline(always)]
fn normalize_lanes_body<T: Real>(x: &mut [Lanes<T>], residual: &[Lanes<T>], weight: &[T], bias: &[T], eps: f64) {
    let count = x.len() as f64;
    // Added up anew in each step rather than kept: a panel in `f64` would fill the cache.
    let sum = |x: &Lanes<T>, residual: &Lanes<T>| -> [f64; LANES] {
        let mut sum = [0.0; LANES];
        for l in 0..LANES {
            sum[l] = x[l].wide() + residual[l].wide();
        }
        sum
    };
    // 1. μ
    let mut mean = [0.0; LANES];
    for (x, residual) in x.iter().zip(residual) {
        row_by_row();
        let sum = sum(x, residual);
        for l in 0..LANES {
            mean[l] += sum[l];
        }
    }
    mean.iter_mut().for_each(|mean| *mean /= count);
    // 2. σ²
    let mut scale = [0.0; LANES];
    for (x, residual) in x.iter().zip(residual) {
        row_by_row();
        let sum = sum(x, residual);
        for l in 0..LANES {
            scale[l] += (sum[l] - mean[l]) * (sum[l] - mean[l]);
        }
    }
    scale.iter_mut().for_each(|scale| *scale = 1.0 / (*scale / count + eps).sqrt());
    // 3. normalize, scale, shift
    for ((x, residual), (g, b)) in x.iter_mut().zip(residual).zip(weight.iter().zip(bias)) {
        row_by_row();
        let (sum, g, b) = (sum(x, residual), g.wide(), b.wide());
        for l in 0..LANES {
            x[l] = T::of((sum[l] - mean[l]) * scale[l] * g + b);
        }
    }
}

/// The rows that `lay` lays out in `f64`, each normalized.
fn normalize<T: Real>(
    shape: (usize, usize),
    weight: ArrayView1<'_, T>,
    bias: ArrayView1<'_, T>,
    eps: f64,
    lay: impl Fn(usize, &mut [f64]) + Sync,
) -> Array2<T> {
    let (count, width) = shape;
    assert_eq!((weight.len(), bias.len()), (width, width), "one weight and bias a column");
    let (weight, bias) = (weight.as_standard_layout(), bias.as_standard_layout());
    let (weight, bias) = (weight.as_slice().unwrap_or_default(), bias.as_slice().unwrap_or_default());
    let mut y = unwritten(shape);
    let rows = SharedRows::new(&mut y);
    for_each(count.div_ceil(ROWS), |block| {
        let mut x = vec![0.0; width];
        for i in block * ROWS..count.min((block + 1) * ROWS) {
            lay(i, &mut x);
            // SAFETY: each row is one job's.
            normalize_row(&x, weight, bias, eps, unsafe { rows.row(i) });
        }
    });
    y
}

fn widen<S: Real>(row: ArrayView1<'_, S>, to: &mut [f64]) {
    match row.as_slice() {
        Some(row) => to.iter_mut().zip(row).for_each(|(to, x)| *to = x.wide()),
        None => to.iter_mut().zip(row).for_each(|(to, x)| *to = x.wide()),
    }
}

dispatched! {
    fn normalize_row<T>(x: &[f64], weight: &[T], bias: &[T], eps: f64, y: &mut [T]) = normalize_row_body
}

#[inline(always)]
fn normalize_row_body<T: Real>(x: &[f64], weight: &[T], bias: &[T], eps: f64, y: &mut [T]) {
    // 1. μ
    let mean = sum(x, |x| x) / x.len() as f64;
    // 2. σ²
    let variance = sum(x, |x| (x - mean) * (x - mean)) / x.len() as f64;
    // 3. normalize, scale, shift
    let scale = 1.0 / (variance + eps).sqrt();
    for ((y, x), (g, b)) in y.iter_mut().zip(x).zip(weight.iter().zip(bias)) {
        *y = T::of((x - mean) * scale * g.wide() + b.wide());
    }
}

/// Σ f(x), in eight partial sums so that it can be vectorized.
#[inline(always)]
fn sum(x: &[f64], f: impl Fn(f64) -> f64) -> f64 {
    let mut partial = [0.0; 8];
    let (chunks, rest) = x.as_chunks::<8>();
    for chunk in chunks {
        partial.iter_mut().zip(chunk).for_each(|(p, &x)| *p += f(x));
    }
    partial.iter().sum::<f64>() + rest.iter().map(|&x| f(x)).sum::<f64>()
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
    fn panels_are_normalized_as_rows_are() {
        for (n, e) in [(1, 1), (16, 7), (37, 20)] {
            let mut rng = oracle::Rng::new((n * e) as u64);
            let (x, residual) = (rng.matrix(n, e), rng.matrix(n, e) + 3.0);
            let (weight, bias) = (rng.vector(e), rng.vector(e));
            let expected = residual_layer_norm(x.view(), residual.view(), weight.view(), bias.view(), 1e-7);
            let panels = Panels::of(residual.view());
            let found = panels_layer_norm(Panels::of(x.view()), &panels, weight.view(), bias.view(), 1e-7).to_rows();
            for (found, expected) in found.iter().zip(&expected) {
                // The sums are taken in another order.
                assert!((found - expected).abs() <= 4.0 * oracle::ROUNDING_F64 * (3 * e) as f64, "{found} {expected}");
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
