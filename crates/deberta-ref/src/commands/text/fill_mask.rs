//! `deberta-ref fill-mask`: words for the places of `[MASK]`.

use std::collections::HashMap;
use std::process::ExitCode;

use deberta_ref::Head;
use deberta_ref::tasks::{FillMask, FillMaskOptions, Filled, FilledText};

use super::records::Record;
use super::report::Row;
use super::{TaskArgs, by_kind, drive, note};

/// Fills the places of [MASK] with the words that a masked language model expects there.
///
/// A text may have several; each is filled by itself. A JSON line is {"text": …}, and may have "targets": [words to choose
/// from].
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  deberta-ref fill-mask --model DIR 'The capital of France is [MASK].'
  deberta-ref fill-mask --model DIR --targets Paris,Rome 'The capital of France is [MASK].'
  deberta-ref fill-mask --model DIR --csv reviews.csv --column text=review")]
pub struct Args {
    #[command(flatten)]
    common: TaskArgs,
    /// masked-lm, as transformers computes it, or enhanced-masked-lm, through Microsoft's enhanced mask decoder [default:
    /// the one that `architectures` names and the weights serve, else the decoder where its weights are there]
    #[arg(long)]
    head: Option<Head>,
    /// How many words a place gets
    #[arg(long, value_name = "K", default_value_t = 5)]
    top_k: usize,
    /// Choose among these words alone, separated by commas; one that is no token stands for its first one
    #[arg(long, value_name = "WORD,…", value_delimiter = ',')]
    targets: Option<Vec<String>>,
    /// Cut longer texts to so many tokens [default: never]
    #[arg(long, value_name = "N")]
    max_length: Option<usize>,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let records = args.common.source.open("text")?;
    let (directory, setup) = args.common.model.open()?;
    let filler = FillMask::load(&directory, args.head, &setup)?;
    let mut targets = Targets { filler: &filler, known: HashMap::new() };
    let given = args.targets.as_deref().map(|words| targets.of(words)).transpose()?;
    let options = FillMaskOptions { top_k: args.top_k, targets: None, max_length: args.max_length };
    let mut writer = args.common.output.writer();
    let how = match filler.head() {
        Head::EnhancedMaskedLm => "by the enhanced mask decoder (enhanced-masked-lm)",
        _ => "by the plain head (masked-lm)",
    };
    writer.state("head", filler.head().name(), &format!("Filled {how}."))?;
    let task = |chunk: &[Record]| {
        let own = |record: &Record| {
            let own = record.optional_texts("targets")?.map(|words| targets.of(&words)).transpose()?;
            Ok(own.or_else(|| given.clone()))
        };
        by_kind(chunk, own, |ids, members| {
            let texts = members.iter().map(|record| record.text("text")).collect::<Result<Vec<_>, _>>()?;
            Ok(filler.run(&texts, &FillMaskOptions { targets: ids.clone(), ..options.clone() })?)
        })
    };
    drive(records, &mut writer, task, rows)?;
    Ok(ExitCode::SUCCESS)
}

/// Words to choose from, looked up once.
struct Targets<'a, 'd> {
    filler: &'a FillMask<'d>,
    known: HashMap<Vec<String>, Vec<u32>>,
}

impl Targets<'_, '_> {
    fn of<S: AsRef<str>>(&mut self, words: &[S]) -> anyhow::Result<Vec<u32>> {
        let key: Vec<String> = words.iter().map(|w| w.as_ref().to_owned()).collect();
        if let Some(ids) = self.known.get(&key) {
            return Ok(ids.clone());
        }
        let (ids, notes) = self.filler.targets(words)?;
        notes.iter().for_each(note);
        self.known.insert(key, ids.clone());
        Ok(ids)
    }
}

fn rows(_: &Record, result: &FilledText) -> Vec<Row> {
    let several = result.places.len() > 1;
    let place = |i: usize| if several { format!("{}.", i + 1) } else { String::new() };
    let row = |(i, word): (usize, &Filled)| {
        let mut cells = vec![word.token_str.clone(), word.token.to_string(), word.sequence.clone()];
        if several {
            cells.insert(0, place(i));
        }
        Row { score: Some(word.score), cells }
    };
    result.places.iter().enumerate().flat_map(|(i, words)| words.iter().map(move |word| (i, word))).map(row).collect()
}
