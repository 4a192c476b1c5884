//! The enhanced mask decoder, EMD (section 3.2 of the paper; `EnhancedMaskDecoder.emd_context_layer` in Microsoft's
//! `masked_language_model.py`).
//!
//! Absolute positions enter here, just before words are predicted, and not at the input. With hₙ the output of layer n
//! of N, and P the rows of the absolute position embeddings:
//!
//! ```text
//! z₀ = P + h_{N−1}                                not normalized
//! z₁ = layer_N(keys and values from h_{N−1}, queries from z₀)
//! z₂ = layer_N(keys and values from h_{N−1}, queries from z₁)
//! ```
//!
//! Both passes use the last layer's own weights, its relative rows and the same mask; the residual of the attention is
//! the query. z₂ goes to the language-modelling head. Where absolute positions were already added to the embeddings
//! (`position_biased_input`), the ordinary h_N is taken instead.

use deberta_ops::{Panels, Real};
use ndarray::Array2;

use crate::disentangled_attention::Plan;
use crate::embeddings::Embeddings;
use crate::encoder::{Encoded, Encoder};
use crate::inputs::Batch;
use crate::relative_position::RelativePositions;
use crate::trace::Trace;

/// The number of passes through the last layer.
const PASSES: usize = 2;

/// The states that words are predicted from.
///
/// # Shapes
/// Returns [B·L, E].
pub(crate) fn decode<T: Real>(
    embeddings: &Embeddings<'_, T>,
    encoder: &Encoder<'_, T>,
    encoded: &Encoded<T>,
    batch: &Batch<T>,
    positions: Option<&RelativePositions>,
    fused: Option<&Plan>,
    trace: &mut Trace<'_, T>,
) -> Array2<T> {
    let table = embeddings.position.as_ref().expect("the schema requires the position table under this head");
    // 1. z₀
    let mut states = batch.position_rows(table.view(), trace); // [B·L, E]
    states += &encoded.before_last;
    batch.emit(trace, "z_states", &states);
    // 2. z₁ and z₂
    let mask = batch.decoder_mask.as_ref().unwrap_or(&batch.mask);
    let context = encoder.context(mask, positions, batch.size, false, fused);
    let layer = encoder.layers.last().expect("a configuration without layers is refused");
    if let Some(plan) = encoder.unseen_plan(states.nrows(), fused) {
        let hidden = Panels::of(encoded.before_last.view());
        let mut states = Panels::of(states.view());
        for _ in 0..PASSES {
            states = layer.unseen(&hidden, Some(&states), &context, plan);
        }
        return states.to_rows();
    }
    for pass in 0..PASSES {
        states = trace.within(&format!("emd.{pass}"), |trace| {
            layer.forward(encoded.before_last.view(), states.view(), &context, trace).0
        });
    }
    states
}
