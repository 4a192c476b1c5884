//! The two bodies of attention held to each other, over options, lengths and padding that no small golden reaches: several
//! blocks of queries and keys, logarithmic buckets, distances beyond the last bucket, ragged batches.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]
#![allow(clippy::single_range_in_vec_init, reason = "a batch is a list of the ranges that exist, often of one")]

use std::collections::BTreeMap;

use deberta_model::{
    Attention, DebertaV2Config, Head, Inputs, Keep, Model, Outputs, Profile, Real, Trace, schema, set_threads,
};
use deberta_testkit::oracle;
use ndarray::{Array2, ArrayD, Axis, CowArray, IxDyn};
use serde_json::{Value, json};

/// Both bodies compute in `f64` to about 2⁻⁵³ of terms of order ten, over two layers.
const F64_BOUND: f64 = 1e-11;
/// In `f32` the fused body rounds each of some hundred sums where the reference rounds none: 2⁻²⁴ of terms of order ten.
const F32_BOUND: f64 = 2e-5;

fn config(changes: &Value) -> DebertaV2Config {
    let mut config = json!({
        "hidden_size": 40, "num_attention_heads": 2, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 50,
        "relative_attention": true, "position_buckets": 16, "max_relative_positions": 40, "pos_att_type": "p2c|c2p",
        "share_att_key": true, "norm_rel_ebd": "layer_norm", "position_biased_input": false,
    });
    for (name, value) in changes.as_object().unwrap() {
        config[name] = value.clone();
    }
    DebertaV2Config::from_value(config).unwrap()
}

fn model<T: Real>(config: &DebertaV2Config, profile: Profile) -> Model<'static, T> {
    let mut rng = oracle::Rng::new(7);
    let arrays: BTreeMap<String, CowArray<'static, T, IxDyn>> = schema(config, Head::Base)
        .into_iter()
        .map(|p| {
            let values = rng.vector(p.shape.iter().product());
            let scale = if p.name.contains("LayerNorm") { 1.0 } else { 0.5 };
            let array = values.mapv(|v| T::of(v * scale)).into_shape_with_order(IxDyn(&p.shape)).unwrap();
            (p.name, CowArray::from(array))
        })
        .collect();
    Model::new(config.clone(), Head::Base, profile, arrays).unwrap()
}

/// Sequences of these spans of tokens that exist.
fn inputs<T: Default>(length: usize, spans: &[std::ops::Range<usize>]) -> Inputs<T> {
    let shape = (spans.len(), length);
    let ids = Array2::from_shape_fn(shape, |(b, i)| ((b * 31 + i * 17 + i * i) % 50) as i64);
    let mask = Array2::from_shape_fn(shape, |(b, i)| i64::from(spans[b].contains(&i)));
    Inputs { input_ids: Some(ids.into_dyn()), attention_mask: Some(mask.into_dyn()), ..Inputs::default() }
}

fn states<T: Real>(model: &Model<'_, T>, inputs: &Inputs<T>) -> ArrayD<f64> {
    let keep = Keep { hidden_states: true, attentions: false };
    let outputs: Outputs<T> = model.forward(inputs, keep, &mut Trace::off()).unwrap();
    let mut all = Vec::new();
    outputs.for_each(|_, value| all.push(value.mapv(Real::wide)));
    let views: Vec<_> = all.iter().map(|a| a.view()).collect();
    ndarray::stack(Axis(0), &views).unwrap() // [states, B, L, E]
}

fn check<T: Real>(changes: &Value, profile: Profile, length: usize, spans: &[std::ops::Range<usize>], bound: f64) {
    let config = config(changes);
    let (fused, reference) = (model::<T>(&config, profile), model::<T>(&config, profile));
    let reference = reference.with_attention(Attention::Reference);
    let inputs = inputs(length, spans);
    assert_eq!(fused.attention(&inputs, Keep::default()).unwrap(), Attention::Fused);
    let (found, expected) = (states(&fused, &inputs), states(&reference, &inputs));
    for ((at, &found), &expected) in found.indexed_iter().zip(&expected) {
        let expected = if spans[at[1]].contains(&at[2]) { expected } else { 0.0 };
        assert!((found - expected).abs() <= bound, "{changes} {length} {spans:?} at {at:?}: {found}, not {expected}");
    }
}

#[test]
fn every_option_of_the_positions() {
    let cases = [
        json!({}),
        json!({ "share_att_key": false }),
        json!({ "pos_att_type": "c2p" }),
        json!({ "pos_att_type": "p2c" }),
        json!({ "pos_att_type": [] }),
        json!({ "relative_attention": false }),
        json!({ "position_buckets": -1, "max_relative_positions": 30 }),
        // A maximum within the linear part: buckets fall as distances grow.
        json!({ "position_buckets": 64, "max_relative_positions": 20 }),
        json!({ "position_buckets": 256, "max_relative_positions": 512 }),
        json!({ "hidden_size": 64 }),
        json!({ "hidden_size": 6 }),
        json!({ "conv_kernel_size": 3 }),
    ];
    for changes in &cases {
        for profile in [Profile::HF_5, Profile::MICROSOFT] {
            check::<f64>(changes, profile, 150, &[0..150, 0..3, 20..149], F64_BOUND);
        }
        check::<f32>(changes, Profile::HF_5, 150, &[0..150, 0..3, 20..149], F32_BOUND);
    }
}

#[test]
fn every_length_about_a_block() {
    for length in [1, 2, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 143, 300] {
        check::<f64>(&json!({}), Profile::HF_5, length, &[0..length, 0..0, length / 2..length], F64_BOUND);
    }
    check::<f32>(&json!({}), Profile::HF_5, 300, &[0..300], F32_BOUND);
}

/// Wide enough that no product is one of those few whose sums keep more digits: states stay in panels in `f32`, too.
#[test]
fn in_f32_where_no_product_is_small() {
    let sizes = json!({ "hidden_size": 144, "num_attention_heads": 3, "intermediate_size": 200 });
    let with = |name: &str, value: Value| {
        let mut changes = sizes.clone();
        changes[name] = value;
        changes
    };
    for changes in [sizes.clone(), with("conv_kernel_size", json!(3)), with("share_att_key", json!(false))] {
        check::<f32>(&changes, Profile::HF_5, 150, &[0..150, 0..3, 20..149], F32_BOUND);
    }
}

#[test]
fn any_number_of_threads_gives_the_same_to_the_bit() {
    let model = model::<f32>(&config(&json!({})), Profile::HF_5);
    let inputs = inputs(200, &[0..200, 0..77]);
    let expected = states(&model, &inputs);
    for threads in [1, 3, 0] {
        set_threads(threads);
        assert_eq!(states(&model, &inputs), expected, "{threads} threads");
    }
}

#[test]
fn projections_kept_from_one_length_serve_another() {
    let all = model::<f64>(&config(&json!({})), Profile::HF_5);
    for length in [4, 2, 90, 4, 91] {
        let fresh = model::<f64>(&config(&json!({})), Profile::HF_5);
        let span = 0..length;
        let inputs = inputs(length, std::slice::from_ref(&span));
        assert_eq!(states(&all, &inputs), states(&fresh, &inputs), "{length} tokens");
    }
}

#[test]
fn what_depends_on_padding_is_left_to_the_reference() {
    let model = model::<f64>(&config(&json!({})), Profile::HF_5);
    let attention = |inputs: &Inputs<f64>| model.attention(inputs, Keep::default()).unwrap();
    let mut holes = inputs(4, &[0..4]);
    holes.attention_mask = Some(ndarray::array![[1, 0, 1, 1]].into_dyn());
    assert_eq!(attention(&holes), Attention::Reference);
    holes.attention_mask = Some(ArrayD::ones(IxDyn(&[1, 4, 4])));
    assert_eq!(attention(&holes), Attention::Reference);
    holes.attention_mask = None;
    assert_eq!(attention(&holes), Attention::Fused);
    let keep = Keep { attentions: true, ..Keep::default() };
    assert_eq!(model.attention(&holes, keep).unwrap(), Attention::Reference);
}
