//! The enhanced mask decoder: absolute positions added to the states before the last layer, and two passes through that
//! layer with keys and values of those states.

use deberta_model::Trace;

use crate::device::Device;
use crate::embeddings::Embeddings;
use crate::encoder::{Encoded, Encoder};
use crate::error::CudaError;
use crate::ops::Embed;
use crate::pass::Pass;
use crate::tensors::Rows;

/// The number of passes through the last layer.
const PASSES: usize = 2;

/// The states that words are predicted from, [N, E].
pub(crate) fn decode<D: Device>(
    embeddings: &Embeddings<D::Memory>,
    encoder: &Encoder<D::Memory>,
    encoded: &Encoded<D::Memory>,
    pass: &Pass<'_, D>,
    trace: &mut Trace<'_, f32>,
) -> Result<Rows<D::Memory>, CudaError> {
    let table = embeddings.position.as_ref().expect("the schema requires the position table under this head");
    let layer = encoder.layers.last().expect("a configuration without layers is refused");
    let hidden = encoded.before_last().view();
    // 1. z₀
    let mut states = Rows::new(pass.ops, hidden.rows(), hidden.columns())?;
    let sum =
        Embed { ids: None, word: hidden, positions: Some((pass.staged.positions.view(), table.view())), types: None };
    pass.ops.embed_sum(&states.view(), &sum)?;
    pass.emit(trace, "z_states", &states)?;
    // 2. z₁ and z₂
    let decoding = pass.of_decoder();
    for number in 0..PASSES {
        states = trace
            .within(&format!("emd.{number}"), |trace| layer.forward(hidden, Some(states.view()), &decoding, trace))?
            .0;
    }
    Ok(states)
}
