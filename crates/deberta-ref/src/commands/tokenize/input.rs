//! The texts of a file, a few lines at a time.

use std::path::Path;

use anyhow::{Context, bail};
use deberta_tokenizer::Input;
use serde_json::Value;

use crate::commands::lines::{NumberedLines, Source};

/// One text, or a pair.
pub(super) enum Record {
    Single(String),
    Pair(String, String),
}

impl Record {
    pub fn input(&self) -> Input<'_> {
        match self {
            Self::Single(text) => Input::Single(text),
            Self::Pair(first, second) => Input::Pair(first, second),
        }
    }

    /// The text, or the first of a pair.
    pub fn first(&self) -> &str {
        match self {
            Self::Single(text) | Self::Pair(text, _) => text,
        }
    }
}

/// The lines of a file, read as texts.
pub(super) struct Lines {
    lines: NumberedLines,
    pair: bool,
    json: bool,
    lossy: bool,
    /// A text of the command line, which is one text however many lines it has.
    whole: bool,
}

impl Lines {
    pub fn open(path: &Path, pair: bool, json: bool, lossy: bool) -> anyhow::Result<Self> {
        Ok(Self { lines: NumberedLines::new(Source::open(path)?), pair, json, lossy, whole: false })
    }

    pub fn of_text(text: String, pair: bool, json: bool) -> Self {
        let lines = NumberedLines::new(Source::of_text(text, "--text"));
        Self { lines, pair, json, lossy: false, whole: true }
    }

    /// The next texts, at most so many and about so many bytes; none at the end.
    pub fn chunk(&mut self, texts: usize, bytes: usize) -> anyhow::Result<Vec<Record>> {
        let mut records = Vec::new();
        let mut size = 0;
        while records.len() < texts && size < bytes {
            let Some(line) = self.next_line()? else { break };
            size += line.len();
            records.push(self.record(line)?);
        }
        Ok(records)
    }

    /// Where the text stands that was read so many texts ago.
    pub fn place(&self, ago: usize) -> String {
        self.lines.place(ago)
    }

    fn next_line(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        match (self.whole, self.lines.number()) {
            (false, _) => self.lines.next_line(),
            (true, 0) => self.lines.rest().map(Some),
            (true, _) => Ok(None),
        }
    }

    fn record(&self, line: Vec<u8>) -> anyhow::Result<Record> {
        let place = || self.place(0);
        let text = match String::from_utf8(line) {
            Ok(text) => text,
            Err(e) if self.lossy => String::from_utf8_lossy(e.as_bytes()).into_owned(),
            Err(e) => {
                let at = e.utf8_error().valid_up_to();
                bail!("{}: is not UTF-8 at byte {at}; with --lossy what is not UTF-8 is read as U+FFFD", place())
            }
        };
        if self.json {
            return match serde_json::from_str(&text).with_context(|| format!("{}: is not JSON", place()))? {
                Value::String(text) => Ok(Record::Single(text)),
                Value::Array(mut list) if list.len() == 2 => match (list.remove(0), list.remove(0)) {
                    (Value::String(first), Value::String(second)) => Ok(Record::Pair(first, second)),
                    _ => bail!("{}: is an array, but not of two strings", place()),
                },
                _ => bail!("{}: is neither a JSON string nor an array of two", place()),
            };
        }
        if self.pair {
            let (first, second) =
                text.split_once('\t').with_context(|| format!("{}: has no tab between two texts", place()))?;
            return Ok(Record::Pair(first.to_owned(), second.to_owned()));
        }
        Ok(Record::Single(text))
    }
}
