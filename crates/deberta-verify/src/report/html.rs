//! The outcome as one page of HTML that needs nothing else: no script, no font, no network.
//!
//! The verdict stands first; then what is known of the first divergent tensor, the error along the depth of the network,
//! pictures of the worst tensors, and the whole table. Light and dark follow the reader's system; a phone gets one column.

use std::fmt::Write;

use super::{details, figure, shape, summary, verdict_word};
use crate::compare::{Comparison, Row, Verdict};
use crate::heat_map::{HeatMap, Panel};

const STYLE: &str = include_str!("page.css");

/// The page.
pub fn render_html(comparison: &Comparison) -> String {
    let mut page = String::new();
    let (class, verdict) = match comparison.verdict() {
        Verdict::Within => ("good", "Within budget"),
        Verdict::Beyond => ("bad", "Beyond budget"),
        Verdict::Incomparable => ("bad", "Nothing to compare"),
    };
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{verdict} – deberta-ref compare</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1 class=\"{class}\">{verdict}</h1>\n<p class=\"lead\">{}</p>\n",
        escape(&summary(comparison))
    );
    facts(comparison, &mut page);
    depth_chart(comparison, &mut page);
    heat_maps(comparison, &mut page);
    table(comparison, &mut page);
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

fn facts(comparison: &Comparison, page: &mut String) {
    let mut list = details(comparison);
    list.push(("expected", format!("{} (computed in {})", comparison.expected, comparison.computed_in.0)));
    list.push(("actual", format!("{} (computed in {})", comparison.actual, comparison.computed_in.1)));
    for (label, names) in [("only expected", &comparison.only_expected), ("only actual", &comparison.only_actual)] {
        if !names.is_empty() {
            list.push((
                label,
                format!("{}: {}", names.len(), crate::order::some_names(names.iter().map(String::as_str))),
            ));
        }
    }
    list.extend(comparison.notes.iter().map(|note| ("note", note.clone())));
    page.push_str("<dl>\n");
    for (label, text) in list {
        let _ = writeln!(page, "<dt>{label}</dt><dd>{}</dd>", breakable(&text));
    }
    page.push_str("</dl>\n");
}

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 52.0;
const BOTTOM: f64 = 34.0;
const TOP: f64 = 14.0;

/// The noise of each tensor, on a logarithmic scale, in the order of computation; layers are marked below.
fn depth_chart(comparison: &Comparison, page: &mut String) {
    let rows = &comparison.rows;
    let floor = 1e-17;
    let values: Vec<f64> =
        rows.iter().map(|r| if r.noise.is_finite() { r.noise.max(floor) } else { f64::NAN }).collect();
    let real = || values.iter().copied().filter(|v| *v > floor);
    let low = real().fold(f64::INFINITY, f64::min).log10().floor().clamp(-17.0, 0.0);
    let high = real().fold(0.0f64, f64::max).log10().ceil().clamp(low + 1.0, 20.0);
    let x = |i: usize| LEFT + (WIDTH - LEFT - 10.0) * (i as f64 + 0.5) / rows.len().max(1) as f64;
    let y = |v: f64| TOP + (HEIGHT - TOP - BOTTOM) * (high - v.log10().clamp(low, high)) / (high - low);
    page.push_str("<h2>Error along the depth</h2>\n<p class=\"note\">rms of the error over rms of the values, tensor by tensor in the order of computation.</p>\n");
    let _ = writeln!(
        page,
        "<div class=\"scroll\"><svg class=\"chart\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"error along the depth\">"
    );
    let step = ((high - low) / 6.0).ceil().max(1.0);
    let mut tick = low;
    while tick <= high {
        let at = y(10f64.powf(tick));
        let _ = writeln!(
            page,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/><text class=\"label\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">1e{tick:.0}</text>",
            LEFT - 6.0,
            at + 4.0
        );
        tick += step;
    }
    layer_marks(rows, &x, page);
    let radius = (300.0 / rows.len().max(1) as f64).clamp(1.6, 5.0);
    for (i, (row, &value)) in rows.iter().zip(&values).enumerate() {
        let class = if row.within { "good" } else { "bad" };
        let value = if value.is_nan() { 10f64.powf(high) } else { value };
        let _ = writeln!(
            page,
            "<circle class=\"{class}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"{radius:.1}\"><title>{} {}</title></circle>",
            x(i),
            y(value),
            escape(&row.name),
            figure(row.noise)
        );
    }
    if let Some(first) = rows.iter().position(|r| !r.within) {
        let at = x(first);
        let (anchor, dx) = if at > WIDTH * 0.6 { ("end", -6.0) } else { ("start", 6.0) };
        let _ = writeln!(
            page,
            "<line class=\"first\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{:.1}\"/><text class=\"first\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">first divergent</text>",
            HEIGHT - BOTTOM,
            at + dx,
            TOP + 10.0
        );
    }
    page.push_str("</svg></div>\n");
}

/// What part of the model a tensor belongs to, as the axis below the chart calls it.
fn part(name: &str) -> String {
    let name = crate::order::canonical(name);
    let layer = |tail: &str| tail.split('.').next().unwrap_or_default().to_owned();
    if let Some(tail) = name.strip_prefix("deberta.encoder.layer.") {
        layer(tail)
    } else if let Some(tail) = name.strip_prefix("attentions.") {
        layer(tail)
    } else if let Some(tail) = name.strip_prefix("hidden_states.") {
        match tail.parse::<usize>() {
            Ok(i) if i > 0 => (i - 1).to_string(),
            _ => "emb".to_owned(),
        }
    } else if name.starts_with("deberta.encoder.conv") {
        "0".to_owned()
    } else if name.starts_with("deberta.embeddings") || name.starts_with("deberta.encoder.") {
        "emb".to_owned()
    } else {
        "head".to_owned()
    }
}

fn layer_marks(rows: &[Row], x: &dyn Fn(usize) -> f64, page: &mut String) {
    let parts: Vec<String> = rows.iter().map(|r| part(&r.name)).collect();
    let mut start = 0;
    let mut free = LEFT;
    for i in 1..=parts.len() {
        if i < parts.len() && parts[i] == parts[start] {
            continue;
        }
        let middle = (x(start) + x(i - 1)) / 2.0;
        let width = 8.0 * parts[start].len() as f64;
        if middle - width / 2.0 > free {
            let _ = writeln!(
                page,
                "<text class=\"label\" x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                HEIGHT - BOTTOM + 18.0,
                escape(&parts[start])
            );
            free = middle + width / 2.0 + 4.0;
        }
        if i < parts.len() {
            let edge = (x(i - 1) + x(i)) / 2.0;
            let _ = writeln!(
                page,
                "<line class=\"grid\" x1=\"{edge:.1}\" x2=\"{edge:.1}\" y1=\"{TOP}\" y2=\"{:.1}\"/>",
                HEIGHT - BOTTOM
            );
        }
        start = i;
    }
    let _ = writeln!(
        page,
        "<text class=\"label\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">layer</text>",
        (WIDTH + LEFT) / 2.0,
        HEIGHT - 2.0
    );
}

fn heat_maps(comparison: &Comparison, page: &mut String) {
    let with_map: Vec<(&Row, &HeatMap)> =
        comparison.rows.iter().filter_map(|r| r.heat_map.as_ref().map(|m| (r, m))).collect();
    if with_map.is_empty() {
        return;
    }
    let first = comparison.first_divergent().map(|r| r.name.as_str());
    page.push_str("<h2>Where the error is</h2>\n<p class=\"note\">|actual − expected|, from none (background) to the largest of the tensor, on a square-root scale. Down: queries or tokens; across: keys or features.</p>\n");
    for (row, map) in with_map {
        let mark = if Some(row.name.as_str()) == first { " – first divergent" } else { "" };
        let _ = writeln!(
            page,
            "<h3>{}{mark}</h3>\n<p class=\"note\">{} · max error {} · budget {}</p>\n<div class=\"maps\">",
            breakable(&row.name),
            shape(&row.shape),
            figure(row.max_abs),
            figure(row.budget)
        );
        for panel in &map.panels {
            picture(map, panel, page);
        }
        page.push_str("</div>\n");
    }
}

fn picture(map: &HeatMap, panel: &Panel, page: &mut String) {
    let (w, h) = (panel.width, panel.height);
    let _ = writeln!(
        page,
        "<figure><svg class=\"map\" viewBox=\"0 0 {w} {h}\" shape-rendering=\"crispEdges\" preserveAspectRatio=\"none\" style=\"aspect-ratio:{w}/{h}\" role=\"img\" aria-label=\"error by position\">"
    );
    for (k, &cell) in panel.cells.iter().enumerate() {
        let (r, c) = (k / w, k % w);
        if cell.is_nan() {
            let _ = write!(page, "<rect class=\"nan\" x=\"{c}\" y=\"{r}\" width=\"1\" height=\"1\"/>");
        } else if cell > 0.0 && map.max > 0.0 {
            let share = (cell / map.max).sqrt();
            if share >= 0.01 {
                let _ = write!(page, "<rect x=\"{c}\" y=\"{r}\" width=\"1\" height=\"1\" opacity=\"{share:.2}\"/>");
            }
        }
    }
    let index: Vec<String> = panel.index.iter().map(usize::to_string).collect();
    let caption = if index.is_empty() { String::new() } else { format!("{} {}", map.panel_name, index.join(", ")) };
    let _ = writeln!(page, "</svg><figcaption>{caption}</figcaption></figure>");
}

fn table(comparison: &Comparison, page: &mut String) {
    page.push_str("<h2>All tensors</h2>\n<div class=\"scroll\"><table>\n<thead><tr><th>tensor</th><th>shape</th><th class=\"n\">max error</th><th class=\"n\">ulp</th><th class=\"n\">noise</th><th class=\"n\">budget</th><th>verdict</th></tr></thead>\n<tbody>\n");
    for row in &comparison.rows {
        let class = if row.within { "good" } else { "bad" };
        let _ = writeln!(
            page,
            "<tr class=\"{class}\"><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"{class}\">{}</td></tr>",
            breakable(&row.name),
            shape(&row.shape),
            figure(row.max_abs),
            if row.max_abs.is_nan() { "–".to_owned() } else { row.max_ulp.to_string() },
            figure(row.noise),
            figure(row.budget),
            verdict_word(row)
        );
    }
    page.push_str("</tbody></table></div>\n");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Escaped, and allowed to break within paths (before a letter that follows a dot, slash or underscore), so that they
/// fit a phone; numbers stay whole.
fn breakable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        out.push_str(&escape(c.encode_utf8(&mut [0; 4])));
        if matches!(c, '.' | '/' | '_') && chars.peek().is_some_and(|next| next.is_alphabetic()) {
            out.push_str("<wbr>");
        }
    }
    out
}
