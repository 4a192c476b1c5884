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

    /// Its group, row and column: the reverse of [`Self::at`].
    pub fn place(&self, k: usize) -> (usize, usize, usize) {
        if self.row_stride > self.group_stride {
            let (row, rest) = (k / self.row_stride, k % self.row_stride);
            return (rest / self.group_stride, row, rest % self.group_stride);
        }
        let (group, rest) = (k / self.group_stride, k % self.group_stride);
        (group, rest / self.row_stride, rest % self.row_stride)
    }

    fn of_group(&self, g: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.rows).flat_map(move |r| (0..self.columns).map(move |c| self.at(g, r, c)))
    }
}

/// Errors of which some depend on each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lines {
    /// Those of one row.
    Rows,
    /// Those of one column.
    Columns,
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
    /// What part of its magnitude an error must exceed to stand out, of however few and even ones.
    pub fn least(tail: Tail, dtype: Dtype) -> f64 {
        Self::floor(dtype) * tail.margin * two_sided_quantile(tail.chance)
    }

    fn floor(dtype: Dtype) -> f64 {
        dtype.unit_roundoff() / 2.0
    }

    fn relative(&self, k: usize) -> f64 {
        let e = self.errors[k].abs();
        let counts = e > self.dtype.underflow() && e.is_finite();
        if counts { e / self.magnitude[k].max(f64::MIN_POSITIVE) } else { 0.0 }
    }

    /// What each error would have to exceed to stand out. `None` for tensors too small to have a noise of their own.
    pub fn budgets(&self) -> Option<Vec<f64>> {
        self.budgets_by(None)
    }

    /// The same where the errors of a line depend on each other, so that one that stands out lifts others of its line: lines
    /// say nothing of the noise then, and count as their largest error.
    pub fn budgets_by_line(&self, lines: Lines) -> Option<Vec<f64>> {
        self.budgets_by(Some(lines))
    }

    fn budgets_by(&self, lines: Option<Lines>) -> Option<Vec<f64>> {
        let layout = &self.layout;
        if layout.rows * layout.columns < budget::OUTLIER_LEAST {
            return None;
        }
        let of_group = |g: usize| {
            let group: Vec<f64> = layout.of_group(g).map(|k| self.relative(k)).collect();
            GroupNoise::new(&group, layout.columns, Self::floor(self.dtype), lines)
        };
        let groups: Vec<GroupNoise> = (0..layout.groups).into_par_iter().map(of_group).collect();
        let height = self.tail.margin * forecast_of_largest(&groups, self.tail.chance);
        let mut budgets = vec![0.0; self.errors.len()];
        for (g, noise) in groups.iter().enumerate() {
            let few = 1.0 + budget::OUTLIER_FEW / noise.counted as f64;
            for r in 0..layout.rows {
                for c in 0..layout.columns {
                    let k = layout.at(g, r, c);
                    budgets[k] = noise.scale(r, c) * height * few * self.magnitude[k];
                }
            }
        }
        Some(budgets)
    }
}

/// How many of the largest ratios foretell the largest.
const LARGEST: usize = 8;

/// The noise of a group, of its rows and of its columns. What is met exactly says nothing of the whole: it is padding, mostly.
struct GroupNoise {
    /// How many elements are not.
    counted: usize,
    whole: f64,
    rows: Vec<f64>,
    columns: Vec<f64>,
    /// The [`LARGEST`] errors in units of their noise, …
    largest: Vec<f64>,
    /// … out of this many: all, or one of each line.
    apart: usize,
}

impl GroupNoise {
    /// Of a group in rows of `columns` relative errors.
    fn new(group: &[f64], columns: usize, floor: f64, lines: Option<Lines>) -> Self {
        let mut buffer: Vec<f64> = group.iter().copied().filter(|e| *e > 0.0).collect();
        let counted = buffer.len();
        let whole = robust(&mut buffer).max(floor);
        let mut of = |line: &mut dyn Iterator<Item = f64>| {
            if lines.is_some() {
                return whole;
            }
            buffer.clear();
            buffer.extend(line);
            robust(&mut buffer).max(floor)
        };
        let column = |c: usize| group[c..].iter().copied().step_by(columns);
        let mut noise = Self {
            counted,
            whole,
            rows: group.chunks(columns).map(|row| of(&mut row.iter().copied())).collect(),
            columns: (0..columns).map(|c| of(&mut column(c))).collect(),
            largest: Vec::new(),
            apart: 0,
        };
        let mut ratios: Vec<f64> = match lines {
            None => (group.chunks(columns).enumerate())
                .flat_map(|(r, row)| row.iter().enumerate().map(move |(c, e)| (r, c, e)))
                .map(|(r, c, e)| e / noise.scale(r, c))
                .collect(),
            Some(Lines::Rows) => group.chunks(columns).map(|row| max(row.iter().copied()) / whole).collect(),
            Some(Lines::Columns) => (0..columns).map(|c| max(column(c)) / whole).collect(),
        };
        ratios.retain(|r| *r > 0.0);
        noise.apart = ratios.len();
        if ratios.len() > LARGEST {
            ratios.select_nth_unstable_by(LARGEST, |a, b| b.total_cmp(a));
            ratios.truncate(LARGEST);
        }
        noise.largest = ratios;
        noise
    }

    /// The scale of an element: the largest of the noise of the group, of the row, of the column, and of row times column.
    fn scale(&self, r: usize, c: usize) -> f64 {
        let (row, column) = (self.rows[r], self.columns[c]);
        self.whole.max(row).max(column).max(row * column / self.whole)
    }
}

fn max(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, f64::max)
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

/// How large the largest error may be in units of the noise, by this chance, if they are normal, or as much heavier-tailed as
/// the third to eighth largest of them say.
fn forecast_of_largest(groups: &[GroupNoise], chance: f64) -> f64 {
    let n = groups.iter().map(|g| g.counted).sum::<usize>() as f64;
    let few = groups.iter().map(|g| g.apart).sum::<usize>() / 8;
    let mut top: Vec<f64> = groups.iter().flat_map(|g| g.largest.iter().copied()).collect();
    top.sort_by(|a, b| b.total_cmp(a));
    let stretch = [2, 3, 5, 7]
        .into_iter()
        .filter(|&j| j < top.len() && (j == 2 || j < few))
        .map(|j| top[j] / two_sided_quantile((j as f64 + 0.7) / n))
        .fold(1.0, f64::max);
    if top.is_empty() { f64::INFINITY } else { stretch * two_sided_quantile(chance / n) }
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

fn magnitudes(x: &[f64], layout: &Layout, kind: Magnitude, number: impl Fn(f64) -> bool + Sync) -> Vec<f64> {
    let own = |k: usize| if number(x[k]) { x[k].abs() } else { 0.0 };
    if kind == Magnitude::Own {
        return (0..x.len()).map(own).collect();
    }
    let mut magnitude = vec![0.0; x.len()];
    let of_group = |g: usize, magnitude: &mut [f64], start: usize| {
        let whole = rms_of(layout.of_group(g).map(own));
        for r in 0..layout.rows {
            let row = rms_of((0..layout.columns).map(|c| own(layout.at(g, r, c))));
            let floor = row.max(whole);
            for c in 0..layout.columns {
                let k = layout.at(g, r, c);
                magnitude[k - start] = (own(k) * own(k) + floor * floor).sqrt();
            }
        }
    };
    let size = layout.rows * layout.columns;
    if layout.group_stride == size && size > 0 {
        // One after the other in memory.
        magnitude.par_chunks_mut(size).enumerate().for_each(|(g, magnitude)| of_group(g, magnitude, g * size));
    } else {
        (0..layout.groups).for_each(|g| of_group(g, &mut magnitude, 0));
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
            for g in 0..layout.groups {
                for k in layout.of_group(g) {
                    let (group, r, c) = layout.place(k);
                    assert_eq!((group, layout.at(g, r, c)), (g, k), "{shape:?}");
                }
            }
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
