//! The figures of one pair of tensors: how far apart, where, and how the error compares with the noise around it.
//!
//! Elements are seen as groups of rows and columns: a group is a head, a row is a query or a token, a column is a key or
//! a feature. Features that belong to heads are grouped by head as well.

use libm::erfc;
use rayon::prelude::*;

use crate::budget::{self, Tail};
use crate::dtype::Dtype;

/// How the elements of a tensor fall into groups, rows and columns: element (g, r, c) stands at
/// `g·group_stride + r·row_stride + c`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Heads, times sequences where each has its own matrix.
    pub groups: usize,
    /// Tokens or queries.
    pub rows: usize,
    /// Features or keys.
    pub columns: usize,
    group_stride: usize,
    row_stride: usize,
}

impl Layout {
    /// The layout of a tensor of this shape. `heads` splits the last axis of tensors that hold one vector a token.
    ///
    /// # Shapes
    /// [B, H, Q, K] has B·H groups; [B, L, E] has one, or `heads` with E/heads columns each.
    pub fn of(shape: &[usize], heads: Option<usize>) -> Self {
        let len: usize = shape.iter().product();
        let columns = shape.last().copied().unwrap_or(1).max(1);
        if shape.len() == 4 {
            let rows = shape[2].max(1);
            return Self {
                groups: len / (rows * columns),
                rows,
                columns,
                group_stride: rows * columns,
                row_stride: columns,
            };
        }
        match heads.filter(|&h| h > 1 && columns % h == 0) {
            Some(h) => Self {
                groups: h,
                rows: len / columns,
                columns: columns / h,
                group_stride: columns / h,
                row_stride: columns,
            },
            None => Self { groups: 1, rows: len / columns, columns, group_stride: len, row_stride: columns },
        }
    }

    /// Where element (g, r, c) stands.
    pub fn at(&self, g: usize, r: usize, c: usize) -> usize {
        g * self.group_stride + r * self.row_stride + c
    }

    fn of_group(&self, g: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.rows).flat_map(move |r| (0..self.columns).map(move |c| self.at(g, r, c)))
    }
}

/// How an element's magnitude is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Magnitude {
    /// Its own and the rms of its surroundings: an element near zero is the sum of terms that are not.
    Surroundings,
    /// Its own alone: the error of a probability is relative.
    Own,
}

/// Whether the two values agree without a number to subtract: both NaN, the same infinity, or both masked.
fn agree(x: f64, y: f64, masks: bool) -> bool {
    (x.is_nan() && y.is_nan()) || x == y || (masks && x <= budget::MASKED && y <= budget::MASKED)
}

/// The errors of one tensor, element by element, and what follows from them.
pub struct Errors {
    /// actual − expected; 0 where they agree without a number (NaN with NaN), NaN where one alone is a number.
    pub error: Vec<f64>,
    /// The magnitude that each error is measured against.
    pub magnitude: Vec<f64>,
    /// Elements where one is NaN, infinite or masked and the other is not.
    pub non_finite: Vec<usize>,
    /// rms(error) / rms(expected), over the elements that are numbers; infinite where zeros were expected alone.
    pub noise: f64,
    /// rms of the expected elements that are numbers.
    pub rms: f64,
}

impl Errors {
    /// Compares values in the same order. `masks` lets any two scores below [`budget::MASKED`] agree.
    pub fn new(expected: &[f64], actual: &[f64], layout: &Layout, magnitude: Magnitude, masks: bool) -> Self {
        let mut non_finite = Vec::new();
        let error: Vec<f64> = expected
            .iter()
            .zip(actual)
            .enumerate()
            .map(|(k, (&x, &y))| {
                if agree(x, y, masks) {
                    return 0.0;
                }
                let both_numbers = x.is_finite() && y.is_finite() && !(masks && x.min(y) <= budget::MASKED);
                if both_numbers {
                    return y - x;
                }
                non_finite.push(k);
                f64::NAN
            })
            .collect();
        let number = |x: f64| x.is_finite() && !(masks && x <= budget::MASKED);
        let rms = rms_of(expected.iter().copied().filter(|&x| number(x)));
        let noise = rms_of(error.iter().copied().filter(|e| e.is_finite()));
        let noise = if noise == 0.0 { 0.0 } else { noise / rms };
        let magnitude = magnitudes(expected, layout, magnitude, number);
        Self { error, magnitude, non_finite, noise, rms }
    }
}

/// Errors of which none may stand out of the others.
pub struct Even<'a> {
    /// Those of a tensor, or a part of them.
    pub errors: &'a [f64],
    /// What each is measured against.
    pub magnitude: &'a [f64],
    /// What is grouped with what.
    pub layout: Layout,
    /// How large the largest may be.
    pub tail: Tail,
    /// The relative error that is always there, and the absolute one that does not count.
    pub dtype: Dtype,
}

impl Even<'_> {
    fn relative(&self, k: usize) -> f64 {
        let e = self.errors[k].abs();
        let counts = e > self.dtype.underflow() && e.is_finite();
        if counts { e / self.magnitude[k].max(f64::MIN_POSITIVE) } else { 0.0 }
    }

    /// What each error would have to exceed to stand out. `None` for tensors too small to have a noise of their own.
    pub fn budgets(&self) -> Option<Vec<f64>> {
        let layout = &self.layout;
        if layout.rows * layout.columns < budget::OUTLIER_LEAST {
            return None;
        }
        let floor = self.dtype.unit_roundoff() / 2.0;
        let mut scale = vec![0.0; self.errors.len()];
        let groups =
            (0..layout.groups).into_par_iter().map(|g| GroupNoise::new(layout, g, floor, |k| self.relative(k)));
        let groups: Vec<GroupNoise> = groups.collect();
        groups.iter().enumerate().for_each(|(g, noise)| noise.fill(layout, g, &mut scale));
        let mut ratios: Vec<f64> = (0..scale.len()).map(|k| self.relative(k) / scale[k]).filter(|r| *r > 0.0).collect();
        let height = self.tail.margin * forecast_of_largest(&mut ratios, self.tail.chance);
        for (g, noise) in groups.iter().enumerate() {
            let few = 1.0 + budget::OUTLIER_FEW / noise.counted as f64;
            layout.of_group(g).for_each(|k| scale[k] *= height * few * self.magnitude[k]);
        }
        Some(scale)
    }
}

/// The noise of a group, of its rows and of its columns. What is met exactly says nothing of the whole: it is padding, mostly.
struct GroupNoise {
    /// How many elements are not.
    counted: usize,
    whole: f64,
    rows: Vec<f64>,
    columns: Vec<f64>,
}

impl GroupNoise {
    fn new(layout: &Layout, g: usize, floor: f64, relative: impl Fn(usize) -> f64) -> Self {
        let group: Vec<f64> = layout.of_group(g).map(relative).collect();
        let mut buffer: Vec<f64> = group.iter().copied().filter(|e| *e > 0.0).collect();
        let counted = buffer.len();
        let whole = robust(&mut buffer).max(floor);
        let mut of = |start: usize, step: usize, count: usize| {
            buffer.clear();
            buffer.extend(group[start..].iter().step_by(step).take(count));
            robust(&mut buffer).max(floor)
        };
        let rows = (0..layout.rows).map(|r| of(r * layout.columns, 1, layout.columns)).collect();
        let columns = (0..layout.columns).map(|c| of(c, layout.columns, layout.rows)).collect();
        Self { counted, whole, rows, columns }
    }

    /// The scale of each element: the largest of the noise of the group, of the row, of the column, and of row times column.
    fn fill(&self, layout: &Layout, g: usize, scale: &mut [f64]) {
        for (r, &row) in self.rows.iter().enumerate() {
            for (c, &column) in self.columns.iter().enumerate() {
                scale[layout.at(g, r, c)] = self.whole.max(row).max(column).max(row * column / self.whole);
            }
        }
    }
}

/// The scale of a normal distribution with the same 0.8 quantile.
pub(crate) fn robust(values: &mut [f64]) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let at = ((values.len() - 1) as f64 * budget::OUTLIER_QUANTILE).ceil() as usize;
    let (_, quantile, _) = values.select_nth_unstable_by(at, f64::total_cmp);
    *quantile / budget::OUTLIER_QUANTILE_OF_NORMAL
}

/// How large the largest of these ratios may be, by this chance, if they are normal, or as much heavier-tailed as the third to
/// eighth largest of them say.
fn forecast_of_largest(ratios: &mut [f64], chance: f64) -> f64 {
    let n = ratios.len();
    if n == 0 {
        return f64::INFINITY;
    }
    let last = 7.min(n - 1);
    ratios.select_nth_unstable_by(last, |a, b| b.total_cmp(a));
    let top = &mut ratios[..=last];
    top.sort_by(|a, b| b.total_cmp(a));
    let stretch = [2, 3, 5, 7]
        .into_iter()
        .filter(|&j| j <= last && (j == 2 || j < n / 8))
        .map(|j| top[j] / two_sided_quantile((j as f64 + 0.7) / n as f64))
        .fold(1.0, f64::max);
    stretch * two_sided_quantile(chance / n as f64)
}

/// z such that a standard normal exceeds it in absolute value with probability `p`.
fn two_sided_quantile(p: f64) -> f64 {
    let (mut low, mut high) = (0.0, 40.0);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if erfc(middle / std::f64::consts::SQRT_2) > p { low = middle } else { high = middle }
    }
    low
}

fn magnitudes(x: &[f64], layout: &Layout, kind: Magnitude, number: impl Fn(f64) -> bool) -> Vec<f64> {
    let own = |k: usize| if number(x[k]) { x[k].abs() } else { 0.0 };
    if kind == Magnitude::Own {
        return (0..x.len()).map(own).collect();
    }
    let mut magnitude = vec![0.0; x.len()];
    for g in 0..layout.groups {
        let whole = rms_of(layout.of_group(g).map(own));
        for r in 0..layout.rows {
            let row = rms_of((0..layout.columns).map(|c| own(layout.at(g, r, c))));
            let floor = row.max(whole);
            for c in 0..layout.columns {
                let k = layout.at(g, r, c);
                magnitude[k] = (own(k) * own(k) + floor * floor).sqrt();
            }
        }
    }
    magnitude
}

fn rms_of(values: impl Iterator<Item = f64>) -> f64 {
    let (n, sum) = values.fold((0usize, 0.0), |(n, sum), v| (n + 1, sum + v * v));
    if n == 0 { 0.0 } else { (sum / n as f64).sqrt() }
}

/// The cosine of the angle between two tensors, over the elements that are numbers in both; `None` where one is zero.
pub fn cosine(expected: &[f64], actual: &[f64]) -> Option<f64> {
    let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
    for (&x, &y) in expected.iter().zip(actual) {
        if x.is_finite() && y.is_finite() && x > budget::MASKED && y > budget::MASKED {
            (xy, xx, yy) = (xy + x * y, xx + x * x, yy + y * y);
        }
    }
    let norm = xx.sqrt() * yy.sqrt();
    (norm > 0.0).then(|| xy / norm)
}

/// The narrowest of bf16, f16, f32 that holds every value of the tensor, or else its own dtype: what it was computed in,
/// where a tool has widened it afterwards. `None` where too few values say anything (zeros, ones and powers of two fit in
/// all of them).
pub fn computed_dtype(stored: Dtype, values: &[f64]) -> Option<Dtype> {
    let told = values.iter().filter(|x| x.is_finite() && x.to_bits() << 12 != 0).take(32).count();
    if told < 32 {
        return None;
    }
    let fits = |d: Dtype| values.iter().all(|&x| !x.is_finite() || d.round(x) == x);
    let narrower: &[Dtype] = match stored {
        Dtype::F64 => &[Dtype::Bf16, Dtype::F16, Dtype::F32],
        Dtype::F32 => &[Dtype::Bf16, Dtype::F16],
        _ => &[],
    };
    Some(narrower.iter().copied().find(|&d| fits(d)).unwrap_or(stored))
}

/// The multi-index of element `k`.
pub fn multi_index(shape: &[usize], k: usize) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    let mut rest = k;
    for (i, &size) in index.iter_mut().zip(shape).rev() {
        *i = rest % size.max(1);
        rest /= size.max(1);
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_the_normal() {
        // Abramowitz and Stegun, table 26.5.
        for (p, z) in [(0.3173105, 1.0), (0.0455003, 2.0), (0.0026998, 3.0), (5.733e-7, 5.0)] {
            assert!((two_sided_quantile(p) - z).abs() < 1e-4, "{p}");
        }
        assert!((two_sided_quantile(0.2) - budget::OUTLIER_QUANTILE_OF_NORMAL).abs() < 1e-9);
    }

    #[test]
    fn layouts_reach_every_element_once() {
        for (shape, heads) in
            [(vec![2, 3, 5, 7], None), (vec![2, 5, 12], Some(3)), (vec![2, 5, 12], None), (vec![], None)]
        {
            let layout = Layout::of(&shape, heads);
            let mut seen: Vec<usize> =
                (0..layout.groups).flat_map(|g| layout.of_group(g).collect::<Vec<_>>()).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..shape.iter().product()).collect::<Vec<usize>>(), "{shape:?}");
        }
    }

    #[test]
    fn widened_values_give_their_dtype_away() {
        let values: Vec<f64> = (1..100).map(|i| 1.0 / f64::from(i)).collect();
        let in_dtype = |d: Dtype| values.iter().map(|&x| d.round(x)).collect::<Vec<_>>();
        for d in [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::Bf16] {
            assert_eq!(computed_dtype(Dtype::F64, &in_dtype(d)), Some(d));
        }
        assert_eq!(computed_dtype(Dtype::F32, &vec![1.0; 100]), None);
    }

    #[test]
    fn indices_are_row_major() {
        assert_eq!(multi_index(&[2, 3, 5], 17), [1, 0, 2]);
        assert!(multi_index(&[], 0).is_empty());
    }
}
