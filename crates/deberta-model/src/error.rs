//! What can be wrong with weights and inputs.

use deberta_ops::LossError;
use thiserror::Error;

/// Weights that do not make a model, or inputs that a model cannot take.
#[derive(Debug, Error)]
pub enum ModelError {
    /// Parameters are missing or have the wrong shape; all of them are named.
    #[error("the weights do not fit the configuration: {}", list(.missing, .misshapen))]
    Weights {
        /// Names of the parameters that the head needs and the weights lack.
        missing: Vec<String>,
        /// Parameters of the wrong shape: name, expected, found.
        misshapen: Vec<(String, Vec<usize>, Vec<usize>)>,
    },
    /// A required input is absent.
    #[error("`{input}` is missing: {reason}")]
    Missing {
        /// The input.
        input: &'static str,
        /// Why it is needed.
        reason: &'static str,
    },
    /// An input of the wrong shape.
    #[error("`{input}` has shape {found:?}, expected {expected}")]
    Shape {
        /// The input.
        input: &'static str,
        /// What would do.
        expected: String,
        /// Its shape.
        found: Vec<usize>,
    },
    /// An input that holds a value it cannot have.
    #[error("`{input}` holds {found} at index {index:?}: {reason}")]
    Value {
        /// The input.
        input: &'static str,
        /// The value.
        found: String,
        /// Where.
        index: Vec<usize>,
        /// Which values it may hold.
        reason: String,
    },
    /// A combination that no reference computes.
    #[error("{reason}")]
    Unsupported {
        /// What does not go together, and why.
        reason: String,
    },
    /// A label outside the classes.
    #[error("`{input}`: {problem}")]
    Label {
        /// The input.
        input: &'static str,
        /// Which label.
        problem: LossError,
    },
}

fn list(missing: &[String], misshapen: &[(String, Vec<usize>, Vec<usize>)]) -> String {
    let mut parts = Vec::new();
    if !missing.is_empty() {
        parts.push(format!("missing {}", missing.join(", ")));
    }
    for (name, expected, found) in misshapen {
        parts.push(format!("{name} has shape {found:?}, expected {expected:?}"));
    }
    parts.join("; ")
}
