//! What is known of the model besides the two dumps.

use std::fmt;

use ndarray::{Array2, ArrayD};

/// The weights of a model, by the names of its checkpoint in Hugging Face's spelling.
pub trait Weights {
    /// A parameter; `None` where the model has none of that name.
    fn weight(&self, name: &str) -> Option<ArrayD<f64>>;

    /// Rows of a table: [N, width]. `None` where the table or one of the rows does not exist.
    fn rows(&self, name: &str, ids: &[usize]) -> Option<Array2<f64>>;
}

/// What a diagnosis may use: the more there is, the more mistakes can be told.
#[derive(Clone, Default)]
pub struct Knowledge<'a> {
    /// The model's `config.json`. Where it is absent, the metadata of a dump may hold it under `config`; else its
    /// numbers are fitted to the expected dump.
    pub config: Option<serde_json::Value>,
    /// Its weights.
    pub weights: Option<&'a dyn Weights>,
}

impl fmt::Debug for Knowledge<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Knowledge").field("config", &self.config).field("weights", &self.weights.is_some()).finish()
    }
}
