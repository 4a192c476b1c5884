//! Replaced token detection, the discriminator of DeBERTa-v3 (`LMMaskPredictionHead` in Microsoft's
//! `replaced_token_detection_model.py`).
//!
//! ```text
//! logit_i = act(LayerNorm(h₀ + h_i)·Wᵀ + b)·wᵀ + c
//! ```
//!
//! h₀ is the last state of the first token. A token counts as replaced where its label is above 0 and differs from the
//! token that stands there; the loss is binary cross-entropy with logits, one number for each token that exists.

use deberta_ops::{Activation, Real, binary_cross_entropy_with_logits, narrow, wide};
use ndarray::{Array1, Array2, ArrayD, s};

use super::{flat, shape};
use crate::config::DebertaV2Config;
use crate::embeddings::emit_wide;
use crate::error::ModelError;
use crate::inputs::{Batch, Labels, Tokens};
use crate::trace::Trace;
use crate::weights::{LayerNorm, Linear, Weights};

pub(crate) struct ReplacedTokenDetection<'w, T: Clone> {
    layer_norm: LayerNorm<'w, T>,
    dense: Linear<'w, T>,
    activation: Activation,
    classifier: Linear<'w, T>,
}

impl<'w, T: Real> ReplacedTokenDetection<'w, T> {
    pub(crate) fn new(config: &DebertaV2Config, weights: &mut Weights<'w, T>) -> Self {
        let at = "mask_predictions";
        Self {
            layer_norm: weights.layer_norm(&format!("{at}.LayerNorm"), config.layer_norm_eps),
            dense: weights.linear(&format!("{at}.dense")),
            activation: config.hidden_act,
            classifier: weights.linear(&format!("{at}.classifier")),
        }
    }

    /// # Shapes
    /// `states` [B·L, E]; returns logits [B·L, 1].
    pub(crate) fn forward(&self, states: &Array2<T>, batch: &Batch<T>, trace: &mut Trace<'_, T>) -> Array2<T> {
        trace.within("mask_predictions", |trace| {
            let mut sum = wide(states);
            for b in 0..batch.size {
                let first = states.row(b * batch.length);
                let mut rows = sum.slice_mut(s![b * batch.length..(b + 1) * batch.length, ..]);
                rows += &wide(&first);
            }
            let normed = self.layer_norm.forward(sum.view());
            batch.emit(trace, "LayerNorm", &normed);
            let mut inner = self.dense.forward_wide(normed.view());
            emit_wide(trace, "dense", &inner, batch.size);
            self.activation.apply_inplace(&mut inner);
            let inner = narrow(&inner);
            batch.emit(trace, "transform_act_fn", &inner);
            let logits = self.classifier.forward(inner.view()); // [B·L, 1]
            batch.emit(trace, "classifier", &logits);
            logits
        })
    }
}

/// The loss of each token that exists, in order.
pub(crate) fn loss<T: Real>(logits: &Array2<T>, labels: &Labels, batch: &Batch<T>) -> Result<ArrayD<T>, ModelError> {
    let Tokens::Ids(ids) = &batch.tokens else {
        return Err(shape("labels", "no labels beside `inputs_embeds`, as a label is compared with its token", &[]));
    };
    let labels = flat("labels", labels, ids.len())?;
    let tokens = logits.iter().zip(&labels).zip(ids).zip(batch.mask.tokens());
    let losses = tokens.filter(|(_, exists)| **exists).map(|(((&logit, &label), &id), _)| {
        let replaced = label > 0 && usize::try_from(label) != Ok(id);
        binary_cross_entropy_with_logits(logit, if replaced { T::one() } else { T::zero() })
    });
    Ok(losses.collect::<Array1<T>>().into_dyn())
}
