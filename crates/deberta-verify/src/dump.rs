//! A dump: named tensors, with what the file says about itself.

use std::collections::{BTreeMap, HashMap};

use crate::tensor::Tensor;

/// Named tensors, with what the file says about itself.
#[derive(Clone, Debug, Default)]
pub struct Dump {
    /// Where the tensors came from, for messages: a file name, or a few words.
    pub source: String,
    /// What its reader has to say, for the notes of a comparison.
    pub notes: Vec<String>,
    tensors: BTreeMap<String, Tensor>,
    metadata: BTreeMap<String, String>,
    origins: BTreeMap<String, Origin>,
    /// Tensors by their fingerprint.
    prints: HashMap<u64, Vec<Tensor>>,
}

/// Where a tensor that is compared under another name has it from.
#[derive(Clone, Debug, PartialEq)]
pub struct Origin {
    /// Its name in the file.
    pub name: String,
    /// Where the name was guessed: the cosine of the angle between its values and the expected ones.
    pub guess: Option<f64>,
}

impl Dump {
    /// An empty dump; `source` says in messages where its tensors came from.
    pub fn new(source: impl Into<String>) -> Self {
        Self { source: source.into(), ..Self::default() }
    }

    /// Adds a tensor, in the place of one of the same name.
    pub fn insert(&mut self, name: impl Into<String>, tensor: Tensor) {
        self.tensors.insert(name.into(), tensor);
    }

    /// Adds a tensor; of those that were added in this way, ones of the same bits are kept once, where `keep` puts them. A model
    /// hands out many under two names, such as a layer norm and the dropout behind it.
    pub fn insert_once(&mut self, name: impl Into<String>, tensor: Tensor, keep: impl FnOnce(Tensor) -> Tensor) {
        let alike = self.prints.entry(tensor.fingerprint()).or_default();
        let kept = alike.iter().find(|kept| kept.is(&tensor)).cloned();
        let kept = kept.unwrap_or_else(|| {
            let kept = keep(tensor);
            alike.push(kept.clone());
            kept
        });
        kept.release();
        self.insert(name, kept);
    }

    /// Takes a tensor out.
    pub fn remove(&mut self, name: &str) -> Option<Tensor> {
        self.tensors.remove(name)
    }

    /// Puts another tensor in the place of one, which keeps its name and where it has that from.
    pub(crate) fn replace(&mut self, name: &str, tensor: Tensor) {
        self.tensors.insert(name.to_owned(), tensor);
    }

    /// Gives a tensor another name, in the place of one that has it; what it was called is kept.
    pub fn rename(&mut self, from: &str, to: &str, guess: Option<f64>) {
        if let Some(tensor) = self.tensors.remove(from) {
            let name = self.origins.remove(from).map_or_else(|| from.to_owned(), |origin| origin.name);
            self.origins.insert(to.to_owned(), Origin { name, guess });
            self.tensors.insert(to.to_owned(), tensor);
        }
    }

    /// Gives many tensors new names at once, so that names may be exchanged.
    pub fn rename_all<'n>(&mut self, names: impl Iterator<Item = (&'n str, &'n str)>) {
        let taken: Vec<_> = names.filter_map(|(from, to)| Some((from, to, self.tensors.remove(from)?))).collect();
        for (from, to, tensor) in taken {
            self.origins.insert(to.to_owned(), Origin { name: from.to_owned(), guess: None });
            self.tensors.insert(to.to_owned(), tensor);
        }
    }

    /// What a tensor was called before it was renamed.
    pub fn origin(&self, name: &str) -> Option<&Origin> {
        self.origins.get(name)
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// Names and tensors, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// What the file says about itself: key and value. `config` holds the model's `config.json` where the dump's writer
    /// put it there.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Sets a metadata entry.
    pub fn set_metadata(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.metadata.insert(key.into(), value.into());
    }
}
