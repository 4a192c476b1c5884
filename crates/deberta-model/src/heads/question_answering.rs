//! Answers as spans: a start and an end logit a token, h·Wᵀ + b (`DebertaV2ForQuestionAnswering`).
//!
//! Positions of answers are clamped to [0, L]; L, beyond the last token, is left out of the loss, which is the mean of
//! the two cross-entropies over the length.

use deberta_ops::{Real, cross_entropy};
use ndarray::{Array2, ArrayD};

use super::{label, one_each, scalar};
use crate::error::ModelError;
use crate::inputs::{Batch, Inputs};

/// The loss of start and end logits, [B, L] each, where both positions are given.
pub(crate) fn span_loss<T: Real>(
    start: &Array2<T>,
    end: &Array2<T>,
    inputs: &Inputs<T>,
    batch: &Batch<T>,
) -> Result<Option<ArrayD<T>>, ModelError> {
    let (Some(starts), Some(ends)) = (&inputs.start_positions, &inputs.end_positions) else {
        return Ok(None);
    };
    let side = |input, logits: &Array2<T>, positions| {
        let beyond = batch.length as i64;
        let positions = one_each(input, positions, batch.size)?.mapv(|p| p.clamp(0, beyond));
        cross_entropy(logits.view(), positions.view(), |p| p == beyond).map_err(|e| label(input, e))
    };
    let (of_start, of_end) = (side("start_positions", start, starts)?, side("end_positions", end, ends)?);
    Ok(Some(scalar((of_start + of_end) / T::of(2.0))))
}
