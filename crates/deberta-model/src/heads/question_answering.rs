//! Answers as spans: a start and an end logit a token, h·Wᵀ + b (`DebertaV2ForQuestionAnswering`).
//!
//! Positions of answers are clamped to [0, L]; L, beyond the last token, is left out of the loss, which is the mean of
//! the two cross-entropies over the length.

use deberta_ops::{Real, cross_entropy};
use ndarray::{Array2, ArrayD, s};

use super::{label, one_each, scalar};
use crate::error::ModelError;
use crate::inputs::{Batch, Inputs};
use crate::trace::Trace;
use crate::weights::Linear;

/// Start and end logits, [B, L] each, and the loss where both positions are given.
pub(crate) type Spans<T> = (Array2<T>, Array2<T>, Option<ArrayD<T>>);

pub(crate) fn question_answering<T: Real>(
    states: &Array2<T>,
    qa_outputs: &Linear<'_, T>,
    inputs: &Inputs<T>,
    batch: &Batch<T>,
    trace: &mut Trace<'_, T>,
) -> Result<Spans<T>, ModelError> {
    let logits = qa_outputs.forward(states.view()); // [B·L, 2]
    batch.emit(trace, "qa_outputs", &logits);
    let column = |c: usize| {
        let flat = logits.slice(s![.., c]).to_owned();
        flat.into_shape_with_order((batch.size, batch.length)).expect("as many rows as tokens")
    };
    let (start, end) = (column(0), column(1));
    let loss = match (&inputs.start_positions, &inputs.end_positions) {
        (Some(starts), Some(ends)) => {
            let side = |input, logits: &Array2<T>, positions| {
                let beyond = batch.length as i64;
                let positions = one_each(input, positions, batch.size)?.mapv(|p| p.clamp(0, beyond));
                cross_entropy(logits.view(), positions.view(), |p| p == beyond).map_err(|e| label(input, e))
            };
            let (of_start, of_end) = (side("start_positions", &start, starts)?, side("end_positions", &end, ends)?);
            Some(scalar((of_start + of_end) / T::of(2.0)))
        }
        _ => None,
    };
    Ok((start, end, loss))
}
