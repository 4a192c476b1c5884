//! `deberta-ref inspect`: heads, spectra, and two models side by side.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use deberta_testkit::fixtures;
use half::bf16;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;
use tempfile::TempDir;

fn inspect(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_deberta-ref")).arg("inspect").args(arguments).output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What is printed, and the exit code.
fn said(arguments: &[&str]) -> (String, i32) {
    let output = inspect(arguments);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(errors.is_empty(), "{errors}");
    (String::from_utf8(output.stdout).unwrap(), output.status.code().unwrap())
}

fn json(arguments: &[&str]) -> (Value, i32) {
    let (text, code) = said(&[arguments, &["--json"]].concat());
    (serde_json::from_str(&text).unwrap(), code)
}

type Arrays = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn weights(model: &str) -> Arrays {
    let bytes = fs::read(fixtures(model).join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let array = |v: TensorView<'_>| (v.dtype(), v.shape().to_vec(), v.data().to_vec());
    tensors.iter().map(|(name, view)| (name.to_owned(), array(view))).collect()
}

fn save(path: &Path, arrays: &Arrays) {
    let views: Vec<(&str, TensorView<'_>)> = arrays
        .iter()
        .map(|(name, (dtype, shape, bytes))| (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap()))
        .collect();
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// A folder for a model that is like a fixture, changed.
struct Bench(TempDir);

impl Bench {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn model(&self, name: &str, like: &str, change: impl Fn(&mut Arrays)) -> PathBuf {
        let folder = self.0.path().join(name);
        fs::create_dir(&folder).unwrap();
        fs::copy(fixtures(like).join("config.json"), folder.join("config.json")).unwrap();
        let mut arrays = weights(like);
        change(&mut arrays);
        save(&folder.join("model.safetensors"), &arrays);
        folder
    }
}

fn head<'v>(found: &'v Value, name: &str) -> &'v Value {
    found["heads"].as_array().unwrap().iter().find(|h| h["head"] == name).unwrap()
}

fn len(value: &Value) -> usize {
    value.as_array().unwrap().len()
}

#[test]
fn a_file_of_two_models_is_told_by_the_configuration_of_each() {
    let (found, code) = json(&[text(&fixtures("microsoft/rtd-gdes"))]);
    assert_eq!(code, 0);
    for (name, part) in
        [("replaced-token-detection", "discriminator"), ("enhanced-masked-lm", "generator"), ("base", "generator")]
    {
        let head = head(&found, name);
        assert_eq!((&head["presence"], &head["part"]), (&Value::from("present"), &Value::from(part)), "{head}");
        assert_eq!((len(&head["problems"]), len(&head["random"])), (0, 0), "{head}");
    }
    // The generator has two layers, the discriminator three.
    let parameters = |name: &str| head(&found, name)["parameters"].as_u64().unwrap();
    assert!(parameters("replaced-token-detection") > parameters("enhanced-masked-lm"));
}

#[test]
fn what_would_be_random_is_listed_under_each_head_with_layers_as_ranges() {
    let bench = Bench::new();
    let gone = "attention.self.query_proj.weight";
    let model = bench.model("partial", "hf/base-everything", |arrays| arrays.retain(|name, _| !name.ends_with(gone)));
    let (found, code) = json(&[text(&model)]);
    assert_eq!(code, 0);
    let base = head(&found, "base");
    assert_eq!((&base["presence"], len(&base["random"])), (&Value::from("partial"), 3));
    let classification = head(&found, "sequence-classification");
    assert_eq!((&classification["presence"], len(&classification["random"])), (&Value::from("absent"), 7));
    let (shown, _) = said(&[text(&model)]);
    let line = format!("base: random: deberta.encoder.layer.{{0..2}}.{gone}");
    assert!(shown.contains(&line), "{shown}");
    assert!(shown.lines().any(|l| l.starts_with("masked-lm") && l.contains("absent")), "{shown}");
    // A forward pass says it as shortly.
    let run = Command::new(env!("CARGO_BIN_EXE_deberta-ref"))
        .args([
            "run",
            "--model",
            text(&model),
            "--inputs",
            text(&fixtures("hf/base-everything/golden.f32.safetensors")),
        ])
        .args(["--outputs", text(&bench.0.path().join("out.safetensors"))])
        .output()
        .unwrap();
    let error = String::from_utf8(run.stderr).unwrap();
    assert!(error.contains(&format!("missing: deberta.encoder.layer.{{0..2}}.{gone}")), "{error}");
}

#[test]
fn unused_tensors_are_told_under_the_head_that_does_not_use_them() {
    let (found, _) = json(&[text(&fixtures("hf/sequence-classification-single"))]);
    assert_eq!(len(&head(&found, "sequence-classification")["unused"]), 0);
    let unused = &head(&found, "base")["unused"];
    assert!(unused.as_array().unwrap().contains(&Value::from("classifier.weight")), "{unused}");
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn rounded(arrays: &mut Arrays) {
    for (dtype, _, bytes) in arrays.values_mut() {
        *dtype = Dtype::BF16;
        *bytes = f32s(bytes).into_iter().flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect();
    }
}

#[test]
fn two_models_are_the_same_or_not() {
    let bench = Bench::new();
    let like = "hf/base-v3";
    let changed = "deberta.encoder.layer.1.output.dense.weight";
    let changed = if weights(like).contains_key(changed) { changed } else { "encoder.layer.1.output.dense.weight" };
    let original = fixtures(like);
    let copy = bench.model("copy", like, |_| ());
    let bf16 = bench.model("bf16", like, rounded);
    let wrapped = bench.model("wrapped", like, |arrays| {
        *arrays = std::mem::take(arrays).into_iter().map(|(name, a)| (format!("module.{name}"), a)).collect();
    });
    let transposed = bench.model("transposed", like, |arrays| {
        let (_, shape, bytes) = arrays.get_mut(changed).unwrap();
        let (rows, columns) = (shape[0], shape[1]);
        let values = f32s(bytes);
        let turned = (0..columns).flat_map(|j| (0..rows).map(move |i| i * columns + j));
        *bytes = turned.flat_map(|k| values[k].to_le_bytes()).collect();
        shape.reverse();
    });
    for (other, part) in [
        (&copy, "agree to the bit"),
        (&bf16, "up to rounding to the coarser type"),
        (&wrapped, "agree to the bit"),
        (&transposed, "in another order"),
    ] {
        let (shown, code) = said(&[text(&original), text(other)]);
        assert_eq!(code, 0, "{shown}");
        assert!(shown.contains(part), "{shown}");
    }

    let one = bench.model("one", like, |arrays| {
        let bytes = &mut arrays.get_mut(changed).unwrap().2;
        let value = f32::from_le_bytes(bytes[8..12].try_into().unwrap()) + 0.25;
        bytes[8..12].copy_from_slice(&value.to_le_bytes());
    });
    let (outcome, code) = json(&[text(&original), text(&one)]);
    assert_eq!((code, &outcome["same"]), (1, &Value::from(false)));
    let others: Vec<&Value> =
        outcome["tensors"].as_array().unwrap().iter().filter(|t| t["relation"] != "identical").collect();
    assert_eq!((others.len(), others[0]["relation"].as_str()), (1, Some("different")));
    assert!(others[0]["name"].as_str().unwrap().ends_with("encoder.layer.1.output.dense.weight"));
    let distance = others[0]["distance"].as_f64().unwrap();
    let norm = f32s(&weights(like)[changed].2).iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    assert!((distance * norm - 0.25).abs() < 1e-6, "{distance}");

    // As if trained on: everything moved a little, which layers fold into ranges of distances.
    let tuned = bench.model("tuned", like, |arrays| {
        for (_, _, bytes) in arrays.values_mut() {
            let moved = f32s(bytes).into_iter().enumerate().map(|(i, x)| x * (1.0 + 1e-3 * (i as f32 * 1.7).sin()));
            *bytes = moved.flat_map(f32::to_le_bytes).collect();
        }
    });
    let (shown, code) = said(&[text(&original), text(&tuned)]);
    assert_eq!(code, 1, "{shown}");
    assert!(shown.contains("layer.{0, 1}.output.dense.weight") && shown.contains("DIFFERENT by"), "{shown}");
    assert!(shown.contains("different: ") && shown.contains("in the median"), "{shown}");

    let fewer = bench.model("fewer", like, |arrays| drop(arrays.remove(changed)));
    let (shown, code) = said(&[text(&original), text(&fewer)]);
    assert_eq!(code, 1, "{shown}");
    assert!(shown.contains("only in A"), "{shown}");
}

#[test]
fn spectra_are_those_of_the_matrices() {
    let bench = Bench::new();
    let folder = bench.0.path();
    let path = folder.join("diagonal.safetensors");
    let values = [3.0f32, 0.5, 2.0, 0.25];
    let matrix: Vec<u8> =
        (0..4 * 6).flat_map(|k| if k / 6 == k % 6 { values[k / 6] } else { 0.0 }.to_le_bytes()).collect();
    let vector = [1.0f32; 4].iter().flat_map(|x| x.to_le_bytes()).collect();
    let arrays: Arrays = [
        ("diagonal.weight".to_owned(), (Dtype::F32, vec![4, 6], matrix)),
        ("vector".to_owned(), (Dtype::F32, vec![4], vector)),
    ]
    .into();
    save(&path, &arrays);
    if cfg!(not(feature = "openblas")) {
        let refused = inspect(&[text(&path), "--spectra"]);
        assert!(!refused.status.success());
        assert!(String::from_utf8_lossy(&refused.stderr).contains("needs OpenBLAS"));
        println!("skipped: singular values, which need OpenBLAS");
        return;
    }
    let page = folder.join("page.html");
    let (found, code) = json(&[text(&path), "--spectra", "--html", text(&page)]);
    assert_eq!(code, 0);
    let spectra = found["spectra"].as_object().unwrap();
    assert_eq!(spectra.len(), 1, "a vector has no spectrum");
    let one = &spectra["diagonal.weight"];
    let near = |key: &str, value: f64| {
        let found = one[key].as_f64().unwrap();
        assert!((found - value).abs() < 1e-12 * value, "{key}: {found} for {value}");
    };
    near("top", 3.0);
    near("bottom", 0.25);
    near("condition", 12.0);
    near("stable_rank", (9.0 + 4.0 + 0.25 + 0.0625) / 9.0);
    let entropy: f64 = values.iter().map(|v| f64::from(*v) / 5.75).map(|p| -p * p.ln()).sum();
    near("effective_rank", entropy.exp());
    let page = fs::read_to_string(page).unwrap();
    assert!(page.contains("<polyline") && page.contains("diagonal.weight"));
    for outside in ["http:", "https:", "<script", "<link", "url("] {
        assert!(!page.contains(outside), "the page must need nothing else, and has {outside}");
    }

    let model = fixtures("hf/base-v3");
    let (shown, code) = said(&[text(&model), "--spectra"]);
    assert_eq!(code, 0);
    assert!(shown.contains("rel_embeddings.weight") && shown.contains("eff. rank"), "{shown}");
    let (shown, code) = said(&[text(&model), text(&model), "--spectra"]);
    assert_eq!(code, 0);
    assert!(shown.contains("top A") && shown.contains(" | "), "{shown}");
}
