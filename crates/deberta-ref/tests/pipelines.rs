//! The tasks against the pipelines of transformers: labels, words, spans and places equal, scores to 1e-5.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod models;

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use deberta_testkit::{fixtures, program};
use models::Models;
use serde_json::{Map, Value, json};

/// How far a score may be: `f32` rounds a logit of order ten at 1e-6, and other sums in other orders add a few of those.
const SCORE_BOUND: f64 = 1e-5;

/// A model, a task, its options, and many inputs with their results.
struct Group(Map<String, Value>);

impl Group {
    fn all(file: &str) -> Vec<Self> {
        let text = fs::read_to_string(fixtures(file)).unwrap();
        text.lines()
            .map(|line| Self(serde_json::from_str::<Value>(line).unwrap().as_object().unwrap().clone()))
            .collect()
    }

    fn list(&self, key: &str) -> &[Value] {
        self.0[key].as_array().unwrap()
    }

    fn name(&self) -> String {
        format!("{} {} {}", self.0["task"], self.0["model"], self.0["arguments"])
    }

    /// What the program answers.
    fn run(&self, models: &Models, further: &[&str]) -> Vec<Value> {
        // Zero-shot is a way to classify.
        let task = self.0["task"].as_str().unwrap().replace("zero-shot", "classify");
        let input: String = self.list("inputs").iter().map(|input| format!("{input}\n")).collect();
        let arguments = self.list("arguments").iter().map(|a| a.as_str().unwrap());
        let mut child = Command::new(program("deberta-ref"))
            .arg(task)
            .arg("--model")
            .arg(models.path(self.0["model"].as_str().unwrap()))
            .args(arguments)
            .args(["--jsonl", "-"])
            .args(further)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}: {}", self.name(), String::from_utf8_lossy(&output.stderr));
        let lines: Vec<Value> =
            String::from_utf8(output.stdout).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let echoed: Vec<&Value> = lines.iter().map(|line| &line["input"]).collect();
        assert_eq!(echoed, self.list("inputs").iter().collect::<Vec<_>>(), "{}", self.name());
        lines.into_iter().map(|mut line| line["result"].take()).collect()
    }
}

/// The first difference that counts: numbers are equal to within the bound if they have a fraction, everything else is
/// equal.
fn difference(expected: &Value, actual: &Value, path: &str) -> Option<String> {
    match (expected, actual) {
        (Value::Number(e), Value::Number(a)) if e.is_f64() => {
            let apart = (e.as_f64().unwrap() - a.as_f64().unwrap()).abs();
            (!(apart <= SCORE_BOUND)).then(|| format!("{path}: {e}, found {a}"))
        }
        (Value::Array(e), Value::Array(a)) if e.len() == a.len() => {
            e.iter().zip(a).enumerate().find_map(|(i, (e, a))| difference(e, a, &format!("{path}[{i}]")))
        }
        (Value::Object(e), Value::Object(a)) if e.keys().eq(a.keys()) => {
            e.iter().find_map(|(key, e)| difference(e, &a[key], &format!("{path}.{key}")))
        }
        _ => (expected != actual).then(|| format!("{path}: {expected}, found {actual}")),
    }
}

fn check(file: &str, further: &[&str]) {
    let models = Models::new();
    let (mut cases, mut failures) = (0, Vec::new());
    for group in Group::all(file) {
        for (i, (expected, actual)) in group.list("results").iter().zip(group.run(&models, further)).enumerate() {
            cases += 1;
            if let Some(found) = difference(expected, &actual, "") {
                failures.push(format!("{} {}: {found}", group.name(), group.list("inputs")[i]));
            }
        }
    }
    assert!(cases > 30, "{file} holds {cases} cases");
    assert!(failures.is_empty(), "{} of {cases} differ:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn as_the_pipelines_of_transformers_5() {
    check("pipelines/cases.jsonl", &[]);
}

/// Its tokenizer is the other fast one.
#[test]
fn answers_as_the_pipeline_of_transformers_4() {
    check("pipelines/answer.jsonl", &["--tokenizer-profile", "hf-4-fast"]);
}

/// One text at a time, without padding, and all at once: the same answers.
#[test]
fn answers_do_not_hang_on_the_batch() {
    let models = Models::new();
    let mut seen: HashMap<String, usize> = HashMap::new();
    for group in Group::all("pipelines/cases.jsonl") {
        let done = seen.entry(group.0["task"].to_string()).or_default();
        *done += 1;
        if *done > 3 {
            continue;
        }
        let (alone, together) =
            (group.run(&models, &["--batch-tokens", "1"]), group.run(&models, &["--batch-tokens", "100000"]));
        for (alone, together) in alone.iter().zip(&together) {
            assert_eq!(difference(alone, together, ""), None, "{}", group.name());
        }
    }
    assert_eq!(seen.len(), 6, "{seen:?}");
}

#[test]
fn a_difference_is_found() {
    let expected = json!([{"score": 0.5, "start": 3, "word": "a"}]);
    assert_eq!(difference(&expected, &json!([{"score": 0.500009, "start": 3, "word": "a"}]), ""), None);
    for other in [
        json!([{"score": 0.50002, "start": 3, "word": "a"}]),
        json!([{"score": null, "start": 3, "word": "a"}]),
        json!([{"score": 0.5, "start": 4, "word": "a"}]),
        json!([{"score": 0.5, "start": 3, "word": "b"}]),
        json!([{"score": 0.5, "start": 3}]),
        json!({"score": 0.5, "start": 3, "word": "a"}),
        json!([]),
    ] {
        assert!(difference(&expected, &other, "").is_some(), "{other}");
    }
}
