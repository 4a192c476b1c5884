//! The tasks on text: what their commands share, and one module a command.
//!
//! A command reads records a chunk at a time, runs its task on the chunk, and writes each result beside its input.

pub mod answer;
pub mod choose;
pub mod classify;
pub mod embed;
pub mod fill_mask;
pub mod tag;

mod records;
mod report;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use deberta_ref::tasks::{DEFAULT_BATCH_TOKENS, Setup, TaskError};
use deberta_ref::{DeviceName, ModelDirectory, Profile};
use deberta_tokenizer::Profile as TokenizerProfile;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::note;
use super::run::parse_profile;
pub use records::SourceArgs;
use records::{Record, Records};
pub use report::OutputArgs;
use report::{Row, Writer};

/// How many records, and how many bytes of them, are taken at a time: enough to find texts of like length among them,
/// few enough that results keep coming.
const CHUNK: (usize, usize) = (512, 1 << 18);

/// What every task is told.
#[derive(clap::Args)]
pub struct TaskArgs {
    #[command(flatten)]
    pub model: TextModelArgs,
    #[command(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Which model, and whom to follow.
#[derive(clap::Args)]
pub struct TextModelArgs {
    /// The model directory: config.json, weights and tokenizer files, or a hub cache folder
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// The reference implementation to follow where they disagree: hf-5, hf-4, microsoft or microsoft-2021
    #[arg(long, default_value = "hf-5", value_parser = parse_profile)]
    pub profile: Profile,
    /// The reference of the tokenizer: hf-5, hf-4-fast or slow [default: that of --profile]
    #[arg(long, value_name = "PROFILE")]
    pub tokenizer_profile: Option<TokenizerProfile>,
    /// Where to compute: the processor, an NVIDIA GPU, or a GPU where there is one
    #[arg(long, default_value = "cpu", value_name = "cpu|cuda|auto")]
    pub device: DeviceName,
    /// The most tokens that are computed together, padding included; it changes speed and memory, not answers
    #[arg(long, value_name = "N", default_value_t = DEFAULT_BATCH_TOKENS)]
    pub batch_tokens: usize,
}

impl TextModelArgs {
    pub fn open(&self) -> Result<(ModelDirectory, Setup), deberta_ref::Error> {
        let setup =
            Setup { device: self.device, say: note, batch_tokens: self.batch_tokens, ..Setup::of(self.profile) };
        let tokenizer = self.tokenizer_profile.unwrap_or(setup.tokenizer);
        Ok((ModelDirectory::open(&self.model)?, Setup { tokenizer, ..setup }))
    }
}

/// Runs a task on all records, a chunk at a time, and writes the results. `rows` says how a result looks on a terminal.
fn drive<R: Serialize>(
    mut records: Records,
    writer: &mut Writer,
    mut task: impl FnMut(&[Record]) -> anyhow::Result<Vec<R>>,
    rows: impl Fn(&Record, &R) -> Vec<Row>,
) -> anyhow::Result<()> {
    in_chunks(&mut records, |chunk, bar| {
        let results = task(chunk)?;
        bar.suspend(|| {
            for (record, result) in chunk.iter().zip(&results) {
                writer.write(record, result, || rows(record, result))?;
            }
            Ok(writer.flush()?)
        })
    })
}

/// Runs a task on all records and keeps the results.
fn collect<R>(
    records: &mut Records,
    task: &mut dyn FnMut(&[Record]) -> anyhow::Result<Vec<R>>,
) -> anyhow::Result<Vec<R>> {
    let mut results = Vec::new();
    in_chunks(records, |chunk, _| {
        results.extend(task(chunk)?);
        Ok(())
    })?;
    Ok(results)
}

/// Hands over all records, a chunk at a time, and shows on standard error, if that is a terminal, how many are done.
fn in_chunks(
    records: &mut Records,
    mut body: impl FnMut(&[Record], &ProgressBar) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {pos} done ({elapsed})") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    let mut count = 0;
    loop {
        let chunk = records.chunk(CHUNK.0, CHUNK.1)?;
        if chunk.is_empty() {
            break;
        }
        body(&chunk, &bar).map_err(|error| at_its_place(error, &chunk))?;
        count += chunk.len() as u64;
        bar.set_position(count);
    }
    bar.finish_and_clear();
    match count {
        0 => Err(anyhow!("{} holds no input", records.name())),
        _ => Ok(()),
    }
}

/// Runs the records of a kind together, and puts the results into the order of the records.
fn by_kind<K: PartialEq, R>(
    chunk: &[Record],
    mut kind: impl FnMut(&Record) -> anyhow::Result<K>,
    mut run: impl FnMut(&K, &[&Record]) -> anyhow::Result<Vec<R>>,
) -> anyhow::Result<Vec<R>> {
    let mut kinds: Vec<(K, Vec<usize>)> = Vec::new();
    for (i, record) in chunk.iter().enumerate() {
        let kind = kind(record)?;
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, members)) => members.push(i),
            None => kinds.push((kind, vec![i])),
        }
    }
    let mut results: Vec<Option<R>> = chunk.iter().map(|_| None).collect();
    for (kind, members) in kinds {
        let records: Vec<&Record> = members.iter().map(|&i| &chunk[i]).collect();
        let found = run(&kind, &records).map_err(|error| match error.downcast::<TaskError>() {
            Ok(TaskError::Input { index, problem }) => TaskError::Input { index: members[index], problem }.into(),
            Ok(other) => other.into(),
            Err(other) => other,
        })?;
        members.into_iter().zip(found).for_each(|(i, result)| results[i] = Some(result));
    }
    Ok(results.into_iter().flatten().collect())
}

/// Says of an error of one input which line it stands in.
fn at_its_place(error: anyhow::Error, chunk: &[Record]) -> anyhow::Error {
    match error.downcast::<TaskError>() {
        Ok(TaskError::Input { index, problem }) if index < chunk.len() => {
            anyhow!("{}: {problem}", chunk[index].place())
        }
        Ok(other) => other.into(),
        Err(other) => other,
    }
}
