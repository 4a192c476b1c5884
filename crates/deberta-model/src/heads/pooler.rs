//! The pooler: one state a sequence.
//!
//! act(h₀·Wᵀ + b) of the first token's state (`ContextPooler`), or, for the choices of Microsoft's first code, the mean
//! of all states weighed by softmax(mask(h₀·hᵢ / √E)), which has no parameters (`MultiChoiceModel` of 2021). There a
//! masked score is −10000, added and not filled in.

use deberta_ops::{Activation, Hidden, Real, masked_softmax, narrow, wide};
use ndarray::{Array1, Array2, s};

use crate::config::DebertaV2Config;
use crate::inputs::Batch;
use crate::trace::Trace;
use crate::weights::{Linear, Weights};

pub(crate) struct Pooler<'w, T: Clone> {
    dense: Linear<'w, T>,
    activation: Activation,
}

impl<'w, T: Real> Pooler<'w, T> {
    pub(crate) fn new(config: &DebertaV2Config, weights: &mut Weights<'w, T>) -> Self {
        Self { dense: weights.linear("pooler.dense"), activation: config.pooler_hidden_act }
    }

    /// # Shapes
    /// `states` [B·L, E]; returns [B, E].
    pub(crate) fn forward(&self, states: &Array2<T>, batch: &Batch<T>, trace: &mut Trace<'_, T>) -> Array2<T> {
        trace.within("pooler", |trace| {
            let first = states.slice(s![..;batch.length, ..]); // [B, E]
            trace.emit("dropout", first);
            let mut pooled = self.dense.forward_wide(first);
            if trace.wants("dense") {
                trace.emit("dense", narrow(&pooled).view());
            }
            self.activation.apply_inplace(&mut pooled);
            let pooled = narrow(&pooled);
            trace.emit("", pooled.view());
            pooled
        })
    }
}

/// Σᵢ softmax(mask(h₀·hᵢ / √E))ᵢ·hᵢ for each sequence.
///
/// # Shapes
/// `states` [B·L, E]; returns [B, E].
pub(crate) fn pool_by_attention<T: Real>(states: &Array2<T>, batch: &Batch<T>) -> Array2<T> {
    const MASKED: f64 = -10_000.0;
    let width = states.ncols();
    let mut pooled = Array2::zeros((batch.size, width));
    for b in 0..batch.size {
        let rows = wide(&states.slice(s![b * batch.length..(b + 1) * batch.length, ..])); // [L, E]
        let first = &rows.row(0) / (width as f64).sqrt();
        let mut scores = rows.dot(&first); // [L]
        for (score, &exists) in scores.iter_mut().zip(batch.mask.tokens().row(b)) {
            if !exists {
                *score = MASKED;
            }
        }
        let everything = Array1::from_elem(batch.length, true);
        masked_softmax(scores.view_mut(), everything.view(), Hidden::LowestFinite);
        pooled.row_mut(b).assign(&narrow(&scores.dot(&rows)));
    }
    pooled
}
