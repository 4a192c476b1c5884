//! Goldens that others made with Microsoft's code: encoder states, the enhanced mask decoder, replaced token detection
//! and the task heads. Run where the third-party data is present.
//!
//! Their files name tensors `<model>/<precision>/<Microsoft's name>`, with the inputs under `in/`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use deberta_checkpoint::Element;
use deberta_ref::{Head, Inputs, Keep, Labels, ModelDirectory, Profile, Real, Trace};
use deberta_testkit::{F32_FACTOR, F64_BOUND, TensorFile, distance, third_party};
use ndarray::ArrayD;
use tempfile::TempDir;

/// Their name of a model, its folder, our head, and the labels it takes.
const MODELS: [(&str, &str, Head, &str); 7] = [
    ("base", "mlm", Head::Base, ""),
    ("mlm", "mlm", Head::EnhancedMaskedLm, "in/labels"),
    ("mlm3d", "mlm", Head::EnhancedMaskedLm, "in/labels"),
    ("rtd", "rtd", Head::ReplacedTokenDetection, "in/labels"),
    ("ner", "ner", Head::TokenClassification, "ner/labels"),
    ("seqcls", "seqcls", Head::SequenceClassification, "seqcls/labels"),
    ("mc", "mc", Head::MultipleChoice, "mc/labels"),
];

/// The configuration lies a folder above the weights.
fn directory(folder: &Path, weights: &str) -> TempDir {
    let directory = TempDir::new().unwrap();
    fs::copy(folder.join("model_config.json"), directory.path().join("model_config.json")).unwrap();
    for entry in fs::read_dir(folder.join(weights)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), directory.path().join(entry.file_name())).unwrap();
    }
    directory
}

fn inputs<T: Real>(golden: &TensorFile, model: &str, labels: &str) -> Inputs<T> {
    let int = |name: &str| golden.contains(name).then(|| golden.int(name).clone());
    let from = if model == "mc" { "mc" } else { "in" };
    Inputs {
        input_ids: int(&format!("{from}/input_ids")),
        attention_mask: int(&format!("{from}/input_mask")),
        decoder_attention_mask: int(&format!("{model}/attention_mask")),
        token_type_ids: int("in/type_ids").filter(|_| model == "seqcls"),
        labels: int(labels).map(Labels::Int),
        ..Inputs::default()
    }
}

fn run<T: Real + Element>(path: &Path, head: Head, inputs: &Inputs<T>) -> HashMap<String, ArrayD<f64>> {
    let directory = ModelDirectory::open(path).unwrap();
    let model = directory.load::<T>(head, Profile::MICROSOFT).unwrap();
    let keep = Keep { hidden_states: true, attentions: true };
    let outputs = model.forward(inputs, keep, &mut Trace::off()).unwrap();
    let mut named = HashMap::new();
    outputs.for_each(|name, value| {
        named.insert(name.to_owned(), value.mapv(Real::wide));
    });
    named
}

fn check(folder: &Path) -> usize {
    let golden = TensorFile::read(&folder.join("goldens.safetensors"));
    let mut compared = 0;
    for (model, weights, head, labels) in MODELS {
        if !golden.names().any(|n| n.starts_with(&format!("{model}/f64/"))) {
            continue;
        }
        let directory = directory(folder, weights);
        let wide = run::<f64>(directory.path(), head, &inputs(&golden, model, labels));
        let single = run::<f32>(directory.path(), head, &inputs(&golden, model, labels));
        for (name, actual) in &wide {
            let theirs = format!("{model}/f64/{name}");
            if !golden.contains(&theirs) {
                continue;
            }
            let expected = golden.float(&theirs);
            let apart = distance(expected.view(), actual.view());
            assert!(apart.within(F64_BOUND), "{}: {theirs}: {:e}", folder.display(), apart.max_abs);
            let own = distance(expected.view(), golden.float(&format!("{model}/f32/{name}")).view());
            let apart = distance(expected.view(), single[name].view());
            let bound = F32_FACTOR * own.max_abs;
            assert!(apart.within(bound), "{}: {theirs} in f32: {:e} of {bound:e}", folder.display(), apart.max_abs);
            compared += 1;
        }
    }
    compared
}

#[test]
fn microsofts_own_outputs() {
    let mut compared = 0;
    for set in ["m01_emd", "m03_biased_tv2", "m06_embproj"] {
        let Some(folder) = third_party("microsofts_own_outputs", &format!("microsoft/{set}")) else { return };
        compared += check(&folder);
    }
    assert!(compared > 25, "only {compared} tensors were compared");
}

/// One file with a generator and a discriminator, which shares the generator's embeddings.
#[test]
fn gradient_disentangled_embedding_sharing() {
    let test = "gradient_disentangled_embedding_sharing";
    let Some(folder) = third_party(test, "microsoft/m01_emd") else { return };
    let golden = TensorFile::read(&folder.join("goldens.safetensors"));
    let directory = directory(&folder, "rtd_gdes");
    let pairs = [
        (Head::ReplacedTokenDetection, "rtd_gdes/f32/discriminator_logits"),
        (Head::EnhancedMaskedLm, "rtd_gdes/f32/generator_logits"),
    ];
    for (head, name) in pairs {
        let inputs = inputs(&golden, "rtd_gdes", "in/labels");
        let found = run::<f64>(directory.path(), head, &inputs);
        let apart = distance(golden.float(name).view(), found["logits"].view());
        // Theirs is f32 and there is no f64 beside it: a few hundred roundings of logits of order ten.
        assert!(apart.within(1e-4), "{name}: {:e}", apart.max_abs);
    }
}
