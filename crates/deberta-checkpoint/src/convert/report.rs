//! What was done, for `--report` and for the program's last words.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::plan::Plan;
use super::proof::Found;
use super::{Names, Options, OutputDtype};
use crate::checkpoint::Checkpoint;

/// A conversion, whole.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The program and its version.
    pub program: String,
    /// What was read.
    pub source: Side,
    /// What was written; with `--dry-run`, what would be.
    pub output: Side,
    /// Whose names the source uses.
    pub family: String,
    /// Whose names the output uses.
    pub names: Names,
    /// The type asked for.
    pub dtype: OutputDtype,
    /// The head that the model has; `None` where names are kept.
    pub head: Option<String>,
    /// The configuration; `None` where there is none.
    pub config: Option<ConfigReport>,
    /// Every tensor written.
    pub tensors: Vec<TensorReport>,
    /// Names left out because they are the same array as another, with that one.
    pub ties: BTreeMap<String, String>,
    /// Tensors that the schema does not know, kept under their own names.
    pub unknown: Vec<String>,
    /// What the source holds and the output does not, with the reason.
    pub dropped: Vec<Dropped>,
    /// What somebody should look at.
    pub warnings: Vec<String>,
    /// Whether every tensor was read back and found equal to the source's.
    pub proven: bool,
    /// Whether nothing was written, by request.
    pub dry_run: bool,
}

/// The source or the output.
#[derive(Clone, Debug, Serialize)]
pub struct Side {
    /// As the user named it.
    pub path: String,
    /// The format.
    pub format: String,
    /// Its files.
    pub files: Vec<FileReport>,
}

/// A file.
#[derive(Clone, Debug, Serialize)]
pub struct FileReport {
    /// Its path; of an output, its name.
    pub path: String,
    /// Its size, where known.
    pub bytes: Option<u64>,
    /// The SHA-256 of its bytes, where it was asked for.
    pub sha256: Option<String>,
}

/// A tensor of the output.
#[derive(Clone, Debug, Serialize)]
pub struct TensorReport {
    /// Its name.
    pub name: String,
    /// The file it is in.
    pub file: String,
    /// The tensor it was made of; `None`: the source has none, it is zero.
    pub source: Option<String>,
    /// How it was made of it.
    pub rule: String,
    /// Its type.
    pub dtype: String,
    /// The source's type.
    pub source_dtype: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its size.
    pub bytes: u64,
    /// The SHA-256 of its bytes in the output, where it was asked for.
    pub sha256: Option<String>,
    /// How many finite numbers became infinite by the change of type.
    pub overflowed: usize,
}

/// Something that was not carried over.
#[derive(Clone, Debug, Serialize)]
pub struct Dropped {
    /// Its name in the source.
    pub name: String,
    /// Why.
    pub why: String,
}

/// The configuration of the output.
#[derive(Clone, Debug, Serialize)]
pub struct ConfigReport {
    /// Where it is from.
    pub from: String,
    /// The fields that were told from the checkpoint.
    pub set: BTreeMap<String, Value>,
}

impl Report {
    pub(super) fn new(checkpoint: &Checkpoint, options: &Options, plan: &Plan) -> Self {
        let files = checkpoint.files().map(|path| FileReport {
            path: path.display().to_string(),
            bytes: std::fs::metadata(path).ok().map(|m| m.len()),
            sha256: None,
        });
        let source = Side {
            path: options.source.display().to_string(),
            format: checkpoint.format().to_string(),
            files: files.collect(),
        };
        let shards = plan.shards.iter().map(|s| FileReport { path: s.file_name.clone(), bytes: None, sha256: None });
        let output =
            Side { path: options.output.display().to_string(), format: "safetensors".into(), files: shards.collect() };
        Self {
            program: concat!("deberta-convert ", env!("CARGO_PKG_VERSION")).into(),
            source,
            output,
            family: plan.family.name().into(),
            names: options.names,
            dtype: options.dtype,
            head: plan.model.as_ref().map(|(_, head)| head.name().into()),
            config: plan.config.as_ref().map(|(_, report)| report.clone()),
            tensors: tensors(plan),
            ties: plan.ties.clone(),
            unknown: plan.unknown.clone(),
            dropped: plan.dropped.clone(),
            warnings: plan.warnings.clone(),
            proven: false,
            dry_run: options.dry_run,
        }
    }

    pub(super) fn record(&mut self, sources: Option<Vec<String>>, found: Found) {
        self.proven = found.compared;
        for (file, hash) in self.source.files.iter_mut().zip(sources.into_iter().flatten()) {
            file.sha256 = Some(hash);
        }
        for (file, hash) in self.output.files.iter_mut().zip(found.files) {
            file.sha256 = Some(hash);
        }
        for (tensor, hash) in self.tensors.iter_mut().zip(found.tensors) {
            tensor.sha256 = Some(hash);
        }
        for (tensor, overflowed) in self.tensors.iter_mut().zip(found.overflowed) {
            tensor.overflowed = overflowed;
            if overflowed > 0 {
                let warning = format!(
                    "{}: {overflowed} numbers are beyond the range of {} and became infinite",
                    tensor.name, tensor.dtype
                );
                self.warnings.push(warning);
            }
        }
    }

    /// The bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(|t| t.bytes).sum()
    }
}

fn tensors(plan: &Plan) -> Vec<TensorReport> {
    let mut files = vec![""; plan.tensors.len()];
    for shard in &plan.shards {
        shard.tensors.iter().for_each(|&t| files[t] = &shard.file_name);
    }
    let each = plan.tensors.iter().zip(files).map(|(t, file)| TensorReport {
        name: t.name.clone(),
        file: file.to_owned(),
        source: t.source.as_ref().map(|s| s.name.clone()),
        rule: t.rule.clone(),
        dtype: t.dtype.to_string(),
        source_dtype: t.tensor.dtype.to_string(),
        shape: t.tensor.shape.clone(),
        bytes: t.byte_len() as u64,
        sha256: None,
        overflowed: 0,
    });
    each.collect()
}
