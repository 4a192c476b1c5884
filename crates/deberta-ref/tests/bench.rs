//! The programs' `bench` and `random-model`, from the outside.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::path::Path;
use std::process::{Command, Output};

use deberta_testkit::fixtures;
use serde_json::Value;
use tempfile::TempDir;

fn program(arguments: &[&str], paths: &[(&str, &Path)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_deberta-ref"));
    command.args(arguments);
    for (flag, path) in paths {
        command.arg(flag).arg(path);
    }
    command.output().unwrap()
}

fn said(output: &Output) -> (String, String) {
    (String::from_utf8(output.stdout.clone()).unwrap(), String::from_utf8(output.stderr.clone()).unwrap())
}

#[test]
fn json_has_an_object_a_shape_with_the_agreed_keys() {
    let folder = TempDir::new().unwrap();
    let lengths = folder.path().join("lengths.txt");
    std::fs::write(&lengths, "# two sequences\n9\n4\n").unwrap();
    let model = fixtures("hf/base-v3");
    let output = program(
        &["bench", "--shapes", "1x16,2x5", "--repeat", "4", "--threads", "1", "--json"],
        &[("--model", &model), ("--lengths", &lengths)],
    );
    let (stdout, stderr) = said(&output);
    assert!(output.status.success(), "{stderr}");
    let list: Vec<Value> = serde_json::from_str(&stdout).unwrap();
    assert_eq!(list.iter().map(|o| o["shape"].as_str().unwrap()).collect::<Vec<_>>(), ["1x16", "2x5", "ragged"]);
    for object in &list {
        let number = |key: &str| object[key].as_f64().unwrap_or_else(|| panic!("no `{key}` in {object}"));
        assert!(
            0.0 < number("min_s") && number("min_s") <= number("median_s") && number("median_s") <= number("max_s")
        );
        assert!(number("sgemm_share") > 0.0 && number("gflop") > 0.0);
        assert_eq!(number("passes"), 4.0);
        if cfg!(target_os = "linux") {
            assert!(number("peak_rss_bytes") > 1e6);
        }
    }
    // Sixteen tokens at once cost more than sixteen as shorter sequences would; nine and four cost less than two of nine.
    assert!(list[2]["gflop"].as_f64().unwrap() < list[0]["gflop"].as_f64().unwrap());
}

#[test]
fn the_table_has_a_line_a_shape_in_either_precision() {
    let model = fixtures("hf/base-v3");
    for precision in ["f32", "f64"] {
        let arguments = ["bench", "--shapes", "1x3", "--seconds", "0", "--precision", precision, "--threads", "2"];
        let (stdout, stderr) = said(&program(&arguments, &[("--model", &model)]));
        let lines: Vec<&str> = stdout.lines().collect();
        assert!(lines.iter().any(|l| l.starts_with("1x3 ")) && stdout.contains("median s"), "{stdout}{stderr}");
        assert!(lines[0].contains(precision) && lines[0].contains("2 threads"), "{stdout}");
    }
}

#[test]
fn what_cannot_be_timed_is_refused_in_a_sentence() {
    let folder = TempDir::new().unwrap();
    let lengths = folder.path().join("lengths.txt");
    std::fs::write(&lengths, "12\nmany\n").unwrap();
    let model = fixtures("hf/base-v3");
    for (arguments, paths, parts) in [
        (&["bench", "--shapes", "8by128"][..], vec![("--model", &*model)], vec!["8by128", "8x128"]),
        (&["bench"], vec![("--model", &*model), ("--lengths", &*lengths)], vec!["lengths.txt", "line 2", "many"]),
        (&["bench", "--repeat", "0"], vec![("--model", &*model)], vec!["--repeat"]),
        (&["bench", "--seconds=-1"], vec![("--model", &*model)], vec!["--seconds"]),
        (&["bench"], vec![("--model", folder.path())], vec!["config"]),
        // Absolute positions end.
        (&["bench", "--shapes", "1x5000"], vec![("--model", &*fixtures("hf/base-everything"))], vec!["max_position"]),
    ] {
        let output = program(arguments, &paths);
        let (stdout, stderr) = said(&output);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stdout.is_empty() && !stderr.contains("panicked"), "{stdout}{stderr}");
        assert!(parts.iter().all(|part| stderr.contains(part)), "{parts:?} are not all in: {stderr}");
    }
}

#[test]
fn random_models_are_of_a_published_size_and_never_overwrite() {
    let folder = TempDir::new().unwrap();
    let unknown = program(&["random-model", "v4-base"], &[("--output", folder.path())]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(said(&unknown).1.contains("v3-xsmall"), "the names are listed: {}", said(&unknown).1);
    std::fs::write(folder.path().join("config.json"), "{}").unwrap();
    let taken = program(&["random-model", "v3-xsmall"], &[("--output", folder.path())]);
    assert_eq!(taken.status.code(), Some(2));
    assert!(said(&taken).1.contains("config.json exists"), "{}", said(&taken).1);
    assert!(!folder.path().join("model.safetensors").exists());
}
