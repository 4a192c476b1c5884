//! One layer of the base model by either body of attention, over lengths: `cargo bench -p deberta-model`.

use std::collections::BTreeMap;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use deberta_model::{Attention, DebertaV2Config, Head, Inputs, Keep, Model, Presence, Profile, Trace, schema};
use ndarray::{Array2, ArrayD, CowArray, IxDyn};
use serde_json::json;

fn config() -> DebertaV2Config {
    DebertaV2Config::from_value(json!({
        "vocab_size": 1000, "hidden_size": 768, "num_hidden_layers": 1, "num_attention_heads": 12, "intermediate_size": 3072,
        "relative_attention": true, "position_buckets": 256, "pos_att_type": "p2c|c2p", "share_att_key": true,
        "norm_rel_ebd": "layer_norm", "position_biased_input": false,
    }))
    .expect("a valid configuration")
}

fn model(config: &DebertaV2Config, attention: Attention) -> Model<'static, f32> {
    let parameters = schema(config, Head::Base).into_iter().filter(|p| p.presence == Presence::Required);
    let arrays: BTreeMap<String, CowArray<'static, f32, IxDyn>> = parameters
        .map(|parameter| {
            let count: usize = parameter.shape.iter().product();
            let inputs: usize = parameter.shape.iter().skip(1).product();
            let numbers =
                (0..count).map(|i| ((i * 7919 % 1013) as f32 / 506.0 - 1.0) / (inputs as f32).sqrt()).collect();
            let array = ArrayD::from_shape_vec(parameter.shape, numbers).expect("as many numbers as the shape says");
            (parameter.name, array.into())
        })
        .collect();
    let model = Model::new(config.clone(), Head::Base, Profile::HF_5, arrays).expect("every parameter is there");
    model.with_attention(attention)
}

fn layers(criterion: &mut Criterion) {
    let config = config();
    let mut group = criterion.benchmark_group("a layer of the base model");
    for (name, attention) in [("reference", Attention::Reference), ("fused", Attention::Fused)] {
        let model = model(&config, attention);
        for (size, length) in [(1, 16), (1, 128), (1, 512), (8, 128)] {
            let ids = Array2::from_shape_fn((size, length), |(b, i)| ((b * 31 + i * 7) % 1000) as i64);
            let inputs = Inputs { input_ids: Some(ids.into_dyn()), ..Inputs::default() };
            group.throughput(Throughput::Elements((size * length) as u64));
            group.bench_with_input(BenchmarkId::new(name, format!("{size}x{length}")), &inputs, |b, inputs| {
                b.iter(|| model.forward(inputs, Keep::default(), &mut Trace::off()));
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_millis(500));
    targets = layers
}
criterion_main!(benches);
