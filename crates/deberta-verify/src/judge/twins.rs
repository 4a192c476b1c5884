//! What is computed twice from the same numbers is the same twice, whatever the noise of these.
//!
//! ```text
//! x_i = x_j  →  y_i − y_j = (y_i − x_i) − (y_j − x_j) = rounding
//! ```
//!
//! x: rows of the expected tensor, equal to the bit; y: those of the actual one. A token that occurs twice in a text has equal rows
//! in the embeddings and in the projections of the first layer; a sequence that occurs twice in the batch, everywhere. The noise
//! of what such rows are computed from, and of the weights, is the same in both, and cancels. In most programs nothing is left, in
//! some what two ways of adding up leave, at the edges of tiles for one: of that the others that differ tell the size.

use std::cmp::Ordering;

use rayon::prelude::*;

use super::Measured;
use crate::budget;
use crate::dtype::Dtype;
use crate::measure::{Even, robust};

/// An element that is not what its twins are.
pub(super) struct Apart {
    pub element: usize,
    /// The one of its twins that it is compared with: the middle one.
    pub twin: usize,
    /// How far the two are apart.
    pub by: f64,
    /// How far they might be.
    pub allowed: f64,
}

/// Elements that are further from their twins than rounding, and than others are from theirs; in rows of `columns`.
pub(super) fn apart(measured: &Measured, columns: usize, dtype: Dtype) -> Vec<Apart> {
    let Measured { y, errors, .. } = measured;
    let magnitude = |k: usize| errors.magnitude[k].max(f64::MIN_POSITIVE);
    let mut found = differences(measured, columns);
    let mut shares: Vec<f64> = found.iter().map(|a| a.by / magnitude(a.element)).collect();
    // The furthest is not asked what is usual.
    if let Some(furthest) = (0..shares.len()).max_by(|&a, &b| shares[a].total_cmp(&shares[b])) {
        shares.swap_remove(furthest);
    }
    let usual =
        if shares.is_empty() { 0.0 } else { Even::height(budget::OUTLIER_TWINS, found.len()) * robust(&mut shares) };
    for apart in &mut found {
        let written = budget::TWINS_STORAGE * dtype.unit_roundoff() * y[apart.element].abs() + dtype.underflow();
        apart.allowed = written + (budget::TWINS_SUMS * 2f64.powi(-24) + usual) * magnitude(apart.element);
    }
    found.retain(|a| a.by > a.allowed);
    found
}

/// Every element that differs from the middle one of its twins.
fn differences(measured: &Measured, columns: usize) -> Vec<Apart> {
    let Measured { x, errors, .. } = measured;
    // Few numbers may be equal by chance.
    if columns < budget::OUTLIER_LEAST {
        return Vec::new();
    }
    let row = |n: &usize| &x[n * columns..(n + 1) * columns];
    let off = |n: &usize| &errors.error[n * columns..(n + 1) * columns];
    // Where nothing is off, nothing was computed: the row is hidden, or a copy.
    let mut rows: Vec<usize> = (0..x.len() / columns).filter(|n| off(n).iter().any(|e| *e != 0.0)).collect();
    rows.par_sort_by(|a, b| in_order(row(a), row(b)));
    let twins: Vec<&[usize]> = rows.chunk_by(|a, b| in_order(row(a), row(b)).is_eq()).filter(|t| t.len() > 1).collect();
    let unlike = twins.into_par_iter().filter(|twins| twins.iter().any(|n| off(n) != off(&twins[0])));
    unlike.flat_map_iter(|twins| (0..columns).flat_map(|c| of_column(twins, columns, c, &errors.error))).collect()
}

/// What differs in one column of rows that should be equal. The middle one is the median; of two that might be, the one nearer
/// to what is expected.
fn of_column(twins: &[usize], columns: usize, column: usize, error: &[f64]) -> Vec<Apart> {
    let mut elements: Vec<usize> = twins.iter().map(|n| n * columns + column).collect();
    elements.sort_by(|&a, &b| error[a].total_cmp(&error[b]));
    let (lower, upper) = (elements[(elements.len() - 1) / 2], elements[elements.len() / 2]);
    let twin = if error[upper].abs() < error[lower].abs() { upper } else { lower };
    let apart = |element: usize| Apart { element, twin, by: (error[element] - error[twin]).abs(), allowed: 0.0 };
    elements.into_iter().map(apart).filter(|a| a.by > 0.0).collect()
}

fn in_order(a: &[f64], b: &[f64]) -> Ordering {
    let differing = a.iter().zip(b).map(|(a, b)| a.total_cmp(b)).find(|o| o.is_ne());
    differing.unwrap_or(Ordering::Equal)
}
