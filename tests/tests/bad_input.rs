//! Bad input gets one clear sentence and a non-zero exit: never a panic, and never a file.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use deberta_testkit::{fixtures, program};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use tempfile::TempDir;

/// A model directory and a file of inputs, to be spoiled.
struct Bench {
    folder: TempDir,
}

/// A tensor of whole numbers.
type Ints<'a> = (&'a str, Vec<usize>, Vec<i64>);

impl Bench {
    fn new(model: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let to = folder.path().join("model");
        fs::create_dir(&to).unwrap();
        for name in ["config.json", "model.safetensors"] {
            fs::copy(fixtures(model).join(name), to.join(name)).unwrap();
        }
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn inputs(&self, tensors: &[Ints<'_>]) -> PathBuf {
        let bytes: Vec<Vec<u8>> = tensors.iter().map(|t| t.2.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
        let views: HashMap<&str, TensorView<'_>> = tensors
            .iter()
            .zip(&bytes)
            .map(|((name, shape, _), bytes)| (*name, TensorView::new(Dtype::I64, shape.clone(), bytes).unwrap()))
            .collect();
        let path = self.path("inputs.safetensors");
        safetensors::serialize_to_file(&views, None, &path).unwrap();
        path
    }

    /// Runs the program, and returns its one sentence.
    fn refused(&self, inputs: &Path, arguments: &[&str]) -> String {
        let outputs = self.path("outputs.safetensors");
        let run = Command::new(program("deberta-ref"))
            .args(["run", "--model"])
            .arg(self.path("model"))
            .arg("--inputs")
            .arg(inputs)
            .arg("--outputs")
            .arg(&outputs)
            .args(arguments)
            .output()
            .unwrap();
        let said = String::from_utf8(run.stderr).unwrap();
        assert!(matches!(run.status.code(), Some(1..=2)), "exit {:?}: {said}", run.status);
        assert!(!said.contains("panicked"), "{said}");
        assert_eq!(said.trim_end().lines().count(), 1, "{said}");
        assert!(!outputs.exists(), "a refused run leaves no output");
        said
    }
}

fn says(said: &str, all: &[&str]) {
    for part in all {
        assert!(said.contains(part), "`{part}` is not in: {said}");
    }
}

fn ids(values: &[i64]) -> Ints<'static> {
    ("input_ids", vec![1, values.len()], values.to_vec())
}

#[test]
fn inputs_that_do_not_fit() {
    let bench = Bench::new("hf/base-everything");
    let refused = |tensors: &[Ints<'_>]| bench.refused(&bench.inputs(tensors), &[]);
    says(
        &refused(&[ids(&[1, 2, 1_000_000])]),
        &["inputs.safetensors", "`input_ids`", "1000000", "[0, 2]", "vocab_size"],
    );
    says(&refused(&[ids(&[1, -1])]), &["`input_ids`", "-1"]);
    says(&refused(&[("input_ids", vec![3], vec![1, 2, 3])]), &["`input_ids`", "[3]", "[B, L]"]);
    says(&refused(&[("input_ids", vec![1, 0], vec![])]), &["`input_ids`", "at least one"]);
    says(
        &refused(&[ids(&[1, 2]), ("attention_mask", vec![1, 3], vec![1, 1, 1])]),
        &["`attention_mask`", "[1, 3]", "[1, 2]"],
    );
    says(&refused(&[ids(&[1, 2]), ("attention_mask", vec![1, 2], vec![1, 7])]), &["`attention_mask`", "7"]);
    says(
        &refused(&[ids(&[1, 2]), ("token_type_ids", vec![1, 2], vec![0, 99])]),
        &["`token_type_ids`", "99", "type_vocab_size"],
    );
    says(&refused(&[ids(&[1, 2]), ("position_ids", vec![1, 2], vec![0, 9999])]), &["`position_ids`", "9999"]);
    says(&refused(&[ids(&vec![1; 5000])]), &["`input_ids`", "max_position_embeddings"]);
    says(&refused(&[("labels", vec![1], vec![0])]), &["`input_ids`"]);
}

#[test]
fn token_types_are_ignored_where_the_model_has_none() {
    let bench = Bench::new("hf/base-v3");
    let inputs = bench.inputs(&[ids(&[1, 2]), ("token_type_ids", vec![1, 2], vec![0, 99])]);
    let run = Command::new(program("deberta-ref"))
        .args(["run", "--model"])
        .arg(fixtures("hf/base-v3"))
        .arg("--inputs")
        .arg(inputs)
        .arg("--outputs")
        .arg(bench.path("outputs.safetensors"))
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}

#[test]
fn files_that_are_damaged_or_absent() {
    let bench = Bench::new("hf/base-everything");
    let inputs = bench.inputs(&[ids(&[1, 2])]);
    let weights = bench.path("model/model.safetensors");
    let whole = fs::read(&weights).unwrap();

    says(&bench.refused(&bench.path("nothing.safetensors"), &[]), &["nothing.safetensors"]);
    let text = bench.path("text.safetensors");
    fs::write(&text, "not tensors").unwrap();
    says(&bench.refused(&text, &[]), &["text.safetensors"]);
    for cut in [0, 4, 8, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&weights, &whole[..cut]).unwrap();
        says(&bench.refused(&inputs, &[]), &["model.safetensors"]);
    }
    fs::remove_file(&weights).unwrap();
    says(&bench.refused(&inputs, &[]), &["model", "model.safetensors"]);

    fs::write(&weights, &whole).unwrap();
    let config = bench.path("model/config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("\"hidden_size\": ", "\"hidden_size\": 1")).unwrap();
    let said = bench.refused(&inputs, &[]);
    says(&said, &["model"]);
    fs::write(&config, "{").unwrap();
    says(&bench.refused(&inputs, &[]), &["config.json", "JSON"]);
    fs::remove_file(&config).unwrap();
    says(&bench.refused(&inputs, &[]), &["no configuration", "config.json"]);
}

#[test]
fn a_head_that_the_weights_lack_is_named_with_all_that_is_missing() {
    let bench = Bench::new("hf/base-everything");
    let inputs = bench.inputs(&[ids(&[1, 2])]);
    let said = bench.refused(&inputs, &["--head", "question-answering"]);
    says(&said, &["qa_outputs.weight", "qa_outputs.bias"]);
    assert!(!said.contains("query_proj"), "{said}");
}
