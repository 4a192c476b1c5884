//! Rows in panels: sixteen side by side, number after number.
//!
//! It is how a tile ([`crate::Tiles`]) takes its factor and leaves its result, so what lies between two products stays so, and
//! nothing has to be turned. A row's numbers are then a lane: sums over a row run down the panel, sixteen at a time.

use ndarray::{Array2, ArrayView2};

use crate::buffers::{Buffer, give, take, unwritten};
use crate::{LANES, Lanes, Real, SharedRows, for_each, to_lanes, to_rows};

/// Rows of an array, [⌈N/16⌉, I, 16]; whatever it be, where there are no more rows.
#[derive(Debug)]
pub struct Panels<T> {
    /// N
    rows: usize,
    /// I
    depth: usize,
    numbers: Buffer<T>,
}

impl<T: Real> Panels<T> {
    /// The rows of x, [N, I].
    pub fn of(x: ArrayView2<'_, T>) -> Self {
        let mut panels = Self::unwritten(x.nrows(), x.ncols());
        let shared = SharedRows::of(&mut panels.numbers, x.ncols() * LANES);
        for_each(if x.is_empty() { 0 } else { x.nrows().div_ceil(LANES) }, |p| {
            let rows: Vec<_> = x.rows().into_iter().skip(p * LANES).take(LANES).collect();
            let rows: Vec<_> = rows.iter().map(|row| row.as_standard_layout()).collect();
            let rows: Vec<_> = rows.iter().map(|row| row.as_slice().expect("laid out in order")).collect();
            // SAFETY: each panel is one job's.
            to_lanes(&rows, unsafe { shared.row(p) }.as_chunks_mut().0);
        });
        panels
    }

    /// The rows, [N, I].
    pub fn to_rows(&self) -> Array2<T> {
        let mut out = unwritten((self.rows, self.depth));
        let shared = SharedRows::new(&mut out);
        for_each(self.count(), |p| {
            // SAFETY: each row is one job's.
            let mut rows: Vec<_> = self.of_panel(p).map(|i| unsafe { shared.row(i) }).collect();
            to_rows(self.panel(p), &mut rows);
        });
        out
    }

    /// Panels of so many rows and columns, whatever they hold.
    pub fn unwritten(rows: usize, depth: usize) -> Self {
        Self { rows, depth, numbers: take(rows.div_ceil(LANES) * depth * LANES) }
    }

    /// Hands back the memory, when nobody needs the panels any more.
    pub fn give(self) {
        give(self.numbers);
    }

    /// N
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// I
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// ⌈N/16⌉
    pub fn count(&self) -> usize {
        self.rows.div_ceil(LANES)
    }

    /// The rows that a panel holds.
    pub fn of_panel(&self, panel: usize) -> std::ops::Range<usize> {
        panel * LANES..self.rows.min((panel + 1) * LANES)
    }

    /// One panel, [I, 16].
    pub fn panel(&self, panel: usize) -> &[Lanes<T>] {
        &self.numbers.as_chunks().0[panel * self.depth..(panel + 1) * self.depth]
    }

    /// All numbers, [⌈N/16⌉ · I · 16].
    pub fn numbers(&self) -> &[T] {
        &self.numbers
    }

    /// All numbers, to be written by several threads: a row of `width` after the other.
    pub fn shared(&mut self, width: usize) -> SharedRows<'_, T> {
        SharedRows::of(&mut self.numbers, width)
    }

    /// Each number by itself, in another type.
    pub fn map<S: Real>(&self, f: impl Fn(T) -> S) -> Panels<S> {
        Panels { rows: self.rows, depth: self.depth, numbers: self.numbers.map(f) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_go_into_panels_and_come_back() {
        for (rows, depth) in [(0, 3), (1, 1), (16, 5), (17, 4), (50, 37)] {
            let x = Array2::from_shape_fn((rows, depth), |(r, c)| (r * 100 + c) as f64);
            let panels = Panels::of(x.view());
            assert_eq!((panels.rows(), panels.depth(), panels.count()), (rows, depth, rows.div_ceil(LANES)));
            for p in 0..panels.count() {
                for (l, i) in panels.of_panel(p).enumerate() {
                    assert!((0..depth).all(|k| panels.panel(p)[k][l] == x[[i, k]]));
                }
            }
            assert_eq!(panels.to_rows(), x);
            assert_eq!(panels.map(|v| v + 1.0).to_rows(), &x + 1.0);
        }
    }
}
