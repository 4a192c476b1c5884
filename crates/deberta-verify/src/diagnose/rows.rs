//! Mistakes that show in the rows of a table: rows that are moved, turned round, scaled, or to which others were added. No
//! weight is needed: the rows are in the expected dump.

use super::node::{Kind, Node};
use super::patterns::{gain, proven};
use super::trial::Match;
use crate::budget;
use crate::compare::Row;
use crate::dump::Dump;
use crate::tensor::Tensor;

/// What the rows of the first divergent tensor show.
pub fn of_rows(dumps: (&Dump, &Dump), row: &Row, node: Node, x: &[f64], y: &[f64]) -> Option<Match> {
    match node.kind {
        Kind::PositionKey | Kind::PositionQuery => reversed(row, x, y),
        Kind::Position => (1..=FARTHEST).find_map(|by| moved(row, by, x, y)),
        Kind::Word => scaled(row, x, y).or_else(|| positions_added(dumps, row, x, y)),
        Kind::EmbedProj => positions_added(dumps, row, x, y),
        _ => None,
    }
}

/// Positions are looked for from this on, at most, and with so many rows left to say so.
const FARTHEST: usize = 4;
const FEWEST: usize = 8;

/// Tokens and width: the last two axes.
fn axes(row: &Row) -> Option<(usize, usize)> {
    match *row.shape.as_slice() {
        [.., length, width] if length > 0 && width > 0 => Some((length, width)),
        _ => None,
    }
}

fn reversed(row: &Row, x: &[f64], y: &[f64]) -> Option<Match> {
    let (_, width) = axes(row)?;
    let values: Vec<f64> = x.rchunks_exact(width).flatten().copied().collect();
    let fit = row.fit(&row.shape, 1, &values, y);
    let evidence = || {
        format!(
            "the rows of {} are those expected, from the last to the first: max residual {:.1e}",
            row.name, fit.max_abs
        )
    };
    fit.within.then(|| proven("relative-rows-reversed", evidence(), row, &fit))
}

/// Row i is what is expected of row i + `by`.
fn moved(row: &Row, by: usize, x: &[f64], y: &[f64]) -> Option<Match> {
    let (length, width) = axes(row)?;
    let left = length.checked_sub(by).filter(|&left| left >= FEWEST)?;
    let part = |values: &[f64], from: usize| -> Vec<f64> {
        let each = values.chunks_exact(length * width);
        each.flat_map(|one| one[from * width..(from + left) * width].iter().copied()).collect()
    };
    let mut shape = row.shape.clone();
    let axis = shape.len() - 2;
    shape[axis] = left;
    let fit = row.fit(&shape, 1, &part(x, by), &part(y, 0));
    let name = if by == 1 { "positions-off-by-one" } else { "positions-from-padding-index" };
    let evidence = || {
        format!(
            "row i of {} is what is expected of row i + {by}, as if positions were counted from {by}: max residual {:.1e}",
            row.name, fit.max_abs
        )
    };
    fit.within.then(|| proven(name, evidence(), row, &fit))
}

/// Word embeddings times the root of their width, as other models have them.
fn scaled(row: &Row, x: &[f64], y: &[f64]) -> Option<Match> {
    let (_, width) = axes(row)?;
    let root = (width as f64).sqrt();
    let values: Vec<f64> = x.iter().map(|x| x * root).collect();
    let fit = row.fit(&row.shape, 1, &values, y);
    let evidence = || format!("{} is √{width} times what is expected: max residual {:.1e}", row.name, fit.max_abs);
    fit.within.then(|| proven("embeddings-scaled", evidence(), row, &fit))
}

/// The same vectors added to every sequence, another at each position.
fn positions_added((expected, actual): (&Dump, &Dump), row: &Row, x: &[f64], y: &[f64]) -> Option<Match> {
    let (length, width) = axes(row)?;
    let one = length * width;
    let sequences = x.len() / one;
    let ids = expected.get("input_ids").or_else(|| actual.get("input_ids")).and_then(Tensor::integers)?;
    if sequences < 2 || length < FEWEST || ids.len() != sequences * length {
        return None;
    }
    // Sequences of the same words would have the same vectors added, whatever it is that adds them.
    let differ = (0..length).filter(|&i| (1..sequences).any(|b| ids[b * length + i] != ids[i])).count();
    let mut added = vec![0.0; one];
    x.iter().zip(y).enumerate().for_each(|(k, (x, y))| added[k % one] += (y - x) / sequences as f64);
    let size = |v: &mut dyn Iterator<Item = f64>| v.map(|v| v * v).sum::<f64>();
    let step = size(&mut (width..one).map(|k| added[k] - added[k - width]));
    if 2 * differ < length || !(step > budget::SAME * size(&mut added.iter().copied())) {
        return None;
    }
    let values: Vec<f64> = x.iter().enumerate().map(|(k, x)| x + added[k % one]).collect();
    let fit = row.fit(&row.shape, 1, &values, y);
    let evidence = || {
        format!(
            "to each of the {sequences} sequences of {} the same vectors are added, another at each position: max residual {:.1e}",
            row.name, fit.max_abs
        )
    };
    (fit.within && gain(row, fit.noise) >= budget::CLEAR_GAIN)
        .then(|| proven("position-embeddings-added", evidence(), row, &fit))
}
