//! What is said at the end: to standard output what was done, to standard error what to look at.

use std::path::Path;

use anyhow::{Context, bail};
use deberta_checkpoint::OneLine;
use deberta_checkpoint::convert::{Options, Report};

use crate::arguments::Arguments;

/// How many lines of a kind are printed; the report has all.
const SHOWN: usize = 12;

/// Refuses a report that would overwrite the source or the output.
pub fn check_report_path(path: &Path, options: &Options) -> anyhow::Result<()> {
    let real = |p: &Path| std::fs::canonicalize(p).ok();
    if path == options.output || path == options.source || (real(path).is_some() && real(path) == real(&options.source))
    {
        bail!("{}: the report would replace the source or the output; choose another --report", path.display());
    }
    Ok(())
}

/// Writes the report, completely before it gets its name.
pub fn write_report(path: &Path, report: &Report) -> anyhow::Result<()> {
    let failed = || format!("{}: the output is complete, but the report cannot be written", path.display());
    let mut text = serde_json::to_vec_pretty(report).with_context(failed)?;
    text.push(b'\n');
    let partial = path.with_file_name(format!(
        ".{}.{}.tmp",
        path.file_name().unwrap_or_default().to_string_lossy(),
        std::process::id()
    ));
    let written = std::fs::write(&partial, text).and_then(|()| std::fs::rename(&partial, path));
    if written.is_err() {
        // It may not even be there.
        let _ = std::fs::remove_file(&partial);
    }
    written.with_context(failed)
}

/// Prints a report for people.
pub fn print(report: &Report, arguments: &Arguments) {
    for warning in report.warnings.iter().take(SHOWN) {
        eprintln!("warning: {}", OneLine(warning));
    }
    rest(report.warnings.len());
    if arguments.quiet {
        return;
    }
    for name in report.unknown.iter().take(SHOWN) {
        eprintln!("kept, though no parameter of DeBERTa: {}", OneLine(name));
    }
    rest(report.unknown.len());
    for dropped in report.dropped.iter().take(SHOWN) {
        eprintln!("left out: {} ({})", OneLine(&dropped.name), OneLine(&dropped.why));
    }
    rest(report.dropped.len());
    let (read, head) = (&report.source, report.head.as_deref().unwrap_or("names kept"));
    println!("read     {} ({}, {} names)", read.path, read.format, report.family);
    let verb = if report.dry_run { "would write" } else { "wrote" };
    let files = report.output.files.len();
    let files = if files == 1 { String::new() } else { format!(" in {files} files") };
    println!(
        "{verb:<8} {} ({head}, {} tensors, {}{files})",
        report.output.path,
        report.tensors.len(),
        megabytes(report.bytes())
    );
    if report.dry_run {
        for tensor in &report.tensors {
            let source = tensor.source.as_deref().unwrap_or("nothing");
            println!(
                "  {}  {} {:?}  from {} ({})",
                OneLine(&tensor.name),
                tensor.dtype,
                tensor.shape,
                OneLine(source),
                tensor.rule
            );
        }
        return;
    }
    for (name, kept) in report.ties.iter().take(SHOWN) {
        println!("tied     {} is {}", OneLine(name), OneLine(kept));
    }
    if report.proven {
        println!("proven   every tensor was read back and equals the source's to the bit");
        if arguments.prove_forward {
            println!("proven   the model computes the same from both, to the bit");
        }
    } else {
        println!("unproven the output was not compared with the source (--no-proof)");
    }
}

fn rest(total: usize) {
    if total > SHOWN {
        eprintln!("… and {} more; --report FILE.json lists all", total - SHOWN);
    }
}

fn megabytes(bytes: u64) -> String {
    if bytes < 1_000_000 { format!("{:.1} kB", bytes as f64 / 1e3) } else { format!("{:.1} MB", bytes as f64 / 1e6) }
}
