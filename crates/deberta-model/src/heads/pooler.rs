//! The pooler: act(h₀·Wᵀ + b) of the first token's state (`ContextPooler`).

use deberta_ops::{Activation, Real, narrow};
use ndarray::{Array2, s};

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
