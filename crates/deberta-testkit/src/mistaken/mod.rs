//! A whole model, naive and in `f64`, that can be told to make a mistake: the oracle of the diagnosis.
//!
//! Plain loops over rows and heads, written from the equations and sharing no code with the crates it checks. Every
//! intermediate is kept under the name that the program's trace gives it. Without a mistake it is tested against Hugging
//! Face's own intermediates; with one it is a port that is wrong in a known place.

mod attention;
mod mistake;
mod network;

use std::collections::BTreeMap;
use std::path::Path;

use ndarray::{Array1, Array2, ArrayD};
use serde_json::Value;

use crate::oracle::Rng;
use crate::tensors::{Tensor, TensorFile};

pub use mistake::Mistake;

/// Everything that a forward pass computes, by name.
pub type Intermediates = BTreeMap<String, ArrayD<f64>>;

/// What a model reads.
#[derive(Clone, Debug)]
pub struct Reads {
    /// [B, L]
    pub input_ids: Array2<usize>,
    /// [B, L], 1 for tokens and 0 for padding.
    pub attention_mask: Array2<usize>,
    /// [B, L]
    pub token_type_ids: Array2<usize>,
}

/// A model: its `config.json` and its weights.
pub struct Mistaken {
    config: Value,
    weights: BTreeMap<String, ArrayD<f64>>,
}

impl Mistaken {
    /// The model of a folder with `config.json` and safetensors.
    pub fn read(folder: &Path) -> Self {
        let text = std::fs::read_to_string(folder.join("config.json")).expect("a model has a config.json");
        let file = TensorFile::read_model(folder);
        let weights = file.names().filter_map(|name| match file.get(name) {
            Some(Tensor::Float(a)) => {
                let name = if name.starts_with("embeddings.") || name.starts_with("encoder.") {
                    format!("deberta.{name}")
                } else {
                    name.to_owned()
                };
                Some((name, a.clone()))
            }
            _ => None,
        });
        Self { config: serde_json::from_str(&text).expect("config.json is JSON"), weights: weights.collect() }
    }

    /// The configuration.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// The weights, by name.
    pub fn weights(&self) -> &BTreeMap<String, ArrayD<f64>> {
        &self.weights
    }

    /// With each element of a parameter changed.
    #[must_use]
    pub fn with_changed(mut self, name: &str, change: impl FnMut(f64) -> f64) -> Self {
        self.weights.get_mut(name).expect("a parameter of the model").mapv_inplace(change);
        self
    }

    /// Adds a parameter of random numbers, of a head that the folder has no weights for.
    pub fn with_random(mut self, name: &str, shape: &[usize], rng: &mut Rng) -> Self {
        let values = ArrayD::from_shape_simple_fn(shape.to_vec(), || rng.unit());
        self.weights.insert(name.to_owned(), values);
        self
    }

    /// Changes a number of the configuration.
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.config[key] = value.into();
        self
    }

    fn number(&self, key: &str) -> Option<usize> {
        self.config.get(key).and_then(Value::as_u64).map(|n| n as usize)
    }

    fn flag(&self, key: &str) -> Option<bool> {
        self.config.get(key).and_then(Value::as_bool)
    }

    fn has(&self, name: &str) -> bool {
        self.weights.contains_key(name)
    }

    fn matrix(&self, name: &str) -> Array2<f64> {
        let found = self.weights.get(name).unwrap_or_else(|| panic!("there is no {name}"));
        found.clone().into_dimensionality().unwrap_or_else(|_| panic!("{name} is no matrix"))
    }

    fn vector(&self, name: &str) -> Array1<f64> {
        let found = self.weights.get(name).unwrap_or_else(|| panic!("there is no {name}"));
        Array1::from_iter(found.iter().copied())
    }
}
