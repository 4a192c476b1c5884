//! The program `deberta-convert`: arguments in, exit code out. The work is done by `deberta-checkpoint`.

mod arguments;
mod forward;
mod progress;
mod summary;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use clap::Parser;
use deberta_checkpoint::convert::{FurtherProof, Progress, convert_and};

use arguments::Arguments;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("deberta-convert: {error:#}");
            ExitCode::from(1)
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    // A second request does not wait for the first to be heard.
    ctrlc::set_handler(move || {
        if asked.swap(true, Ordering::Relaxed) {
            std::process::exit(1);
        }
    })
    .context("cannot listen for Ctrl-C")?;
    let options = arguments.options();
    arguments.check();
    if let Some(path) = &arguments.report {
        summary::check_report_path(path, &options)?;
    }
    let bar = progress::Bar::new(arguments.quiet);
    let progress: &dyn Progress = &bar;
    let further: Option<FurtherProof<'_>> = if arguments.prove_forward { Some(&forward::prove) } else { None };
    let outcome = convert_and(&options, progress, &stop, further);
    bar.finish();
    let report = outcome?;
    if let Some(path) = &arguments.report {
        summary::write_report(path, &report)?;
    }
    summary::print(&report, arguments);
    Ok(())
}
