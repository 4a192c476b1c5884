//! The formulas of a layer other than attention, in `f64`, with the mistakes they can be computed with.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array1, Array2, ArrayD, ArrayView1, ArrayView2, Axis, Ix2, Ix3, IxDyn, Zip};
use rayon::prelude::*;

use super::attention::Product;
use super::mistake::{Convolving, Mistake, Norming};
use super::world::{flat, flat_mut};
use crate::budget;

/// x·yᵀ.
pub fn product(x: ArrayView2<'_, f64>, y: ArrayView2<'_, f64>) -> Array2<f64> {
    x.dot(&y.t())
}

/// The orders in which a product may have been added up: a blocked one keeps its numbers in the cache.
pub const ORDERS: [Product; 4] = [partial_sums::<1>, partial_sums::<2>, partial_sums::<3>, partial_sums::<4>];

/// The root of the mean square of what x·yᵀ is while it is added up, in so many blocks of features one after another, and these
/// then to each other.
fn partial_sums<const BLOCKS: usize>(x: ArrayView2<'_, f64>, y: ArrayView2<'_, f64>) -> Array2<f64> {
    let width = x.ncols().div_ceil(BLOCKS).max(1);
    let step = width.div_ceil(budget::PARTIAL_SUMS).max(1);
    let [mut whole, mut squares] = [(); 2].map(|()| Array2::zeros((x.nrows(), y.nrows())));
    for (x, y) in x.axis_chunks_iter(Axis(1), width).zip(y.axis_chunks_iter(Axis(1), width)) {
        let mut sum = Array2::zeros(whole.dim());
        for (x, y) in x.axis_chunks_iter(Axis(1), step).zip(y.axis_chunks_iter(Axis(1), step)) {
            general_mat_mul(1.0, &x, &y.t(), 1.0, &mut sum);
            let added = x.ncols() as f64;
            Zip::from(&mut squares).and(&sum).for_each(|q, s| *q += added * s * s);
        }
        whole += &sum;
        if BLOCKS > 1 {
            Zip::from(&mut squares).and(&whole).for_each(|q, s| *q += s * s);
        }
    }
    squares.mapv_into(|q| (q / x.ncols().max(1) as f64).sqrt())
}

/// So many rows of a product are one job for a thread.
const ROWS: usize = 128;

/// A product with a weight over the last axis.
pub fn times(x: &ArrayD<f64>, weight: &ArrayD<f64>, product: Product) -> Option<ArrayD<f64>> {
    let rows = flat(x)?;
    let weight = weight.view().into_dimensionality::<Ix2>().ok()?;
    if rows.ncols() != weight.ncols() {
        return None;
    }
    let mut shape = x.shape().to_vec();
    *shape.last_mut()? = weight.nrows();
    let mut out = Array2::zeros((rows.nrows(), weight.nrows()));
    let parts: Vec<_> = rows.axis_chunks_iter(Axis(0), ROWS).zip(out.axis_chunks_iter_mut(Axis(0), ROWS)).collect();
    parts.into_par_iter().for_each(|(rows, mut out)| out.assign(&product(rows, weight)));
    out.into_shape_with_order(IxDyn(&shape)).ok()
}

/// x·Wᵀ + b over the last axis.
pub fn linear(x: &ArrayD<f64>, weight: &ArrayD<f64>, bias: Option<&ArrayD<f64>>) -> Option<ArrayD<f64>> {
    let mut out = times(x, weight, product)?;
    if let Some(bias) = bias {
        let mut rows = flat_mut(&mut out)?;
        let bias = flat(bias).filter(|b| b.ncols() == rows.ncols())?;
        rows += &bias.row(0);
    }
    Some(out)
}

/// The weight and bias of a layer norm.
pub struct Affine {
    pub weight: Array1<f64>,
    pub bias: Array1<f64>,
}

/// (x − mean)/√(variance + ε)·weight + bias over the last axis.
pub fn layer_norm(x: &ArrayD<f64>, affine: &Affine, eps: f64, norming: Option<Norming>) -> Option<ArrayD<f64>> {
    if norming == Some(Norming::Missing) {
        return Some(x.clone());
    }
    let mut out = normalised(x, eps, norming)?;
    let (weight, bias) = (affine.weight.view(), affine.bias.view());
    if weight.len() != out.ncols() {
        return None;
    }
    let weighs = !matches!(norming, Some(Norming::NoAffine | Norming::NoWeight));
    let shifts = !matches!(norming, Some(Norming::NoAffine | Norming::NoBias));
    for mut row in out.rows_mut() {
        if weighs {
            row *= &weight;
        }
        if shifts {
            row += &bias;
        }
    }
    out.into_shape_with_order(x.raw_dim()).ok()
}

/// Before weight and bias: [N, width].
pub fn normalised(x: &ArrayD<f64>, eps: f64, norming: Option<Norming>) -> Option<Array2<f64>> {
    let mut rows = flat(x)?.to_owned();
    let n = rows.ncols() as f64;
    let eps = if let Some(Norming::Epsilon(eps)) = norming { eps } else { eps };
    for mut row in rows.rows_mut() {
        let narrow = |v: f64| if let Some(Norming::StatisticsIn(dtype)) = norming { dtype.round(v) } else { v };
        let mean = if norming == Some(Norming::NoMean) { 0.0 } else { narrow(row.sum() / n) };
        row.mapv_inplace(|v| v - mean);
        let over = if norming == Some(Norming::Unbiased) { n - 1.0 } else { n };
        let variance = narrow(row.iter().map(|v| v * v).sum::<f64>() / over);
        let divisor = match norming {
            Some(Norming::EpsilonOutside) => variance.sqrt() + eps,
            _ => (variance + eps).sqrt(),
        };
        row.mapv_inplace(|v| v / divisor);
    }
    Some(rows)
}

/// The layer norm with the mean and variance that each row of `found` shows, if these differ from the right ones as those do
/// that are computed as E\[x²\] − E\[x\]² in a dtype of unit roundoff `unit`: by no more than rounding of E\[x²\], to
/// either side, and in whole steps of it. Of two neighbouring numbers the difference is exact, so that such a variance is a
/// multiple of the spacing of E\[x\]²; one that is wrong for another reason is not, in any row but by chance.
pub fn with_statistics_found(
    x: &ArrayD<f64>,
    affine: &Affine,
    eps: f64,
    found: &ArrayD<f64>,
    unit: f64,
) -> Option<ArrayD<f64>> {
    let mut out = layer_norm(x, affine, eps, None)?;
    let (inputs, found) = (flat(x)?, flat(found)?);
    if found.dim() != inputs.dim() || affine.bias.len() != inputs.ncols() {
        return None;
    }
    let n = inputs.ncols() as f64;
    let mut errors = Vec::new();
    for ((input, found), mut out) in inputs.rows().into_iter().zip(found.rows()).zip(flat_mut(&mut out)?.rows_mut()) {
        // Padding is set to zero behind the norm.
        if found.iter().all(|v| *v == 0.0) {
            continue;
        }
        out -= &affine.bias;
        let found = &found - &affine.bias;
        let (factor, shift) = plane(out.view(), affine.weight.view(), found.view())?;
        let (mean, square) = (input.sum() / n, input.pow2().sum() / n);
        let variance = square - mean * mean;
        let moved = shift / factor * (variance + eps).sqrt();
        let error = ((variance + eps) / (factor * factor) - eps - variance) / square;
        if !(error.abs() <= budget::SQUARES * unit && moved.abs() <= budget::SQUARES * unit * square.sqrt()) {
            return None;
        }
        let spacing = 2.0 * unit * (mean * mean * (1.0 - budget::SQUARES * unit)).log2().floor().exp2();
        let steps = (variance + error * square) / spacing;
        if !((steps - steps.round()).abs() <= budget::WHOLE) {
            return None;
        }
        errors.push(error);
        out *= factor;
        out.scaled_add(shift, &affine.weight);
        out += &affine.bias;
    }
    let (sum, squares) = errors.iter().fold((0.0, 0.0), |(s, q), e| (s + e, q + e * e));
    let n = errors.len() as f64;
    // A factor that is the same for all rows is another mistake.
    (errors.len() >= 8 && sum.abs() / n <= 0.7 * (squares / n).sqrt()).then_some(out)
}

/// a and b of y ≈ a·x + b·z.
fn plane(x: ArrayView1<'_, f64>, z: ArrayView1<'_, f64>, y: ArrayView1<'_, f64>) -> Option<(f64, f64)> {
    let (xx, xz, zz, xy, zy) = (x.dot(&x), x.dot(&z), z.dot(&z), x.dot(&y), z.dot(&y));
    let determinant = xx * zz - xz * xz;
    (determinant > 0.0).then(|| ((xy * zz - zy * xz) / determinant, (zy * xx - xy * xz) / determinant))
}

/// Weight and bias of a layer norm from what it read and what came out: y = weight·x̂ + bias in each channel, by least
/// squares. `None` where that does not reproduce y to within `tolerance` of its size.
pub fn fitted_affine(x: &ArrayD<f64>, y: &ArrayD<f64>, eps: f64, tolerance: f64) -> Option<Affine> {
    let x = normalised(x, eps, None)?;
    let y = flat(y)?;
    if x.dim() != y.dim() || x.nrows() < 3 {
        return None;
    }
    let fits: Vec<(f64, f64)> = (0..x.ncols()).map(|c| line(x.column(c), y.column(c))).collect();
    let mut worst: f64 = 0.0;
    for (c, (a, b)) in fits.iter().enumerate() {
        for (x, y) in x.column(c).iter().zip(y.column(c)) {
            worst = worst.max((a * x + b - y).abs());
        }
    }
    let size = (y.iter().map(|v| v * v).sum::<f64>() / y.len() as f64).sqrt();
    if !(worst <= tolerance * size) {
        return None;
    }
    Some(Affine { weight: fits.iter().map(|f| f.0).collect(), bias: fits.iter().map(|f| f.1).collect() })
}

/// y ≈ a·x + b
fn line(x: ArrayView1<'_, f64>, y: ArrayView1<'_, f64>) -> (f64, f64) {
    let n = x.len() as f64;
    let (mx, my) = (x.sum() / n, y.sum() / n);
    let (xy, xx) =
        x.iter().zip(y).fold((0.0, 0.0), |(xy, xx), (&x, &y)| (xy + (x - mx) * (y - my), xx + (x - mx) * (x - mx)));
    let a = if xx > 0.0 { xy / xx } else { 0.0 };
    (a, my - a * mx)
}

/// A convolution along the tokens, padded to keep their number.
///
/// # Shapes
/// `x` [B, L, E], `weight` [E, E/groups, k]; returns [B, L, E].
pub fn convolve(
    x: &ArrayD<f64>,
    weight: &ArrayD<f64>,
    bias: Option<&ArrayD<f64>>,
    groups: usize,
    mistake: Option<&Mistake>,
) -> Option<ArrayD<f64>> {
    let x = x.view().into_dimensionality::<Ix3>().ok()?;
    let weight = weight.view().into_dimensionality::<Ix3>().ok()?;
    let (size, length, width) = x.dim();
    let (outputs, per_group, k) = weight.dim();
    let transposed = mistake == Some(&Mistake::Convolution(Convolving::Transposed));
    if groups == 0 || outputs % groups != 0 || per_group * groups != width || (transposed && outputs != per_group) {
        return None;
    }
    let reversed = mistake == Some(&Mistake::Convolution(Convolving::KernelReversed));
    let mut out = ndarray::Array3::<f64>::zeros((size, length, outputs));
    if let Some(bias) = bias {
        let bias = flat(bias).filter(|b| b.ncols() == outputs)?;
        out += &bias.row(0);
    }
    let own = outputs / groups;
    for t in 0..k {
        let tap = weight.index_axis(Axis(2), if reversed { k - 1 - t } else { t }); // [E, E/groups]
        for b in 0..size {
            for i in 0..length {
                let Some(from) = (i + t).checked_sub((k - 1) / 2).filter(|&f| f < length) else { continue };
                for g in 0..groups {
                    let input = x.slice(ndarray::s![b, from, g * per_group..(g + 1) * per_group]);
                    for o in g * own..(g + 1) * own {
                        let products = if transposed { tap.column(o).dot(&input) } else { tap.row(o).dot(&input) };
                        out[[b, i, o]] += products;
                    }
                }
            }
        }
    }
    Some(out.into_dyn())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of mean 2 and a small deviation, as word embeddings may have.
    fn rows() -> Array2<f64> {
        Array2::from_shape_fn((30, 48), |(i, j)| f64::from((2.0 + 0.02 * ((i * 48 + j) as f64 * 1.7).sin()) as f32))
    }

    #[test]
    fn sums_are_rounded_in_the_order_in_which_they_are_added_up() {
        // Four ones, then as many of the opposite sign: 1 2 3 4 3 2 1 0, or 1 2 3 4 and −1 −2 −3 −4, and 4 and 0 at last.
        let x = Array2::from_shape_fn((1, 8), |(_, c)| if c < 4 { 1.0 } else { -1.0 });
        let one = Array2::ones((1, 8));
        let size = |order: Product| order(x.view(), one.view())[[0, 0]];
        assert!((size(partial_sums::<1>) - (44f64 / 8.0).sqrt()).abs() < 1e-12);
        assert!((size(partial_sums::<2>) - (76f64 / 8.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn a_variance_of_squares_is_told_from_a_factor() {
        let x = rows();
        let affine = Affine { weight: Array1::from_elem(48, 1.1), bias: Array1::from_elem(48, 0.3) };
        let unit = f64::from(f32::EPSILON) / 2.0;
        let normed = |variance: &dyn Fn(ArrayView1<'_, f64>) -> f64| {
            let mut out = x.clone();
            for mut row in out.rows_mut() {
                let (mean, variance) = (row.sum() / 48.0, variance(row.view()));
                row.mapv_inplace(|v| (v - mean) / (variance + 1e-7).sqrt() * 1.1 + 0.3);
            }
            out.into_dyn()
        };
        let squares = normed(&|row| {
            let mean = row.iter().fold(0f32, |s, v| s + *v as f32) / 48.0;
            let square = row.iter().fold(0f32, |s, v| s + *v as f32 * *v as f32) / 48.0;
            f64::from((square - mean * mean).max(0.0))
        });
        let shown = |found: &ArrayD<f64>| with_statistics_found(&x.clone().into_dyn(), &affine, 1e-7, found, unit);
        let again = shown(&squares).expect("errors of the size of rounding");
        assert!(again.iter().zip(&squares).all(|(a, b)| (a - b).abs() < 1e-9));
        let mean = |row: ArrayView1<'_, f64>| row.sum() / 48.0;
        let right = |row: ArrayView1<'_, f64>| row.iter().map(|v| (v - mean(row)).powi(2)).sum::<f64>() / 48.0;
        assert!(shown(&normed(&|row| 1.001 * right(row))).is_none());
        // As large as what the squares leave, and to either side, but of no steps.
        assert!(shown(&normed(&|row| right(row) * (1.0 + 1e-3 * (row[0] * 1e5).sin()))).is_none());
        assert!(shown(&normed(&|row| 2.0 * right(row))).is_none());
    }
}
