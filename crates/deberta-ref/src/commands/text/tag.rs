//! `deberta-ref tag`: labels for tokens, words and spans.

use std::process::ExitCode;

use clap::ValueEnum;
use deberta_ref::tasks::{Aggregation, Tag, TagOptions, Tagged};

use super::records::Record;
use super::report::Row;
use super::{TaskArgs, drive};

/// Labels the tokens of texts, or the spans that they make, with their places in characters.
///
/// A JSON line is {"text": …}.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  deberta-ref tag --model DIR 'Ada Lovelace was born in London.' --aggregation-strategy simple
  deberta-ref tag --model DIR --file book.txt --aggregation-strategy max --stride 32")]
pub struct Args {
    #[command(flatten)]
    common: TaskArgs,
    /// How tokens become spans
    #[arg(long, value_enum, default_value = "none", alias = "aggregation")]
    aggregation_strategy: Strategy,
    /// Leave out what has these labels, separated by commas; an empty one leaves out nothing
    #[arg(long, value_name = "LABEL,…", value_delimiter = ',', default_value = "O")]
    ignore_labels: Vec<String>,
    /// Read long texts in windows of the model's length, each with so many tokens of the one before [default: cut them]
    #[arg(long, value_name = "N")]
    stride: Option<usize>,
}

/// The ways from tokens to spans.
#[derive(Clone, Copy, ValueEnum)]
enum Strategy {
    /// One result a token
    None,
    /// Neighbours of one label; a word may be split
    Simple,
    /// Words, each with the label of its first token
    First,
    /// Words, each with the best label of its mean scores
    Average,
    /// Words, each with the label of its most certain token
    Max,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let records = args.common.source.open("text")?;
    let (directory, setup) = args.common.model.open()?;
    let tagger = Tag::load(&directory, &setup)?;
    let options = TagOptions {
        aggregation: match args.aggregation_strategy {
            Strategy::None => Aggregation::None,
            Strategy::Simple => Aggregation::Simple,
            Strategy::First => Aggregation::First,
            Strategy::Average => Aggregation::Average,
            Strategy::Max => Aggregation::Max,
        },
        ignore_labels: args.ignore_labels.clone(),
        stride: args.stride,
    };
    let task = |chunk: &[Record]| {
        let texts = chunk.iter().map(|record| record.text("text")).collect::<anyhow::Result<Vec<_>>>()?;
        Ok(tagger.run(&texts, &options)?)
    };
    drive(records, &mut args.common.output.writer(), task, |_, tagged: &Vec<Tagged>| tagged.iter().map(row).collect())?;
    Ok(ExitCode::SUCCESS)
}

fn row(tagged: &Tagged) -> Row {
    let label = tagged.entity_group.as_ref().or(tagged.entity.as_ref()).cloned().unwrap_or_default();
    Row::new(tagged.score, [label, format!("{}..{}", tagged.start, tagged.end), tagged.word.clone()])
}
