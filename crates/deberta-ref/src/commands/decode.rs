//! `deberta-ref decode`: ids to text.

use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args as ClapArgs;
use deberta_tokenizer::{Profile, Tokenizer};

use super::lines::{NumberedLines, Source};

/// Turn ids into text.
///
/// One JSON array of ids a line goes in, one text a line comes out. A text with line breaks takes several lines; with
/// --json-lines each text is a JSON string on one line.
#[derive(ClapArgs)]
pub struct Args {
    /// A model directory, or one of the hub's cache (models--ORG--NAME)
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The ids, one JSON array a line; - is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
    /// The reference to be identical to: slow, hf-4-fast or hf-5 [default: slow where there is an spm.model]
    #[arg(long)]
    profile: Option<Profile>,
    /// Leave out [CLS], [SEP], [PAD] and other special tokens
    #[arg(long)]
    skip_special_tokens: bool,
    /// Print each text as a JSON string
    #[arg(long)]
    json_lines: bool,
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let tokenizer = Tokenizer::from_directory(&args.model, args.profile)?;
    let mut lines = NumberedLines::new(Source::open(&args.file)?);
    let mut out = BufWriter::new(std::io::stdout().lock());
    while let Some(line) = lines.next_line()? {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let ids: Vec<u32> =
            serde_json::from_slice(&line).with_context(|| format!("{}: is not a JSON array of ids", lines.place(0)))?;
        let text = tokenizer.decode(&ids, args.skip_special_tokens)?;
        if args.json_lines {
            serde_json::to_writer(&mut out, &text)?;
        } else {
            out.write_all(text.as_bytes())?;
        }
        out.write_all(b"\n")?;
    }
    out.flush()?;
    // The program ends here: 128,000 pieces need not be handed back one by one first.
    std::mem::forget(tokenizer);
    Ok(ExitCode::SUCCESS)
}
