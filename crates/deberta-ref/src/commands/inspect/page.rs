//! Spectra as one page of curves that needs nothing else: a chart a kind of matrix, a curve a layer, the second model dashed.

use std::fmt::Write;
use std::io::Write as _;
use std::path::Path;

use anyhow::Context;
use deberta_ref::spectrum::Spectrum;

use super::spectra::{Spectra, figure};

const WIDTH: f64 = 320.0;
const HEIGHT: f64 = 170.0;
const LEFT: f64 = 34.0;
const BOTTOM: f64 = 16.0;

/// A curve has no more points than this.
const POINTS: usize = 96;

const STYLE: &str = ":root{color-scheme:light dark;--ink:#1a1a1a;--paper:#fff;--dim:#777;--grid:#ddd}\
@media(prefers-color-scheme:dark){:root{--ink:#e8e8e8;--paper:#161616;--dim:#999;--grid:#333}}\
body{font:15px/1.45 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:0 auto;max-width:72rem;padding:1rem}\
h1{font-size:1.3rem}h2{font-size:.85rem;font-weight:600;margin:.2rem 0;overflow-wrap:anywhere}p{color:var(--dim)}\
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,20rem),1fr));gap:1.2rem}\
svg{width:100%;height:auto}line{stroke:var(--grid)}text{fill:var(--dim);font-size:9px}polyline{fill:none;stroke-width:1.2}\
.b{stroke-dasharray:4 3}";

/// Writes the page, beside and then renamed, so that it is whole or not there.
pub fn write(file: &Path, models: &[(&Path, &Spectra)]) -> anyhow::Result<()> {
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let cannot = || format!("{}: cannot be written", file.display());
    let mut beside = tempfile::NamedTempFile::new_in(folder).with_context(cannot)?;
    beside.write_all(page(models).as_bytes()).with_context(cannot)?;
    beside.persist(file).with_context(cannot)?;
    Ok(())
}

fn page(models: &[(&Path, &Spectra)]) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>Spectra</title><style>{STYLE}</style></head><body>\n<h1>Singular values</h1>\n"
    );
    for ((path, _), line) in models.iter().zip(["solid", "dashed"]) {
        let solid = if models.len() > 1 { format!(" ({line})") } else { String::new() };
        let _ = writeln!(page, "<p>{}{solid}</p>", escape(&path.display().to_string()));
    }
    page.push_str("<p>Across: from the largest to the smallest. Up: log σ. A curve a layer, the first blue, the last red; point at one for its figures.</p>\n<div class=\"charts\">\n");
    for kind in kinds(models) {
        chart(&mut page, &kind, models);
    }
    page.push_str("</div></body></html>\n");
    page
}

/// A name with the number of its layer as a star, and that number.
fn kind(name: &str) -> (String, Option<usize>) {
    let mut parts: Vec<&str> = name.split('.').collect();
    let at = parts.iter().position(|p| p.parse::<usize>().is_ok());
    let number = at.and_then(|at| std::mem::replace(&mut parts[at], "*").parse().ok());
    (parts.join("."), number)
}

/// The kinds of matrix, in the order in which they first occur.
fn kinds(models: &[(&Path, &Spectra)]) -> Vec<String> {
    let mut kinds: Vec<String> = Vec::new();
    for (name, _) in models.iter().flat_map(|(_, spectra)| spectra.iter()) {
        let (kind, _) = kind(name);
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    kinds
}

/// A matrix in a chart.
struct Curve<'s> {
    model: usize,
    layer: usize,
    name: &'s str,
    spectrum: &'s Spectrum,
}

fn chart(page: &mut String, of_kind: &str, models: &[(&Path, &Spectra)]) {
    let mut curves = Vec::new();
    for (model, (_, spectra)) in models.iter().enumerate() {
        for (name, found) in spectra.iter() {
            let (kind, layer) = kind(name);
            if let Some(spectrum) = found.as_ref().ok().filter(|s| kind == of_kind && s.top() > 0.0) {
                curves.push(Curve { model, layer: layer.unwrap_or(0), name, spectrum });
            }
        }
    }
    let logs = || curves.iter().flat_map(|c| c.spectrum.values.iter()).filter(|v| **v > 0.0).map(|v| v.log10());
    let high = logs().fold(f64::NEG_INFINITY, f64::max).ceil();
    // Six decades below the top nothing is to be seen but rounding.
    let low = logs().fold(f64::INFINITY, f64::min).floor().max(high - 6.0).min(high - 1.0);
    let last = curves.iter().map(|c| c.layer).max().unwrap_or(0);
    let y = |log: f64| 4.0 + (high - log.clamp(low, high)) / (high - low) * (HEIGHT - BOTTOM - 4.0);
    let _ = writeln!(page, "<figure style=\"margin:0\"><h2>{}</h2>", escape(of_kind));
    let _ = writeln!(page, "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"singular values\">");
    let mut decade = low;
    while decade <= high && !curves.is_empty() {
        let at = y(decade);
        let _ = writeln!(
            page,
            "<line x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">1e{decade:.0}</text>",
            LEFT - 4.0,
            at + 3.0
        );
        decade += 1.0;
    }
    for curve in &curves {
        polyline(page, curve, last, &y);
    }
    page.push_str("</svg></figure>\n");
}

fn polyline(page: &mut String, curve: &Curve<'_>, last: usize, y: &dyn Fn(f64) -> f64) {
    let values = &curve.spectrum.values;
    let count = values.len().min(POINTS);
    let mut points = String::new();
    for i in 0..count {
        let k = i * (values.len() - 1) / (count - 1).max(1);
        let x = LEFT + k as f64 / (values.len() - 1).max(1) as f64 * (WIDTH - LEFT - 2.0);
        let log = if values[k] > 0.0 { values[k].log10() } else { f64::NEG_INFINITY };
        let _ = write!(points, "{x:.1},{:.1} ", y(log));
    }
    // From blue to red by way of purple, told apart also by how light they are.
    let hue = 225.0 + 130.0 * curve.layer as f64 / last.max(1) as f64;
    let class = if curve.model == 0 { "a" } else { "b" };
    let s = curve.spectrum;
    let _ = writeln!(
        page,
        "<polyline class=\"{class}\" points=\"{}\" stroke=\"hsl({hue:.0} 75% 55%)\"><title>{}: {} × {}, top {}, bottom {}, effective rank {:.1}</title></polyline>",
        points.trim_end(),
        escape(curve.name),
        s.rows,
        s.columns,
        figure(s.top()),
        figure(s.bottom()),
        s.effective_rank()
    );
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
