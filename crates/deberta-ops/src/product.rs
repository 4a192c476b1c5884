//! Matrix products: y = x·Wᵀ + b, in rows for one weight, in panels for several of the same x.
//!
//! 1. x is laid into panels ([`Panels`]), if it is not in panels already. The weights stay where they are.
//! 2. The result is cut into jobs of up to [`BLOCK`] rows of x and a number of columns. A job goes over the terms in blocks,
//!    of which a panel stays in the nearest caches while weights go by.
//! 3. Sums begin with b. A finished job is turned from panels into rows; where another product follows, it was computed in its
//!    place among panels, and an activation is applied while it is in the cache.
//!
//! Sums are taken in the type of the data, block by block in the order of the terms.

use ndarray::{Array2, ArrayView1, ArrayView2, CowArray, Ix2};

use crate::buffers::{give, take, unwritten};
use crate::threads::{for_each, threads};
use crate::{LANES, Panels, Real, SharedRows, Tiles, to_rows};

/// The rows of x in one job, at most.
const BLOCK: usize = 128;
/// The terms in one block, at most.
const DEPTH: usize = 768;
/// The columns in one job, at most.
const COLUMNS: usize = 24;

/// An affine map: weight [O, I] and bias \[O\] or none.
#[derive(Clone, Copy, Debug)]
pub struct Affine<'a, T> {
    /// W
    pub weight: ArrayView2<'a, T>,
    /// b
    pub bias: Option<ArrayView1<'a, T>>,
}

/// x·Wᵀ + b.
///
/// # Shapes
/// `x` [N, I], the weight [O, I]; returns [N, O].
///
/// # Panics
/// If the shapes do not agree.
pub fn product<T: Real>(x: ArrayView2<'_, T>, map: Affine<'_, T>) -> Array2<T> {
    let panels = Panels::of(x);
    let result = panels.product(map);
    panels.give();
    result
}

impl<T: Real> Panels<T> {
    /// x·Wᵀ + b, in rows.
    ///
    /// # Shapes
    /// The weight [O, I]; returns [N, O].
    ///
    /// # Panics
    /// If the shapes do not agree.
    pub fn product(&self, map: Affine<'_, T>) -> Array2<T> {
        let mut result = unwritten((self.rows(), map.weight.nrows()));
        let shared = SharedRows::new(&mut result);
        self.multiply(&[map], |job, weight, bias| job.write_rows(self, weight, bias, &shared));
        result
    }

    /// f(x·Wᵀ + b) for each map, in panels again; `f` is given pieces in no order.
    ///
    /// # Shapes
    /// Each weight [O, I]; returns panels of [N, O] for each.
    ///
    /// # Panics
    /// If the shapes do not agree.
    pub fn products_then<const N: usize>(&self, maps: [Affine<'_, T>; N], f: impl Fn(&mut [T]) + Sync) -> [Self; N] {
        let mut results = maps.map(|map| Self::unwritten(self.rows(), map.weight.nrows()));
        let shared = results.each_mut().map(|result| {
            let width = result.depth() * LANES;
            result.shared(width)
        });
        self.multiply(&maps, |job, weight, bias| job.write_panels(self, weight, bias, &shared[job.map], &f));
        results
    }

    /// Has each part of W·xᵀ + b computed by `compute`, which is given W, row after row, and the part of b that belongs to it.
    fn multiply(&self, maps: &[Affine<'_, T>], compute: impl Fn(&Job, &[T], Option<&[T]>) + Sync) {
        // Copied only where it does not lie row after row, as no checkpoint's does.
        let weights: Vec<_> = maps.iter().map(|map| map.weight.as_standard_layout()).collect();
        for (map, weight) in maps.iter().zip(&weights) {
            assert_eq!(weight.ncols(), self.depth(), "as many terms on both sides");
            assert!(map.bias.is_none_or(|b| b.len() == weight.nrows()), "one bias a column");
        }
        let biases: Vec<_> = maps.iter().map(|map| map.bias.map(|b| b.to_vec())).collect();
        let jobs = jobs(self.rows(), &weights);
        for_each(jobs.len(), |i| {
            let job = &jobs[i];
            let weight = weights[job.map].as_slice().expect("laid out in order before");
            compute(job, weight, biases[job.map].as_ref().map(|b| &b[job.columns.clone()]));
        });
    }
}

/// A part of one result.
struct Job {
    map: usize,
    rows: std::ops::Range<usize>,
    columns: std::ops::Range<usize>,
}

/// Jobs in an order in which those that share rows of x follow one another.
fn jobs<T: Real>(n: usize, weights: &[CowArray<'_, T, Ix2>]) -> Vec<Job> {
    let blocks = n.div_ceil(BLOCK);
    let columns: usize = weights.iter().map(|w| w.nrows()).sum();
    // At least four jobs a thread where there is as much to do, and slabs that are full.
    let wanted = (columns * blocks).div_ceil(4 * threads()).clamp(1, COLUMNS);
    let chunk = wanted.next_multiple_of(T::tile_rows());
    let mut jobs = Vec::new();
    for rows in (0..n).step_by(BLOCK).map(|from| from..n.min(from + BLOCK)) {
        for (map, weight) in weights.iter().enumerate() {
            let columns = (0..weight.nrows()).step_by(chunk).map(|from| from..weight.nrows().min(from + chunk));
            jobs.extend(columns.map(|columns| Job { map, rows: rows.clone(), columns }));
        }
    }
    jobs
}

impl Job {
    /// W·xᵀ + b of the job, from `c` on: [panels, columns, 16], `c_panel` from panel to panel.
    ///
    /// # Safety
    /// `c` points to `len` numbers, of which nobody else uses those of the job's result.
    unsafe fn multiply<T: Real>(
        &self,
        x: &Panels<T>,
        weight: &[T],
        bias: Option<&[T]>,
        (c, len): (*mut T, usize),
        c_panel: usize,
    ) {
        let depth = x.depth();
        let first = self.rows.start / LANES;
        let block = depth.div_ceil(depth.div_ceil(DEPTH).max(1)).max(1);
        for k in (0..depth.max(1)).step_by(block) {
            let tiles = Tiles {
                depth: block.min(depth - k),
                rows: self.columns.len(),
                panels: self.rows.len().div_ceil(LANES),
                a: &weight[self.columns.start * depth + k..],
                a_row: depth,
                x: &x.numbers()[(first * depth + k) * LANES..],
                x_panel: depth * LANES,
                c_row: LANES,
                c_panel,
                start: bias.filter(|_| k == 0),
                accumulates: k > 0,
                fetches: true,
            };
            // SAFETY: the caller's promise.
            unsafe { tiles.compute_at(c, len) };
        }
    }

    /// Writes the job's part of the result in rows.
    fn write_rows<T: Real>(&self, x: &Panels<T>, weight: &[T], bias: Option<&[T]>, result: &SharedRows<'_, T>) {
        let width = self.columns.len() * LANES;
        let mut sums = take(self.rows.len().div_ceil(LANES) * width);
        // SAFETY: the sums are this job's.
        unsafe { self.multiply(x, weight, bias, (sums.as_mut_ptr(), sums.len()), width) };
        for (first, lanes) in self.rows.clone().step_by(LANES).zip(sums.chunks_exact(width)) {
            let rows = first..self.rows.end.min(first + LANES);
            // SAFETY: jobs do not overlap in rows and columns both.
            let mut rows: Vec<_> = rows.map(|i| unsafe { result.part(i, self.columns.clone()) }).collect();
            to_rows(lanes.as_chunks().0, &mut rows);
        }
        give(sums);
    }

    /// Writes the job's part of the result in panels, and then f of it.
    fn write_panels<T: Real>(
        &self,
        x: &Panels<T>,
        weight: &[T],
        bias: Option<&[T]>,
        result: &SharedRows<'_, T>,
        f: &impl Fn(&mut [T]),
    ) {
        let columns = self.columns.start * LANES..self.columns.end * LANES;
        let panels = self.rows.start / LANES..self.rows.end.div_ceil(LANES);
        // SAFETY: as above.
        unsafe { self.multiply(x, weight, bias, result.from(panels.start, columns.start), result.width()) };
        for panel in panels {
            // SAFETY: as above.
            f(unsafe { result.part(panel, columns.clone()) });
        }
    }
}

#[cfg(test)]
mod tests {
    use deberta_testkit::oracle;
    use ndarray::s;
    use proptest::prelude::*;

    use super::*;

    fn check<T: Real>(n: usize, depth: usize, outputs: &[usize], seed: u64, rounding: f64) {
        let mut rng = oracle::Rng::new(seed);
        // Rows of a wider array, as attention heads and first tokens are.
        let wide = rng.matrix(n, depth + 3).mapv(T::of);
        let x = wide.slice(s![.., 2..depth + 2]);
        let weights: Vec<_> = outputs.iter().map(|&o| rng.matrix(o, depth).mapv(T::of)).collect();
        let biases: Vec<_> = outputs.iter().map(|&o| rng.vector(o).mapv(T::of)).collect();
        let maps: Vec<_> = weights
            .iter()
            .zip(&biases)
            .enumerate()
            .map(|(i, (w, b))| Affine { weight: w.view(), bias: (i != 1).then(|| b.view()) })
            .collect();
        for (i, map) in maps.iter().enumerate() {
            let y = product(x, *map);
            assert_eq!(y.dim(), (n, outputs[i]));
            for ((r, c), &y) in y.indexed_iter() {
                let sum: f64 = (0..depth).map(|k| x[[r, k]].wide() * map.weight[[c, k]].wide()).sum();
                let expected = sum + map.bias.map_or(0.0, |b| b[c].wide());
                let tolerance = rounding * (depth + 1) as f64;
                assert!(
                    (y.wide() - expected).abs() <= tolerance,
                    "{r}, {c} of {n}×{depth}×{outputs:?}: {y} {expected}"
                );
            }
        }
    }

    /// Twice x·Wᵀ + b in panels, times another weight, is twice what the same gives by rows.
    fn check_in_panels<T: Real>(n: usize, depth: usize, inner: usize, seed: u64, rounding: f64) {
        let mut rng = oracle::Rng::new(seed);
        let x = rng.matrix(n, depth).mapv(T::of);
        let (first, second) = (rng.matrix(inner, depth).mapv(T::of), rng.matrix(5, inner).mapv(T::of));
        let bias = rng.vector(inner).mapv(T::of);
        let map = Affine { weight: first.view(), bias: Some(bias.view()) };
        let last = Affine { weight: second.view(), bias: None };
        let [panels] = Panels::of(x.view()).products_then([map], |piece| piece.iter_mut().for_each(|v| *v = *v + *v));
        let found = panels.product(last);
        let between = product(x.view(), map);
        let expected = product(between.view(), last);
        for (found, expected) in found.iter().zip(&expected) {
            let tolerance = 4.0 * rounding * ((depth + 1) * (inner + 1)) as f64;
            assert!((found.wide() - 2.0 * expected.wide()).abs() <= tolerance, "{found} and not twice {expected}");
        }
    }

    #[test]
    fn several_maps_at_once_are_each_by_itself() {
        let mut rng = oracle::Rng::new(4);
        let x = rng.matrix(BLOCK + 3, 11);
        let weights = [rng.matrix(50, 11), rng.matrix(1, 11), rng.matrix(7, 11)];
        let bias = rng.vector(7);
        let maps = weights.each_ref().map(|w| Affine { weight: w.view(), bias: (w.nrows() == 7).then(|| bias.view()) });
        let found = Panels::of(x.view()).products_then(maps, |_| ());
        for (found, map) in found.iter().zip(maps) {
            assert_eq!(found.to_rows(), product(x.view(), map));
        }
    }

    proptest! {
        #[test]
        fn what_stays_in_panels_is_the_same(seed in any::<u64>(), n in 1usize..200, depth in 1usize..20, inner in 1usize..130) {
            check_in_panels::<f64>(n, depth, inner, seed, oracle::ROUNDING_F64);
            check_in_panels::<f32>(n, depth, inner, seed, f32::EPSILON.into());
        }

        #[test]
        fn equals_the_sum_over_terms(seed in any::<u64>(), n in 0usize..40, depth in 0usize..30, a in 1usize..40, b in 1usize..8) {
            check::<f64>(n, depth, &[a, b], seed, oracle::ROUNDING_F64);
            check::<f32>(n, depth, &[b, a, a], seed, f32::EPSILON.into());
        }
    }

    #[test]
    fn more_than_one_block_of_everything() {
        check::<f64>(BLOCK * 2 + 5, 5, &[200], 1, oracle::ROUNDING_F64);
        check::<f64>(3, DEPTH * 2 + 5, &[7], 2, oracle::ROUNDING_F64);
        check::<f32>(BLOCK + 17, DEPTH + 1, &[13, 100], 3, f32::EPSILON.into());
    }

    #[test]
    fn weights_may_lie_in_any_order() {
        let x = ndarray::array![[1.0_f32, 2.0, 3.0]];
        let weight = ndarray::array![[1.0_f32, 10.0], [100.0, 1000.0], [0.5, 0.25]];
        let map = Affine { weight: weight.t(), bias: None };
        assert_eq!(product(x.view(), map), ndarray::array![[202.5, 2010.75]]);
        let mut backwards = weight.view();
        backwards.invert_axis(ndarray::Axis(0));
        let map = Affine { weight: backwards.t(), bias: None };
        assert_eq!(product(x.view(), map), ndarray::array![[203.5, 2030.25]]);
    }
}
