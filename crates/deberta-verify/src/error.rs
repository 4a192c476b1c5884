//! What can make a comparison impossible.

use std::path::PathBuf;

/// Why tensors could not be read or compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// A file could not be opened or read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A shape and the number of values given for it disagree.
    #[error("tensor {tensor}: shape {shape:?} does not hold {found} values")]
    Length {
        /// The tensor.
        tensor: String,
        /// The shape.
        shape: Vec<usize>,
        /// The number of values.
        found: usize,
    },
    /// A rule of a rename file that cannot be followed.
    #[error("{file}:{line}: {reason}")]
    Rename {
        /// The file.
        file: String,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The two dumps have no output in common.
    #[error(
        "no tensor stands in both {expected} and {actual}; the first holds {expected_names}, the second {actual_names}. \
         Names are module paths such as deberta.encoder.layer.0.attention.self.query_proj"
    )]
    NothingInCommon {
        /// Where the expected tensors came from.
        expected: String,
        /// Where the actual tensors came from.
        actual: String,
        /// A few of the names there.
        expected_names: String,
        /// A few of the names there.
        actual_names: String,
    },
}
