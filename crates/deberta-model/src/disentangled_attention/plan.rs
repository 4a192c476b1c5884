//! What all layers of one forward pass share in the fused body: where the sequences are, and the row of every distance.

use std::ops::Range;

use deberta_ops::{LANES, LookUp};

use crate::relative_position::RelativePositions;

/// Where the sequences are, and the rows of their distances.
pub(crate) struct Plan {
    /// The rows of each sequence.
    pub(super) sequences: Vec<Range<usize>>,
    pub(super) distances: Option<Distances>,
}

/// The relative rows of distances −reach … reach.
pub(super) struct Distances {
    /// The row of distance x at x + reach, less the lowest. Distances that no two tokens have take the last one's.
    pub(super) look_up: LookUp,
    /// L − 1, L the length of the longest sequence, and as many as a panel may hold of other sequences' queries.
    reach: usize,
    /// Whether rows never fall as distances grow.
    ordered: bool,
    /// The rows that occur.
    pub(super) rows: Range<usize>,
}

impl Plan {
    pub(crate) fn new(sequences: Vec<Range<usize>>, positions: impl Fn(usize) -> Option<RelativePositions>) -> Self {
        let longest = sequences.iter().map(Range::len).max().unwrap_or(0).max(1);
        Self { sequences, distances: positions(longest).map(|p| Distances::new(&p, longest)) }
    }
}

impl Distances {
    fn new(positions: &RelativePositions, length: usize) -> Self {
        let (last, reach) = (length - 1, length - 1 + LANES - 1);
        let row = |at: usize| match at.checked_sub(reach) {
            Some(after) => positions.row(after.min(last), 0),
            None => positions.row(0, (reach - at).min(last)),
        };
        let mut rows: Vec<usize> = (0..=2 * reach).map(row).collect();
        let lowest = rows.iter().copied().min().unwrap_or(0);
        let highest = rows.iter().copied().max().unwrap_or(0);
        rows.iter_mut().for_each(|row| *row -= lowest);
        let ordered = rows.is_sorted();
        Self { look_up: LookUp::new(rows), reach, ordered, rows: lowest..highest + 1 }
    }

    /// The rows that distances `from` … `to` can have, less the lowest that occurs.
    pub(super) fn window(&self, from: isize, to: isize) -> Range<usize> {
        let rows = self.look_up.rows();
        if self.ordered { rows[self.place(from)]..rows[self.place(to)] + 1 } else { 0..self.rows.len() }
    }

    /// Where a distance stands in the table.
    pub(super) fn place(&self, distance: isize) -> usize {
        distance.saturating_add_unsigned(self.reach).clamp(0, 2 * self.reach as isize) as usize
    }
}
