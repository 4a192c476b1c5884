//! How fast a whole model is on a device: random weights, random words, passes timed from the first kernel to the last.

use std::collections::BTreeMap;

use deberta_cuda::measure::product_times;
use deberta_cuda::ops::Rung;
use deberta_cuda::{CudaError, Device, Model, Precision};
use deberta_ref::{DebertaV2Config, Head, Inputs, Profile, schema};
use ndarray::{ArrayD, CowArray, IxDyn};

use crate::attention::{Given, Operands};

/// One shape, measured.
#[derive(Clone, Debug)]
pub struct Measured {
    /// B
    pub sequences: usize,
    /// L
    pub length: usize,
    /// Seconds of the median pass.
    pub median: f64,
    /// Seconds of the fastest.
    pub fastest: f64,
    /// Floating-point operations of a pass: the products of weights, and those of queries, keys and values.
    pub operations: f64,
}

/// The configuration of microsoft/deberta-v3-base.
pub fn v3_base() -> DebertaV2Config {
    config(serde_json::json!({
        "vocab_size": 128_100, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
        "intermediate_size": 3072, "position_biased_input": false, "relative_attention": true, "position_buckets": 256,
        "pos_att_type": "p2c|c2p", "share_att_key": true, "norm_rel_ebd": "layer_norm", "max_position_embeddings": 512,
    }))
}

/// The configuration of attention alone, with the buckets of the released models.
pub fn attention(heads: usize, head_size: usize) -> DebertaV2Config {
    config(serde_json::json!({
        "hidden_size": heads * head_size, "num_attention_heads": heads, "relative_attention": true, "pos_att_type": "c2p|p2c",
        "position_buckets": 256, "max_position_embeddings": 512,
    }))
}

/// A configuration from JSON that is known to be one.
pub fn config(json: serde_json::Value) -> DebertaV2Config {
    DebertaV2Config::from_value(json).unwrap_or_else(|problem| panic!("the configuration of a measurement: {problem}"))
}

/// Numbers of the size of trained weights, from a linear congruential generator (Knuth's constants) whose top bits they are.
fn numbers() -> impl FnMut() -> f32 {
    let mut state = 1_u64;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1 << 24) as f32 - 0.5) * 0.08
    }
}

/// A model of random weights on `device`.
///
/// # Errors
/// What the device cannot do.
pub fn random_model<D: Device>(
    device: D,
    precision: Precision,
    config: &DebertaV2Config,
) -> Result<Model<D>, CudaError> {
    let mut number = numbers();
    let arrays: BTreeMap<String, CowArray<'_, f32, IxDyn>> = schema(config, Head::Base)
        .into_iter()
        .map(|parameter| {
            let array = ArrayD::from_shape_simple_fn(IxDyn(&parameter.shape), &mut number);
            (parameter.name, array.into())
        })
        .collect();
    Model::new(device, precision, config.clone(), Head::Base, Profile::HF_5, arrays)
}

/// Times passes over `sequences` of `length` random words each, after one that is not counted.
///
/// # Errors
/// What the device cannot do.
pub fn measure<D: Device>(
    model: &Model<D>,
    sequences: usize,
    length: usize,
    repeat: usize,
) -> Result<Measured, CudaError> {
    let config = model.config();
    let ids = ArrayD::from_shape_fn(IxDyn(&[sequences, length]), |at| {
        ((at[0] * 7919 + at[1] * 104_729 + 1) % config.vocab_size) as i64
    });
    let inputs = Inputs { input_ids: Some(ids), ..Inputs::default() };
    let mut seconds: Vec<f64> = model.time(&inputs, repeat)?.iter().map(std::time::Duration::as_secs_f64).collect();
    seconds.sort_by(f64::total_cmp);
    let (width, inner, tokens) = (config.hidden_size, config.intermediate_size, sequences * length);
    let of_token = 2 * (4 * width * width + 2 * width * inner) + 4 * length * width;
    Ok(Measured {
        sequences,
        length,
        median: seconds[seconds.len() / 2],
        fastest: seconds[0],
        operations: (config.num_hidden_layers * tokens) as f64 * of_token as f64,
    })
}

/// Operations a second of one large product, which is as near to the peak as the device's library comes.
///
/// # Errors
/// What the device cannot do.
pub fn product_rate<D: Device>(device: &D, precision: Precision, side: usize) -> Result<f64, CudaError> {
    let times = product_times(device, precision, side, 5)?;
    let fastest = times.iter().min().map_or(f64::INFINITY, std::time::Duration::as_secs_f64);
    Ok(2.0 * (side as f64).powi(3) / fastest)
}

/// Seconds of attention alone by each kernel of the ladder, in its order, over random operands; absent where one does not serve.
///
/// # Errors
/// What the device cannot do.
pub fn ladder<D: Device>(
    device: &D,
    precision: Precision,
    config: &DebertaV2Config,
    sequences: usize,
    length: usize,
) -> Result<Vec<(Rung, Option<f64>)>, CudaError> {
    let given = Given::upload(device, precision, &operands(config, &vec![length; sequences]))?;
    let timed = Rung::ALL.into_iter().map(|rung| match given.time(device, rung, 3) {
        Ok((seconds, _)) => Ok((rung, seconds.into_iter().reduce(f64::min))),
        Err(CudaError::Unsupported { .. }) => Ok((rung, None)),
        Err(error) => Err(error),
    });
    timed.collect()
}

/// Random operands of attention alone, between −1.6 and 1.6.
pub fn operands(config: &DebertaV2Config, lengths: &[usize]) -> Operands {
    let mut number = numbers();
    Operands::random(config, lengths, || 40.0 * number())
}
