//! Every file of fixtures/checkpoints against its manifest: what PyTorch, TensorFlow and h5py hold in it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod common;

use std::collections::BTreeSet;

use common::{Case, manifest, manifest_of, sha256};
use deberta_checkpoint::convert::{BothSides, Names, Options, OutputDtype, Unknown, convert, convert_and};
use deberta_checkpoint::inspect::{Presence, inspect};
use deberta_checkpoint::{Checkpoint, Error};
use deberta_testkit::fixtures;

fn options(case: &Case, output: &std::path::Path) -> Options {
    Options {
        source: fixtures(&format!("checkpoints/{}", case.name)),
        output: output.to_owned(),
        config: None,
        part: None,
        dtype: OutputDtype::Keep,
        names: Names::Hf,
        unknown: Unknown::Auto,
        max_shard_size: None,
        force: false,
        proof: true,
        hashes: true,
        dry_run: false,
    }
}

fn assert_tensors(checkpoint: &Checkpoint, case: &Case) {
    let found: BTreeSet<&str> = checkpoint.tensors().map(|t| t.name.as_str()).collect();
    let expected: BTreeSet<&str> = case.tensors.keys().map(String::as_str).collect();
    assert_eq!(found, expected, "{}: names", case.name);
    for (name, expected) in &case.tensors {
        let tensor = checkpoint.get(name).unwrap();
        assert_eq!(tensor.dtype.to_string(), expected.dtype, "{}: {name}", case.name);
        assert_eq!(tensor.shape, expected.shape, "{}: {name}", case.name);
        checkpoint.verify_checksum(tensor).unwrap();
        assert_eq!(sha256(&checkpoint.bytes(name).unwrap()), expected.sha256, "{}: {name}", case.name);
    }
}

#[test]
fn every_file_reads_as_its_writer_holds_it() {
    let cases: Vec<Case> = manifest().into_iter().filter(|c| c.refused.is_none() && !c.is_model).collect();
    assert!(cases.len() > 35, "{} cases", cases.len());
    for case in cases {
        let path = fixtures(&format!("checkpoints/{}", case.name));
        let checkpoint = Checkpoint::open(&path).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        assert_tensors(&checkpoint, &case);
        for other in &case.others {
            let found = checkpoint.others().iter().find(|o| o.name == *other);
            assert!(found.is_some_and(|o| o.is_tensor), "{}: {other} is not listed", case.name);
        }
    }
}

#[test]
fn every_array_of_numpy_reads_as_numpy_holds_it() {
    let cases = manifest_of("dumps");
    assert!(cases.len() >= 7, "{} cases", cases.len());
    for case in cases {
        let checkpoint = Checkpoint::open(&fixtures(&format!("dumps/{}", case.name))).unwrap();
        assert_tensors(&checkpoint, &case);
        let others: BTreeSet<&str> = checkpoint.others().iter().map(|o| o.name.as_str()).collect();
        assert_eq!(others, case.others.iter().map(String::as_str).collect(), "{}", case.name);
    }
}

#[test]
fn every_refusal_says_why() {
    let cases: Vec<Case> = manifest().into_iter().filter(|c| c.refused.is_some()).collect();
    assert!(cases.len() >= 6, "{} cases", cases.len());
    for case in cases {
        let error =
            Checkpoint::open(&fixtures(&format!("checkpoints/{}", case.name))).expect_err(&case.name).to_string();
        let sentence = case.refused.unwrap();
        assert!(error.contains(&sentence), "{}: {error:?} lacks {sentence:?}", case.name);
        assert!(error.contains(&case.name), "{}: {error:?} does not name the file", case.name);
        assert!(!error.contains('\n'), "{}: more than a line: {error:?}", case.name);
    }
}

#[test]
fn every_model_becomes_the_same_parameters() {
    let cases: Vec<Case> = manifest().into_iter().filter(|c| c.is_model).collect();
    assert!(cases.len() >= 8, "{} cases", cases.len());
    for case in cases {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out");
        let report =
            convert(&options(&case, &output), &(), &false.into()).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        assert!(report.proven);
        assert_eq!(report.head.as_deref(), Some("masked-lm"), "{}", case.name);
        let written = Checkpoint::open(&output).unwrap();
        assert_tensors(&written, &case);
        for tensor in &report.tensors {
            assert_eq!(tensor.sha256.as_deref(), Some(case.tensors[&tensor.name].sha256.as_str()), "{}", case.name);
        }
        let config: serde_json::Value =
            serde_json::from_slice(&std::fs::read(output.join("config.json")).unwrap()).unwrap();
        assert_eq!(config["architectures"], serde_json::json!(["DebertaV2ForMaskedLM"]), "{}", case.name);
    }
}

#[test]
fn microsofts_names_and_back_is_exact() {
    for case in manifest().into_iter().filter(|c| c.is_model) {
        let folder = tempfile::tempdir().unwrap();
        let (first, microsoft, back) =
            (folder.path().join("hf"), folder.path().join("microsoft"), folder.path().join("back"));
        convert(&options(&case, &first), &(), &false.into()).unwrap();
        let to = Options { source: first.clone(), names: Names::Microsoft, ..options(&case, &microsoft) };
        convert(&to, &(), &false.into()).unwrap();
        let named = Checkpoint::open(&microsoft).unwrap();
        assert!(named.get("lm_predictions.lm_head.dense.weight").is_some(), "{}", case.name);
        assert!(named.get("cls.predictions.transform.dense.weight").is_none(), "{}", case.name);
        let to = Options { source: microsoft, ..options(&case, &back) };
        convert(&to, &(), &false.into()).unwrap();
        let [first, back] = [first, back].map(|f| std::fs::read(f.join("model.safetensors")).unwrap());
        assert!(first == back, "{}: not the same file", case.name);
    }
}

#[test]
fn a_damaged_byte_in_a_checked_format_is_found() {
    // Formats with checksums: zip at conversion, TensorFlow's at every read.
    let folder = tempfile::tempdir().unwrap();
    for name in ["split.index", "split.data-00000-of-00001"] {
        std::fs::copy(fixtures(&format!("checkpoints/tf/{name}")), folder.path().join(name)).unwrap();
    }
    let data = folder.path().join("split.data-00000-of-00001");
    let mut bytes = std::fs::read(&data).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&data, bytes).unwrap();
    let checkpoint = Checkpoint::open(&folder.path().join("split")).unwrap();
    let outcomes: Vec<_> = checkpoint.tensors().map(|t| checkpoint.bytes(&t.name).map(drop)).collect();
    assert_eq!(outcomes.iter().filter(|o| matches!(o, Err(Error::Damaged { .. }))).count(), 1, "{outcomes:?}");

    let case = manifest().into_iter().find(|c| c.name == "models/huggingface").unwrap();
    let source = folder.path().join("pytorch_model.bin");
    let mut bytes = std::fs::read(fixtures("checkpoints/models/huggingface/pytorch_model.bin")).unwrap();
    let checkpoint = Checkpoint::open(&fixtures("checkpoints/models/huggingface")).unwrap();
    let tensor = checkpoint.bytes("deberta.encoder.conv.conv.weight").unwrap().to_vec();
    let at = bytes.windows(tensor.len()).position(|w| w == tensor).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&source, bytes).unwrap();
    std::fs::copy(fixtures("checkpoints/models/huggingface/config.json"), folder.path().join("config.json")).unwrap();
    let output = folder.path().join("out.safetensors");
    let error = convert(&Options { source, ..options(&case, &output) }, &(), &false.into()).unwrap_err();
    assert!(error.to_string().contains("checksum"), "{error}");
    assert!(!output.exists());
}

#[test]
fn a_further_proof_that_fails_leaves_no_output() {
    let case = manifest().into_iter().find(|c| c.name == "models/huggingface").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let seen = std::sync::atomic::AtomicUsize::new(0);
    let further = |sides: &BothSides<'_>| {
        seen.store(sides.output.tensors().len(), std::sync::atomic::Ordering::Relaxed);
        assert!(sides.model.is_some());
        Err("not good enough".into())
    };
    let error = convert_and(&options(&case, &output), &(), &false.into(), Some(&further)).unwrap_err();
    assert!(error.to_string().contains("not good enough"), "{error}");
    assert_eq!(seen.into_inner(), case.tensors.len());
    assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none());
}

#[test]
fn inspection_tells_heads_and_what_is_besides() {
    let found = inspect(&fixtures("checkpoints/models/wrapped")).unwrap();
    assert_eq!(found.format.as_deref(), Some("torch-zip"));
    let presence = |head: &str| found.heads.iter().find(|h| h.head == head).unwrap().presence;
    assert_eq!(presence("base"), Presence::Present);
    assert_eq!(presence("masked-lm"), Presence::Present);
    assert_eq!(presence("question-answering"), Presence::Absent);
    assert_eq!(presence("replaced-token-detection"), Presence::Absent);
    assert!(found.unused.contains_key("optimizer.state.0.exp_avg"), "{:?}", found.unused);
    assert_eq!(found.others["step"], "5");
    assert!(!found.is_suspicious());
    assert_eq!(found.aliases.len(), 2, "{:?}", found.aliases);
}

#[test]
fn inspection_describes_what_conversion_refuses() {
    for form in ["zip", "legacy"] {
        let found = inspect(&fixtures(&format!("checkpoints/refused/system.{form}.bin"))).unwrap();
        assert!(found.format.is_none() && found.is_suspicious());
        let calls: Vec<&str> = found.pickles.iter().flat_map(|p| &p.calls).map(|c| c.call.as_str()).collect();
        assert_eq!(calls, ["posix.system(\"echo this must never run\")"], "{form}");
    }
}
