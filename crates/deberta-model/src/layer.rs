//! One layer: attention and feed-forward, each with its residual and layer norm after it (`DebertaV2Layer`).
//!
//! ```text
//! a = LayerNorm(Attention(q, h)·Wᵀ + b + q)
//! y = LayerNorm(act(a·W₁ᵀ + b₁)·W₂ᵀ + b₂ + a)
//! ```
//!
//! The first residual is from the query states q, which are the hidden states h but in the enhanced mask decoder.

use deberta_ops::{Activation, Panels, Real, narrow, recycle};
use ndarray::{Array2, Array4, ArrayView2};

use crate::config::DebertaV2Config;
use crate::disentangled_attention::{Attended, AttentionContext, DisentangledSelfAttention};
use crate::embeddings::{emit_rows, emit_wide};
use crate::profile::Profile;
use crate::trace::Trace;
use crate::weights::{LayerNorm, Linear, Weights};

pub(crate) struct Layer<'w, T: Clone> {
    attention: DisentangledSelfAttention<'w, T>,
    attention_output: Output<'w, T>,
    intermediate: Linear<'w, T>,
    activation: Activation,
    output: Output<'w, T>,
}

/// LayerNorm(x·Wᵀ + b + residual).
struct Output<'w, T: Clone> {
    dense: Linear<'w, T>,
    layer_norm: LayerNorm<'w, T>,
}

impl<T: Real> Output<'_, T> {
    fn forward(&self, x: &Array2<T>, residual: ArrayView2<'_, T>, size: usize, trace: &mut Trace<'_, T>) -> Array2<T> {
        trace.within("output", |trace| {
            let out = if self.dense.is_wide(x.nrows()) {
                let sum = self.dense.forward_wide(x.view());
                emit_wide(trace, "dense", &sum, size);
                emit_wide(trace, "dropout", &sum, size);
                self.layer_norm.forward_with(sum.view(), residual)
            } else {
                let sum = self.dense.forward(x.view());
                emit_rows(trace, "dense", &sum, size);
                emit_rows(trace, "dropout", &sum, size);
                let out = self.layer_norm.forward_with(sum.view(), residual);
                recycle(sum);
                out
            };
            emit_rows(trace, "LayerNorm", &out, size);
            emit_rows(trace, "", &out, size);
            out
        })
    }
}

impl<'w, T: Real> Layer<'w, T> {
    pub(crate) fn new(config: &DebertaV2Config, profile: &Profile, weights: &mut Weights<'w, T>, index: usize) -> Self {
        let at = format!("deberta.encoder.layer.{index}");
        let mut output = |at: &str| Output {
            dense: weights.linear(&format!("{at}.output.dense")),
            layer_norm: weights.layer_norm(&format!("{at}.output.LayerNorm"), config.layer_norm_eps),
        };
        Self {
            attention_output: output(&format!("{at}.attention")),
            output: output(&at),
            attention: DisentangledSelfAttention::new(config, profile, weights, &at),
            intermediate: weights.linear(&format!("{at}.intermediate.dense")),
            activation: config.hidden_act,
        }
    }

    /// # Shapes
    /// `hidden_states` [B·K, E], `query_states` [B·Q, E]; returns [B·Q, E] and, if kept, [B, H, Q, K].
    pub(crate) fn forward(
        &self,
        hidden_states: ArrayView2<'_, T>,
        query_states: ArrayView2<'_, T>,
        context: &AttentionContext<'_, T>,
        trace: &mut Trace<'_, T>,
    ) -> (Array2<T>, Option<Array4<T>>) {
        let size = context.size;
        let (attended, probabilities) = trace.within("attention", |trace| {
            let Attended { context: states, probabilities } =
                self.attention.forward(hidden_states, query_states, context, trace);
            let out = self.attention_output.forward(&states, query_states, size, trace);
            recycle(states);
            emit_rows(trace, "", &out, size);
            (out, probabilities)
        });
        let out = if context.fused.is_some() && !self.intermediate.is_wide(attended.nrows()) {
            self.feed_forward_unseen(&attended)
        } else {
            self.feed_forward(&attended, size, trace)
        };
        recycle(attended);
        emit_rows(trace, "", &out, size);
        (out, probabilities)
    }

    /// a [N, E] → y [N, E].
    fn feed_forward(&self, attended: &Array2<T>, size: usize, trace: &mut Trace<'_, T>) -> Array2<T> {
        let inner = trace.within("intermediate", |trace| {
            let inner = if self.intermediate.is_wide(attended.nrows()) {
                let mut inner = self.intermediate.forward_wide(attended.view()); // [N, I]
                emit_wide(trace, "dense", &inner, size);
                self.activation.apply_inplace(&mut inner);
                narrow(&inner)
            } else {
                let mut inner = self.intermediate.forward(attended.view()); // [N, I]
                emit_rows(trace, "dense", &inner, size);
                self.activation.apply_slice(inner.as_slice_mut().expect("products are contiguous"));
                inner
            };
            emit_rows(trace, "intermediate_act_fn", &inner, size);
            emit_rows(trace, "", &inner, size);
            inner
        });
        let out = self.output.forward(&inner, attended.view(), size, trace);
        recycle(inner);
        out
    }

    /// The same where nobody looks inside: what lies between the two products stays as the first leaves it and the second
    /// takes it.
    fn feed_forward_unseen(&self, attended: &Array2<T>) -> Array2<T> {
        let x = Panels::of(attended.view());
        let inner = x.product_then(self.intermediate.affine(), |y| self.activation.apply_slice(y)); // [N, I]
        x.give();
        let sum = inner.products(&[self.output.dense.affine()]).remove(0); // [N, E]
        inner.give();
        let out = self.output.layer_norm.forward_with(sum.view(), attended.view());
        recycle(sum);
        out
    }
}
