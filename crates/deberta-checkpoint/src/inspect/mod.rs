//! What a checkpoint holds, before anything is loaded: format, tensors, types, sizes, heads, and what its pickles would call.
//!
//! Nothing is refused here: where a file cannot be read as a checkpoint, what can be said of it is said, and why.

mod heads;
mod pickles;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

pub use heads::{HeadReport, Presence};
pub use pickles::{CallReport, GlobalReport, PickleReport};

use crate::checkpoint::Checkpoint;
use crate::error::Error;

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// What was inspected.
    pub path: String,
    /// The format; `None` where the file is no checkpoint that can be read.
    pub format: Option<String>,
    /// Why it cannot be read as a checkpoint, or why the model's parameters cannot be told.
    pub problem: Option<String>,
    /// The files it lies in.
    pub files: Vec<File>,
    /// Every tensor.
    pub tensors: Vec<Tensor>,
    /// For each type, how many tensors, numbers and bytes.
    pub types: BTreeMap<String, Totals>,
    /// Names that are the same array as another.
    pub aliases: BTreeMap<String, String>,
    /// What is there besides tensors.
    pub others: BTreeMap<String, String>,
    /// Free text kept with the tensors.
    pub metadata: BTreeMap<String, String>,
    /// Whose names it uses.
    pub family: Option<String>,
    /// Where the configuration is from, which the heads were told with.
    pub config: Option<String>,
    /// Which heads are there.
    pub heads: Vec<HeadReport>,
    /// Tensors that are no parameter of any head, with the reason.
    pub unused: BTreeMap<String, String>,
    /// Every pickle, and what it would call.
    pub pickles: Vec<PickleReport>,
}

/// A file.
#[derive(Clone, Debug, Serialize)]
pub struct File {
    /// Its path.
    pub path: String,
    /// Its size.
    pub bytes: u64,
}

/// A tensor.
#[derive(Clone, Debug, Serialize)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its type.
    pub dtype: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its size.
    pub bytes: usize,
    /// Whether its elements lie one after the other.
    pub contiguous: bool,
}

/// Sums over tensors.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Totals {
    /// How many tensors.
    pub tensors: usize,
    /// How many numbers.
    pub elements: usize,
    /// How many bytes.
    pub bytes: usize,
}

/// Inspects a file or directory.
///
/// # Errors
/// Only what the operating system refuses; a file that is damaged or malicious is described, not refused.
pub fn inspect(path: &Path) -> Result<Inspection, Error> {
    let mut found = Inspection {
        path: path.display().to_string(),
        format: None,
        problem: None,
        files: Vec::new(),
        tensors: Vec::new(),
        types: BTreeMap::new(),
        aliases: BTreeMap::new(),
        others: BTreeMap::new(),
        metadata: BTreeMap::new(),
        family: None,
        config: None,
        heads: Vec::new(),
        unused: BTreeMap::new(),
        pickles: Vec::new(),
    };
    let files = crate::locate::locate(path).map(|source| source.files());
    match Checkpoint::open(path) {
        Ok(checkpoint) => found.describe(&checkpoint, path),
        Err(error @ Error::Io { .. }) => return Err(error),
        Err(error) => found.problem = Some(error.to_string()),
    }
    let files: Vec<PathBuf> = match files {
        Ok(files) => files,
        Err(error) => {
            found.problem.get_or_insert(error.to_string());
            Vec::new()
        }
    };
    if found.files.is_empty() {
        found.list_files(files.iter().map(PathBuf::as_path));
    }
    let may_have_pickles = matches!(found.format.as_deref(), None | Some("torch-zip" | "torch-legacy"));
    for file in files.iter().filter(|_| may_have_pickles) {
        found.pickles.extend(pickles::of_file(file)?);
    }
    Ok(found)
}

impl Inspection {
    /// Whether any pickle names something outside the closed list.
    pub fn is_suspicious(&self) -> bool {
        self.pickles.iter().any(|p| p.globals.iter().any(|g| g.refused))
    }

    fn list_files<'p>(&mut self, files: impl Iterator<Item = &'p Path>) {
        let file =
            |p: &Path| File { path: p.display().to_string(), bytes: std::fs::metadata(p).map_or(0, |m| m.len()) };
        self.files = files.map(file).collect();
    }

    fn describe(&mut self, checkpoint: &Checkpoint, path: &Path) {
        self.format = Some(checkpoint.format().to_string());
        self.list_files(checkpoint.files());
        for tensor in checkpoint.tensors() {
            let totals = self.types.entry(tensor.dtype.to_string()).or_default();
            totals.tensors += 1;
            totals.elements += tensor.elements();
            totals.bytes += tensor.byte_len();
            self.tensors.push(Tensor {
                name: tensor.name.clone(),
                dtype: tensor.dtype.to_string(),
                shape: tensor.shape.clone(),
                bytes: tensor.byte_len(),
                contiguous: tensor.is_contiguous(),
            });
        }
        self.aliases = checkpoint.aliases().into_iter().map(|(a, b)| (a.to_owned(), b.to_owned())).collect();
        self.aliases.extend(checkpoint.links().clone());
        self.others = checkpoint.others().iter().map(|o| (o.name.clone(), o.what.clone())).collect();
        self.metadata = checkpoint.metadata().clone();
        match heads::of(checkpoint, path) {
            Ok(told) => {
                self.family = Some(told.family);
                self.config = Some(told.config);
                self.heads = told.heads;
                self.unused = told.unused;
            }
            Err(Error::NotDeberta { why, .. }) => self.problem = Some(format!("not a model of DeBERTa: {why}")),
            Err(error) => self.problem = Some(error.to_string()),
        }
    }
}
