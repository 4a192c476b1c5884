//! The relative rows after projection, as the fused body takes them: they never change, so a model keeps them.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use deberta_ops::{Buffer, LANES, Panels, Real, SharedRows, for_each, take, to_rows};
use ndarray::{Array2, s};

use super::{DisentangledSelfAttention, Position};

/// PosK and PosQ/s of the relative rows that were needed so far.
pub(super) struct Projected<T> {
    pub(super) rows: Range<usize>,
    /// PosK, head after head: [H, rows, D].
    pub(super) keys: Option<Buffer<T>>,
    /// PosQ/s, in panels: [⌈rows/16⌉, H·D, 16].
    pub(super) queries: Option<Panels<T>>,
}

/// The projections that a model keeps, of as many relative rows as were needed so far.
pub(super) struct Kept<T>(Mutex<Option<Arc<Projected<T>>>>);

impl<T: Real> Kept<T> {
    pub(super) fn none() -> Self {
        Self(Mutex::new(None))
    }

    /// Projections that reach over `rows` of `all`. The first time they are computed for these rows; if that turns out to
    /// be too few, for all, so that no sequence of lengths costs more than two projections.
    pub(super) fn reaching(
        &self,
        rows: Range<usize>,
        all: usize,
        project: impl FnOnce(Range<usize>) -> Projected<T>,
    ) -> Arc<Projected<T>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some(found) if found.rows.start <= rows.start && rows.end <= found.rows.end => Arc::clone(found),
            before => {
                let rows = if before.is_some() { 0..all } else { rows };
                Arc::clone(kept.insert(Arc::new(project(rows))))
            }
        }
    }
}

impl<T: Real> Projected<T> {
    pub(super) fn wide(&self) -> Projected<f64> {
        Projected {
            rows: self.rows.clone(),
            keys: self.keys.as_ref().map(|keys| keys.map(Real::wide)),
            queries: self.queries.as_ref().map(|queries| queries.map(Real::wide)),
        }
    }
}

impl<'w, T: Real> DisentangledSelfAttention<'w, T> {
    /// PosK and PosQ/s of some relative rows.
    pub(super) fn project(
        &self,
        position: &Position<'w, T>,
        relative_rows: &Array2<T>,
        rows: Range<usize>,
    ) -> Projected<T> {
        let some = relative_rows.slice(s![rows.clone(), ..]);
        let keys = position.c2p.then(|| {
            let projected = position.key_proj.as_ref().unwrap_or(&self.key_proj).forward(some);
            by_head(&Panels::of(projected.view()), self.head_size)
        });
        let queries = position.p2c.then(|| {
            let projected = position.query_proj.as_ref().unwrap_or(&self.query_proj).forward(some) / self.scale;
            Panels::of(projected.view())
        });
        Projected { rows, keys, queries }
    }
}

/// The rows of each head by themselves, [H, N, D].
pub(super) fn by_head<S: Real>(panels: &Panels<S>, size: usize) -> Buffer<S> {
    let (rows, heads) = (panels.rows(), panels.depth() / size);
    let mut out = take(heads * rows * size);
    let shared = SharedRows::of(&mut out, size);
    for_each(panels.count(), |p| {
        for (h, lanes) in panels.panel(p).chunks_exact(size).enumerate() {
            // SAFETY: each row, of each head, is one job's.
            let mut rows: Vec<_> = panels.of_panel(p).map(|i| unsafe { shared.row(h * rows + i) }).collect();
            to_rows(lanes, &mut rows);
        }
    });
    out
}

/// The columns, each by itself, [H·D, `stride`], and from column to column.
///
/// The stride is no multiple of a kilobyte, so that the columns a tile reads at once do not all fall into one place of the
/// cache.
pub(super) fn by_column<S: Real>(panels: &Panels<S>, size: usize) -> (Buffer<S>, usize) {
    let stride = panels.count() * LANES + LANES * (1 + panels.count() % 2);
    let mut out = take(panels.depth() * stride);
    let shared = SharedRows::of(&mut out, stride);
    for_each(panels.depth() / size, |h| {
        for p in 0..panels.count() {
            for (d, lanes) in panels.panel(p)[h * size..(h + 1) * size].iter().enumerate() {
                // SAFETY: each head's columns are one job's.
                unsafe { shared.part(h * size + d, p * LANES..(p + 1) * LANES) }.copy_from_slice(lanes);
            }
        }
    });
    (out, stride)
}
