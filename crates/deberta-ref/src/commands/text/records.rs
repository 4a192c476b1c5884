//! Inputs, from wherever they come: arguments, lines, JSON lines or CSV.

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::{Context, anyhow, bail};
use serde_json::{Map, Value};

use crate::commands::lines::{NumberedLines, Source};

/// Where inputs come from.
#[derive(clap::Args)]
pub struct SourceArgs {
    /// Texts [default: standard input, one text a line]
    #[arg(value_name = "TEXT", conflicts_with_all = ["file", "jsonl", "csv"])]
    pub texts: Vec<String>,
    /// A file of texts, one a line; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["jsonl", "csv"])]
    pub file: Option<PathBuf>,
    /// A file of JSON lines, each an object with the arguments of the pipeline, or a string; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "csv")]
    pub jsonl: Option<PathBuf>,
    /// A CSV file whose first line names the columns; - is standard input
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// The name that an argument has in the file, such as text=sentence; may be repeated
    #[arg(long, value_name = "ARGUMENT=NAME", value_parser = parse_column)]
    pub column: Vec<(String, String)>,
}

fn parse_column(column: &str) -> Result<(String, String), String> {
    let (argument, name) = column.split_once('=').ok_or_else(|| format!("`{column}` is not ARGUMENT=NAME"))?;
    Ok((argument.to_owned(), name.to_owned()))
}

impl SourceArgs {
    /// The records. `plain` is the argument that a text without a name is.
    pub fn open(&self, plain: &'static str) -> anyhow::Result<Records> {
        let kind = match (&self.jsonl, &self.csv, &self.file) {
            _ if !self.texts.is_empty() => Kind::Given(self.texts.clone().into_iter()),
            (Some(path), ..) => Kind::JsonLines(NumberedLines::new(Source::open(path)?)),
            (_, Some(path), _) => Kind::csv(Source::open(path)?)?,
            (.., Some(path)) => Kind::Lines(NumberedLines::new(Source::open(path)?)),
            _ if std::io::stdin().is_terminal() => {
                bail!("no input: give texts, or --file, --jsonl or --csv, or standard input")
            }
            _ => Kind::Lines(NumberedLines::new(Source::open("-".as_ref())?)),
        };
        let name = [&self.jsonl, &self.csv, &self.file].into_iter().flatten().next();
        let name = name.filter(|p| p.as_os_str() != "-").map(|p| p.display().to_string());
        Ok(Records { kind, plain, columns: self.column.clone(), name, read: 0 })
    }
}

/// One input.
pub struct Record {
    /// As it was given.
    pub input: Value,
    fields: Map<String, Value>,
    columns: Vec<(String, String)>,
    place: String,
}

/// The inputs that are left.
pub struct Records {
    kind: Kind,
    plain: &'static str,
    columns: Vec<(String, String)>,
    name: Option<String>,
    read: usize,
}

enum Kind {
    Whole(Option<Value>),
    Given(std::vec::IntoIter<String>),
    Lines(NumberedLines),
    JsonLines(NumberedLines),
    Csv { rows: Box<csv::StringRecordsIntoIter<Box<dyn std::io::BufRead>>>, columns: Vec<String>, name: String },
}

impl Kind {
    fn csv(source: Source) -> anyhow::Result<Self> {
        let Source { reader, name } = source;
        let mut reader = csv::ReaderBuilder::new().from_reader(reader);
        let columns = reader.headers().map_err(|e| csv_error(&name, &e))?;
        let columns: Vec<String> = columns.iter().map(|c| c.trim_start_matches('\u{feff}').to_owned()).collect();
        Ok(Self::Csv { rows: Box::new(reader.into_records()), columns, name })
    }
}

fn csv_error(name: &str, error: &csv::Error) -> anyhow::Error {
    let line = error.position().map(|p| format!(", line {}", p.line())).unwrap_or_default();
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            anyhow!("{name}{line}: has {len} fields, but the first line names {expected_len} columns")
        }
        csv::ErrorKind::Utf8 { .. } => anyhow!("{name}{line}: is not UTF-8"),
        csv::ErrorKind::Io(error) => anyhow!("cannot read {name}: {error}"),
        _ => anyhow!("{name}{line}: {error}"),
    }
}

impl Records {
    /// A single one, put together from arguments.
    pub fn of(input: Value) -> Self {
        Self { kind: Kind::Whole(Some(input)), plain: "text", columns: Vec::new(), name: None, read: 0 }
    }

    /// What they are read from.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or("standard input")
    }

    /// The next records, at most so many and about so many bytes; none at the end.
    pub fn chunk(&mut self, count: usize, bytes: usize) -> anyhow::Result<Vec<Record>> {
        let mut records = Vec::new();
        let mut size = 0;
        while records.len() < count && size < bytes {
            let Some((record, length)) = self.next_record()? else { break };
            size += length;
            records.push(record);
        }
        Ok(records)
    }

    fn next_record(&mut self) -> anyhow::Result<Option<(Record, usize)>> {
        let (input, length, place) = match &mut self.kind {
            Kind::Whole(input) => {
                let Some(input) = input.take() else { return Ok(None) };
                (input, 0, "the arguments".to_owned())
            }
            Kind::Given(texts) => {
                let Some(text) = texts.next() else { return Ok(None) };
                self.read += 1;
                (Value::String(text), 0, format!("text {}", self.read))
            }
            Kind::Lines(lines) => {
                let Some(line) = lines.next_line()? else { return Ok(None) };
                let mut text = utf8(line, lines)?;
                text.truncate(text.strip_suffix('\r').unwrap_or(&text).len());
                let length = text.len();
                (Value::String(text), length, lines.place(0))
            }
            Kind::JsonLines(lines) => loop {
                let Some(line) = lines.next_line()? else { return Ok(None) };
                let text = utf8(line, lines)?;
                if !text.trim().is_empty() {
                    let value =
                        serde_json::from_str(&text).with_context(|| format!("{}: is not JSON", lines.place(0)))?;
                    break (value, text.len(), lines.place(0));
                }
            },
            Kind::Csv { rows, columns, name } => {
                let Some(row) = rows.next() else { return Ok(None) };
                let row = row.map_err(|e| csv_error(name, &e))?;
                let place = format!("{name}, line {}", row.position().map_or(0, csv::Position::line));
                let cells = columns.iter().cloned().zip(row.iter().map(|cell| Value::String(cell.to_owned())));
                (Value::Object(cells.collect()), row.as_slice().len(), place)
            }
        };
        let fields = match &input {
            Value::Object(fields) => fields.clone(),
            Value::String(text) => Map::from_iter([(self.plain.to_owned(), Value::String(text.clone()))]),
            _ => bail!("{place}: is neither an object nor a string"),
        };
        Ok(Some((Record { input, fields, columns: self.columns.clone(), place }, length)))
    }
}

fn utf8(line: Vec<u8>, lines: &NumberedLines) -> anyhow::Result<String> {
    String::from_utf8(line)
        .map_err(|e| anyhow!("{}: is not UTF-8 at byte {}", lines.place(0), e.utf8_error().valid_up_to()))
}

impl Record {
    /// Where it stands, for messages.
    pub fn place(&self) -> &str {
        &self.place
    }

    fn find(&self, argument: &str) -> Option<&Value> {
        let mapped = self.columns.iter().find(|(a, _)| a == argument).map(|(_, name)| name.as_str());
        self.fields.get(mapped.unwrap_or(argument)).filter(|v| !v.is_null())
    }

    /// A text, if it is there.
    pub fn optional_text(&self, argument: &str) -> anyhow::Result<Option<&str>> {
        match self.find(argument) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => bail!("{}: `{argument}` is {}, not a string", self.place, kind_of(other)),
        }
    }

    /// A text.
    pub fn text(&self, argument: &str) -> anyhow::Result<&str> {
        self.optional_text(argument)?.ok_or_else(|| self.missing(argument))
    }

    pub fn missing(&self, argument: &str) -> anyhow::Error {
        let found: Vec<&str> = self.fields.keys().map(String::as_str).collect();
        let found = if found.is_empty() { "nothing".to_owned() } else { found.join(", ") };
        anyhow!("{}: has no `{argument}`, but {found}; use --column {argument}=NAME if it has another name", self.place)
    }

    /// A list of texts, if it is there; a string is cut at commas, as the pipelines do.
    pub fn optional_texts(&self, argument: &str) -> anyhow::Result<Option<Vec<&str>>> {
        match self.find(argument) {
            Some(Value::String(list)) => Ok(Some(split_at_commas(list).collect())),
            _ => self.list(argument),
        }
    }

    /// A list of texts, if it is there.
    pub fn list(&self, argument: &str) -> anyhow::Result<Option<Vec<&str>>> {
        let wrong = |what: &str, other: &Value| {
            anyhow!("{}: `{argument}` {what} {}, not a list of strings", self.place, kind_of(other))
        };
        match self.find(argument) {
            None => Ok(None),
            Some(Value::Array(list)) => {
                list.iter().map(|v| v.as_str().ok_or_else(|| wrong("holds", v))).collect::<Result<_, _>>().map(Some)
            }
            Some(other) => Err(wrong("is", other)),
        }
    }

    /// The texts of all columns whose names begin so, in their order, without empty ones.
    pub fn texts_beginning(&self, prefix: &str) -> Vec<&str> {
        let begin = self.fields.iter().filter(|(name, _)| name.starts_with(prefix));
        begin.filter_map(|(_, value)| value.as_str()).filter(|text| !text.is_empty()).collect()
    }
}

/// The parts between commas, without the spaces around them, and without empty ones.
pub fn split_at_commas(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|part| !part.is_empty())
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
