//! `deberta-ref tokenize`: text to ids, one JSON object a line.

mod explain;
mod input;

use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use clap::{Args as ClapArgs, ValueEnum};
use deberta_tokenizer::{
    EncodeOptions, Encoding, Input, PadTo, Padding, Profile, Side, Tokenizer, Truncation, TruncationStrategy,
};
use serde::Serialize;

use input::{Lines, Record};

/// How many texts, and how many bytes of them, are encoded at a time.
const CHUNK: (usize, usize) = (4096, 1 << 23);

/// Turn text into ids, exactly as a reference tokenizer does.
///
/// One text a line goes in, one JSON object a line comes out: input_ids, tokens, offsets (in characters of the text),
/// token_type_ids, attention_mask, special_tokens_mask.
#[derive(ClapArgs)]
#[command(
    after_help = "The profiles give different ids for the same text: slow is SentencePiece exactly, hf-4-fast and hf-5 \
are transformers 4's and 5's fast tokenizers.\nUse --explain to see where they part."
)]
pub struct Args {
    /// A model directory, or one of the hub's cache (models--ORG--NAME)
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The texts, one a line; - is standard input
    #[arg(default_value = "-", conflicts_with = "text")]
    file: PathBuf,
    /// One text, instead of a file
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
    /// The reference to be identical to: slow, hf-4-fast or hf-5 [default: slow where there is an spm.model]
    #[arg(long)]
    profile: Option<Profile>,
    /// Each line holds two texts, separated by a tab
    #[arg(long)]
    pair: bool,
    /// Each line is a JSON string, or an array of two for a pair; for texts with line breaks
    #[arg(long, conflicts_with = "pair")]
    json_lines: bool,
    /// Read what is not UTF-8 as U+FFFD instead of refusing it
    #[arg(long)]
    lossy: bool,
    /// The longest result, special tokens included [default: the model's, if its files say]
    #[arg(long, value_name = "N")]
    max_length: Option<usize>,
    /// Cut what is longer than --max-length. With --max-length and no --padding: longest_first, as in transformers
    #[arg(long, value_enum)]
    truncation: Option<Strategy>,
    /// End at which to cut [default: the model's, else right]
    #[arg(long, value_enum)]
    truncation_side: Option<End>,
    /// How many tokens of a window come again in the next one; see --overflow
    #[arg(long, value_name = "N", default_value_t = 0)]
    stride: usize,
    /// Print what is cut off, too: a list of further windows under "overflowing"
    #[arg(long)]
    overflow: bool,
    /// Fill up with [PAD], to --max-length or to the longest of all lines
    #[arg(long, value_enum)]
    padding: Option<PadWhere>,
    /// Fill up to a multiple of this
    #[arg(long, value_name = "N", requires = "padding")]
    pad_to_multiple_of: Option<usize>,
    /// End at which to fill up [default: the model's, else right]
    #[arg(long, value_enum)]
    padding_side: Option<End>,
    /// Leave out [CLS] and [SEP]
    #[arg(long)]
    no_special_tokens: bool,
    /// Put a space before each text, as the call argument of transformers 4's slow tokenizer does
    #[arg(long)]
    add_prefix_space: bool,
    /// Print byte_offsets, word_ids and sequence_ids, too
    #[arg(long)]
    all_fields: bool,
    /// Show a text under all profiles side by side; for a file, how many lines differ, and the first that do
    #[arg(long)]
    explain: bool,
    /// With --explain: print JSON
    #[arg(long, requires = "explain")]
    json: bool,
    /// With --explain: how many differing lines to show
    #[arg(long, value_name = "N", default_value_t = 5, requires = "explain")]
    show: usize,
}

#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Strategy {
    LongestFirst,
    OnlyFirst,
    OnlySecond,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum PadWhere {
    MaxLength,
    Longest,
}

#[derive(Clone, Copy, ValueEnum)]
enum End {
    Left,
    Right,
}

impl From<End> for Side {
    fn from(end: End) -> Self {
        match end {
            End::Left => Self::Left,
            End::Right => Self::Right,
        }
    }
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.explain {
        return explain::run(&args);
    }
    let tokenizer = Tokenizer::from_directory(&args.model, args.profile)?;
    let options = args.options(&tokenizer)?;
    let mut lines = args.lines()?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    // Padding to the longest is to the longest of all lines.
    let whole = args.padding == Some(PadWhere::Longest);
    let (texts, bytes) = if whole { (usize::MAX, usize::MAX) } else { CHUNK };
    loop {
        let records = lines.chunk(texts, bytes)?;
        if records.is_empty() {
            break;
        }
        let inputs: Vec<Input<'_>> = records.iter().map(Record::input).collect();
        let batch = tokenizer.encode_batch(&inputs, &options).map_err(|error| {
            // The batch does not say which text it was.
            let bad = inputs.iter().position(|input| tokenizer.encode(*input, &options).is_err());
            anyhow!("{}: {error}", lines.place(records.len() - bad.unwrap_or(0) - 1))
        })?;
        for encoding in batch {
            serde_json::to_writer(&mut out, &args.row(&encoding))?;
            out.write_all(b"\n")?;
        }
    }
    out.flush()?;
    // The program ends here: 128,000 pieces need not be handed back one by one first.
    std::mem::forget(tokenizer);
    Ok(ExitCode::SUCCESS)
}

impl Args {
    fn lines(&self) -> anyhow::Result<Lines> {
        match &self.text {
            Some(text) => Ok(Lines::of_text(text.clone(), self.pair, self.json_lines)),
            None => Lines::open(&self.file, self.pair, self.json_lines, self.lossy),
        }
    }

    fn options(&self, tokenizer: &Tokenizer) -> anyhow::Result<EncodeOptions> {
        let max_length = self.max_length.or(tokenizer.model_max_length());
        let strategy = match (self.truncation, self.max_length, self.padding) {
            (Some(strategy), ..) => Some(strategy),
            (None, Some(_), None) => Some(Strategy::LongestFirst),
            _ => None,
        };
        let needs_length = |what: &str| format!("{what} needs --max-length, since the model's files do not say one");
        let truncation = match strategy {
            None => None,
            Some(strategy) => Some(Truncation {
                max_length: max_length.with_context(|| needs_length("--truncation"))?,
                strategy: match strategy {
                    Strategy::LongestFirst => TruncationStrategy::LongestFirst,
                    Strategy::OnlyFirst => TruncationStrategy::OnlyFirst,
                    Strategy::OnlySecond => TruncationStrategy::OnlySecond,
                },
                stride: self.stride,
                side: self.truncation_side.map_or(tokenizer.truncation_side(), Side::from),
            }),
        };
        if truncation.is_none() && (self.stride > 0 || self.overflow) {
            bail!("--stride and --overflow are about what is cut off: give --max-length, or --truncation, too");
        }
        let padding = match self.padding {
            None => None,
            Some(to) => Some(Padding {
                to: match to {
                    PadWhere::Longest => PadTo::Longest,
                    PadWhere::MaxLength => {
                        PadTo::Length(max_length.with_context(|| needs_length("--padding max_length"))?)
                    }
                },
                multiple_of: self.pad_to_multiple_of,
                side: self.padding_side.map_or(tokenizer.padding_side(), Side::from),
            }),
        };
        let add_special_tokens = !self.no_special_tokens;
        Ok(EncodeOptions { add_special_tokens, truncation, padding, add_prefix_space: self.add_prefix_space })
    }

    fn row<'a>(&self, encoding: &'a Encoding) -> Row<'a> {
        Row {
            input_ids: &encoding.ids,
            tokens: &encoding.tokens,
            offsets: &encoding.offsets,
            token_type_ids: &encoding.type_ids,
            attention_mask: &encoding.attention_mask,
            special_tokens_mask: &encoding.special_tokens_mask,
            byte_offsets: self.all_fields.then_some(&encoding.byte_offsets),
            word_ids: self.all_fields.then_some(&encoding.word_ids),
            sequence_ids: self.all_fields.then_some(&encoding.sequence_ids),
            overflowing: self.overflow.then(|| encoding.overflowing.iter().map(|w| self.row(w)).collect()),
        }
    }
}

/// What is printed of an encoding.
#[derive(Serialize)]
struct Row<'a> {
    input_ids: &'a [u32],
    tokens: &'a [String],
    offsets: &'a [(usize, usize)],
    token_type_ids: &'a [u32],
    attention_mask: &'a [u32],
    special_tokens_mask: &'a [u32],
    #[serde(skip_serializing_if = "Option::is_none")]
    byte_offsets: Option<&'a Vec<(usize, usize)>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    word_ids: Option<&'a Vec<Option<u32>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence_ids: Option<&'a Vec<Option<u8>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    overflowing: Option<Vec<Row<'a>>>,
}
