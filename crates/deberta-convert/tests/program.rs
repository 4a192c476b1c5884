//! The program as people use it: what it writes, what it refuses, and what is there after it was stopped.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use deberta_model::{DebertaV2Config, Head, schema};
use deberta_testkit::fixtures;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_deberta-convert"));
    command.stdin(Stdio::null());
    command
}

fn convert(source: &Path, output: &Path, arguments: &[&str]) -> Output {
    program().arg(source).arg("--output").arg(output).args(arguments).output().unwrap()
}

fn succeed(source: &Path, output: &Path, arguments: &[&str]) -> String {
    let done = convert(source, output, arguments);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// Fails with status 1 and one sentence, which is returned.
fn refuse(source: &Path, output: &Path, arguments: &[&str]) -> String {
    let done = convert(source, output, arguments);
    assert_eq!(done.status.code(), Some(1), "{}", String::from_utf8_lossy(&done.stderr));
    let text = String::from_utf8(done.stderr).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

fn model() -> PathBuf {
    fixtures("checkpoints/models/huggingface")
}

fn entries(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn json_file(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Every tensor of some safetensors files: type, shape, bytes.
fn tensors(files: &[PathBuf]) -> BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> {
    let mut all = BTreeMap::new();
    for file in files {
        let bytes = std::fs::read(file).unwrap();
        for (name, view) in SafeTensors::deserialize(&bytes).unwrap().iter() {
            all.insert(name.to_owned(), (view.dtype(), view.shape().to_vec(), view.data().to_vec()));
        }
    }
    all
}

#[test]
fn a_directory_becomes_a_model_directory() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    std::fs::create_dir(&source).unwrap();
    for name in ["config.json", "pytorch_model.bin"] {
        std::fs::copy(model().join(name), source.join(name)).unwrap();
    }
    std::fs::write(source.join("spm.model"), "a tokenizer").unwrap();
    let output = folder.path().join("new/model");
    let said = succeed(&source, &output, &[]);
    assert!(said.contains("proven"), "{said}");
    assert_eq!(entries(&output), ["config.json", "model.safetensors", "spm.model"]);
    assert_eq!(std::fs::read_to_string(output.join("spm.model")).unwrap(), "a tokenizer");
    let written = std::fs::read(output.join("model.safetensors")).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&written).unwrap();
    let metadata = metadata.metadata().clone().unwrap();
    assert_eq!(metadata["format"], "pt");
    assert_eq!(metadata["cls.predictions.decoder.weight"], "deberta.embeddings.word_embeddings.weight");
}

#[test]
fn a_hub_cache_folder_is_entered() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("models--org--name");
    let snapshot = cache.join("snapshots/0123abcd");
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir(cache.join("refs")).unwrap();
    std::fs::write(cache.join("refs/main"), "0123abcd").unwrap();
    for name in ["config.json", "pytorch_model.bin"] {
        std::fs::copy(model().join(name), snapshot.join(name)).unwrap();
    }
    succeed(&cache, &folder.path().join("out"), &[]);
}

#[test]
fn what_exists_is_replaced_only_by_force() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    std::fs::write(&file, "something else").unwrap();
    assert!(refuse(&model(), &file, &[]).contains("--force"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "something else");
    succeed(&model(), &file, &["--force"]);
    assert!(tensors(&[file]).len() > 40);

    let output = folder.path().join("out");
    succeed(&model(), &output, &["--max-shard-size", "10kB"]);
    assert!(entries(&output).len() > 3);
    std::fs::write(output.join("notes.txt"), "mine").unwrap();
    assert!(refuse(&model(), &output, &[]).contains("--force"));
    succeed(&model(), &output, &["--force"]);
    // The shards of before are gone, or they would be found before the new file; what is not ours stays.
    assert_eq!(entries(&output), ["config.json", "model.safetensors", "notes.txt"]);
}

#[test]
fn the_source_is_never_the_output() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("model.safetensors");
    succeed(&model(), &source, &[]);
    std::fs::copy(model().join("config.json"), folder.path().join("config.json")).unwrap();
    let before = std::fs::read(&source).unwrap();
    let link = folder.path().join("link.safetensors");
    std::fs::hard_link(&source, &link).unwrap();
    for output in [&source, &link, &folder.path().to_owned()] {
        assert!(refuse(&source, output, &["--force"]).contains("the source itself"), "{}", output.display());
    }
    assert_eq!(std::fs::read(&source).unwrap(), before);
}

#[test]
fn shards_hold_the_same_and_are_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, sharded, back) = (
        folder.path().join("whole.safetensors"),
        folder.path().join("sharded"),
        folder.path().join("back.safetensors"),
    );
    succeed(&model(), &whole, &[]);
    succeed(&model(), &sharded, &["--max-shard-size", "9kB"]);
    let index = json_file(&sharded.join("model.safetensors.index.json"));
    let mut files: Vec<PathBuf> =
        index["weight_map"].as_object().unwrap().values().map(|f| sharded.join(f.as_str().unwrap())).collect();
    files.sort();
    files.dedup();
    assert!(files.len() > 3, "{files:?}");
    assert!(tensors(&files) == tensors(std::slice::from_ref(&whole)));
    for file in &files {
        let bytes: usize = tensors(std::slice::from_ref(file)).values().map(|t| t.2.len()).sum();
        assert!(bytes <= 9000 || tensors(std::slice::from_ref(file)).len() == 1, "{}: {bytes}", file.display());
    }
    succeed(&sharded, &back, &[]);
    assert!(std::fs::read(whole).unwrap() == std::fs::read(back).unwrap());
}

#[test]
fn a_change_of_type_rounds_to_nearest() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("kept.safetensors");
    succeed(&model(), &kept, &[]);
    let kept = tensors(&[kept]);
    for (name, dtype) in [("f16", Dtype::F16), ("bf16", Dtype::BF16)] {
        let output = folder.path().join(format!("{name}.safetensors"));
        succeed(&model(), &output, &["--dtype", name]);
        for (tensor, (found, _, bytes)) in tensors(&[output]) {
            assert_eq!(found, dtype, "{tensor}");
            let exact = kept[&tensor].2.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
            let expected: Vec<u8> = exact
                .flat_map(|x| match dtype {
                    Dtype::F16 => half::f16::from_f32(x).to_le_bytes(),
                    _ => half::bf16::from_f32(x).to_le_bytes(),
                })
                .collect();
            assert!(bytes == expected, "{tensor}");
        }
    }
}

#[test]
fn the_report_accounts_for_everything() {
    let folder = tempfile::tempdir().unwrap();
    let (output, report) = (folder.path().join("out"), folder.path().join("report.json"));
    let source = fixtures("checkpoints/models/wrapped");
    succeed(&source, &output, &["--report", report.to_str().unwrap(), "--quiet"]);
    let report = json_file(&report);
    let file = output.join("model.safetensors");
    let written = tensors(std::slice::from_ref(&file));
    assert_eq!(report["proven"], true);
    assert_eq!(report["tensors"].as_array().unwrap().len(), written.len());
    for tensor in report["tensors"].as_array().unwrap() {
        assert!(written.contains_key(tensor["name"].as_str().unwrap()), "{tensor}");
        assert_eq!(
            tensor["source"].as_str().unwrap().strip_prefix("model.module."),
            tensor["name"].as_str(),
            "{tensor}"
        );
        assert_eq!(tensor["sha256"].as_str().unwrap().len(), 64);
    }
    let hash = Command::new("sha256sum").arg(&file).output().unwrap();
    let hash = String::from_utf8(hash.stdout).unwrap();
    assert_eq!(report["output"]["files"][0]["sha256"].as_str(), hash.split(' ').next());
    let dropped: Vec<&str> =
        report["dropped"].as_array().unwrap().iter().map(|d| d["name"].as_str().unwrap()).collect();
    assert!(dropped.contains(&"optimizer.state.0.exp_avg") && dropped.contains(&"step"), "{dropped:?}");
}

#[test]
fn unknown_tensors_are_kept_or_dropped_as_asked() {
    let folder = tempfile::tempdir().unwrap();
    let source = fixtures("checkpoints/models/wrapped");
    for (unknown, kept) in [("auto", false), ("keep", true), ("drop", false)] {
        let output = folder.path().join(format!("{unknown}.safetensors"));
        succeed(&source, &output, &["--unknown", unknown]);
        assert_eq!(tensors(&[output]).contains_key("optimizer.state.0.exp_avg"), kept, "{unknown}");
    }
    // A head of somebody's own lies beside the model's tensors: auto keeps it.
    let (_, data) = small_model(folder.path(), "own", 8, 1);
    let output = folder.path().join("own.safetensors");
    let done = convert(&data, &output, &[]);
    assert!(String::from_utf8_lossy(&done.stderr).contains("regressor.weight"), "{done:?}");
    assert!(tensors(&[output]).contains_key("regressor.weight"));
}

#[test]
fn keeping_names_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.safetensors");
    succeed(&fixtures("checkpoints/torch/views.zip.2.bin"), &output, &["--names", "keep"]);
    let names: Vec<String> = tensors(&[output]).into_keys().collect();
    assert_eq!(names.len(), 9, "{names:?}");
}

#[test]
fn a_dry_run_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let said = succeed(&model(), &folder.path().join("out"), &["--dry-run"]);
    assert!(said.contains("would write") && said.contains("deberta.embeddings.LayerNorm.weight"), "{said}");
    assert!(entries(folder.path()).is_empty());
}

#[test]
fn refusals_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let missing = refuse(&folder.path().join("absent.bin"), &output, &[]);
    assert!(missing.contains("absent.bin"), "{missing}");
    assert!(refuse(&fixtures("checkpoints/refused/system.zip.bin"), &output, &[]).contains("run a shell command"));
    assert!(refuse(&fixtures("checkpoints/torch/tensor.zip.2.bin"), &output, &[]).contains("--names keep"));
    // A configuration that the tensors do not fit: all that is wrong, at once.
    let config = folder.path().join("config.json");
    let mut value = json_file(&model().join("config.json"));
    value["num_hidden_layers"] = json!(3);
    value["intermediate_size"] = json!(38);
    std::fs::write(&config, value.to_string()).unwrap();
    let said = refuse(&model(), &output, &["--config", config.to_str().unwrap()]);
    assert!(said.contains("missing: deberta.encoder.layer.2.attention.self.query_proj.weight"), "{said}");
    assert!(said.contains("deberta.encoder.layer.2.output.dense.weight"), "{said}");
    assert!(
        said.contains("wrong shape: deberta.encoder.layer.0.intermediate.dense.weight should be [38, 22]"),
        "{said}"
    );
    assert_eq!(entries(folder.path()), ["config.json"]);
}

#[test]
fn wrong_usage_is_status_2() {
    for arguments in [
        vec![],
        vec!["x"],
        vec!["x", "--output", "y", "--dtype", "f8"],
        vec!["x", "--output", "y", "--max-shard-size", "big"],
    ] {
        assert_eq!(program().args(&arguments).output().unwrap().status.code(), Some(2), "{arguments:?}");
    }
}

/// A model directory of random numbers with a head of its own; the folder and the weights.
fn small_model(folder: &Path, name: &str, hidden: usize, layers: usize) -> (PathBuf, PathBuf) {
    let path = folder.join(name);
    std::fs::create_dir_all(&path).unwrap();
    let value = json!({
        "model_type": "deberta-v2", "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": 4,
        "intermediate_size": 4 * hidden, "vocab_size": 20 * hidden, "type_vocab_size": 0, "relative_attention": true,
        "position_buckets": 8, "pos_att_type": "p2c|c2p", "share_att_key": true, "position_biased_input": false,
        "norm_rel_ebd": "layer_norm",
    });
    std::fs::write(path.join("config.json"), value.to_string()).unwrap();
    let config = DebertaV2Config::from_value(value).unwrap();
    let mut arrays: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    let mut state = 1u64;
    for parameter in schema(&config, Head::Base) {
        let count: usize = parameter.shape.iter().product();
        let bytes = (0..count).flat_map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / 2f32.powi(24) - 0.5).to_le_bytes()
        });
        arrays.push((parameter.name, parameter.shape, bytes.collect()));
    }
    arrays.push(("regressor.weight".into(), vec![1, hidden], vec![0; 4 * hidden]));
    let views = arrays.iter().map(|(n, s, b)| (n.as_str(), TensorView::new(Dtype::F32, s.clone(), b).unwrap()));
    let weights = path.join("model.safetensors");
    safetensors::serialize_to_file(views, None, &weights).unwrap();
    (path, weights)
}

/// The output is not there, or it is whole.
fn absent_or_whole(output: &Path, expected: &[u8]) -> bool {
    match std::fs::read(output) {
        Ok(found) => {
            assert!(found == expected, "an incomplete file stands under the output's name");
            true
        }
        Err(_) => false,
    }
}

#[test]
fn killed_at_any_moment_there_is_no_partial_output() {
    let folder = tempfile::tempdir().unwrap();
    let (source, _) = small_model(folder.path(), "source", 512, 6);
    let outputs = folder.path().join("outputs");
    std::fs::create_dir(&outputs).unwrap();
    let output = outputs.join("model.safetensors");
    let start = Instant::now();
    succeed(&source, &output, &["--quiet"]);
    let whole = start.elapsed();
    let expected = std::fs::read(&output).unwrap();
    let mut finished = 0;
    for i in 0..50u32 {
        std::fs::remove_file(&output).ok();
        let mut child =
            program().arg(&source).arg("--output").arg(&output).arg("--quiet").stderr(Stdio::null()).spawn().unwrap();
        // Moments spread over the run and a little beyond, in a scattered order.
        std::thread::sleep(whole.mul_f64(f64::from(i * 37 % 50) / 45.0));
        child.kill().unwrap();
        child.wait().unwrap();
        finished += u32::from(absent_or_whole(&output, &expected));
        if cfg!(target_os = "linux") {
            let left: Vec<_> = entries(&outputs).into_iter().filter(|n| n != "model.safetensors").collect();
            assert!(left.is_empty(), "{left:?}");
        }
    }
    assert!(finished < 50, "every run was over before it was killed");
}

#[test]
#[cfg(unix)]
fn asked_to_stop_it_says_so_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (source, _) = small_model(folder.path(), "source", 512, 6);
    let outputs = folder.path().join("outputs");
    std::fs::create_dir(&outputs).unwrap();
    let output = outputs.join("model");
    for signal in ["-INT", "-TERM"] {
        let mut stopped = false;
        for attempt in 0..20 {
            let report = outputs.join("report.json");
            let child = program()
                .arg(&source)
                .arg("--output")
                .arg(&output)
                .arg("--report")
                .arg(&report)
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            std::thread::sleep(Duration::from_millis(5 + 7 * attempt));
            Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
            let done = child.wait_with_output().unwrap();
            if done.status.code() == Some(1) {
                assert!(String::from_utf8_lossy(&done.stderr).contains("stopped"), "{done:?}");
                assert!(entries(&outputs).is_empty(), "{:?}", entries(&outputs));
                stopped = true;
                break;
            }
            // Too early for the handler, or too late for the run.
            std::fs::remove_dir_all(&output).ok();
            std::fs::remove_file(&report).ok();
        }
        assert!(stopped, "{signal}");
    }
}

#[test]
fn a_forward_pass_proves_every_family_of_names() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["huggingface", "microsoft-first", "tf-h5", "tf-1"] {
        let source = fixtures(&format!("checkpoints/models/{name}"));
        let said = succeed(&source, &folder.path().join(name), &["--prove-forward"]);
        assert!(said.contains("the model computes the same"), "{said}");
    }
    let wrong = convert(&model(), &folder.path().join("x"), &["--prove-forward", "--dtype", "f16"]);
    assert_eq!(wrong.status.code(), Some(2));
}
