//! `deberta-ref classify`: labels for texts or pairs, the model's own or the user's.

use std::process::ExitCode;

use clap::ValueEnum;
use deberta_ref::tasks::{
    Classify, ClassifyOptions, DEFAULT_TEMPLATE, Labelled, Ranked, ScoreFunction, TextPair, TopLabels, ZeroShotOptions,
    ZeroShotText,
};

use super::records::{Record, split_at_commas};
use super::report::Row;
use super::{TaskArgs, by_kind, drive, note};

/// Classifies texts, or pairs of texts such as premise and hypothesis.
///
/// With --candidate-labels, or with "candidate_labels" in a JSON line, by labels of one's own: a model trained on what
/// follows from what is asked whether "This example is {label}." follows from the text (zero-shot classification). A JSON
/// line is {"text": …} or {"text": …, "text_pair": …}.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  deberta-ref classify --model DIR 'A splendid film.' --top-k all
  deberta-ref classify --model NLI 'A man sleeps.' --text-pair 'Somebody is awake.'
  deberta-ref classify --model NLI 'My phone is broken.' --candidate-labels urgent,praise")]
pub struct Args {
    #[command(flatten)]
    common: TaskArgs,
    /// The second text of every pair that does not have its own
    #[arg(long, value_name = "TEXT")]
    text_pair: Option<String>,
    /// How many labels to print: a number, or all [default: the best by itself]
    #[arg(long, value_name = "K|all", value_parser = parse_top)]
    top_k: Option<TopLabels>,
    /// How logits become scores [default: as problem_type and the number of labels say]
    #[arg(long, value_enum)]
    function_to_apply: Option<Function>,
    /// Cut longer texts to so many tokens [default: never; with labels of one's own, the model's length]
    #[arg(long, value_name = "N")]
    max_length: Option<usize>,
    /// Labels of one's own, separated by commas
    #[arg(long, value_name = "LABEL,…", conflicts_with_all = ["text_pair", "top_k", "function_to_apply", "max_length"])]
    candidate_labels: Option<String>,
    /// The hypothesis about a label, which stands at {}
    #[arg(long, value_name = "TEXT", default_value = DEFAULT_TEMPLATE)]
    hypothesis_template: String,
    /// Any number of one's own labels may be true
    #[arg(long)]
    multi_label: bool,
}

/// The functions from logits to scores.
#[derive(Clone, Copy, ValueEnum)]
enum Function {
    /// Each label by itself
    Sigmoid,
    /// The labels against one another
    Softmax,
    /// The logits as they are
    None,
}

fn parse_top(text: &str) -> Result<TopLabels, String> {
    match text {
        "all" => Ok(TopLabels::All),
        number => number.parse().map(TopLabels::First).map_err(|_| format!("`{number}` is neither a number nor `all`")),
    }
}

/// A result of either kind.
#[derive(serde::Serialize)]
#[serde(untagged)]
enum Outcome {
    Own(Labelled),
    Zero(Ranked),
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let records = args.common.source.open("text")?;
    let (directory, setup) = args.common.model.open()?;
    let classifier = Classify::load(&directory, &setup)?;
    let options = ClassifyOptions {
        function: args.function_to_apply.map(|f| match f {
            Function::Sigmoid => ScoreFunction::Sigmoid,
            Function::Softmax => ScoreFunction::Softmax,
            Function::None => ScoreFunction::None,
        }),
        top: args.top_k.unwrap_or_default(),
        max_length: args.max_length,
    };
    let zero_options =
        ZeroShotOptions { hypothesis_template: args.hypothesis_template.clone(), multi_label: args.multi_label };
    let given: Option<Vec<String>> =
        args.candidate_labels.as_deref().map(|labels| split_at_commas(labels).map(str::to_owned).collect());
    let mut writer = args.common.output.writer();
    let mut warned = false;
    let task = |chunk: &[Record]| {
        let zero_shot = |record: &Record| Ok(given.is_some() || record.optional_texts("candidate_labels")?.is_some());
        by_kind(chunk, zero_shot, |zero_shot, members| {
            if !zero_shot {
                let texts = members.iter().map(|record| pair(record, args.text_pair.as_deref()));
                let found = classifier.run(&texts.collect::<anyhow::Result<Vec<_>>>()?, &options)?;
                return Ok(found.into_iter().map(Outcome::Own).collect());
            }
            if classifier.entailment().is_none() && !std::mem::replace(&mut warned, true) {
                note("no label of the model begins with \"entail\"; its last one is taken for entailment");
            }
            let labels = members.iter().map(|record| candidates(record, given.as_deref()));
            let labels = labels.collect::<anyhow::Result<Vec<_>>>()?;
            let texts = members
                .iter()
                .zip(&labels)
                .map(|(record, labels)| Ok(ZeroShotText { text: zero_shot_text(record)?, candidate_labels: labels }));
            let found = classifier.zero_shot(&texts.collect::<anyhow::Result<Vec<_>>>()?, &zero_options)?;
            Ok(found.into_iter().map(Outcome::Zero).collect())
        })
    };
    drive(records, &mut writer, task, rows)?;
    Ok(ExitCode::SUCCESS)
}

fn pair<'a>(record: &'a Record, given: Option<&'a str>) -> anyhow::Result<TextPair<'a>> {
    Ok(TextPair { text: record.text("text")?, text_pair: record.optional_text("text_pair")?.or(given) })
}

fn candidates(record: &Record, given: Option<&[String]>) -> anyhow::Result<Vec<String>> {
    let own = record.optional_texts("candidate_labels")?;
    let own = own.map(|labels| labels.into_iter().map(str::to_owned).collect());
    Ok(own.unwrap_or_else(|| given.unwrap_or_default().to_vec()))
}

/// The zero-shot pipeline calls its texts `sequences`.
fn zero_shot_text(record: &Record) -> anyhow::Result<&str> {
    match record.optional_text("text")? {
        Some(text) => Ok(text),
        None => record.optional_text("sequences")?.ok_or_else(|| record.missing("text")),
    }
}

fn rows(_: &Record, outcome: &Outcome) -> Vec<Row> {
    match outcome {
        Outcome::Own(found) => found.labels.iter().map(|l| Row::new(l.score, [l.label.clone()])).collect(),
        Outcome::Zero(found) => {
            found.labels.iter().zip(&found.scores).map(|(label, &score)| Row::new(score, [label.clone()])).collect()
        }
    }
}
