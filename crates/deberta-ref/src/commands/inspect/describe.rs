//! An inspection as text.

use std::collections::BTreeMap;
use std::fmt::Write;

use deberta_checkpoint::OneLine;
use deberta_checkpoint::inspect::{Inspection, PickleReport, Presence};
use deberta_checkpoint::name_map::fold;

pub fn text(found: &Inspection, all_tensors: bool) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = summary(found, &mut out);
    let _ = heads(found, &mut out);
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
    Ok(())
}

/// A line a head, and below it what is missing and what is left, with layers as ranges.
fn heads(found: &Inspection, out: &mut String) -> std::fmt::Result {
    let Some(widest) = found.heads.iter().map(|h| h.head.len()).max() else { return Ok(()) };
    writeln!(out, "\n{:<widest$}  its own  parameters  random  unusable  unused", "head")?;
    for head in &found.heads {
        let presence = match head.presence {
            Presence::Present => "present",
            Presence::Partial => "partial",
            Presence::Absent => "absent",
        };
        let part = head.part.as_ref().map_or(String::new(), |part| format!("  in {part}"));
        writeln!(
            out,
            "{:<widest$}  {presence:<7}  {:>10}  {:>6}  {:>8}  {:>6}{part}",
            head.head,
            head.parameters,
            head.random.len(),
            head.problems.len(),
            head.unused.len()
        )?;
    }
    for head in found.heads.iter().filter(|h| h.presence != Presence::Absent) {
        listed(out, &head.head, "random", &head.random)?;
        for problem in &head.problems {
            writeln!(out, "{}: {}", head.head, OneLine(problem))?;
        }
        if let Some(note) = &head.note {
            writeln!(out, "{}: {note}", head.head)?;
        }
    }
    writeln!(out)
}

/// How many folded names a line lists; the rest is in `--json`.
const SHOWN: usize = 24;

fn listed(out: &mut String, head: &str, what: &str, names: &[String]) -> std::fmt::Result {
    let folded = fold(names.iter().map(String::as_str));
    for name in folded.iter().take(SHOWN) {
        writeln!(out, "{head}: {what}: {}", OneLine(name))?;
    }
    match folded.len().checked_sub(SHOWN) {
        Some(more @ 1..) => writeln!(out, "{head}: {what}: {more} more, listed by --json"),
        _ => Ok(()),
    }
}

fn contents(found: &Inspection, all_tensors: bool, out: &mut String) -> std::fmt::Result {
    for (name, kept) in &found.aliases {
        writeln!(out, "tied     {} is {}", OneLine(name), OneLine(kept))?;
    }
    let mut unused: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, why) in &found.unused {
        unused.entry(why).or_default().push(name);
    }
    for (why, names) in unused {
        for name in fold(names) {
            writeln!(out, "unused   {} ({why})", OneLine(&name))?;
        }
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
