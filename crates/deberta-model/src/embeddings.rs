//! The embeddings: the sum of a token's rows, normalized and masked (`DebertaV2Embeddings`).
//!
//! ```text
//! h = LayerNorm((word[id] + position[p] + type[t]) · Wᵀ) · mask
//! ```
//!
//! Positions are added where `position_biased_input` says so, types where the model has any; the projection W widens
//! E′ to E where they differ. Every row is of width E′ before it and E after.

use deberta_ops::{Real, gather_rows, narrow, wide};
use ndarray::{Array2, ArrayView1, ArrayView2, Axis, CowArray, Ix2, s};

use crate::config::DebertaV2Config;
use crate::inputs::{Batch, Tokens};
use crate::profile::Profile;
use crate::trace::Trace;
use crate::weights::{LayerNorm, Linear, Weights};

pub(crate) struct Embeddings<'w, T: Clone> {
    pub(crate) word: CowArray<'w, T, Ix2>,
    /// Absolute positions; also where only the enhanced mask decoder adds them.
    pub(crate) position: Option<CowArray<'w, T, Ix2>>,
    token_type: Option<CowArray<'w, T, Ix2>>,
    embed_proj: Option<Linear<'w, T>>,
    layer_norm: LayerNorm<'w, T>,
    position_biased: bool,
    positions_first: bool,
}

impl<'w, T: Real> Embeddings<'w, T> {
    pub(crate) fn new(config: &DebertaV2Config, profile: &Profile, weights: &mut Weights<'w, T>) -> Self {
        let at = "deberta.embeddings";
        Self {
            word: weights.take(&format!("{at}.word_embeddings.weight")),
            position: weights.optional(&format!("{at}.position_embeddings.weight")),
            token_type: weights.optional(&format!("{at}.token_type_embeddings.weight")),
            embed_proj: weights.optional_linear(&format!("{at}.embed_proj")),
            layer_norm: weights.layer_norm(&format!("{at}.LayerNorm"), config.layer_norm_eps),
            position_biased: config.position_biased_input,
            positions_first: profile.adds_positions_first,
        }
    }

    /// # Shapes
    /// Returns [B·L, E].
    pub(crate) fn forward(&self, batch: &Batch<T>, trace: &mut Trace<'_, T>) -> Array2<T> {
        trace.within("embeddings", |trace| {
            // 1. The word's row, or what stands in its place.
            let mut sum = match &batch.tokens {
                Tokens::Ids(ids) => {
                    let rows = gather_rows(self.word.view(), ArrayView1::from(ids));
                    batch.emit(trace, "word_embeddings", &rows);
                    wide(&rows)
                }
                Tokens::Embeds(rows) => wide(rows),
            }; // [B·L, E′]
            // 2. Positions and types.
            if self.positions_first {
                self.add_positions(&mut sum, batch, trace);
                self.add_types(&mut sum, batch, trace);
            } else {
                self.add_types(&mut sum, batch, trace);
                self.add_positions(&mut sum, batch, trace);
            }
            // 3. To the width of the model.
            if let Some(projection) = &self.embed_proj {
                sum = projection.forward_wide(narrow(&sum).view()); // [B·L, E]
                emit_wide(trace, "embed_proj", &sum, batch.size);
            }
            // 4. Normalize, then mask. Multiplied, so that NaN in a masked row stays NaN as in the references.
            let mut out = self.layer_norm.forward(sum.view());
            batch.emit(trace, "LayerNorm", &out);
            batch.mask_rows(&mut out);
            batch.emit(trace, "dropout", &out);
            batch.emit(trace, "", &out);
            out
        })
    }

    fn add_positions(&self, sum: &mut Array2<f64>, batch: &Batch<T>, trace: &mut Trace<'_, T>) {
        if let Some(table) = self.position.as_ref().filter(|_| self.position_biased) {
            *sum += &wide(&batch.position_rows(table.view(), trace));
        }
    }

    fn add_types(&self, sum: &mut Array2<f64>, batch: &Batch<T>, trace: &mut Trace<'_, T>) {
        if let Some(table) = &self.token_type {
            let rows = gather_rows(table.view(), ArrayView1::from(&batch.token_types));
            batch.emit(trace, "token_type_embeddings", &rows);
            *sum += &wide(&rows);
        }
    }
}

impl<T: Real> Batch<T> {
    /// The rows of the absolute positions, [B·L, E′].
    pub(crate) fn position_rows(&self, table: ArrayView2<'_, T>, trace: &mut Trace<'_, T>) -> Array2<T> {
        let rows = gather_rows(table, ArrayView1::from(&self.positions));
        if self.positions_shared {
            trace.emit("position_embeddings", rows.slice(s![..self.length, ..]).insert_axis(Axis(0)));
        } else {
            self.emit(trace, "position_embeddings", &rows);
        }
        rows
    }

    /// Multiplies each row by 1 where its token exists and by 0 where it does not.
    pub(crate) fn mask_rows(&self, rows: &mut Array2<T>) {
        for (mut row, &exists) in rows.axis_iter_mut(Axis(0)).zip(self.mask.tokens()) {
            if !exists {
                row.mapv_inplace(|v| v * T::zero());
            }
        }
    }

    /// Hands rows of tokens to the trace as [B, L, width].
    pub(crate) fn emit(&self, trace: &mut Trace<'_, T>, name: &str, rows: &Array2<T>) {
        emit_rows(trace, name, rows, self.size);
    }
}

/// Hands [B·N, width] rows that are not yet rounded to the trace as [B, N, width].
pub(crate) fn emit_wide<T: Real>(trace: &mut Trace<'_, T>, name: &str, rows: &Array2<f64>, size: usize) {
    if trace.wants(name) {
        emit_rows(trace, name, &narrow(rows), size);
    }
}

/// Hands [B·N, width] rows to the trace as [B, N, width].
pub(crate) fn emit_rows<T: Real>(trace: &mut Trace<'_, T>, name: &str, rows: &Array2<T>, size: usize) {
    if trace.wants(name) {
        let shape = (size, rows.nrows() / size, rows.ncols());
        trace.emit(name, rows.view().into_shape_with_order(shape).expect("rows are contiguous"));
    }
}
