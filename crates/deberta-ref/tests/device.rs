//! `--device` and `--precision`: what is said where there is no GPU, and that `auto` computes all the same.

#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::path::Path;
use std::process::{Command, Output};

use deberta_testkit::{TensorFile, distance, fixtures, skipped};

fn run(outputs: &Path, arguments: &[&str]) -> Output {
    let model = fixtures("hf/base-v3");
    let mut command = Command::new(env!("CARGO_BIN_EXE_deberta-ref"));
    command.arg("run").arg("--model").arg(&model).arg("--inputs").arg(model.join("golden.f64.safetensors"));
    command.arg("--outputs").arg(outputs).args(arguments).output().unwrap()
}

fn one_sentence(output: &Output) -> String {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    let own: Vec<&str> = said.lines().filter(|line| !line.starts_with("note: ")).collect();
    assert_eq!(own.len(), 1, "{said}");
    own[0].to_owned()
}

/// Whether there is a GPU here; then these tests, which are about there being none, say that they did not run.
fn gpu(test: &str) -> bool {
    let there = deberta_ref::cuda::CudaDevice::open(0).is_ok();
    if there {
        skipped(test, "there is a GPU");
    }
    there
}

#[test]
fn without_a_gpu_one_sentence_and_exit_code_2() {
    if gpu("without_a_gpu_one_sentence_and_exit_code_2") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.safetensors");
    let output = run(&file, &["--device", "cuda"]);
    assert_eq!(output.status.code(), Some(2));
    let said = one_sentence(&output);
    assert!(said.contains("--device cpu"), "{said}");
    assert!(!file.exists());
}

#[test]
fn bench_without_a_gpu_is_one_sentence_too() {
    if gpu("bench_without_a_gpu_is_one_sentence_too") {
        return;
    }
    let bench = |device: &str, precision: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_deberta-ref"));
        command.arg("bench").arg("--model").arg(fixtures("hf/base-v3")).args(["--device", device]);
        command.args(["--precision", precision, "--shapes", "1x3", "--repeat", "1"]).output().unwrap()
    };
    let refused = bench("cuda", "bf16");
    assert_eq!(refused.status.code(), Some(2));
    assert!(refused.stdout.is_empty() && one_sentence(&refused).contains("--device cpu"));
    assert!(bench("auto", "f32").status.success());
    assert_eq!(bench("auto", "bf16").status.code(), Some(2), "the processor does not compute in bf16");
}

#[test]
fn auto_falls_back_and_says_so() {
    if gpu("auto_falls_back_and_says_so") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (auto, cpu) = (folder.path().join("auto.safetensors"), folder.path().join("cpu.safetensors"));
    let output = run(&auto, &["--device", "auto"]);
    assert!(output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("note: computing on the processor: "), "{said}");
    assert!(run(&cpu, &[]).status.success());
    let (auto, cpu) = (TensorFile::read(&auto), TensorFile::read(&cpu));
    let name = "last_hidden_state";
    assert_eq!(distance(auto.float(name).view(), cpu.float(name).view()).max_abs, 0.0);
}

#[test]
fn auto_in_a_task_on_text_says_so_once() {
    if gpu("auto_in_a_task_on_text_says_so_once") {
        return;
    }
    let fill = |device: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_deberta-ref"));
        command.arg("fill-mask").arg("--model").arg(fixtures("shipped")).args(["--device", device]);
        command.arg("The [MASK] is red.").output().unwrap()
    };
    let (auto, cpu) = (fill("auto"), fill("cpu"));
    assert!(auto.status.success() && cpu.status.success());
    assert_eq!(auto.stdout, cpu.stdout);
    assert_eq!(String::from_utf8(cpu.stderr).unwrap(), "");
    let said = String::from_utf8(auto.stderr).unwrap();
    assert!(said.starts_with("note: computing on the processor: ") && said.lines().count() == 1, "{said}");
}

#[test]
fn a_precision_that_a_device_lacks_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.safetensors");
    for (arguments, expected) in [
        (["--device", "cpu", "--precision", "bf16"], "--precision bf16 is not computed on the processor"),
        (["--device", "cuda", "--precision", "f64"], "--precision f64 is not computed on a GPU"),
    ] {
        let output = run(&file, &arguments);
        assert_eq!(output.status.code(), Some(2));
        let said = one_sentence(&output);
        assert!(said.contains(expected), "{said}");
    }
}
