//! `deberta-ref choose`: which continuation goes with a prompt.

use std::process::ExitCode;

use deberta_ref::tasks::{Choose, Chosen, Prompt};

use super::records::{Record, Records};
use super::report::Row;
use super::{TaskArgs, drive};

/// Chooses the continuation that goes best with a prompt, out of any number.
///
/// Texts are the choices for --prompt. A JSON line is {"prompt": …, "choices": [ … ]}; in CSV every column whose name begins
/// with "choice" is a choice.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  deberta-ref choose --model DIR --prompt 'The cat sat' 'on the mat.' 'of the mat.'
  deberta-ref choose --model DIR --jsonl swag.jsonl")]
pub struct Args {
    #[command(flatten)]
    common: TaskArgs,
    /// What the choices go on with
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["file", "jsonl", "csv"])]
    prompt: Option<String>,
    /// One more choice, as a text
    #[arg(long, value_name = "TEXT", requires = "prompt")]
    choice: Vec<String>,
    /// Cut longer pairs to so many tokens [default: the model's length, if its files say]
    #[arg(long, value_name = "N")]
    max_length: Option<usize>,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let records = match &args.prompt {
        Some(prompt) => {
            let choices: Vec<&String> = args.common.source.texts.iter().chain(&args.choice).collect();
            Records::of(serde_json::json!({ "prompt": prompt, "choices": choices }))
        }
        None => args.common.source.open("prompt")?,
    };
    let (directory, setup) = args.common.model.open()?;
    let chooser = Choose::load(&directory, &setup)?;
    let task = |chunk: &[Record]| {
        let choices = chunk.iter().map(choices).collect::<anyhow::Result<Vec<_>>>()?;
        let prompts =
            chunk.iter().zip(&choices).map(|(record, choices)| Ok(Prompt { prompt: record.text("prompt")?, choices }));
        Ok(chooser.run(&prompts.collect::<anyhow::Result<Vec<_>>>()?, args.max_length)?)
    };
    drive(records, &mut args.common.output.writer(), task, rows)?;
    Ok(ExitCode::SUCCESS)
}

/// The list `choices`; without it, the columns that begin with `choice`.
fn choices(record: &Record) -> anyhow::Result<Vec<String>> {
    let list = match record.list("choices")? {
        Some(list) => list,
        None => {
            let columns = record.texts_beginning("choice");
            if columns.is_empty() {
                return Err(record.missing("choices"));
            }
            columns
        }
    };
    Ok(list.into_iter().map(str::to_owned).collect())
}

fn rows(record: &Record, chosen: &Chosen) -> Vec<Row> {
    let choices = choices(record).unwrap_or_default();
    let row = |(i, (choice, &score)): (usize, (String, &f64))| {
        let mark = if i == chosen.choice { "→" } else { " " };
        Row::new(score, [mark.to_owned(), choice])
    };
    choices.into_iter().zip(&chosen.scores).enumerate().map(row).collect()
}
