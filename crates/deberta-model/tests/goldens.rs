//! The model against other people's programs: every output, and every intermediate that a golden holds.

use std::collections::BTreeMap;
use std::path::Path;

use deberta_model::{DebertaV2Config, Head, Inputs, Keep, Labels, Model, Observer, Outputs, Profile, Real, Trace};
use deberta_testkit::{Case, F32_FACTOR, F64_BOUND, Manifest, Tensor, TensorFile, distance, fixtures};
use ndarray::{ArrayD, ArrayViewD, CowArray, IxDyn};

/// Hugging Face saves a bare encoder, and names its modules, without the place it has in the larger models.
fn full(name: &str) -> String {
    if name.starts_with("embeddings") || name.starts_with("encoder") {
        format!("deberta.{name}")
    } else {
        name.to_owned()
    }
}

/// Keeps every intermediate that the golden names.
struct Recorder<'a> {
    golden: &'a TensorFile,
    seen: BTreeMap<String, ArrayD<f64>>,
}

impl<T: Real> Observer<T> for Recorder<'_> {
    fn wants(&self, path: &str) -> bool {
        self.golden.names().any(|name| full(name) == path)
    }

    fn observe(&mut self, path: &str, value: ArrayViewD<'_, T>) {
        // A module that is called again (the last layer, by the enhanced mask decoder) has another path here.
        assert!(self.seen.insert(path.to_owned(), value.mapv(Real::wide)).is_none(), "{path} was emitted twice");
    }
}

fn arrays<T: Real>(directory: &Path) -> BTreeMap<String, CowArray<'static, T, IxDyn>> {
    let file = TensorFile::read_model(directory);
    let names: Vec<String> = file.names().map(str::to_owned).collect();
    let float = |name: &String| matches!(file.get(name), Some(Tensor::Float(_)));
    names.iter().filter(|n| float(n)).map(|n| (full(n), CowArray::from(file.float(n).mapv(T::of)))).collect()
}

fn inputs<T: Real>(golden: &TensorFile) -> Inputs<T> {
    let int = |name: &str| match golden.get(name)? {
        Tensor::Int(a) => Some(a.clone()),
        Tensor::Float(a) => Some(a.mapv(|v| v as i64)),
    };
    let labels = golden.get("labels").map(|labels| match labels {
        Tensor::Int(a) => Labels::Int(a.clone()),
        Tensor::Float(a) => Labels::Float { values: a.clone(), single_precision: golden.is_f32("labels") },
    });
    Inputs {
        input_ids: int("input_ids"),
        inputs_embeds: golden.contains("inputs_embeds").then(|| golden.float("inputs_embeds").mapv(T::of)),
        attention_mask: int("attention_mask"),
        decoder_attention_mask: int("decoder_attention_mask"),
        token_type_ids: int("token_type_ids"),
        position_ids: int("position_ids"),
        labels,
        start_positions: int("start_positions"),
        end_positions: int("end_positions"),
    }
}

fn named<T: Real>(outputs: Outputs<T>) -> BTreeMap<String, ArrayD<f64>> {
    let wide = |a: ArrayD<T>| a.mapv(Real::wide);
    let mut named = BTreeMap::new();
    named.insert("last_hidden_state".to_owned(), wide(outputs.last_hidden_state.into_dyn()));
    for (i, states) in outputs.hidden_states.into_iter().enumerate() {
        named.insert(format!("hidden_states.{i}"), wide(states.into_dyn()));
    }
    for (i, probabilities) in outputs.attentions.into_iter().enumerate() {
        named.insert(format!("attentions.{i}"), wide(probabilities.into_dyn()));
    }
    let optional = [
        ("logits", outputs.logits),
        ("start_logits", outputs.start_logits),
        ("end_logits", outputs.end_logits),
        ("loss", outputs.loss),
    ];
    named.extend(optional.into_iter().filter_map(|(name, value)| Some((name.to_owned(), wide(value?)))));
    named
}

/// Runs a case in `T` and returns what came out and what was seen on the way, by name.
fn run<T: Real>(manifest: &Manifest, case: &Case, golden: &TensorFile) -> BTreeMap<String, ArrayD<f64>> {
    let directory = manifest.folder.join(&case.model);
    let text = std::fs::read_to_string(directory.join("config.json")).unwrap();
    let config = DebertaV2Config::from_json(&text).unwrap_or_else(|e| panic!("{}: {e}", case.name));
    let head: Head = case.head.parse().unwrap();
    let profile = Profile::from_name(&case.profile).unwrap();
    let model =
        Model::new(config, head, profile, arrays::<T>(&directory)).unwrap_or_else(|e| panic!("{}: {e}", case.name));
    let mut recorder = Recorder { golden, seen: BTreeMap::new() };
    let keep = Keep { hidden_states: true, attentions: true };
    let outputs = model.forward(&inputs(golden), keep, &mut Trace::to(&mut recorder));
    let mut all = named(outputs.unwrap_or_else(|e| panic!("{}: {e}", case.name)));
    all.extend(recorder.seen);
    all
}

const INPUTS: [&str; 9] = [
    "input_ids",
    "inputs_embeds",
    "attention_mask",
    "decoder_attention_mask",
    "token_type_ids",
    "position_ids",
    "labels",
    "start_positions",
    "end_positions",
];

/// Every case of a set, in both precisions; all failures are reported together.
fn check(set: &str) {
    let manifest = Manifest::read(&fixtures(set));
    let mut failures = Vec::new();
    let mut compared = 0;
    for case in &manifest.cases {
        if !manifest.folder.join(&case.model).join("model.safetensors").exists() {
            eprintln!("SKIP {}", case.name);
            continue;
        }
        let golden = TensorFile::read(&manifest.folder.join(&case.golden["f64"]));
        let (wide, single) = (run::<f64>(&manifest, case, &golden), run::<f32>(&manifest, case, &golden));
        for name in golden.names().filter(|n| !INPUTS.contains(n)) {
            let expected = golden.float(name).view();
            let Some(actual) = wide.get(&full(name)) else {
                failures.push(format!("{}: {name} was not computed", case.name));
                continue;
            };
            compared += 1;
            let apart = distance(expected.view(), actual.view());
            // Where the reference itself drops to f32 in its f64 run, a unit or two of that is what can be asked.
            let bound = if golden.is_f32(name) { 4.0 * f64::from(f32::EPSILON) } else { F64_BOUND };
            if !apart.within(bound) {
                failures.push(format!("{}: {name} in f64: {:e}", case.name, apart.max_abs));
            }
            let Some(own) = case.f32_to_f64.get(name) else { continue };
            let apart = distance(expected, single[&full(name)].view());
            // A loss is a single draw, which may hit zero by luck: its noise is that of the logits it averages. And a
            // tensor that is exact in the reference's f32 leaves no noise to compare with.
            let of = |name: &str| case.f32_to_f64.get(name).copied().flatten().unwrap_or(0.0);
            let of_logits =
                if name == "loss" { of("logits").max(of("start_logits")).max(of("end_logits")) } else { 0.0 };
            let bound = F32_FACTOR * own.unwrap_or(0.0).max(of_logits).max(f64::from(f32::EPSILON));
            if !apart.within(bound) {
                failures.push(format!("{}: {name} in f32: {:e} of {bound:e}", case.name, apart.max_abs));
            }
        }
    }
    assert!(compared > manifest.cases.len(), "{set}: nothing was compared");
    assert!(failures.is_empty(), "{set}: {} of {compared} tensors:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn hugging_face() {
    check("hf");
}
