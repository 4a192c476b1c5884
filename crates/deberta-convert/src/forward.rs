//! `--prove-forward`: the model computes the same from the source and from the output, to the bit.

use std::collections::BTreeMap;
use std::error::Error;

use deberta_checkpoint::convert::BothSides;
use deberta_checkpoint::name_map::map_part;
use deberta_checkpoint::{Checkpoint, Dtype, Element};
use deberta_model::{DebertaV2Config, Head, Inputs, Keep, Model, Profile, Real, Trace, schema_under};
use ndarray::{ArrayD, IxDyn};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// How many tokens the input has: enough to pass the first buckets of relative positions.
const TOKENS: usize = 24;

/// Runs both sides, one after the other, and compares every hidden state and output.
pub fn prove(sides: &BothSides<'_>) -> Outcome<()> {
    let Some((config, head)) = sides.model else {
        return Err("--prove-forward needs names that the model knows; leave --names keep out".into());
    };
    if sides.source.tensors().any(|t| t.dtype == Dtype::F64) {
        compare::<f64>(sides, config, head)
    } else {
        compare::<f32>(sides, config, head)
    }
}

fn compare<T: Real + Element>(sides: &BothSides<'_>, config: &DebertaV2Config, head: Head) -> Outcome<()> {
    let before = run::<T>(sides.source, sides.part, config, head)?;
    let after = run::<T>(sides.output, "", config, head)?;
    if before.len() != after.len() {
        return Err("the forward passes have different outputs".into());
    }
    for ((name, before), (_, after)) in before.iter().zip(&after) {
        let differs = bytemuck::cast_slice::<T, u8>(before) != bytemuck::cast_slice::<T, u8>(after);
        if differs {
            return Err(format!("the forward passes of source and output differ at {name}").into());
        }
    }
    Ok(())
}

/// Every output of a forward pass on a fixed input, by name, in the order of computation.
fn run<T: Real + Element>(
    checkpoint: &Checkpoint,
    part: &str,
    config: &DebertaV2Config,
    head: Head,
) -> Outcome<Vec<(String, Vec<T>)>> {
    let profile = Profile::default();
    let (resolved, unmet) = map_part(checkpoint, part, config, schema_under(config, head, &profile))?;
    if let Some(problem) = unmet.first() {
        return Err(problem.to_string().into());
    }
    let mut arrays = BTreeMap::new();
    for mapping in &resolved.mapped {
        arrays.insert(mapping.parameter.name.clone(), checkpoint.array::<T>(&mapping.tensor)?);
    }
    let model = Model::new(config.clone(), head, profile, arrays)?;
    let length = TOKENS.min(config.max_position_embeddings.max(1));
    let shape = if head == Head::MultipleChoice { vec![1, 2, length] } else { vec![2, length] };
    let count = 2 * length;
    // Spread over the vocabulary; the same everywhere.
    let ids = (0..count).map(|i| ((i * 7919 + 3) % config.vocab_size.max(1)) as i64).collect();
    let inputs = Inputs { input_ids: Some(ArrayD::from_shape_vec(IxDyn(&shape), ids)?), ..Inputs::default() };
    let keep = Keep { hidden_states: true, attentions: false };
    let outputs = model.forward(&inputs, keep, &mut Trace::off())?;
    let mut all = Vec::new();
    outputs.for_each(|name, values| all.push((name.to_owned(), values.iter().copied().collect())));
    Ok(all)
}
