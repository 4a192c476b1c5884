//! The outcome for a terminal of 80 columns: the verdict, what is known of the first divergent tensor, then a table.

use std::fmt::Write;

use super::{Part, details, figure, leaf, printable, score_terms, shape, summary, surety, verdict_word};
use crate::compare::{Comparison, Row, Verdict};
use crate::order::some_names;

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

/// Columns of a terminal.
const WIDTH: usize = 80;
/// Columns of the tensor's name and shape in the table, and of the labels above it.
const NAME: usize = 33;
const SHAPE: usize = 17;
const LABEL: usize = 17;
/// Longer tables leave out most of what is within budget.
const LONG: usize = 40;

struct Page {
    out: String,
    color: bool,
}

impl Page {
    fn paint(&self, code: &str, text: &str) -> String {
        if self.color { format!("{code}{text}{RESET}") } else { text.to_owned() }
    }

    fn line(&mut self, code: &str, text: &str) {
        let text = self.paint(code, text);
        let _ = writeln!(self.out, "{text}");
    }

    /// A label, and a text that is broken where the terminal ends.
    fn labelled(&mut self, label: &str, text: &str) {
        for (i, part) in wrap(text, WIDTH - LABEL - 2).iter().enumerate() {
            let label = self.paint(DIM, &format!("{:<LABEL$}", if i == 0 { label } else { "" }));
            let _ = writeln!(self.out, "  {label}{part}");
        }
    }
}

/// The verdict, what is known of the first tensor that diverges, and the table.
pub fn render_table(comparison: &Comparison, style: Style) -> String {
    let mut page = Page { out: String::new(), color: style.color };
    opening(comparison, &mut page);
    terms(comparison, &mut page);
    tensors(comparison, style.all, &mut page);
    page.out
}

fn opening(comparison: &Comparison, page: &mut Page) {
    let color = if comparison.verdict() == Verdict::Within { GREEN } else { RED };
    for part in wrap(&summary(comparison), WIDTH) {
        page.line(color, &part);
    }
    for (label, text) in details(comparison) {
        page.labelled(label, &text);
    }
    let (expected, actual) = comparison.computed_in;
    page.labelled("expected", &format!("{} ({expected})", comparison.expected));
    page.labelled("actual", &format!("{} ({actual})", comparison.actual));
    for (label, names) in [("only expected", &comparison.only_expected), ("only actual", &comparison.only_actual)] {
        if !names.is_empty() {
            let some = some_names(names.iter().map(String::as_str));
            page.labelled(label, &format!("{} not compared: {some}", names.len()));
        }
    }
    for note in &comparison.notes {
        page.labelled("note", note);
    }
}

fn terms(comparison: &Comparison, page: &mut Page) {
    let terms = score_terms(comparison);
    if terms.is_empty() {
        return;
    }
    page.out.push('\n');
    page.line(BOLD, "  the terms of the score in that layer, each with its own error");
    for row in terms {
        let text = format!("max {} of {}, {}", figure(row.max_abs), figure(row.budget), verdict_word(row));
        page.labelled(leaf(&row.name), &text);
    }
}

fn tensors(comparison: &Comparison, all: bool, page: &mut Page) {
    page.out.push('\n');
    let head = format!("  {:<NAME$}{:<SHAPE$}{:>9} {:>9}  verdict", "tensor", "shape", "max error", "budget");
    page.line(BOLD, &head);
    let first = comparison.rows.iter().position(|r| !r.within);
    let (mut hidden, mut part) = (0, None);
    for (i, row) in comparison.rows.iter().enumerate() {
        let near = first.is_some_and(|f| i + 3 >= f && i <= f + 3);
        if !all && row.within && !near && comparison.rows.len() > LONG && !is_landmark(row) {
            hidden += 1;
            continue;
        }
        flush_hidden(page, &mut hidden);
        let here = Part::of(&row.name);
        if part.as_ref() != Some(&here) {
            page.line(BOLD, &here.title());
            part = Some(here);
        }
        tensor(row, Some(i) == first, page);
    }
    flush_hidden(page, &mut hidden);
}

fn tensor(row: &Row, first: bool, page: &mut Page) {
    let color = if row.within { GREEN } else { RED };
    let word = page.paint(color, verdict_word(row));
    let mark = if first { page.paint(BOLD, "▸ ") } else { "  ".to_owned() };
    let name = fit(below_part(&row.name), NAME - 1);
    let (error, budget) = (figure(row.max_abs), figure(row.budget));
    let _ = writeln!(page.out, "{mark}{name:<NAME$}{:<SHAPE$}{error:>9} {budget:>9}  {word}", shape(&row.shape));
    if let Some(actual) = &row.actual_name {
        let surety = surety(row);
        page.line(DIM, &format!("    there {}{surety}", fit(actual, WIDTH - 10 - surety.len())));
    }
}

/// The name without what the heading over its group says already.
fn below_part(name: &str) -> &str {
    let tail = name.split_once("encoder.layer.").and_then(|(_, tail)| tail.split_once('.')).map(|(_, rest)| rest);
    let embeddings = name.split_once("embeddings.").filter(|(head, _)| matches!(*head, "" | "deberta."));
    tail.or(embeddings.map(|(_, rest)| rest)).unwrap_or(name)
}

/// Shortened in the middle to `width` columns: both ends of a path tell most.
fn fit(name: &str, width: usize) -> String {
    let name: Vec<char> = name.chars().map(printable).collect();
    if name.len() <= width {
        return name.iter().collect();
    }
    let start = (width - 1) / 3;
    let end = name.len() - (width - 1 - start);
    name[..start].iter().chain(&['…']).chain(&name[end..]).collect()
}

/// Lines of at most `width` columns, broken at spaces; what has no space is broken anywhere.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let (mut lines, mut line) = (Vec::new(), String::new());
    let mut used = 0;
    for word in text.split_whitespace() {
        let mut word: Vec<char> = word.chars().map(printable).collect();
        if used > 0 && used + 1 + word.len() > width {
            lines.push(std::mem::take(&mut line));
            used = 0;
        }
        while word.len() > width {
            let rest = word.split_off(width);
            lines.push(word.iter().collect());
            word = rest;
        }
        if used > 0 {
            line.push(' ');
            used += 1;
        }
        line.extend(&word);
        used += word.len();
    }
    lines.push(line);
    lines
}

/// Outputs, which stay in sight when the rest is summed up.
fn is_landmark(row: &Row) -> bool {
    !row.name.contains("deberta.") && !row.name.starts_with("encoder.") && !row.name.starts_with("attentions.")
}

fn flush_hidden(page: &mut Page, hidden: &mut usize) {
    if *hidden > 0 {
        page.line(DIM, &format!("  … {hidden} more within budget (--all shows them)"));
        *hidden = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_where_the_terminal_does() {
        let text = "one two three, and a_path.that.is.longer.than.a.line.of.this.width four";
        let lines = wrap(text, 20);
        assert!(lines.iter().all(|l| l.chars().count() <= 20), "{lines:?}");
        assert_eq!(lines.concat().replace(' ', ""), text.replace(' ', ""));
        assert_eq!(wrap("", 20), [""]);
    }

    #[test]
    fn a_name_cannot_steer_the_terminal() {
        assert_eq!(fit("a\x1b[31mb\u{202e}c", 40), "a\u{fffd}[31mb\u{fffd}c");
        assert_eq!(wrap("x\r\x1b[2Jy", 40), ["x \u{fffd}[2Jy"]);
    }

    #[test]
    fn long_names_keep_both_ends() {
        let name = "lm_predictions.emd.0.attention.self.pos_query_proj";
        let short = fit(name, 32);
        assert_eq!(short.chars().count(), 32);
        assert!(short.starts_with("lm_pred") && short.ends_with("self.pos_query_proj"), "{short}");
    }

    #[test]
    fn headings_take_their_part_of_the_name() {
        for (name, rest) in [
            ("deberta.encoder.layer.11.attention.self.c2p", "attention.self.c2p"),
            ("encoder.layer.0", "encoder.layer.0"),
            ("deberta.embeddings.LayerNorm", "LayerNorm"),
            ("lm_predictions.position_embeddings.x", "lm_predictions.position_embeddings.x"),
            ("logits", "logits"),
        ] {
            assert_eq!(below_part(name), rest);
        }
    }
}
