//! Everything that can go wrong with a checkpoint, each as one sentence that names the file and what to do.

use std::fmt::{self, Write};
use std::path::PathBuf;

use crate::name_map::MappingProblems;
use crate::pickle::{PickleError, RefusedGlobal};

/// What a reader, the name map or the converter has to report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to open, read or write.
    #[error("{}: cannot {doing}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, as in "cannot open".
        doing: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Nothing there that could be a checkpoint.
    #[error("{}: no checkpoint found here; expected one of {expected}", path.display())]
    NotFound {
        /// The file or folder.
        path: PathBuf,
        /// What was looked for.
        expected: String,
    },
    /// The first bytes belong to no format this crate reads.
    #[error("{}: not a checkpoint of a known format: {found}", path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// What the file looks like.
        found: String,
    },
    /// A format that is recognised, and not read.
    #[error("{}: this is {format}, which is not read; {advice}", path.display())]
    RefusedFormat {
        /// The file.
        path: PathBuf,
        /// The format's name, with its article.
        format: &'static str,
        /// How to get a file that is read.
        advice: &'static str,
    },
    /// The file contradicts its own format: truncated, overwritten or made by hand.
    #[error("{}: damaged {format}: {}; fetch or save the file again", path.display(), OneLine(problem))]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The format or the part of it that is damaged.
        format: &'static str,
        /// What is wrong, naming the tensor or the entry.
        problem: String,
    },
    /// The format allows it, this crate does not read it.
    #[error("{}: {} is not supported; {advice}", path.display(), OneLine(what))]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The feature, naming the tensor or entry that uses it.
        what: String,
        /// How to get a file that is read.
        advice: &'static str,
    },
    /// Reading it would take far more memory or disk than the file's own size justifies.
    #[error("{}: {} would take {bytes} bytes, more than a file of {file_bytes} bytes justifies", path.display(), OneLine(what))]
    OutOfProportion {
        /// The file.
        path: PathBuf,
        /// The tensor or entry.
        what: String,
        /// What it would take.
        bytes: u64,
        /// The size of the file.
        file_bytes: u64,
    },
    /// A pickle that is damaged or exceeds the bounds of the machine that reads it.
    #[error("{}: {}: {source}", path.display(), OneLine(entry))]
    Pickle {
        /// The file.
        path: PathBuf,
        /// The pickle inside it, such as `archive/data.pkl`.
        entry: String,
        /// What the machine found.
        source: PickleError,
    },
    /// A pickle that names something outside the closed list. Nothing was run.
    #[error(
        "{}: {}: refused, and nothing was run: {refused}; `deberta-ref inspect` lists all that the file would call",
        path.display(),
        OneLine(entry)
    )]
    RefusedGlobal {
        /// The file.
        path: PathBuf,
        /// The pickle inside it.
        entry: String,
        /// The global, and what calling it would have done.
        refused: Box<RefusedGlobal>,
    },
    /// A name that the checkpoint does not hold.
    #[error("{}: there is no tensor {}", path.display(), OneLine(name))]
    NoSuchTensor {
        /// The checkpoint.
        path: PathBuf,
        /// The name asked for.
        name: String,
    },
    /// A checkpoint that does not hold the parameters of the model; all that is wrong, at once.
    #[error("{}: the checkpoint does not fit the configuration and head: {}", path.display(), OneLine(&problems.to_string()))]
    Mapping {
        /// The checkpoint.
        path: PathBuf,
        /// What is missing, wrongly shaped, ambiguous or left over.
        problems: Box<MappingProblems>,
    },
    /// A configuration that cannot be read, or that no model can be built from.
    #[error("{}: {source}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong, naming the field.
        source: Box<deberta_model::ConfigError>,
    },
    /// Nothing in the checkpoint looks like DeBERTa.
    #[error(
        "{}: its tensors are not those of a DeBERTa-v2 or v3 model ({why}); to convert them under their own names, add `--names keep`",
        path.display()
    )]
    NotDeberta {
        /// The checkpoint.
        path: PathBuf,
        /// What is absent.
        why: String,
    },
    /// The output is already there.
    #[error("{}: already exists; add --force to replace it, or choose another --output", path.display())]
    OutputExists {
        /// The output.
        path: PathBuf,
    },
    /// The output is there and of the other kind.
    #[error("{}: is {found}, and {wanted} would be written; an --output that ends in .safetensors is a file, any other a folder", path.display())]
    OutputKind {
        /// The output.
        path: PathBuf,
        /// What is there.
        found: &'static str,
        /// What would be written.
        wanted: &'static str,
    },
    /// The output would replace what is being read.
    #[error("{}: the output is the source itself; choose another --output", path.display())]
    OutputIsSource {
        /// The output.
        path: PathBuf,
    },
    /// The disk has no room for the output. Nothing is left behind.
    #[error("{}: no room for {bytes} bytes on this disk; free some, or choose another --output", path.display())]
    DiskFull {
        /// The folder of the output.
        path: PathBuf,
        /// What the output takes.
        bytes: u64,
    },
    /// What was written and read back is not what was to be written. Nothing is left behind.
    #[error("{}: read back, {tensor} differs from the source at byte {at}; the disk or the memory is at fault, try another", path.display())]
    Proof {
        /// The output.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The offset within the tensor of the first byte that differs.
        at: usize,
    },
    /// The further proof that was asked for failed. Nothing is left behind.
    #[error("{}: not written: {source}", path.display())]
    FurtherProof {
        /// The output.
        path: PathBuf,
        /// What it found.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Stopped on request. Nothing is left behind.
    #[error("stopped; no output was left behind")]
    Interrupted,
    /// A tensor whose numbers cannot be read as the type asked for.
    #[error("{}: {dtype} cannot be read as {wanted}", OneLine(name))]
    WrongDtype {
        /// The tensor.
        name: String,
        /// Its type.
        dtype: safetensors::Dtype,
        /// The type asked for.
        wanted: &'static str,
    },
}

/// Text from a file, fit for a sentence and a terminal: line ends and other control characters are escaped.
#[derive(Clone, Copy, Debug)]
pub struct OneLine<'t>(pub &'t str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .chars()
            .try_for_each(|c| if c.is_control() { write!(f, "{}", c.escape_default()) } else { f.write_char(c) })
    }
}

impl Error {
    /// Wraps an error of the operating system; use with `map_err`.
    pub(crate) fn io(path: impl Into<PathBuf>, doing: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, doing, source }
    }

    /// A file that contradicts its own format.
    pub(crate) fn damaged(path: impl Into<PathBuf>, format: &'static str, problem: impl Into<String>) -> Self {
        Self::Damaged { path: path.into(), format, problem: problem.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_says_cannot_break_the_line_or_reach_the_terminal() {
        let error = Error::damaged("x.bin", "pickle", "the tensor a\nb\u{1b}[2J is ä");
        let text = error.to_string();
        assert_eq!(text, "x.bin: damaged pickle: the tensor a\\nb\\u{1b}[2J is ä; fetch or save the file again");
    }
}
