//! `deberta-ref inspect`: what a checkpoint or model directory holds, before loading it.

mod describe;
mod page;
mod pair;
mod spectra;

use std::path::PathBuf;
use std::process::ExitCode;

use deberta_checkpoint::inspect::inspect;

/// Show what a checkpoint or model directory holds, before loading it
///
/// Format, tensors, types and sizes; under each head, which of its parameters are there, which would be random and which
/// tensors nothing would use; and, of a pickle, every Python name it mentions and every call it would make. Nothing is run,
/// and nothing is refused: a damaged or malicious file is described. With a second model: whether the two are the same, tensor
/// by tensor.
#[derive(clap::Args)]
pub struct Args {
    /// A checkpoint file of any format, an index of shards, or a model directory
    path: PathBuf,
    /// Another, which claims to be the same: say of each tensor whether it is
    other: Option<PathBuf>,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// Compute the singular values of every matrix: largest, smallest, condition number, effective and stable rank
    #[arg(long)]
    spectra: bool,
    /// Write the spectra as one self-contained HTML page of curves
    #[arg(long, value_name = "FILE", requires = "spectra")]
    html: Option<PathBuf>,
    /// Print all of it as JSON
    #[arg(long)]
    json: bool,
}

/// Prints the inspection. Exit status of one model: 0: it can be read; 1: it cannot, or a pickle in it names what none should.
/// Of two: 0: the same numbers; 1: others.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.spectra && !deberta_ref::spectrum::AVAILABLE {
        anyhow::bail!("--spectra needs OpenBLAS: build the program without --no-default-features");
    }
    if let Some(other) = &args.other {
        return pair::run(&args, other);
    }
    let found = inspect(&args.path)?;
    let spectra = if args.spectra { Some(spectra::of_all(&args.path)?) } else { None };
    if args.json {
        let mut value = serde_json::to_value(&found)?;
        if let Some(spectra) = &spectra {
            value["spectra"] = spectra::json(spectra);
        }
        println!("{}", serde_json::to_string_pretty(&value)?);
    } else {
        print!("{}", describe::text(&found, args.tensors));
        if let Some(spectra) = &spectra {
            print!("{}", spectra::table(spectra));
        }
    }
    if let (Some(file), Some(spectra)) = (&args.html, &spectra) {
        page::write(file, &[(args.path.as_path(), spectra)])?;
    }
    let good = found.format.is_some() && !found.is_suspicious();
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
