//! Predicting words: logits = LayerNorm(act(h·Wᵀ + b))·Wordᵀ + bias.
//!
//! Hugging Face's first head (`cls.predictions`, `legacy: true`) and Microsoft's (`lm_predictions.lm_head`) compute the
//! same function under different names. In the first the decoder may hold weights of its own; in the second they are
//! always the word embeddings. Checkpoints of Microsoft hold the second only.

use deberta_ops::{Activation, Real};
use ndarray::{Array2, ArrayView1, ArrayView2, CowArray, Ix1, Ix2};

use crate::config::DebertaV2Config;
use crate::embeddings::{emit_rows, emit_wide};
use crate::trace::Trace;
use crate::weights::{LayerNorm, Linear, Weights};

pub(crate) struct LanguageModelHead<'w, T: Clone> {
    legacy: bool,
    dense: Linear<'w, T>,
    activation: Activation,
    layer_norm: LayerNorm<'w, T>,
    /// Where the decoder does not share the word embeddings, [V, E′].
    decoder: Option<CowArray<'w, T, Ix2>>,
    bias: CowArray<'w, T, Ix1>,
}

impl<'w, T: Real> LanguageModelHead<'w, T> {
    /// `cls.predictions`.
    pub(crate) fn legacy(config: &DebertaV2Config, weights: &mut Weights<'w, T>) -> Self {
        let at = "cls.predictions";
        let own_bias = weights.optional(&format!("{at}.decoder.bias"));
        Self {
            legacy: true,
            dense: weights.linear(&format!("{at}.transform.dense")),
            activation: config.hidden_act,
            layer_norm: weights.layer_norm(&format!("{at}.transform.LayerNorm"), config.layer_norm_eps),
            decoder: weights.optional(&format!("{at}.decoder.weight")),
            bias: own_bias.unwrap_or_else(|| weights.take(&format!("{at}.bias"))),
        }
    }

    /// `lm_predictions.lm_head`.
    pub(crate) fn new(config: &DebertaV2Config, weights: &mut Weights<'w, T>) -> Self {
        let at = "lm_predictions.lm_head";
        Self {
            legacy: false,
            dense: weights.linear(&format!("{at}.dense")),
            activation: config.hidden_act,
            layer_norm: weights.layer_norm(&format!("{at}.LayerNorm"), config.layer_norm_eps),
            decoder: None,
            bias: weights.take(&format!("{at}.bias")),
        }
    }

    /// # Shapes
    /// `states` [N, E] of `size` sequences (or one), `word_embeddings` [V, E′]; returns [N, V].
    pub(crate) fn forward(
        &self,
        states: ArrayView2<'_, T>,
        word_embeddings: ArrayView2<'_, T>,
        size: usize,
        trace: &mut Trace<'_, T>,
    ) -> Array2<T> {
        let transform = if self.legacy { "cls.predictions.transform" } else { "lm_predictions.lm_head" };
        let transformed = trace.within(transform, |trace| {
            let mut x = self.dense.forward_wide(states); // [N, E′]
            emit_wide(trace, "dense", &x, size);
            self.activation.apply_inplace(&mut x);
            emit_wide(trace, "transform_act_fn", &x, size);
            let x = self.layer_norm.forward(x.view());
            emit_rows(trace, "LayerNorm", &x, size);
            if self.legacy {
                emit_rows(trace, "", &x, size);
            }
            x
        });
        let decoder = self.decoder.as_ref().map_or(word_embeddings, |d| d.view());
        let bias: ArrayView1<'_, T> = self.bias.view();
        let logits = deberta_ops::linear(transformed.view(), decoder, Some(bias)); // [N, V]
        let modules: &[&str] = if self.legacy {
            &["cls.predictions.decoder", "cls.predictions", "cls"]
        } else {
            &["lm_predictions.lm_head", "lm_predictions"]
        };
        for module in modules {
            emit_rows(trace, module, &logits, size);
        }
        logits
    }
}
