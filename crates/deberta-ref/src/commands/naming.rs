//! What `compare` and `verify` do with the names of a dump.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use deberta_verify::Dump;
use deberta_verify::adapt::{Match, Renames, adapt, proposal};

/// How the tensors of the other program are found.
#[derive(clap::Args)]
pub struct NamingArgs {
    /// Rename the tensors of the dump in question first: lines `pattern = name`, in which * stands for anything but a dot or
    /// a slash
    #[arg(long, value_name = "RULES")]
    rename: Option<PathBuf>,
    /// Compare no tensor whose name is foreign; otherwise those are matched by shape and value, and said to be guessed
    #[arg(long)]
    no_guess: bool,
    /// Write how the names were matched as a file for --rename, to be reviewed
    #[arg(long, value_name = "RULES")]
    write_rename: Option<PathBuf>,
}

impl NamingArgs {
    /// Renames the tensors of `dump` by the rules of `--rename`.
    pub fn rename(&self, dump: &mut Dump) -> anyhow::Result<Vec<Match>> {
        match &self.rename {
            Some(rules) => Ok(Renames::read(rules)?.apply(dump)?),
            None => Ok(Vec::new()),
        }
    }

    /// Whether names may be guessed.
    pub fn guesses(&self) -> bool {
        !self.no_guess
    }

    /// Brings the names and layouts of `actual` to those of `expected`, beyond what was `renamed`.
    pub fn adapt(&self, expected: &Dump, actual: &mut Dump, renamed: Vec<Match>) -> anyhow::Result<()> {
        let adapted = adapt(expected, actual, renamed, self.guesses());
        match &self.write_rename {
            Some(path) => write_new(path, &proposal(&adapted)),
            None => Ok(()),
        }
    }
}

/// Writes a file that must not be there yet: people edit these.
fn write_new(path: &Path, text: &str) -> anyhow::Result<()> {
    let new = std::fs::OpenOptions::new().write(true).create_new(true).open(path);
    let say = || format!("{}: cannot be written; --write-rename replaces no file", path.display());
    new.and_then(|mut file| file.write_all(text.as_bytes())).with_context(say)
}
