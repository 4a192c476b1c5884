//! The files of a model directory that a tokenizer is made from, as far as they are there.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Result, TokenizerError};

/// A JSON object.
pub(crate) type Object = Map<String, Value>;

/// The tokenizer's files of a directory.
#[derive(Clone, Debug, Default)]
pub struct TokenizerFiles {
    pub(crate) directory: PathBuf,
    pub(crate) spm_model: Option<Vec<u8>>,
    pub(crate) tokenizer_json: Option<Vec<u8>>,
    /// Empty where there is no file.
    pub(crate) config: Object,
    pub(crate) special_tokens_map: Option<Object>,
    pub(crate) added_tokens: Option<Object>,
}

impl TokenizerFiles {
    /// Reads what there is of `spm.model`, `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json` and
    /// `added_tokens.json`. `path` is a model directory, or that of a model in the hub's cache (`models--ORG--NAME`).
    ///
    /// # Errors
    /// Where there is neither `spm.model` nor `tokenizer.json`, and where a JSON file is no JSON object.
    pub fn read(path: &Path) -> Result<Self> {
        let directory = resolve(path)?;
        let files = Self {
            spm_model: read(&directory.join("spm.model"))?,
            tokenizer_json: read(&directory.join("tokenizer.json"))?,
            config: read_object(&directory.join("tokenizer_config.json"))?.unwrap_or_default(),
            special_tokens_map: read_object(&directory.join("special_tokens_map.json"))?,
            added_tokens: read_object(&directory.join("added_tokens.json"))?,
            directory,
        };
        if files.spm_model.is_none() && files.tokenizer_json.is_none() {
            return Err(TokenizerError::NoVocabulary { path: files.directory });
        }
        Ok(files)
    }

    /// A tokenizer of `spm.model` alone, with the default special tokens.
    pub fn from_spm(model: Vec<u8>) -> Self {
        Self { spm_model: Some(model), ..Self::default() }
    }

    /// Whether there is an `spm.model`.
    pub fn has_spm_model(&self) -> bool {
        self.spm_model.is_some()
    }

    /// Whether there is a `tokenizer.json`.
    pub fn has_tokenizer_json(&self) -> bool {
        self.tokenizer_json.is_some()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A yes or no of `tokenizer_config.json`.
    pub(crate) fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.config.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.bad("tokenizer_config.json", format!("{key} is {other}, not true or false"))),
        }
    }

    pub(crate) fn bad(&self, file: &str, reason: impl Into<String>) -> TokenizerError {
        TokenizerError::Json { path: self.path(file), reason: reason.into() }
    }
}

/// The snapshot of a hub cache directory, or the directory itself.
fn resolve(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Err(TokenizerError::NotADirectory { path: path.to_owned() });
    }
    let snapshots = path.join("snapshots");
    let is_cache = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("models--"));
    if !is_cache || !snapshots.is_dir() {
        return Ok(path.to_owned());
    }
    if let Ok(revision) = std::fs::read_to_string(path.join("refs/main")) {
        let snapshot = snapshots.join(revision.trim());
        if snapshot.is_dir() {
            return Ok(snapshot);
        }
    }
    let entries = std::fs::read_dir(&snapshots).map_err(|source| TokenizerError::Read { path: snapshots, source })?;
    let mut found: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect();
    match found.len() {
        1 => Ok(found.remove(0)),
        count => Err(TokenizerError::ManySnapshots { path: path.to_owned(), count }),
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TokenizerError::Read { path: path.to_owned(), source }),
    }
}

fn read_object(path: &Path) -> Result<Option<Object>> {
    let Some(bytes) = read(path)? else { return Ok(None) };
    let reason = |reason: String| TokenizerError::Json { path: path.to_owned(), reason };
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(object)) => Ok(Some(object)),
        Ok(_) => Err(reason("is JSON, but not an object".to_owned())),
        Err(e) => Err(reason(format!("is not JSON: {e}"))),
    }
}
