//! What can be wrong with a configuration.

use thiserror::Error;

/// A configuration that cannot be read, or that no model can be built from. Each names the field.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// Not JSON.
    #[error("the configuration is not JSON: {source}")]
    Syntax {
        /// What the parser says, with line and column.
        source: serde_json::Error,
    },
    /// JSON, but not an object.
    #[error("the configuration is not a JSON object")]
    NotAnObject,
    /// A field of the wrong type.
    #[error("`{field}` is {found}, expected {expected}")]
    Type {
        /// The field.
        field: String,
        /// Its value.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A value that no model can have.
    #[error("`{field}` is {found}: {reason}")]
    Unusable {
        /// The field.
        field: &'static str,
        /// Its value.
        found: String,
        /// Why it cannot be run, and what would do.
        reason: String,
    },
}
