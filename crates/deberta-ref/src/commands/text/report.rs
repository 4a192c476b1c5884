//! Results: JSON lines for programs, a table for people.

use std::io::{BufWriter, IsTerminal, Stdout, Write};

use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;
use unicode_width::UnicodeWidthStr;

use super::records::Record;

/// How results are written.
#[derive(clap::Args)]
pub struct OutputArgs {
    /// How to write results [default: a table on a terminal, JSON lines elsewhere]
    #[arg(long, value_enum)]
    pub format: Option<Format>,
}

/// The ways to write results.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// One object a line: {"input": …, "result": …}
    Jsonl,
}

impl OutputArgs {
    pub fn writer(&self) -> Writer {
        let out = std::io::stdout();
        let format = self.format.unwrap_or(if out.is_terminal() { Format::Table } else { Format::Jsonl });
        Writer { out: BufWriter::new(anstream::AutoStream::auto(out)), format, facts: Vec::new() }
    }
}

/// A row of a table: a score, and what has it.
pub struct Row {
    /// Shown to four digits.
    pub score: Option<f64>,
    /// The cells after it.
    pub cells: Vec<String>,
}

impl Row {
    pub fn new<const N: usize>(score: f64, cells: [String; N]) -> Self {
        Self { score: Some(score), cells: cells.into() }
    }
}

/// Writes results as they come.
pub struct Writer {
    out: BufWriter<anstream::AutoStream<Stdout>>,
    format: Format,
    /// What a JSON line says beside input and result.
    facts: Vec<(&'static str, String)>,
}

impl Writer {
    /// States something about all results: once above a table, and on every JSON line.
    pub fn state(&mut self, key: &'static str, value: &str, sentence: &str) -> std::io::Result<()> {
        self.facts.push((key, value.to_owned()));
        match self.format {
            Format::Table => writeln!(self.out, "{}", printable(sentence)),
            Format::Jsonl => Ok(()),
        }
    }

    pub fn write<R: Serialize>(
        &mut self,
        record: &Record,
        result: &R,
        rows: impl FnOnce() -> Vec<Row>,
    ) -> anyhow::Result<()> {
        match self.format {
            Format::Jsonl => {
                let mut line = serde_json::Map::new();
                line.insert("input".to_owned(), record.input.clone());
                line.insert("result".to_owned(), serde_json::to_value(result)?);
                line.extend(self.facts.iter().map(|(key, value)| ((*key).to_owned(), Value::from(value.as_str()))));
                serde_json::to_writer(&mut self.out, &line)?;
                self.out.write_all(b"\n")?;
            }
            Format::Table => self.table(&record.input, &rows())?,
        }
        Ok(())
    }

    pub fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }

    fn table(&mut self, input: &Value, rows: &[Row]) -> std::io::Result<()> {
        let title = Style::new().bold();
        for (name, text) in titles(input) {
            let name = if name.is_empty() { String::new() } else { format!("{name}: ") };
            writeln!(self.out, "{title}{}{}{title:#}", printable(&name), printable(&text))?;
        }
        if rows.is_empty() {
            writeln!(self.out, "  (nothing)")?;
        }
        let cells: Vec<Vec<String>> =
            rows.iter().map(|row| row.cells.iter().map(|cell| printable(cell)).collect()).collect();
        let columns = cells.iter().map(Vec::len).max().unwrap_or(0);
        let width = |c: usize| cells.iter().filter_map(|row| row.get(c)).map(|cell| cell.width()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let score = Style::new().fg_color(Some(AnsiColor::Cyan.into()));
        for (row, cells) in rows.iter().zip(&cells) {
            let mut line = match row.score {
                Some(number) => format!("  {score}{number:>7.4}{score:#}"),
                None => String::from("  "),
            };
            for (cell, width) in cells.iter().zip(&widths) {
                line.push_str("  ");
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', width - cell.width()));
            }
            writeln!(self.out, "{}", line.trim_end())?;
        }
        writeln!(self.out)
    }
}

/// The lines above a table: the text itself, or each text of an object under its name.
fn titles(input: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match input {
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), text(value))).collect(),
        other => vec![(String::new(), text(other))],
    }
}

/// A text on one line of a terminal, and no more of it than fits there: what could break the line or move the cursor is
/// written as an escape.
fn printable(text: &str) -> String {
    const LONGEST: usize = 160;
    let mut shown = String::new();
    for (i, c) in text.chars().enumerate() {
        if i == LONGEST {
            shown.push('…');
            break;
        }
        match c.is_control()
            || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_keeps_to_its_line() {
        assert_eq!(printable("a\nb\u{1b}[31m\u{202e}c"), "a\\nb\\u{1b}[31m\\u{202e}c");
        assert_eq!(printable(&"é".repeat(500)).chars().count(), 161);
    }
}
