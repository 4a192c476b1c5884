//! The whole way from a model directory to outputs, against other people's programs: every output, and every
//! intermediate that a golden holds.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::collections::BTreeMap;

use deberta_checkpoint::Element;
use deberta_ref::{
    Attention, AttentionInputs, DebertaV2Config, Head, INPUT_NAMES, Keep, ModelDirectory, Observer, Profile, Real,
    SelfAttention, Trace, read_inputs,
};
use deberta_testkit::{Case, F32_FACTOR, F64_BOUND, Manifest, TensorFile, distance, fixtures};
use ndarray::{ArrayD, ArrayViewD, Axis, CowArray};

/// Hugging Face names the modules of a bare encoder without the place it has in the larger models, and Microsoft's code
/// hands out two intermediates under names of its own.
fn full(name: &str) -> String {
    match name {
        "embeddings" => "deberta.embeddings".to_owned(),
        _ if name.starts_with("embeddings.") || name.starts_with("encoder") => format!("deberta.{name}"),
        _ => name.to_owned(),
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
        assert!(self.seen.insert(path.to_owned(), value.mapv(Real::wide)).is_none(), "{path} was emitted twice");
    }
}

/// Runs a case in `T` and returns what came out and what was seen on the way, by name.
fn run<T: Real + Element>(manifest: &Manifest, case: &Case, golden: &TensorFile) -> BTreeMap<String, ArrayD<f64>> {
    run_as::<T>(Profile::from_name(&case.profile).unwrap(), manifest, case, golden)
}

/// Runs a case under a profile that may not be its own.
fn run_as<T: Real + Element>(
    profile: Profile,
    manifest: &Manifest,
    case: &Case,
    golden: &TensorFile,
) -> BTreeMap<String, ArrayD<f64>> {
    let fail = |what: &dyn std::fmt::Display| -> ! { panic!("{}: {what}", case.name) };
    let directory = ModelDirectory::open(&manifest.folder.join(&case.model)).unwrap_or_else(|e| fail(&e));
    let head: Head = case.head.parse().unwrap();
    let model = directory.load::<T>(head, profile).unwrap_or_else(|e| fail(&e));
    let (inputs, _) = read_inputs(&manifest.folder.join(&case.golden["f64"])).unwrap_or_else(|e| fail(&e));
    let mut recorder = Recorder { golden, seen: BTreeMap::new() };
    let keep = Keep { hidden_states: true, attentions: true };
    let outputs = model.forward(&inputs, keep, &mut Trace::to(&mut recorder)).unwrap_or_else(|e| fail(&e));
    let mut all = recorder.seen;
    outputs.for_each(|name, value| {
        all.insert(name.to_owned(), value.mapv(Real::wide));
    });
    all
}

/// How far a tensor of an `f32` run may be from the reference's `f64`.
fn bound_f32(case: &Case, name: &str) -> f64 {
    // A loss is a single draw, which may hit zero by luck: its noise is that of the logits it averages. And a tensor
    // that is exact in the reference's f32 leaves no noise to compare with.
    let own = |name: &str| case.f32_to_f64.get(name).copied().flatten().unwrap_or(0.0);
    let logits = if name == "loss" { own("logits").max(own("start_logits")).max(own("end_logits")) } else { 0.0 };
    F32_FACTOR * own(name).max(logits).max(f64::from(f32::EPSILON))
}

/// Every case of a set, in both precisions; all failures are reported together. `elsewhere` says which tensors a golden
/// holds that this program does not name.
fn check(set: &str, elsewhere: impl Fn(&str) -> bool) {
    let manifest = Manifest::read(&fixtures(set));
    let (mut failures, mut compared) = (Vec::new(), 0);
    for case in manifest.cases.iter().filter(|c| c.head != "attention") {
        let golden = TensorFile::read(&manifest.folder.join(&case.golden["f64"]));
        let (wide, single) = (run::<f64>(&manifest, case, &golden), run::<f32>(&manifest, case, &golden));
        for name in golden.names().filter(|n| !INPUT_NAMES.contains(n) && !elsewhere(n)) {
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
            if case.f32_to_f64.contains_key(name) {
                let apart = distance(expected, single[&full(name)].view());
                if !apart.within(bound_f32(case, name)) {
                    let bound = bound_f32(case, name);
                    failures.push(format!("{}: {name} in f32: {:e} of {bound:e}", case.name, apart.max_abs));
                }
            }
        }
    }
    assert!(compared > manifest.cases.len(), "{set}: nothing was compared");
    assert!(failures.is_empty(), "{set}: {} of {compared} tensors:\n{}", failures.len(), failures.join("\n"));
}

/// Every output of a set under the fused attention, in both precisions and at the same bounds; at padded positions, which
/// it does not compute, zeros. Returns how many cases it served.
fn check_fused(set: &str) -> usize {
    let manifest = Manifest::read(&fixtures(set));
    let (mut failures, mut served) = (Vec::new(), 0);
    for case in manifest.cases.iter().filter(|c| c.head != "attention") {
        let golden = TensorFile::read(&manifest.folder.join(&case.golden["f64"]));
        let (wide, fused, mask) = run_fused::<f64>(&manifest, case);
        let (single, ..) = run_fused::<f32>(&manifest, case);
        served += usize::from(fused);
        for (name, actual) in wide.iter().filter(|(name, _)| golden.names().any(|n| n == *name)) {
            let mut expected = golden.float(name).to_owned();
            if fused {
                blank_padding(&mut expected, mask.as_ref(), name);
            }
            let apart = distance(expected.view(), actual.view());
            let bound = if golden.is_f32(name) { 4.0 * f64::from(f32::EPSILON) } else { F64_BOUND };
            if !apart.within(bound) {
                failures.push(format!("{}: {name} in f64: {:e}", case.name, apart.max_abs));
            }
            let apart = distance(expected.view(), single[name].view());
            if case.f32_to_f64.contains_key(name) && !apart.within(bound_f32(case, name)) {
                failures.push(format!(
                    "{}: {name} in f32: {:e} of {:e}",
                    case.name,
                    apart.max_abs,
                    bound_f32(case, name)
                ));
            }
        }
    }
    assert!(failures.is_empty(), "{set}, {served} cases fused:\n{}", failures.join("\n"));
    served
}

type Fused = (BTreeMap<String, ArrayD<f64>>, bool, Option<ArrayD<i64>>);

/// The outputs of a case, whether the fused attention computed them, and the mask.
fn run_fused<T: Real + Element>(manifest: &Manifest, case: &Case) -> Fused {
    let directory = ModelDirectory::open(&manifest.folder.join(&case.model)).unwrap();
    let (head, profile) = (case.head.parse().unwrap(), Profile::from_name(&case.profile).unwrap());
    let model = directory.load::<T>(head, profile).unwrap().with_attention(Attention::Fused);
    let (inputs, _) = read_inputs(&manifest.folder.join(&case.golden["f64"])).unwrap();
    let keep = Keep { hidden_states: true, attentions: false };
    let outputs = model.forward(&inputs, keep, &mut Trace::off()).unwrap_or_else(|e| panic!("{}: {e}", case.name));
    let mut all = BTreeMap::new();
    outputs.for_each(|name, value| {
        all.insert(name.to_owned(), value.mapv(Real::wide));
    });
    (all, model.attention(&inputs, keep).unwrap() == Attention::Fused, inputs.attention_mask)
}

/// Zeros where a token does not exist, in outputs with a row for each token.
fn blank_padding(output: &mut ArrayD<f64>, mask: Option<&ArrayD<i64>>, name: &str) {
    let by_token = ["hidden_states.", "last_hidden_state", "start_logits", "end_logits", "logits"];
    let Some(mask) = mask.filter(|_| by_token.iter().any(|n| name.starts_with(n))) else { return };
    let (size, length) = (mask.len() / mask.shape()[mask.ndim() - 1], mask.shape()[mask.ndim() - 1]);
    if output.ndim() < 2 || output.shape()[..2] != [size, length] {
        return;
    }
    for (at, _) in mask.iter().enumerate().filter(|(_, seen)| **seen == 0) {
        output.index_axis_mut(Axis(0), at / length).index_axis_mut(Axis(0), at % length).fill(0.0);
    }
}

/// How many cases the fused attention serves is stated, so that none falls back unseen.
#[test]
fn fused() {
    assert_eq!(["hf", "hf4", "microsoft"].map(check_fused), [59, 11, 27]);
}

#[test]
fn transformers_5() {
    check("hf", |_| false);
}

#[test]
fn transformers_4() {
    check("hf4", |_| false);
}

#[test]
fn microsoft() {
    // The rows of the position table, which Microsoft's code hands out where nothing reads them, and repeats for every
    // sequence; the labels of replaced tokens; the decoder's passes, gathered at the labelled tokens.
    check("microsoft", |name| {
        name.ends_with("position_embeddings") || name == "replaced" || name.starts_with("emd_outputs.")
    });
}

/// Under the wrong profile the outputs are wrong by just as much as the reference says the two versions part.
#[test]
fn transformers_4_is_not_5() {
    let manifest = Manifest::read(&fixtures("hf4"));
    let mut parted = 0;
    for case in &manifest.cases {
        let golden = TensorFile::read(&manifest.folder.join(&case.golden["f64"]));
        let as_5 = run_as::<f64>(Profile::HF_5, &manifest, case, &golden);
        for (name, expected) in case.to_hf_5.iter().filter_map(|(name, apart)| Some((name, (*apart)?))) {
            let found = distance(golden.float(name).view(), as_5[name].view()).max_abs;
            assert!((found - expected).abs() <= F64_BOUND, "{}: {name}: {found} apart, not {expected}", case.name);
            parted += usize::from(expected > 0.1);
        }
    }
    assert!(parted > 10, "only {parted} outputs part");
}

/// Attention by itself, with queries of another number than the keys.
#[test]
fn microsoft_attention_alone() {
    let manifest = Manifest::read(&fixtures("microsoft"));
    let text = std::fs::read_to_string(manifest.folder.join("attention/model_config.json")).unwrap();
    let configs: BTreeMap<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
    let (mut failures, mut compared) = (Vec::new(), 0);
    for case in manifest.cases.iter().filter(|c| c.head == "attention") {
        let golden = TensorFile::read(&manifest.folder.join(&case.golden["f64"]));
        let kind = case.name.trim_start_matches("attention/").split('-').next().unwrap();
        let config = DebertaV2Config::from_value(configs[kind].clone()).unwrap();
        for (precision, found) in
            [("f64", attention::<f64>(&config, case, &golden)), ("f32", attention::<f32>(&config, case, &golden))]
        {
            for (name, actual) in found {
                let apart = distance(golden.float(&name).view(), actual.view());
                let bound = if precision == "f64" { F64_BOUND } else { bound_f32(case, &name) };
                compared += 1;
                if !apart.within(bound) {
                    failures.push(format!("{}: {name} in {precision}: {:e} of {bound:e}", case.name, apart.max_abs));
                }
            }
        }
    }
    assert!(compared >= 2 * 6 * 12, "only {compared} tensors");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn attention<T: Real>(config: &DebertaV2Config, case: &Case, golden: &TensorFile) -> BTreeMap<String, ArrayD<f64>> {
    let array = |name: &str| golden.float(name).mapv(T::of);
    let weights = golden.names().filter(|n| n.contains("_proj."));
    let weights = weights.map(|n| (n.to_owned(), CowArray::from(array(n)))).collect();
    let profile = Profile::from_name(&case.profile).unwrap();
    let attention = SelfAttention::new(config.clone(), profile, weights).unwrap();
    let inputs = AttentionInputs {
        hidden_states: array("hidden_states").into_dimensionality().unwrap(),
        query_states: Some(array("query_states").into_dimensionality().unwrap()),
        attention_mask: golden
            .int("attention_mask")
            .mapv(|v| v == 1)
            .remove_axis(Axis(1))
            .into_dimensionality()
            .unwrap(),
        rel_embeddings: Some(array("rel_embeddings").into_dimensionality().unwrap()),
    };
    let mut terms = Terms(BTreeMap::new());
    let (context, probabilities) = attention.forward(&inputs, &mut Trace::to(&mut terms)).unwrap();
    terms.0.insert("context".to_owned(), context.mapv(Real::wide).into_dyn());
    terms.0.insert("probs".to_owned(), probabilities.mapv(Real::wide).into_dyn());
    terms.0
}

/// Keeps the terms of the scores.
struct Terms(BTreeMap<String, ArrayD<f64>>);

impl<T: Real> Observer<T> for Terms {
    fn wants(&self, path: &str) -> bool {
        ["self.c2c", "self.c2p", "self.p2c", "self.scores"].contains(&path)
    }

    fn observe(&mut self, path: &str, value: ArrayViewD<'_, T>) {
        self.0.insert(path.trim_start_matches("self.").to_owned(), value.mapv(Real::wide));
    }
}
