//! The manifest of fixtures/checkpoints, and third-party files by folder.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

/// A tensor as the program that wrote it holds it.
pub struct Expected {
    pub dtype: String,
    pub shape: Vec<usize>,
    pub sha256: String,
}

/// An entry of the manifest.
pub struct Case {
    pub name: String,
    pub is_model: bool,
    pub tensors: BTreeMap<String, Expected>,
    pub others: Vec<String>,
    pub refused: Option<String>,
}

pub fn manifest() -> Vec<Case> {
    manifest_of("checkpoints")
}

pub fn manifest_of(folder: &str) -> Vec<Case> {
    let text = std::fs::read_to_string(deberta_testkit::fixtures(&format!("{folder}/manifest.json"))).unwrap();
    let manifest: Value = serde_json::from_str(&text).unwrap();
    manifest["cases"].as_array().unwrap().iter().map(case).collect()
}

fn case(value: &Value) -> Case {
    let is_model = value.get("model").is_some();
    let key = if is_model { "model" } else { "file" };
    let tensors = value.get(if is_model { "parameters" } else { "tensors" }).and_then(Value::as_object);
    let expected = |v: &Value| Expected {
        dtype: v["dtype"].as_str().unwrap().to_owned(),
        shape: v["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap() as usize).collect(),
        sha256: v["sha256"].as_str().unwrap().to_owned(),
    };
    let texts = |v: &Value| v.as_array().unwrap().iter().map(|s| s.as_str().unwrap().to_owned()).collect();
    Case {
        name: value[key].as_str().unwrap().to_owned(),
        is_model,
        tensors: tensors.into_iter().flatten().map(|(k, v)| (k.clone(), expected(v))).collect(),
        others: value.get("others").map(texts).unwrap_or_default(),
        refused: value.get("refused").map(|r| r.as_str().unwrap().to_owned()),
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Every file below a folder.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    files
}
