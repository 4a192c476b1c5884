//! The commands `tokenize` and `decode`, from outside.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::process::{Command, Output, Stdio};

use deberta_testkit::{fixtures, program};
use serde_json::{Value, json};

fn run(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(program("deberta-ref"))
        .args(&arguments[..1])
        .arg("--model")
        .arg(fixtures("tokenizer"))
        .args(&arguments[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that refuses its arguments does not read its input.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn lines(arguments: &[&str], input: &str) -> Vec<Value> {
    let output = run(arguments, input.as_bytes());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty());
    String::from_utf8(output.stdout).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// The one sentence on standard error of a run that fails.
fn refusal(arguments: &[&str], input: &[u8]) -> String {
    let output = run(arguments, input);
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(message.lines().count(), 1, "{message}");
    message
}

#[test]
fn one_object_a_line() {
    let rows = lines(&["tokenize"], "the house\n\nthe [MASK]");
    assert_eq!(rows.len(), 3);
    let keys: Vec<&String> = rows[0].as_object().unwrap().keys().collect();
    let expected = ["input_ids", "tokens", "offsets", "token_type_ids", "attention_mask", "special_tokens_mask"];
    assert_eq!(keys, expected);
    assert_eq!(rows[0]["tokens"], json!(["[CLS]", "▁the", "▁house", "[SEP]"]));
    assert_eq!(rows[0]["offsets"], json!([[0, 0], [0, 3], [3, 9], [0, 0]]));
    assert_eq!(rows[1]["input_ids"], json!([1, 2]));
    assert_eq!(rows[2]["input_ids"][2], json!(650));
}

#[test]
fn pairs() {
    let tabs = lines(&["tokenize", "--pair"], "the house\tthe water\tx\n");
    let arrays = lines(&["tokenize", "--json-lines"], "[\"the house\", \"the water\\tx\"]\n");
    assert_eq!(tabs, arrays);
    assert_eq!(tabs[0]["token_type_ids"][0], json!(0));
    assert!(tabs[0]["token_type_ids"].as_array().unwrap().ends_with(&[json!(1)]));
    assert!(refusal(&["tokenize", "--pair"], b"a\tb\nno tab\n").contains("line 2: has no tab"));
}

#[test]
fn truncation_and_padding() {
    let text = "the house and the water and the light\nthe\n";
    let cut = lines(&["tokenize", "--max-length", "5"], text);
    assert_eq!(cut[0]["input_ids"].as_array().unwrap().len(), 5);
    let windows = lines(&["tokenize", "--max-length", "5", "--stride", "1", "--overflow"], text);
    assert!(windows[0]["overflowing"].as_array().unwrap().len() > 1);
    assert_eq!(windows[1]["overflowing"], json!([]));
    let padded = lines(&["tokenize", "--padding", "longest"], text);
    let lengths: Vec<usize> = padded.iter().map(|r| r["input_ids"].as_array().unwrap().len()).collect();
    assert_eq!(lengths[0], lengths[1]);
    let padded = lines(&["tokenize", "--padding", "max_length", "--max-length", "32"], text);
    assert!(padded.iter().all(|r| r["attention_mask"].as_array().unwrap().len() == 32));
    assert!(refusal(&["tokenize", "--truncation", "longest_first"], b"x\n").contains("needs --max-length"));
    let short = refusal(&["tokenize", "--max-length", "1"], b"\nthe house\n");
    assert!(short.contains("line 1: cannot truncate to 1 tokens: 2 are needed for the special tokens"), "{short}");
}

#[test]
fn decodes_what_it_encodes() {
    let rows = lines(&["tokenize", "--json-lines"], "\"the house [MASK]\\n䀀!\"\n");
    let ids = format!("{}\n\n[1, 2]\n", rows[0]["input_ids"]);
    assert_eq!(lines(&["decode", "--json-lines"], &ids)[0], json!("[CLS] the house[MASK] 䀀![SEP]"));
    let output = run(&["decode", "--skip-special-tokens"], ids.as_bytes());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "the house 䀀!\n\n");
    assert!(refusal(&["decode"], b"[1, -2]\n").contains("line 1: is not a JSON array of ids"));
}

#[test]
fn what_is_not_utf_8() {
    assert!(refusal(&["tokenize"], b"the\na\xffb\n").contains("line 2: is not UTF-8 at byte 1"));
    let output = run(&["tokenize", "--lossy", "--no-special-tokens"], b"a\xffb\n");
    let row: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(row["offsets"].as_array().unwrap().last().unwrap()[1], json!(3));
}

#[test]
fn explains() {
    let explanation = &lines(&["tokenize", "--explain", "--json", "--text", "the … house"], "")[0];
    assert_eq!(explanation["same"], json!(false));
    assert_eq!(explanation["differences"][0]["chars"], json!([4, 5]));
    assert_eq!(explanation["profiles"]["hf-5"]["tokens"][2]["kind"], json!("unknown"));
    let summary = &lines(&["tokenize", "--explain", "--json"], "the house\nthe …\nthe\n")[0];
    assert_eq!((&summary["lines"], &summary["differing"]), (&json!(3), &json!(1)));
    assert_eq!(summary["first"][0]["line"], json!(2));
    // Piped, it is plain.
    let plain = run(&["tokenize", "--explain", "--text", "the … house"], b"").stdout;
    let plain = String::from_utf8(plain).unwrap();
    assert!(plain.contains("they part at characters 4 to 5") && !plain.contains('\u{1b}'), "{plain}");
}

#[test]
fn profiles_and_missing_files() {
    let ids = |profile: &str| lines(&["tokenize", "--profile", profile], "ｔｈｅ\n")[0]["input_ids"].clone();
    assert_eq!(ids("slow"), ids("hf-4-fast"));
    assert_ne!(ids("slow"), ids("hf-5"));
    assert!(refusal(&["tokenize", "/no/such/file"], b"").contains("cannot open /no/such/file"));
    let output = run(&["tokenize", "--profile", "fast"], b"");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("there are slow, hf-4-fast and hf-5"));
}
