//! Which errors stand out of the others, each measured by the noise of its surroundings.

use libm::erfc;
use rayon::prelude::*;

use super::{Layout, Lines};
use crate::budget::{self, Tail};
use crate::dtype::Dtype;

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

    /// How far out of their noise the largest of `n` errors may stand.
    pub fn height(tail: Tail, n: usize) -> f64 {
        tail.margin * two_sided_quantile(tail.chance / n as f64) * Self::few(n)
    }

    /// How much further an error may stand out where `n` alone say what is usual.
    fn few(n: usize) -> f64 {
        1.0 + budget::OUTLIER_FEW / n as f64
    }

    fn floor(dtype: Dtype) -> f64 {
        dtype.unit_roundoff() / 2.0
    }

    /// The errors of a group, each as a part of its magnitude; 0 where it does not count.
    fn relative(&self, g: usize) -> Vec<f64> {
        let underflow = self.dtype.underflow();
        let relative = |(error, magnitude): (&f64, &f64)| {
            let error = error.abs();
            let counts = error > underflow && error.is_finite();
            if counts { error / magnitude.max(f64::MIN_POSITIVE) } else { 0.0 }
        };
        let Layout { rows, columns, .. } = self.layout;
        let mut group = Vec::with_capacity(rows * columns);
        for start in (0..rows).map(|r| self.layout.at(g, r, 0)) {
            let row = start..start + columns;
            group.extend(self.errors[row.clone()].iter().zip(&self.magnitude[row]).map(relative));
        }
        group
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
        let floor = Self::floor(self.dtype);
        let of_group = |g: usize| GroupNoise::new(&self.relative(g), layout.columns, floor, lines);
        let groups: Vec<GroupNoise> = (0..layout.groups).into_par_iter().map(of_group).collect();
        let height = self.tail.margin * forecast_of_largest(&groups, self.tail.chance);
        let mut budgets = vec![0.0; self.errors.len()];
        let rows = budgets.par_chunks_mut(layout.columns).zip(self.magnitude.par_chunks(layout.columns)).enumerate();
        rows.for_each(|(n, (budgets, magnitude))| {
            let (g, r) = layout.row(n);
            let few = Self::few(groups[g].counted);
            let elements = budgets.iter_mut().zip(magnitude).zip(groups[g].scales(r));
            elements.for_each(|((budget, magnitude), scale)| {
                *budget = (scale * height * few * magnitude).max(self.dtype.underflow());
            });
        });
        Some(budgets)
    }
}

/// How many of the largest ratios foretell the largest.
const LARGEST: usize = 8;

/// So many columns are gathered at once: what of a row comes into the cache together.
const ABREAST: usize = 8;

/// The noise of a group, of its rows and of its columns. What is met exactly says nothing of the whole: it is padding, mostly.
struct GroupNoise {
    /// How many elements are not.
    counted: usize,
    whole: f64,
    rows: Vec<f64>,
    columns: Vec<f64>,
    /// The errors in units of their noise: all, or one of each line.
    ratios: Largest,
}

impl GroupNoise {
    /// Of a group in rows of `columns` relative errors.
    fn new(group: &[f64], columns: usize, floor: f64, lines: Option<Lines>) -> Self {
        let mut counted: Vec<f64> = group.iter().copied().filter(|e| *e > 0.0).collect();
        let whole = robust(&mut counted).max(floor);
        let rows = group.len() / columns;
        let of = |line: &mut [f64]| among(robust(line), line.len(), whole).max(floor);
        let mut noise = Self {
            counted: counted.len(),
            whole,
            rows: if lines.is_some() { vec![whole; rows] } else { by_row(group, columns, of) },
            columns: if lines.is_some() { vec![whole; columns] } else { by_column(group, columns, of) },
            ratios: Largest::default(),
        };
        let mut ratios = Largest::default();
        match lines {
            None => {
                for (r, row) in group.chunks(columns).enumerate() {
                    row.iter().zip(noise.scales(r)).for_each(|(e, scale)| ratios.add(e / scale));
                }
            }
            Some(Lines::Rows) => group.chunks(columns).for_each(|row| ratios.add(max(row) / whole)),
            Some(Lines::Columns) => {
                by_column(group, columns, |column| max(column) / whole).into_iter().for_each(|ratio| ratios.add(ratio))
            }
        }
        noise.ratios = ratios;
        noise
    }

    /// The scales of the elements of a row: the largest of the noise of the group, of the row, of the column, and of row times
    /// column.
    fn scales(&self, r: usize) -> impl Iterator<Item = f64> + '_ {
        let (whole, row) = (self.whole, self.rows[r]);
        let least = whole.max(row);
        self.columns.iter().map(move |column| least.max(*column).max(row * column / whole))
    }
}

/// The [`LARGEST`] of some numbers, of those above 0.
#[derive(Default)]
struct Largest {
    held: Vec<f64>,
    /// The least of those, once there are so many.
    least: f64,
    /// Out of how many.
    count: usize,
}

impl Largest {
    fn add(&mut self, x: f64) {
        self.count += usize::from(x > 0.0);
        if x > self.least {
            self.held.push(x);
            if self.held.len() >= LARGEST {
                self.held.sort_unstable_by(|a, b| b.total_cmp(a));
                self.held.truncate(LARGEST);
                self.least = self.held[LARGEST - 1];
            }
        }
    }
}

/// The noise of a line, which its own `n` elements tell the better the more they are; the group tells the rest.
fn among(line: f64, n: usize, group: f64) -> f64 {
    let (n, others) = (n as f64, budget::OUTLIER_LINE);
    ((n * line * line + others * group * group) / (n + others)).sqrt()
}

/// What `of` says of each row.
fn by_row(group: &[f64], columns: usize, of: impl Fn(&mut [f64]) -> f64) -> Vec<f64> {
    let mut buffer = vec![0.0; columns];
    let copied = group.chunks(columns).map(|row| {
        buffer.copy_from_slice(row);
        of(&mut buffer)
    });
    copied.collect()
}

/// What `of` says of each column.
fn by_column(group: &[f64], columns: usize, of: impl Fn(&mut [f64]) -> f64) -> Vec<f64> {
    let rows = group.len() / columns;
    let mut block = vec![0.0; ABREAST * rows];
    let mut found = Vec::with_capacity(columns);
    for start in (0..columns).step_by(ABREAST) {
        let width = ABREAST.min(columns - start);
        for (r, row) in group.chunks(columns).enumerate() {
            row[start..start + width].iter().enumerate().for_each(|(c, e)| block[c * rows + r] = *e);
        }
        found.extend(block.chunks_mut(rows).take(width).map(&of));
    }
    found
}

fn max(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

/// The scale of a normal distribution with the same 0.8 quantile, of numbers that are not negative.
pub(crate) fn robust(values: &mut [f64]) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let at = ((values.len() - 1) as f64 * budget::OUTLIER_QUANTILE).ceil() as usize;
    let (_, quantile, _) = values.select_nth_unstable_by_key(at, |v| v.to_bits());
    *quantile / budget::OUTLIER_QUANTILE_OF_NORMAL
}

/// How large the largest error may be in units of the noise, by this chance, if they are normal, or as much heavier-tailed as
/// the third to eighth largest of them say.
fn forecast_of_largest(groups: &[GroupNoise], chance: f64) -> f64 {
    let n = groups.iter().map(|g| g.counted).sum::<usize>() as f64;
    let few = groups.iter().map(|g| g.ratios.count).sum::<usize>() / 8;
    let mut top: Vec<f64> = groups.iter().flat_map(|g| g.ratios.held.iter().copied()).collect();
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
    fn a_line_of_few_elements_is_drawn_towards_its_group() {
        // As noisy as the group: nothing to draw. Three times as noisy: more of it is believed the longer the line is.
        assert!((among(2.0, 7, 2.0) - 2.0).abs() < 1e-12);
        let drawn = [7, 64, 512].map(|n| among(3.0, n, 1.0));
        assert!(1.0 < drawn[0] && drawn[0] < drawn[1] && drawn[1] < drawn[2] && drawn[2] < 3.0, "{drawn:?}");
        assert!(drawn[0] < 2.5 && drawn[2] > 2.95, "{drawn:?}");
    }

    #[test]
    fn the_largest_are_kept_as_they_come() {
        let numbers = || (0..50).map(|k| f64::from(k * 37 % 50) - 5.0);
        let mut largest = Largest::default();
        numbers().for_each(|x| largest.add(x));
        let mut sorted: Vec<f64> = numbers().collect();
        sorted.sort_by(|a, b| b.total_cmp(a));
        largest.held.sort_by(|a, b| b.total_cmp(a));
        assert_eq!((largest.held, largest.count), (sorted[..LARGEST].to_vec(), 44));
        let mut few = Largest::default();
        [0.0, 2.0, f64::NAN, 1.0].into_iter().for_each(|x| few.add(x));
        assert_eq!((few.held, few.count), (vec![2.0, 1.0], 2));
    }

    #[test]
    fn columns_are_gathered_whatever_their_number() {
        for columns in [1, ABREAST - 1, ABREAST, 2 * ABREAST + 3] {
            let group: Vec<f64> = (0..5 * columns).map(|k| k as f64).collect();
            let sum = |line: &mut [f64]| line.iter().sum();
            let expected: Vec<f64> = (0..columns).map(|c| group[c..].iter().step_by(columns).sum()).collect();
            assert_eq!(by_column(&group, columns, sum), expected, "{columns}");
            let expected: Vec<f64> = group.chunks(columns).map(|row| row.iter().sum()).collect();
            assert_eq!(by_row(&group, columns, sum), expected, "{columns}");
        }
    }
}
