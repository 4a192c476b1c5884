//! `deberta-ref inspect`: what a checkpoint or model directory holds, before loading it.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use deberta_checkpoint::OneLine;
use deberta_checkpoint::inspect::{Inspection, PickleReport, Presence, inspect};

/// Show what a checkpoint or model directory holds, before loading it
///
/// Format, tensors, types and sizes; which heads are present, absent or unused; and, of a pickle, every Python name it
/// mentions and every call it would make. Nothing is run, and nothing is refused: a damaged or malicious file is described.
#[derive(clap::Args)]
pub struct Args {
    /// A checkpoint file of any format, an index of shards, or a model directory
    path: PathBuf,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// Print all of it as JSON
    #[arg(long)]
    json: bool,
}

/// Prints the inspection. Exit status 0: it can be read; 1: it cannot, or a pickle in it names what none should.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let found = inspect(&args.path)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&found)?);
    } else {
        print!("{}", text(&found, args.tensors));
    }
    let good = found.format.is_some() && !found.is_suspicious();
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn text(found: &Inspection, all_tensors: bool) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = summary(found, &mut out);
    let _ = contents(found, all_tensors, &mut out);
    for pickle in &found.pickles {
        let _ = pickle_text(pickle, &mut out);
    }
    out
}

fn summary(found: &Inspection, out: &mut String) -> std::fmt::Result {
    writeln!(out, "path     {}", found.path)?;
    writeln!(out, "format   {}", found.format.as_deref().unwrap_or("none that can be read"))?;
    if let Some(problem) = &found.problem {
        writeln!(out, "problem  {}", OneLine(problem))?;
    }
    for file in &found.files {
        writeln!(out, "file     {} ({})", file.path, size(file.bytes))?;
    }
    for (dtype, totals) in &found.types {
        writeln!(
            out,
            "tensors  {} of {dtype}: {} numbers, {}",
            totals.tensors,
            totals.elements,
            size(totals.bytes as u64)
        )?;
    }
    if let (Some(family), Some(config)) = (&found.family, &found.config) {
        writeln!(out, "names    {family}; configuration from {config}")?;
    }
    for head in &found.heads {
        let state = match head.presence {
            Presence::Present => "present",
            Presence::Partial => "partial",
            Presence::Absent => "absent",
        };
        writeln!(out, "head     {:<26} {state}", head.head)?;
        for problem in &head.problems {
            writeln!(out, "           {}", OneLine(problem))?;
        }
    }
    Ok(())
}

fn contents(found: &Inspection, all_tensors: bool, out: &mut String) -> std::fmt::Result {
    for (name, kept) in &found.aliases {
        writeln!(out, "tied     {} is {}", OneLine(name), OneLine(kept))?;
    }
    for (name, why) in &found.unused {
        writeln!(out, "unused   {} ({why})", OneLine(name))?;
    }
    for (name, what) in &found.others {
        writeln!(out, "besides  {}: {}", OneLine(name), OneLine(what))?;
    }
    for (name, value) in &found.metadata {
        writeln!(out, "metadata {}: {}", OneLine(name), OneLine(value))?;
    }
    if all_tensors {
        for tensor in &found.tensors {
            let strided = if tensor.contiguous { "" } else { ", strided" };
            writeln!(
                out,
                "tensor   {} {} {:?} ({}{strided})",
                OneLine(&tensor.name),
                tensor.dtype,
                tensor.shape,
                size(tensor.bytes as u64)
            )?;
        }
    }
    Ok(())
}

fn pickle_text(pickle: &PickleReport, out: &mut String) -> std::fmt::Result {
    let PickleReport { entry, protocol, opcodes, bytes, .. } = pickle;
    writeln!(out, "pickle   {}: protocol {protocol}, {opcodes} opcodes, {bytes} bytes", OneLine(entry))?;
    for global in &pickle.globals {
        let mark = if global.refused { "REFUSED" } else { "names" };
        writeln!(out, "  {mark:<8} {} ({}×): {}", OneLine(&global.name), global.count, global.effect)?;
    }
    for call in &pickle.calls {
        writeln!(out, "  would call {}", call.call)?;
    }
    if let Some(stopped) = &pickle.stopped_by {
        writeln!(out, "  stopped: {stopped}")?;
    }
    Ok(())
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} bytes"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}
