//! The commands on text from outside: where input comes from, how results look, and what is refused.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod models;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use deberta_ref::tokenizer::{EncodeOptions, Profile as TokenizerProfile, Tokenizer};
use deberta_ref::{Head, Inputs, Keep, Labels, ModelDirectory, Profile, Trace};
use deberta_testkit::program;
use models::Models;
use ndarray::Array2;
use safetensors::SafeTensors;
use serde_json::{Value, json};

fn run(task: &str, model: &Path, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(program("deberta-ref"))
        .arg(task)
        .arg("--model")
        .arg(model)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that refuses its arguments does not read its input.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn lines(task: &str, model: &Path, arguments: &[&str], input: &str) -> Vec<Value> {
    let output = run(task, model, arguments, input);
    assert!(output.status.success(), "{task} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// The one sentence of a run that is refused, which has to hold all of `parts`.
fn refused(task: &str, model: &Path, arguments: &[&str], input: &str, parts: &[&str]) {
    let output = run(task, model, arguments, input);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{task} {arguments:?}: {said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    for part in parts {
        assert!(said.contains(part), "`{part}` is not in: {said}");
    }
}

#[test]
fn the_same_text_from_everywhere() {
    let models = Models::new();
    let model = models.path("single");
    let file = models.path("texts");
    fs::write(&file, "the house\nthe water\r\n").unwrap();
    let path = file.to_str().unwrap();
    let given = lines("classify", &model, &["the house", "the water"], "");
    assert_eq!(given[0]["input"], "the house");
    assert_eq!(given, lines("classify", &model, &["--file", path], ""));
    assert_eq!(given, lines("classify", &model, &[], "the house\nthe water\n"));
    assert_eq!(given, lines("classify", &model, &["--jsonl", "-"], "\"the house\"\n\n\"the water\""));
    let csv = "id,said\n7,the house\n8,\"the water\"\n";
    let rows = lines("classify", &model, &["--csv", "-", "--column", "text=said"], csv);
    assert_eq!(rows[1]["input"], json!({"id": "8", "said": "the water"}));
    for (row, text) in rows.iter().zip(&given) {
        assert_eq!(row["result"], text["result"]);
    }
    let objects = "{\"text\": \"the house\", \"id\": 7}\n";
    assert_eq!(lines("classify", &model, &["--jsonl", "-"], objects)[0]["result"], given[0]["result"]);
}

#[test]
fn pairs_questions_and_choices_as_arguments() {
    let models = Models::new();
    let pair = lines("classify", &models.path("nli"), &["the house", "--text-pair", "the water"], "");
    let object = "{\"text\": \"the house\", \"text_pair\": \"the water\"}";
    assert_eq!(pair[0]["result"], lines("classify", &models.path("nli"), &["--jsonl", "-"], object)[0]["result"]);

    let answers = models.path("answers");
    let asked = lines("answer", &answers, &["--context", "the house of the man", "who", "what"], "");
    assert_eq!(asked.len(), 2);
    let object = "{\"question\": \"what\", \"context\": \"the house of the man\"}";
    assert_eq!(asked[1]["result"], lines("answer", &answers, &["--jsonl", "-"], object)[0]["result"]);
    let flag = lines("answer", &answers, &["--context", "the house of the man", "--question", "what"], "");
    assert_eq!(asked[1], flag[0]);

    let chosen = lines("choose", &models.path("choices"), &["--prompt", "the house", "of water", "of the man"], "");
    let csv = "prompt,choice0,choice1\nthe house,of water,of the man\n";
    assert_eq!(chosen[0]["result"], lines("choose", &models.path("choices"), &["--csv", "-"], csv)[0]["result"]);
    let scores: f64 = chosen[0]["result"]["scores"].as_array().unwrap().iter().map(|s| s.as_f64().unwrap()).sum();
    assert!((scores - 1.0).abs() < 1e-6);

    let labels = lines("classify", &models.path("nli"), &["the house", "--candidate-labels", "water, man"], "");
    assert_eq!(labels[0]["result"]["labels"].as_array().unwrap().len(), 2);
}

#[test]
fn a_table_for_people() {
    let models = Models::new();
    let output = run("fill-mask", &models.path("mlm"), &["the [MASK]\tof water", "--format", "table"], "");
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.starts_with("Filled by the plain head (masked-lm).\nthe [MASK]\\tof water\n"), "{table}");
    assert_eq!(table.trim_end().lines().count(), 2 + 5, "{table}");
    let output = run("answer", &models.path("answers"), &["--context", "the house", "what", "--format", "table"], "");
    assert!(String::from_utf8(output.stdout).unwrap().starts_with("what\n  "));
}

#[test]
fn which_head_fills() {
    let models = Models::new();
    let head = |model: &str, arguments: &[&str]| {
        let arguments = [&["the [MASK]"], arguments].concat();
        lines("fill-mask", &models.path(model), &arguments, "")[0]["head"].as_str().unwrap().to_owned()
    };
    assert_eq!(head("mlm", &[]), "masked-lm");
    assert_eq!(head("mlm-new", &[]), "masked-lm");
    let refusal = ["cannot fill masks", "enhanced-masked-lm needs", "position_embeddings.weight", "noise"];
    let decoder = ["the [MASK]", "--head", "enhanced-masked-lm"];
    refused("fill-mask", &models.path("mlm-new"), &decoder, "", &refusal);

    models.add_decoder();
    assert_eq!(head("decoder", &[]), "enhanced-masked-lm");
    assert_eq!(head("decoder", &["--head", "masked-lm"]), "masked-lm");
}

/// The decoder's words are those of its logits, computed in `f64`, one text alone, at the place of the mask.
#[test]
fn the_decoder_fills() {
    let models = Models::new();
    models.add_decoder();
    let path = models.path("decoder");
    let text = "the [MASK] of water and the house";
    let filled = lines("fill-mask", &path, &[text, "a longer text, so that the other one is padded: [MASK]"], "");
    let words = filled[0]["result"].as_array().unwrap();

    let directory = ModelDirectory::open(&path).unwrap();
    let model = directory.load::<f64>(Head::EnhancedMaskedLm, Profile::HF_5).unwrap();
    let tokenizer = Tokenizer::from_directory(&path, Some(TokenizerProfile::Hf5)).unwrap();
    let ids: Vec<i64> =
        tokenizer.encode(text, &EncodeOptions::default()).unwrap().ids.iter().map(|&id| id.into()).collect();
    let mask = i64::from(tokenizer.mask_token_id().unwrap());
    let rows = |values: Vec<i64>| Array2::from_shape_vec((1, values.len()), values).unwrap().into_dyn();
    let inputs = Inputs {
        labels: Some(Labels::Int(rows(ids.iter().map(|&id| i64::from(id == mask)).collect()))),
        input_ids: Some(rows(ids)),
        ..Inputs::default()
    };
    let logits = model.forward(&inputs, Keep::default(), &mut Trace::off()).unwrap().logits.unwrap();
    let sum: f64 = logits.iter().map(|v| v.exp()).sum();
    let best = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    assert!((words[0]["score"].as_f64().unwrap() - best.exp() / sum).abs() < 1e-5);
    for word in words {
        let token = word["token"].as_u64().unwrap() as usize;
        let expected = logits.as_slice().unwrap()[token].exp() / sum;
        assert!((word["score"].as_f64().unwrap() - expected).abs() < 1e-5, "{word}");
    }
}

#[test]
fn heads_that_are_not_there() {
    let models = Models::new();
    let single = models.path("single");
    for (task, arguments, head) in [
        ("fill-mask", &["the [MASK]"][..], "cls.predictions"),
        ("tag", &["the house"], "token-classification"),
        ("answer", &["what", "--context", "the house"], "question-answering"),
        ("choose", &["--prompt", "the house", "water"], "multiple-choice"),
    ] {
        refused(task, &single, arguments, "", &["cannot", head, "noise"]);
    }
    refused("classify", &models.path("tags"), &["the house"], "", &["cannot classify", "sequence-classification"]);
    refused("embed", &models.path("base"), &["a", "--pooling", "pooler"], "", &["cannot pool", "noise"]);
}

#[test]
fn inputs_that_cannot_be_taken() {
    let models = Models::new();
    let (mlm, single, answers) = (models.path("mlm"), models.path("single"), models.path("answers"));
    refused("fill-mask", &mlm, &[], "a [MASK]\nno mask\n", &["standard input, line 2", "no [MASK]"]);
    refused("fill-mask", &mlm, &[""], "", &["text 1", "no [MASK]"]);
    refused("fill-mask", &mlm, &["[MASK]", "--head", "base"], "", &["--head", "base predicts no words"]);
    refused("classify", &single, &[], "", &["standard input holds no input"]);
    refused("classify", &single, &["--jsonl", "nowhere"], "", &["cannot open nowhere"]);
    refused("classify", &single, &["--jsonl", "-"], "\"a\"\n{\"text\"\n", &["line 2", "is not JSON"]);
    refused("classify", &single, &["--jsonl", "-"], "\n[1]\n", &["line 2", "neither an object nor a string"]);
    refused(
        "classify",
        &single,
        &["--jsonl", "-"],
        "{\"txt\": \"a\"}",
        &["line 1", "has no `text`", "txt", "--column"],
    );
    refused("classify", &single, &["--jsonl", "-"], "{\"text\": 7}", &["line 1", "`text` is a number"]);
    refused("classify", &single, &["--csv", "-"], "text\na\nb,c\n", &["line 3", "has 2 fields", "1 columns"]);
    refused("classify", &single, &["--csv", "-"], "review\na\n", &["line 2", "has no `text`", "review"]);
    refused("classify", &single, &["--csv", "-"], "text\n", &["standard input holds no input"]);
    refused("answer", &answers, &["--context", "", "what"], "", &["text 1", "`context` is empty"]);
    refused("answer", &answers, &["what"], "", &["text 1", "has no `context`", "--context"]);
    let long = "the house ".repeat(50);
    let arguments = ["--context", "the house of water and the house", "--max-seq-len", "20", &long];
    refused("answer", &answers, &arguments, "", &["text 1", "window of 20 tokens", "--max-seq-len 104"]);
    let stride = ["--context", "a", "what", "--max-seq-len", "20", "--doc-stride", "21"];
    refused("answer", &answers, &stride, "", &["doc_stride", "21", "20"]);
    refused("answer", &answers, &["--context", "a", "what", "--top-k", "0"], "", &["top_k", "at least 1"]);
    refused("choose", &models.path("choices"), &["--jsonl", "-"], "{\"prompt\": \"a\"}", &["line 1", "no `choices`"]);
    let empty = "{\"prompt\": \"a\", \"choices\": []}";
    refused("choose", &models.path("choices"), &["--jsonl", "-"], empty, &["line 1", "`choices` is empty"]);
    let template = ["a", "--candidate-labels", "b", "--hypothesis-template", "c"];
    refused("classify", &models.path("nli"), &template, "", &["hypothesis_template", "has no {}"]);
    refused("tag", &models.path("tags-short"), &["a", "--stride", "3"], "", &["stride", "aggregation"]);
    let stride = ["a", "--stride", "20", "--aggregation-strategy", "simple"];
    refused("tag", &models.path("tags-short"), &stride, "", &["stride", "20 tokens"]);
    refused("embed", &single, &["a", "--output", "vectors.txt"], "", &[".safetensors or .npy"]);
}

#[test]
fn the_place_of_a_mistake_beyond_the_first_chunk() {
    let models = Models::new();
    let texts = "the [MASK]\n".repeat(700) + "nothing\n";
    refused("fill-mask", &models.path("mlm"), &["--top-k", "1"], &texts, &["line 701", "no [MASK]"]);
    let output = run("fill-mask", &models.path("mlm"), &["--top-k", "1"], &texts);
    // What came before it was written.
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 512);
}

#[test]
fn embeddings_in_files() {
    let models = Models::new();
    let (base, path) = (models.path("base"), models.path("out.safetensors"));
    let file = path.to_str().unwrap();
    let texts = ["the house", "water"];
    let numbers = |pooling: &str| {
        let results = lines("embed", &base, &[&texts[..], &["--pooling", pooling]].concat(), "");
        results.into_iter().map(|mut line| line["result"].take()).collect::<Vec<Value>>()
    };
    let wide = |bytes: &[u8]| bytes.as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect();
    let flat = |value: &Value| -> Vec<f64> {
        let rows = value.as_array().unwrap().iter();
        rows.flat_map(|row| row.as_array().unwrap().iter().map(|v| v.as_f64().unwrap())).collect()
    };

    run("embed", &base, &[&texts[..], &["--pooling", "mean", "--output", file]].concat(), "");
    let bytes = fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let means = tensors.tensor("embeddings").unwrap();
    assert_eq!(means.shape(), [2, 16]);
    let found: Vec<f64> = wide(means.data());
    assert_eq!(found, flat(&Value::from(numbers("mean"))));

    run("embed", &base, &[&texts[..], &["--pooling", "tokens", "--output", file]].concat(), "");
    let bytes = fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let states = tensors.tensor("last_hidden_state.1").unwrap();
    assert_eq!(states.shape()[0], tensors.tensor("input_ids.1").unwrap().shape()[0]);
    let tokens = numbers("tokens");
    let found: Vec<f64> = wide(states.data());
    assert_eq!(found, flat(&tokens[1][0]));
    assert_eq!(numbers("cls")[1].as_array().unwrap(), tokens[1][0][0].as_array().unwrap());
    // The mean over the rows of this text alone.
    let rows = tokens[1][0].as_array().unwrap();
    let mean = rows.iter().map(|row| row[3].as_f64().unwrap()).sum::<f64>() / rows.len() as f64;
    assert!((mean - numbers("mean")[1][3].as_f64().unwrap()).abs() < 1e-6);

    let npy = models.path("out.npy");
    run("embed", &base, &[&texts[..], &["--output", npy.to_str().unwrap()]].concat(), "");
    let bytes = fs::read(&npy).unwrap();
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert_eq!(header % 64, 0);
    assert!(String::from_utf8_lossy(&bytes[10..header]).contains("'shape': (2, 16, ), }"));
    let found: Vec<f64> = wide(&bytes[header..]);
    assert_eq!(found, flat(&Value::from(numbers("cls"))));

    let pooled = lines("embed", &models.path("single"), &["the house", "--pooling", "pooler"], "");
    assert_eq!(pooled[0]["result"].as_array().unwrap().len(), 16);
}
