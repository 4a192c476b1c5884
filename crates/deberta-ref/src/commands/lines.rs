//! A file or standard input, line by line, with the number of each line for messages.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::Path;

use anyhow::{Context, bail};
use deberta_tokenizer::spm::MAX_TEXT_BYTES;

/// The most bytes of a line: a pair, or JSON's escapes, may take more than the longest text; no line needs more than this.
const LIMIT: u64 = 8 * MAX_TEXT_BYTES as u64;

/// Where bytes come from, and what to call it.
pub struct Source {
    pub reader: Box<dyn BufRead>,
    pub name: String,
}

impl Source {
    /// A file; `-` is standard input.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        if path == Path::new("-") {
            let reader = Box::new(BufReader::new(std::io::stdin()));
            return Ok(Self { reader, name: "standard input".to_owned() });
        }
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Self { reader: Box::new(BufReader::new(file)), name: path.display().to_string() })
    }

    /// A text that was given in place of a file.
    pub fn of_text(text: String, name: &str) -> Self {
        Self { reader: Box::new(Cursor::new(text.into_bytes())), name: name.to_owned() }
    }
}

/// The lines of a source.
pub struct NumberedLines {
    source: Source,
    number: usize,
}

impl NumberedLines {
    pub fn new(source: Source) -> Self {
        Self { source, number: 0 }
    }

    /// How many lines were read.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Where the line stands that was read so many lines ago.
    pub fn place(&self, ago: usize) -> String {
        format!("{}, line {}", self.source.name, self.number - ago)
    }

    /// The next line without its line feed; `None` at the end.
    pub fn next_line(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        let line = self.read(|reader, line| reader.read_until(b'\n', line))?;
        Ok(line.map(|mut line| {
            line.pop_if(|last| *last == b'\n');
            line
        }))
    }

    /// All that is left as one line, empty though it may be.
    pub fn rest(&mut self) -> anyhow::Result<Vec<u8>> {
        let before = self.number;
        let rest = self.read(|reader, line| reader.read_to_end(line))?;
        self.number = before + 1;
        Ok(rest.unwrap_or_default())
    }

    fn read(
        &mut self,
        read: impl FnOnce(&mut std::io::Take<&mut Box<dyn BufRead>>, &mut Vec<u8>) -> std::io::Result<usize>,
    ) -> anyhow::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        let mut reader = self.source.reader.by_ref().take(LIMIT);
        read(&mut reader, &mut line).with_context(|| format!("cannot read {}", self.source.name))?;
        if line.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        if line.len() as u64 == LIMIT {
            bail!("{}: is longer than {LIMIT} bytes; break it up", self.place(0));
        }
        Ok(Some(line))
    }
}
