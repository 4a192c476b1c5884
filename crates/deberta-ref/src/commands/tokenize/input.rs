//! The texts of a file, a few lines at a time.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::Path;

use anyhow::{Context, bail};
use deberta_tokenizer::{Input, spm::MAX_TEXT_BYTES};
use serde_json::Value;

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
    reader: Box<dyn BufRead>,
    name: String,
    number: usize,
    pair: bool,
    json: bool,
    lossy: bool,
    /// A text of the command line, which is one text however many lines it has.
    whole: bool,
}

impl Lines {
    pub fn open(path: &Path, pair: bool, json: bool, lossy: bool) -> anyhow::Result<Self> {
        let (reader, name): (Box<dyn BufRead>, _) = if path == Path::new("-") {
            (Box::new(BufReader::new(std::io::stdin())), "standard input".to_owned())
        } else {
            let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
            (Box::new(BufReader::new(file)), path.display().to_string())
        };
        Ok(Self { reader, name, number: 0, pair, json, lossy, whole: false })
    }

    pub fn of_text(text: String, pair: bool, json: bool) -> Self {
        let reader = Box::new(Cursor::new(text.into_bytes()));
        Self { reader, name: "--text".to_owned(), number: 0, pair, json, lossy: false, whole: true }
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
        format!("{}, line {}", self.name, self.number - ago)
    }

    fn next_line(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        // A pair, or JSON's escapes, may take more than the longest text; no line needs more than this.
        let limit = 8 * MAX_TEXT_BYTES as u64;
        let mut reader = self.reader.by_ref().take(limit);
        let read = if self.whole { reader.read_to_end(&mut line) } else { reader.read_until(b'\n', &mut line) };
        read.with_context(|| format!("cannot read {}", self.name))?;
        if line.is_empty() && !(self.whole && self.number == 0) {
            return Ok(None);
        }
        self.number += 1;
        if line.len() as u64 == limit {
            bail!("{}, line {}: is longer than {limit} bytes; break it up", self.name, self.number);
        }
        if !self.whole && line.ends_with(b"\n") {
            line.pop();
        }
        Ok(Some(line))
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
