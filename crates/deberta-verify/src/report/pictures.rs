//! Heat maps of the worst tensors: where in the tensor the error is.
//!
//! Each panel is the last two axes of a tensor, one head or sequence a panel. The shade is the logarithm of the error:
//! full at the largest error of the tensor, gone four powers of ten below. Cells of one shade that stand side by side
//! are one stroke, so that a page with thirty panels stays small.

use std::fmt::Write;

use super::html::{breakable, escape};
use super::{figure, leaf, shape, verdict_word};
use crate::compare::{Comparison, Row};
use crate::heat_map::{HeatMap, Panel};

/// Shades between nothing and the largest error.
const SHADES: usize = 8;
/// Powers of ten that they span.
const DECADES: f64 = 4.0;

/// All pictures, the first divergent tensor's first.
pub(super) fn heat_maps(comparison: &Comparison, page: &mut String) {
    let first = comparison.rows.iter().position(|r| !r.within);
    // A tensor that agrees in every bit is no picture.
    let differs = |row: &Row| row.heat_map.is_some() && !(row.within && row.max_abs == 0.0);
    let mut shown: Vec<usize> = (0..comparison.rows.len()).filter(|&i| differs(&comparison.rows[i])).collect();
    if shown.is_empty() {
        return;
    }
    shown.sort_by_key(|&i| (Some(i) != first, i));
    page.push_str("<section id=\"where\">\n<h2>Where the error is</h2>\n");
    legend(page);
    for i in shown {
        let row = &comparison.rows[i];
        if let Some(map) = &row.heat_map {
            tensor(row, map, Some(i) == first, page);
        }
    }
    page.push_str("</section>\n");
}

fn legend(page: &mut String) {
    page.push_str("<p class=\"note\">|actual − expected|, as a share of the tensor’s largest: <span class=\"ramp\"><span>10⁻⁴</span>");
    for shade in 1..=SHADES {
        let _ = write!(page, "<i style=\"opacity:{:.2}\"></i>", opacity(shade));
    }
    page.push_str(
        "<span>1</span></span> <span class=\"ramp\"><i class=\"none\"></i><span>not a number</span></span></p>\n",
    );
}

/// What the axes of a panel are: down, and across.
fn axes(row: &Row) -> (&'static str, &'static str) {
    let name = row.name.as_str();
    match leaf(name) {
        "c2c" | "c2p" | "p2c" | "scores" | "probs" => ("query", "key"),
        _ if name.starts_with("attentions.") => ("query", "key"),
        "conv" if name.ends_with("conv.conv") => ("feature", "token"),
        "pos_key_proj" | "pos_query_proj" | "rel_embeddings" => ("relative row", "feature"),
        "LayerNorm" if name.ends_with("encoder.LayerNorm") => ("relative row", "feature"),
        "logits" if row.shape.len() == 2 => ("sequence", "label"),
        "logits" => ("token", "label"),
        "start_logits" | "end_logits" => ("sequence", "token"),
        _ if row.shape.len() >= 3 => ("token", "feature"),
        _ => ("row", "column"),
    }
}

/// What a panel is one of.
fn panel_caption(row: &Row, panel: &Panel) -> String {
    match *panel.index.as_slice() {
        [] => String::new(),
        [b, h] if row.shape.len() == 4 => format!("sequence {b}, head {h}"),
        [b] => format!("sequence {b}"),
        _ => shape(&panel.index),
    }
}

fn tensor(row: &Row, map: &HeatMap, first: bool, page: &mut String) {
    let badge = if first { "<span class=\"badge\">first divergent</span> " } else { "" };
    let _ = writeln!(
        page,
        "<h3>{badge}{}</h3>\n<p class=\"note\">{} · {} · max error {} · budget {}{}</p>\n<div class=\"maps\">",
        breakable(&row.name),
        shape(&row.shape),
        verdict_word(row),
        figure(row.max_abs),
        figure(row.budget),
        if map.omitted > 0 { format!(" · {} more panels, with smaller errors", map.omitted) } else { String::new() }
    );
    let (down, across) = axes(row);
    let sizes = (row.shape.iter().rev().nth(1).copied().unwrap_or(1), row.shape.last().copied().unwrap_or(1));
    for panel in &map.panels {
        let _ = write!(page, "<figure><figcaption>{}</figcaption>", escape(&panel_caption(row, panel)));
        let _ = write!(page, "<div class=\"plot\"><span class=\"down\">{down} 0–{}</span>", sizes.0.max(1) - 1);
        picture(map.max, panel, &format!("error by {down} and {across}"), page);
        let _ = writeln!(page, "<span class=\"across\">{across} 0–{}</span></div></figure>", sizes.1.max(1) - 1);
    }
    page.push_str("</div>\n");
}

fn opacity(shade: usize) -> f64 {
    0.08 + 0.92 * shade as f64 / SHADES as f64
}

/// From 0, nothing to see, to [`SHADES`]; one more for what is no number.
fn shade(error: f64, max: f64) -> usize {
    if error.is_nan() {
        return SHADES + 1;
    }
    if !(error > 0.0 && max > 0.0) {
        return 0;
    }
    let share = 1.0 + (error / max).log10() / DECADES;
    (share * SHADES as f64).ceil().clamp(0.0, SHADES as f64) as usize
}

fn picture(max: f64, panel: &Panel, label: &str, page: &mut String) {
    let (w, h) = (panel.width, panel.height);
    let mut strokes = vec![String::new(); SHADES + 2];
    for (r, cells) in panel.cells.chunks(w.max(1)).enumerate() {
        let mut start = 0;
        while start < w {
            let here = shade(cells[start], max);
            let run = cells[start..].iter().take_while(|&&c| shade(c, max) == here).count();
            if here > 0 {
                let _ = write!(strokes[here], "M{start} {r}h{run}");
            }
            start += run;
        }
    }
    // Tall and flat panels are stretched to a shape that can be looked at.
    let ratio = (w as f64 / h as f64).clamp(0.6, 6.0);
    let _ = write!(
        page,
        "<svg class=\"map\" viewBox=\"0 -.5 {w} {h}\" preserveAspectRatio=\"none\" style=\"aspect-ratio:{ratio:.2}\" role=\"img\" aria-label=\"{label}\">"
    );
    for (here, path) in strokes.iter().enumerate().filter(|(_, path)| !path.is_empty()) {
        let _ = match here {
            h if h > SHADES => write!(page, "<path class=\"none\" d=\"{path}\"/>"),
            _ => write!(page, "<path d=\"{path}\" opacity=\"{:.2}\"/>", opacity(here)),
        };
    }
    page.push_str("</svg>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shades_follow_the_logarithm() {
        let of = |error: f64| shade(error, 1.0);
        assert_eq!([of(1.0), of(0.09), of(1.1e-4), of(1e-5), of(0.0)], [SHADES, 6, 1, 0, 0]);
        assert_eq!(of(f64::NAN), SHADES + 1);
        assert_eq!(shade(0.0, 0.0), 0);
    }

    #[test]
    fn a_picture_draws_every_cell_once() {
        let panel = Panel { index: vec![], height: 2, width: 3, cells: vec![1.0, 1.0, 0.0, 1.0, f64::NAN, 1e-3] };
        let mut page = String::new();
        picture(1.0, &panel, "x", &mut page);
        assert!(page.contains("M0 0h2M0 1h1") && page.contains("class=\"none\" d=\"M1 1h1\""), "{page}");
        assert_eq!(page.matches('M').count(), 4);
    }
}
