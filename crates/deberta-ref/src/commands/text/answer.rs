//! `deberta-ref answer`: answers to questions, as spans of a text.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use deberta_ref::tasks::{Answer, AnswerOptions, Answered, Question, Span};

use super::records::Record;
use super::report::Row;
use super::{TaskArgs, drive};

/// Answers questions by spans of a text of any length, which is read in overlapping windows.
///
/// Texts and lines are questions about --context. A JSON line is {"question": …, "context": …}; a context of its own goes
/// before --context.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  deberta-ref answer --model DIR --context 'Ada was born in London.' 'Where was Ada born?'
  deberta-ref answer --model DIR --context-file book.txt --top-k 3 'Who is Ishmael?' 'What is the ship called?'
  deberta-ref answer --model DIR --jsonl squad.jsonl --handle-impossible-answer")]
pub struct Args {
    #[command(flatten)]
    common: TaskArgs,
    /// One more question, as a text
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["file", "jsonl", "csv"])]
    question: Vec<String>,
    /// The text that answers
    #[arg(long, value_name = "TEXT", conflicts_with = "context_file")]
    context: Option<String>,
    /// The file of the text that answers
    #[arg(long, value_name = "FILE")]
    context_file: Option<PathBuf>,
    /// How many answers to print at most
    #[arg(long, value_name = "K", default_value_t = 1)]
    top_k: usize,
    /// The most tokens of a window, the question included [default: 384, or the model's length if that is less]
    #[arg(long, value_name = "N")]
    max_seq_len: Option<usize>,
    /// How many tokens of a window come again in the next one [default: 128, or half a window if that is less]
    #[arg(long, value_name = "N")]
    doc_stride: Option<usize>,
    /// The most tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 15)]
    max_answer_len: usize,
    /// Cut questions to so many tokens [default: never, as the pipeline with a fast tokenizer]
    #[arg(long, value_name = "N")]
    max_question_len: Option<usize>,
    /// The text may not answer: an answer without characters stands for that
    #[arg(long)]
    handle_impossible_answer: bool,
    /// Let answers begin and end within words
    #[arg(long)]
    no_align_to_words: bool,
}

pub fn run(mut args: Args) -> anyhow::Result<ExitCode> {
    args.common.source.texts.append(&mut args.question);
    let records = args.common.source.open("question")?;
    let context = match (&args.context, &args.context_file) {
        (Some(text), _) => Some(text.clone()),
        (None, Some(path)) => {
            Some(std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?)
        }
        (None, None) => None,
    };
    let (directory, setup) = args.common.model.open()?;
    let reader = Answer::load(&directory, &setup)?;
    let options = AnswerOptions {
        top_k: args.top_k,
        max_seq_len: args.max_seq_len,
        doc_stride: args.doc_stride,
        max_answer_len: args.max_answer_len,
        max_question_len: args.max_question_len,
        handle_impossible_answer: args.handle_impossible_answer,
        align_to_words: !args.no_align_to_words,
    };
    let task = |chunk: &[Record]| {
        let questions = chunk.iter().map(|record| question(record, context.as_deref()));
        Ok(reader.run(&questions.collect::<anyhow::Result<Vec<_>>>()?, &options)?)
    };
    drive(records, &mut args.common.output.writer(), task, rows)?;
    Ok(ExitCode::SUCCESS)
}

fn question<'a>(record: &'a Record, given: Option<&'a str>) -> anyhow::Result<Question<'a>> {
    let context = record.optional_text("context")?.or(given);
    let context =
        context.with_context(|| format!("{}: has no `context`; give --context or --context-file", record.place()))?;
    Ok(Question { question: record.text("question")?, context })
}

fn rows(_: &Record, answered: &Answered) -> Vec<Row> {
    let row = |span: &Span| {
        let text = if span.start == span.end { "(no answer)".to_owned() } else { span.answer.clone() };
        Row::new(span.score, [format!("{}..{}", span.start, span.end), text])
    };
    answered.answers.iter().map(row).collect()
}
