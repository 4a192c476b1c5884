//! `tools/bench_gpu` without a GPU: its worker on the emulator, and its page from a recorded run.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

#[path = "../../crates/deberta-cuda/tests/emulated/emulator/mod.rs"]
#[allow(dead_code, reason = "the tests of the kernels use more of it")]
mod emulator;

use std::path::Path;
use std::process::Command;

use deberta_testkit::{TensorFile, fixtures, skipped};
use deberta_tests::worker::serve;
use emulator::EmulatedDevice;
use ndarray::Array2;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

fn asked(requests: &[Value]) -> Vec<Value> {
    let lines: Vec<String> = requests.iter().map(Value::to_string).collect();
    let mut answers = Vec::new();
    serve(&EmulatedDevice::new(0), lines.join("\n").as_bytes(), &mut answers).unwrap();
    answers.split(|&b| b == b'\n').filter(|l| !l.is_empty()).map(|l| serde_json::from_slice(l).unwrap()).collect()
}

#[test]
fn a_whole_model_is_timed_and_its_states_are_saved() {
    let folder = tempfile::tempdir().unwrap();
    let (model, to) = (fixtures("hf/base-even-heads"), folder.path().join("states.safetensors"));
    let file = model.join("no-mask.f32.safetensors");
    let answers = asked(&[
        json!({ "do": "run", "file": file, "repeat": 2 }),
        json!({ "do": "load", "model": model, "precision": "bf16" }),
        json!({ "do": "run", "file": file, "repeat": 2 }),
        json!({ "do": "save", "file": file, "to": to }),
        json!({ "do": "product", "precision": "f16", "side": 32 }),
        json!({ "do": "load", "model": model, "precision": "f64" }),
    ]);
    assert_eq!(answers[0]["error"], "`load` first");
    assert_eq!(answers[1], json!({ "loaded": true }));
    assert_eq!(answers[2]["seconds"].as_array().unwrap().len(), 2);
    assert!(answers[2]["bytes"].as_u64().unwrap() > 0);
    assert!(answers[4]["rate"].as_f64().unwrap() > 0.0);
    assert!(answers[5]["error"].as_str().unwrap().contains("`f64` is no precision"));
    let (found, exact) = (TensorFile::read(&to), TensorFile::read(&model.join("no-mask.f64.safetensors")));
    let name = "last_hidden_state";
    let apart = deberta_testkit::distance(found.float(name).view(), exact.float(name).view());
    // Three times what PyTorch is off in bfloat16, as everywhere.
    assert!(apart.max_abs <= 3.0 * 0.0403, "{apart:?}");
}

#[test]
fn attention_alone_of_single_tokens_is_their_values() {
    let folder = tempfile::tempdir().unwrap();
    let (file, to) = (folder.path().join("operands.safetensors"), folder.path().join("context.safetensors"));
    let value = Array2::from_shape_fn((3, 32), |(i, j)| (i as f32 - 1.0) + j as f32 / 32.0);
    let table = Array2::from_elem((16, 32), 0.5_f32);
    let rows = |matrix: &Array2<f32>| matrix.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let starts: Vec<u8> = [0_i64, 1, 2, 3].iter().flat_map(|v| v.to_le_bytes()).collect();
    let (value_bytes, table_bytes) = (rows(&value), rows(&table));
    let f32s = |bytes, shape: [usize; 2]| TensorView::new(safetensors::Dtype::F32, shape.to_vec(), bytes).unwrap();
    let tensors = ["query", "key", "value"].map(|name| (name, f32s(&value_bytes, [3, 32])));
    let tables = ["pos_key", "pos_query"].map(|name| (name, f32s(&table_bytes, [16, 32])));
    let starts = [("starts", TensorView::new(safetensors::Dtype::I64, vec![4], &starts).unwrap())];
    safetensors::serialize_to_file(tensors.into_iter().chain(tables).chain(starts), None, &file).unwrap();
    let request = json!({ "do": "attention", "file": file, "to": to, "precision": "f16", "heads": 2, "buckets": 8,
        "positions": 64, "repeat": 3 });
    let mut by_name = request.clone();
    by_name["rung"] = json!("slots");
    let answers = asked(&[by_name, request]);
    for answer in &answers {
        assert_eq!(answer["seconds"].as_array().map(Vec::len), Some(3), "{answer}");
    }
    // So short that no tile is one slot's.
    assert_eq!([&answers[0]["kernel"], &answers[1]["kernel"]], ["slots", "window"]);
    let context = TensorFile::read(&to);
    let apart = deberta_testkit::distance(context.float("context").view(), value.mapv(f64::from).into_dyn().view());
    assert_eq!(apart.max_abs, 0.0, "single tokens attend to themselves, and these values are f16's");
}

#[test]
fn a_page_and_a_picture_are_written_from_a_recorded_run() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    if Command::new("python3").arg("--version").output().is_err() {
        skipped("a_page_and_a_picture_are_written_from_a_recorded_run", "python3 is not here");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run.json");
    std::fs::copy(root.join("tools/bench/gpu/sample.json"), &run).unwrap();
    let compare = |arguments: &[&str]| {
        Command::new("python3").arg(root.join("tools/bench/gpu/compare.py")).args(arguments).output().unwrap()
    };
    let written = compare(&["--report", run.to_str().unwrap()]);
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    let page = std::fs::read_to_string(run.with_extension("md")).unwrap();
    assert!(page.contains("Not a measurement") && page.contains("| 2 × 64 |") && page.contains("run.svg"), "{page}");
    let picture = std::fs::read_to_string(run.with_extension("svg")).unwrap();
    assert!(picture.starts_with("<svg") && picture.contains("Not a measurement") && picture.contains("polyline"));
    let refused = compare(&["--precisions", "f8"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("known are f16, bf16"));
}
