//! The outcome as a table for a terminal.

use std::fmt::Write;

use super::{details, figure, shape, summary, verdict_word};
use crate::compare::{Comparison, Row, Verdict};

/// How the table looks.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// With ANSI colours.
    pub color: bool,
    /// Every tensor; otherwise a run of tensors within budget is one line that counts them.
    pub all: bool,
}

const RESET: &str = "\x1b[0m";
const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const RED: &str = "\x1b[1;31m";
const GREEN: &str = "\x1b[32m";

/// The table, then the verdict and, where a tensor diverges, what is known of the first that does.
pub fn render_table(comparison: &Comparison, style: Style) -> String {
    let paint = |code: &str, text: &str| {
        if style.color { format!("{code}{text}{RESET}") } else { text.to_owned() }
    };
    let cells: Vec<[String; 6]> = comparison.rows.iter().map(row_cells).collect();
    let head = ["tensor", "shape", "max error", "ulp", "budget", "verdict"];
    let width = |i: usize| cells.iter().map(|c| c[i].chars().count()).max().unwrap_or(0).max(head[i].len());
    let widths: Vec<usize> = (0..6).map(width).collect();
    let line = |c: [&str; 6]| {
        format!(
            "{:<w0$}  {:<w1$}  {:>w2$}  {:>w3$}  {:>w4$}  {}",
            c[0],
            c[1],
            c[2],
            c[3],
            c[4],
            c[5],
            w0 = widths[0],
            w1 = widths[1],
            w2 = widths[2],
            w3 = widths[3],
            w4 = widths[4],
        )
    };
    let mut out = String::new();
    let _ = writeln!(out, "{}", paint(BOLD, &line(head)));
    let first = comparison.rows.iter().position(|r| !r.within);
    let mut hidden = 0;
    for (i, (row, c)) in comparison.rows.iter().zip(&cells).enumerate() {
        let near = first.is_some_and(|f| i + 3 >= f && i <= f + 3);
        if !style.all && row.within && !near && comparison.rows.len() > 40 && !is_landmark(row) {
            hidden += 1;
            continue;
        }
        flush_hidden(&mut out, &mut hidden, |text| paint(DIM, text));
        let text = line([&c[0], &c[1], &c[2], &c[3], &c[4], ""]);
        let color = if row.within { GREEN } else { RED };
        let mark = if Some(i) == first { "  ← first divergent" } else { "" };
        let _ = writeln!(out, "{text}{}{}", paint(color, &c[5]), paint(BOLD, mark));
    }
    flush_hidden(&mut out, &mut hidden, |text| paint(DIM, text));
    closing(comparison, &mut out, paint);
    out
}

fn row_cells(row: &Row) -> [String; 6] {
    let ulp = if row.max_abs.is_nan() { "–".to_owned() } else { row.max_ulp.to_string() };
    [
        row.name.clone(),
        shape(&row.shape),
        figure(row.max_abs),
        short(&ulp),
        figure(row.budget),
        verdict_word(row).to_owned(),
    ]
}

/// Counts of more than six digits say nothing but that they are large.
fn short(count: &str) -> String {
    if count.len() > 7 { "> 9999999".to_owned() } else { count.to_owned() }
}

/// Outputs, which stay in sight when the rest is summed up.
fn is_landmark(row: &Row) -> bool {
    !row.name.contains("deberta.") && !row.name.starts_with("encoder.") && !row.name.starts_with("attentions.")
}

fn flush_hidden(out: &mut String, hidden: &mut usize, paint: impl Fn(&str) -> String) {
    if *hidden > 0 {
        let text = format!("… {hidden} more within budget (--all shows them)");
        let _ = writeln!(out, "{}", paint(&text));
        *hidden = 0;
    }
}

fn closing(comparison: &Comparison, out: &mut String, paint: impl Fn(&str, &str) -> String) {
    let color = if comparison.verdict() == Verdict::Within { GREEN } else { RED };
    let _ = writeln!(out, "\n{}", paint(color, &summary(comparison)));
    let (expected, actual) = comparison.computed_in;
    let _ = writeln!(out, "  expected         {} ({expected})", comparison.expected);
    let _ = writeln!(out, "  actual           {} ({actual})", comparison.actual);
    for (label, text) in details(comparison) {
        let _ = writeln!(out, "  {label:<16} {text}");
    }
    for (label, names) in [("only expected", &comparison.only_expected), ("only actual", &comparison.only_actual)] {
        if !names.is_empty() {
            let some = crate::order::some_names(names.iter().map(String::as_str));
            let _ = writeln!(out, "  {label:<16} {} not compared: {some}", names.len());
        }
    }
    for note in &comparison.notes {
        let _ = writeln!(out, "  note             {note}");
    }
}
