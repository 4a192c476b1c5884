//! The command line.

use std::path::PathBuf;

use clap::{CommandFactory, Parser, ValueEnum};
use deberta_checkpoint::convert::{Names, Options, OutputDtype, Unknown};

/// Converts a PyTorch or TensorFlow checkpoint of DeBERTa-v2 or v3 to safetensors.
///
/// Nothing that the source says is run. The output is read back and compared to the bit with the source before it gets its
/// name: either it is complete and proven, or it is not there.
#[derive(Parser, Debug)]
#[command(name = "deberta-convert", version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Arguments {
    /// What to convert: a file (.bin, .pt, .pth, .ckpt, .h5, .safetensors, *.index.json), a TensorBundle prefix or its .index,
    /// a SavedModel directory, a model directory, or a hub cache folder models--ORG--NAME
    pub source: PathBuf,

    /// Where to: a file ending in .safetensors, or else a model directory to be made, which then also gets config.json and the
    /// tokenizer's files
    #[arg(short, long, value_name = "DIR_OR_FILE")]
    pub output: PathBuf,

    /// The type of floating-point tensors; numbers are rounded once, to nearest, ties to even
    #[arg(long, value_enum, default_value_t = DtypeArgument::Keep)]
    pub dtype: DtypeArgument,

    /// Whose names the output uses; keep changes nothing: no renaming, no transposes, no checks against the model
    #[arg(long, value_enum, default_value_t = NamesArgument::Hf)]
    pub names: NamesArgument,

    /// What becomes of tensors that are no parameters of DeBERTa: auto keeps those that lie beside the model's own (another
    /// head) and drops those elsewhere (an optimizer)
    #[arg(long, value_enum, default_value_t = UnknownArgument::Auto)]
    pub unknown: UnknownArgument,

    /// Which model of a file that holds both: discriminator or generator [default: discriminator]
    #[arg(long, value_name = "NAME")]
    pub part: Option<String>,

    /// The configuration to use instead of the config.json beside the source
    #[arg(long, value_name = "FILE.json")]
    pub config: Option<PathBuf>,

    /// The largest output file, such as 5GB or 500MiB [default: 5GB for a directory, no limit for a file]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_shard_size: Option<u64>,

    /// Write a report: hashes of source, output and every tensor, the rule that made each, and what was dropped and why
    #[arg(long, value_name = "FILE.json")]
    pub report: Option<PathBuf>,

    /// Show what would be written, and write nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Replace an output that exists
    #[arg(long)]
    pub force: bool,

    /// Do not read the output back and compare it with the source
    #[arg(long)]
    pub no_proof: bool,

    /// Also run the model on the source and on the output, and compare every hidden state and output to the bit (with --dtype keep)
    #[arg(long)]
    pub prove_forward: bool,

    /// Print nothing but errors and warnings
    #[arg(short, long)]
    pub quiet: bool,
}

const EXAMPLES: &str = "\
Examples:
  deberta-convert pytorch_model.bin --output model.safetensors
  deberta-convert downloads/deberta-v3-base --output deberta-v3-base-safetensors
  deberta-convert tf_model.h5 --output converted --dtype f16 --report report.json

Exit status: 0 converted and proven, 1 refused or failed and no output exists, 2 wrong usage.";

/// `--dtype`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum DtypeArgument {
    /// The source's
    Keep,
    /// Single precision
    F32,
    /// Half precision
    F16,
    /// bfloat16
    Bf16,
}

/// `--names`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum NamesArgument {
    /// Hugging Face's
    Hf,
    /// Microsoft's
    Microsoft,
    /// The source's own
    Keep,
}

/// `--unknown`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum UnknownArgument {
    /// Kept beside the model's own tensors, dropped elsewhere
    Auto,
    /// Kept under their own names
    Keep,
    /// Dropped
    Drop,
}

impl Arguments {
    /// Refuses combinations that make no sense, as wrong usage.
    pub fn check(&self) {
        let narrows = matches!(self.dtype, DtypeArgument::F16 | DtypeArgument::Bf16);
        let problem = if self.prove_forward && narrows {
            "--prove-forward compares to the bit, which rounded weights cannot pass; leave --dtype out"
        } else if self.prove_forward && matches!(self.names, NamesArgument::Keep) {
            "--prove-forward needs names that the model knows; leave --names keep out"
        } else {
            return;
        };
        Self::command().error(clap::error::ErrorKind::ArgumentConflict, problem).exit()
    }

    /// The same for the library.
    pub fn options(&self) -> Options {
        Options {
            source: self.source.clone(),
            output: self.output.clone(),
            config: self.config.clone(),
            part: self.part.clone(),
            dtype: match self.dtype {
                DtypeArgument::Keep => OutputDtype::Keep,
                DtypeArgument::F32 => OutputDtype::F32,
                DtypeArgument::F16 => OutputDtype::F16,
                DtypeArgument::Bf16 => OutputDtype::BF16,
            },
            names: match self.names {
                NamesArgument::Hf => Names::Hf,
                NamesArgument::Microsoft => Names::Microsoft,
                NamesArgument::Keep => Names::Keep,
            },
            unknown: match self.unknown {
                UnknownArgument::Auto => Unknown::Auto,
                UnknownArgument::Keep => Unknown::Keep,
                UnknownArgument::Drop => Unknown::Drop,
            },
            max_shard_size: self.max_shard_size,
            force: self.force,
            proof: !self.no_proof,
            hashes: self.report.is_some() && !self.dry_run,
            dry_run: self.dry_run,
        }
    }
}

/// A number of bytes with an optional unit: decimal (`5GB`) or binary (`500MiB`).
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim().trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text.trim()[digits.len()..].to_ascii_lowercase();
    let factor: u64 = match unit.as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "t" | "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return Err(format!("`{unit}` is no unit; use MB, GB, MiB or GiB")),
    };
    let number: u64 =
        digits.trim().parse().map_err(|_| "a whole number with a unit, such as 5GB, is expected".to_owned())?;
    match number.checked_mul(factor) {
        Some(0) => Err("a file of no bytes holds no tensor".into()),
        Some(bytes) => Ok(bytes),
        None => Err("too large".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("5GB"), Ok(5_000_000_000));
        assert_eq!(size("500 MiB"), Ok(500 << 20));
        assert_eq!(size("123"), Ok(123));
        for bad in ["", "GB", "0", "5 apples", "99999999999TB", "-1"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
