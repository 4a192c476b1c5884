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
use crate::disentangled_attention::{Attended, AttentionContext, DisentangledSelfAttention, Plan};
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

    fn unseen(&self, x: Panels<T>, residual: &Panels<T>) -> Panels<T> {
        let [sum] = x.products_then([self.dense.affine()], |_| ());
        x.give();
        self.layer_norm.panels(sum, residual)
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
        let out = self.feed_forward(&attended, size, trace);
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

    /// Whether [`Self::unseen`] computes as [`Self::forward`] does, for so many rows: no product is one of those few whose sums
    /// keep more digits.
    pub(crate) fn can_be_unseen(&self, rows: usize) -> bool {
        let others = [&self.attention_output.dense, &self.intermediate, &self.output.dense];
        !self.attention.projections().into_iter().chain(others).any(|product| product.is_wide(rows))
    }

    /// The same where nobody looks inside: everything stays in panels, as one product leaves it and the next takes it.
    ///
    /// # Shapes
    /// `hidden_states` [N, E], `query_states` [N, E] or none where they are the same; returns [N, E].
    pub(crate) fn unseen(
        &self,
        hidden_states: &Panels<T>,
        query_states: Option<&Panels<T>>,
        context: &AttentionContext<'_, T>,
        plan: &Plan,
    ) -> Panels<T> {
        let states = self.attention.unseen(hidden_states, query_states, context.relative_rows, plan);
        let attended = self.attention_output.unseen(states, query_states.unwrap_or(hidden_states)); // [N, E]
        let activate = |y: &mut [T]| self.activation.apply_slice(y);
        let [inner] = attended.products_then([self.intermediate.affine()], activate); // [N, I]
        let out = self.output.unseen(inner, &attended);
        attended.give();
        out
    }
}
