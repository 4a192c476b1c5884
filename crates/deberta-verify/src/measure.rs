//! The figures of one pair of tensors: how far apart, where, and how the error compares with the noise around it.
//!
//! Elements are seen as groups of rows and columns: a group is a head, a row is a query or a token, a column is a key or
//! a feature. Features that belong to heads are grouped by head as well.

mod even;

use rayon::prelude::*;

use crate::budget;
use crate::dtype::Dtype;
pub use even::Even;
pub(crate) use even::robust;

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

    /// Group and row of the `n`-th row in memory: rows stand one after the other, whatever the order of their groups.
    pub fn row(&self, n: usize) -> (usize, usize) {
        let (group, row, _) = self.place(n * self.columns);
        (group, row)
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

/// Elements of so many are one job: what is added up is added up by these parts, whatever the number of threads.
pub const PART: usize = 1 << 15;

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
        let mut error = vec![0.0; expected.len()];
        let parts = error.par_chunks_mut(PART).zip(expected.par_chunks(PART)).zip(actual.par_chunks(PART)).enumerate();
        let parts: Vec<_> = parts.map(|(n, ((error, x), y))| Part::measure(error, x, y, n * PART, masks)).collect();
        let rms = parts.iter().map(|part| part.size).sum::<Squares>().rms();
        let noise = parts.iter().map(|part| part.noise).sum::<Squares>().rms();
        let noise = if noise == 0.0 { 0.0 } else { noise / rms };
        let non_finite = parts.into_iter().flat_map(|part| part.non_finite).collect();
        let magnitude = magnitudes(expected, layout, magnitude, |x| is_number(x, masks));
        Self { error, magnitude, non_finite, noise, rms }
    }
}

/// What is added up of a part of the elements.
#[derive(Default)]
struct Part {
    size: Squares,
    noise: Squares,
    non_finite: Vec<usize>,
}

impl Part {
    /// Writes the errors of the part that begins at element `start`.
    fn measure(error: &mut [f64], expected: &[f64], actual: &[f64], start: usize, masks: bool) -> Self {
        let mut part = Self::default();
        for (k, ((error, &x), &y)) in error.iter_mut().zip(expected).zip(actual).enumerate() {
            *error = difference(x, y, masks);
            if is_number(x, masks) {
                part.size.add(x);
            }
            if error.is_finite() {
                part.noise.add(*error);
            } else if error.is_nan() {
                part.non_finite.push(start + k);
            }
        }
        part
    }
}

fn is_number(x: f64, masks: bool) -> bool {
    x.is_finite() && !(masks && x <= budget::MASKED)
}

/// y − x; 0 where the two agree without a number to subtract: both NaN, the same infinity, or both masked; NaN where one alone
/// is a number.
fn difference(x: f64, y: f64, masks: bool) -> f64 {
    if is_number(x, masks) && is_number(y, masks) {
        return y - x;
    }
    let agree = (x.is_nan() && y.is_nan()) || x == y || (masks && x <= budget::MASKED && y <= budget::MASKED);
    if agree { 0.0 } else { f64::NAN }
}

/// A sum of squares.
#[derive(Clone, Copy, Default)]
struct Squares {
    sum: f64,
    count: usize,
}

impl Squares {
    fn add(&mut self, x: f64) {
        self.sum += x * x;
        self.count += 1;
    }

    /// 0 of none.
    fn mean(self) -> f64 {
        self.sum / self.count.max(1) as f64
    }

    fn rms(self) -> f64 {
        self.mean().sqrt()
    }
}

impl std::iter::Sum for Squares {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), |all, part| Self { sum: all.sum + part.sum, count: all.count + part.count })
    }
}

fn magnitudes(x: &[f64], layout: &Layout, kind: Magnitude, number: impl Fn(f64) -> bool + Sync) -> Vec<f64> {
    let own = |x: f64| if number(x) { x.abs() } else { 0.0 };
    if kind == Magnitude::Own {
        return x.par_iter().map(|&x| own(x)).collect();
    }
    let of_row = |row: &[f64]| Squares { sum: row.iter().map(|&x| own(x) * own(x)).sum(), count: row.len() };
    let rows: Vec<Squares> = x.par_chunks(layout.columns).map(of_row).collect();
    let mut groups = vec![Squares::default(); layout.groups];
    for (n, row) in rows.iter().enumerate() {
        let group = &mut groups[layout.row(n).0];
        *group = [*group, *row].into_iter().sum();
    }
    let mut magnitude = vec![0.0; x.len()];
    magnitude.par_chunks_mut(layout.columns).zip(x.par_chunks(layout.columns)).enumerate().for_each(
        |(n, (magnitude, x))| {
            let floor = rows[n].mean().max(groups[layout.row(n).0].mean());
            magnitude.iter_mut().zip(x).for_each(|(magnitude, &x)| *magnitude = (own(x) * own(x) + floor).sqrt());
        },
    );
    magnitude
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
    fn layouts_reach_every_element_once() {
        for (shape, heads) in
            [(vec![2, 3, 5, 7], None), (vec![2, 5, 12], Some(3)), (vec![2, 5, 12], None), (vec![], None)]
        {
            let layout = Layout::of(&shape, heads);
            let len: usize = shape.iter().product();
            for k in 0..len {
                let (group, row, column) = layout.place(k);
                assert!(group < layout.groups && row < layout.rows && column < layout.columns, "{shape:?}");
                assert_eq!(layout.at(group, row, column), k, "{shape:?}");
                assert_eq!(layout.row(k / layout.columns), (group, row), "{shape:?}");
            }
            assert_eq!(layout.groups * layout.rows * layout.columns, len, "{shape:?}");
        }
    }

    #[test]
    fn magnitudes_are_of_the_row_or_of_the_group() {
        for (shape, heads) in [(vec![2, 4, 3, 4], None), (vec![2, 6, 8], Some(2)), (vec![2, 6, 8], None)] {
            let layout = Layout::of(&shape, heads);
            let x: Vec<f64> = (0..96).map(|k| f64::from(k).sin() * (1.0 + f64::from(k / 8))).collect();
            let found = magnitudes(&x, &layout, Magnitude::Surroundings, f64::is_finite);
            let rms = |among: &dyn Fn(usize) -> bool| {
                let squares: Vec<f64> = (0..x.len()).filter(|&k| among(k)).map(|k| x[k] * x[k]).collect();
                (squares.iter().sum::<f64>() / squares.len() as f64).sqrt()
            };
            for (k, magnitude) in found.into_iter().enumerate() {
                let (group, row, _) = layout.place(k);
                let of_group = rms(&|k| layout.place(k).0 == group);
                let of_row = rms(&|k| layout.row(k / layout.columns) == (group, row));
                assert!((magnitude - x[k].hypot(of_row.max(of_group))).abs() < 1e-12, "{shape:?} {k}");
            }
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
