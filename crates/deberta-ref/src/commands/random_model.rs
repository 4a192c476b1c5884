//! `deberta-ref random-model`: a model directory of a published size with random weights.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::builder::PossibleValuesParser;
use deberta_ref::{Head, published_config, published_names, write_random_model};

/// Write a model directory of a published size with random weights
///
/// For benchmarks, and for trying what a size costs in time and memory before its weights are here. The same name and
/// seed give the same weights everywhere. They are f32: v3-base takes 0.7 GB on disk, v2-xxlarge 6.3 GB.
#[derive(clap::Args)]
pub struct Args {
    /// The size
    #[arg(value_name = "NAME", value_parser = PossibleValuesParser::new(published_names()))]
    name: String,
    /// The directory to write; it must not hold a model yet
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// What stands on top of the encoder
    #[arg(long, default_value = "base")]
    head: Head,
    /// Another seed gives other weights
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Writes the directory and says where it is.
///
/// # Errors
/// A directory that holds a model, or that cannot be written to.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let taken = ["config.json", "model.safetensors"].map(|name| args.output.join(name));
    if let Some(taken) = taken.iter().find(|path| path.exists()) {
        bail!("{} exists; choose another directory, or remove it first", taken.display());
    }
    let config = published_config(&args.name).context("the names were checked by the command line")?;
    write_random_model(&config, args.head, args.seed, &args.output)?;
    println!("{}: {} ({}) with random weights, seed {}", args.output.display(), args.name, args.head, args.seed);
    Ok(ExitCode::SUCCESS)
}
