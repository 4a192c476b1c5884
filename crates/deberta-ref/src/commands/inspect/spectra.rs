//! The spectra of every matrix of a model, as a table and as JSON.

use std::fmt::Write;
use std::path::Path;

use deberta_checkpoint::OneLine;
use deberta_ref::open_dump;
use deberta_ref::spectrum::{self, Method, Spectrum, matrix_size};
use deberta_verify::Dump;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

/// A matrix by its name, and its singular values or the reason why there are none.
pub type Spectra = Vec<(String, Result<Spectrum, String>)>;

/// The spectra of a checkpoint.
pub fn of_all(path: &Path) -> anyhow::Result<Spectra> {
    Ok(of_dump(&open_dump(path)?))
}

/// The spectra of the matrices of floating-point numbers, in natural order. A bar on a terminal shows how far it is.
pub fn of_dump(dump: &Dump) -> Spectra {
    let mut matrices: Vec<_> = dump
        .iter()
        .filter_map(|(n, t)| Some((n, t, matrix_size(t.shape()).filter(|_| t.dtype().is_float())?)))
        .collect();
    matrices.sort_by(|a, b| deberta_verify::order::natural(a.0, b.0));
    let bar = ProgressBar::with_draw_target(
        Some(matrices.iter().map(|(_, _, size)| spectrum::cost(*size)).sum()),
        ProgressDrawTarget::stderr(),
    );
    if let Ok(style) = ProgressStyle::with_template("spectra {wide_bar} {percent:>3} % {eta} {msg}") {
        bar.set_style(style);
    }
    let spectra = matrices.into_iter().map(|(name, tensor, size)| {
        bar.set_message(name.to_owned());
        let found = spectrum::spectrum(tensor);
        bar.inc(spectrum::cost(size));
        (name.to_owned(), found)
    });
    let spectra = spectra.collect();
    bar.finish_and_clear();
    spectra
}

/// A line a matrix.
pub fn table(spectra: &Spectra) -> String {
    let widest = spectra.iter().map(|(name, _)| name.len()).max().unwrap_or(0).max(6);
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "{:<widest$}  {:>13}  {:>9}  {:>9}  {:>9}  {:>9}  {:>9}  spectrum",
        "matrix", "size", "top", "bottom", "condition", "eff. rank", "stable r."
    );
    for (name, found) in spectra {
        let name = OneLine(name).to_string();
        let _ = match found {
            Err(why) => writeln!(out, "{name:<widest$}  {why}"),
            Ok(s) => writeln!(
                out,
                "{name:<widest$}  {:>13}  {:>9}  {:>9}  {:>9}  {:>9.1}  {:>9.1}  {}{}",
                format!("{} × {}", s.rows, s.columns),
                figure(s.top()),
                figure(s.bottom()),
                figure(s.condition()),
                s.effective_rank(),
                s.stable_rank(),
                sparkline(&s.values),
                if s.method == Method::Gram { " *" } else { "" },
            ),
        };
    }
    if spectra.iter().any(|(_, s)| s.as_ref().is_ok_and(|s| s.method == Method::Gram)) {
        let _ = writeln!(out, "* by way of WᵀW: values below 1e-8 of the top are not told from zero");
    }
    let _ = writeln!(
        out,
        "effective rank: exp of the entropy of σ/Σσ; stable rank: ‖W‖²/σ₁²; spectrum: log σ from top to bottom, 3 decades high"
    );
    out
}

/// Four digits, whatever the size.
pub fn figure(x: f64) -> String {
    match x.abs() {
        0.0 => "0".to_owned(),
        1e-2..1e4 => format!("{x:.4}"),
        _ => format!("{x:.2e}"),
    }
}

/// The logarithms of the values against the largest, 24 steps wide and three decades high.
pub fn sparkline(values: &[f64]) -> String {
    const WIDTH: usize = 24;
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let top = values.first().copied().unwrap_or(0.0);
    let width = WIDTH.min(values.len());
    (0..width)
        .map(|i| {
            let value = values[i * (values.len() - 1) / width.saturating_sub(1).max(1)];
            let height = if value > 0.0 { 1.0 + (value / top).log10() / 3.0 } else { 0.0 };
            BARS[((height * 7.0).round().clamp(0.0, 7.0)) as usize]
        })
        .collect()
}

/// By name; every singular value is there.
pub fn json(spectra: &Spectra) -> Value {
    spectra
        .iter()
        .map(|(name, found)| (name.clone(), found.as_ref().map_or_else(|why| json!({"problem": why}), of_one)))
        .collect()
}

fn of_one(s: &Spectrum) -> Value {
    json!({
        "rows": s.rows,
        "columns": s.columns,
        "method": s.method,
        "top": s.top(),
        "bottom": s.bottom(),
        "condition": s.condition(),
        "effective_rank": s.effective_rank(),
        "stable_rank": s.stable_rank(),
        "singular_values": s.values,
    })
}
