//! `deberta-ref embed`: texts as vectors.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::bail;
use clap::ValueEnum;
use deberta_ref::tasks::{Embed, Embedding, Pooling, TextPair};
use deberta_ref::{NamedTensors, TensorData, write_npy};
use ndarray::{Array, ArrayD, ArrayViewD, Axis, s, stack};
use safetensors::Dtype;
use serde::ser::{Serialize, SerializeSeq, Serializer};

use super::records::Record;
use super::report::Row;
use super::{TaskArgs, drive};

/// Embeds texts: one vector a text, or one a token.
///
/// Without --output, JSON lines hold the numbers: for --pooling tokens in the nesting of transformers' feature-extraction
/// pipeline, one list in a list. A JSON line in is {"text": …}, with "text_pair" for a pair.
#[derive(clap::Args)]
#[command(after_help = "\
A .safetensors file holds `embeddings` [N, E], or for tokens `last_hidden_state.I` [L, E] and `input_ids.I` [L] for the I-th
text. An .npy file holds [N, E], or for tokens [N, L, E] with zeros after each text's last token.

Examples:
  deberta-ref embed --model DIR --pooling mean --output vectors.npy --file sentences.txt
  deberta-ref embed --model DIR --pooling tokens --output states.safetensors 'A text to study.'")]
pub struct Args {
    #[command(flatten)]
    common: TaskArgs,
    /// What becomes of the states of a text's tokens
    #[arg(long, value_enum, default_value = "cls")]
    pooling: PoolingName,
    /// The file to write, .safetensors or .npy
    #[arg(long, value_name = "FILE", conflicts_with = "format")]
    output: Option<PathBuf>,
    /// Cut longer texts to so many tokens [default: never]
    #[arg(long, value_name = "N")]
    max_length: Option<usize>,
}

/// The ways from tokens to a vector.
#[derive(Clone, Copy, ValueEnum)]
enum PoolingName {
    /// None: all states of the last layer
    Tokens,
    /// The first state
    Cls,
    /// The mean of the states, [CLS] and [SEP] among them
    Mean,
    /// What a fine-tuned classifier reads: the first state through the pooler's weights
    Pooler,
}

impl PoolingName {
    fn of(self) -> Pooling {
        match self {
            Self::Tokens => Pooling::Tokens,
            Self::Cls => Pooling::Cls,
            Self::Mean => Pooling::Mean,
            Self::Pooler => Pooling::Pooler,
        }
    }
}

/// The kinds of files.
#[derive(Clone, Copy)]
enum Kind {
    Safetensors,
    Npy,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let target = args.output.as_deref().map(|path| Ok::<_, anyhow::Error>((path, kind(path)?))).transpose()?;
    let mut records = args.common.source.open("text")?;
    let (directory, setup) = args.common.model.open()?;
    let embedder = Embed::load(&directory, args.pooling.of(), &setup)?;
    let mut embed = |chunk: &[Record]| {
        let texts = chunk
            .iter()
            .map(|record| Ok(TextPair { text: record.text("text")?, text_pair: record.optional_text("text_pair")? }));
        Ok(embedder.run(&texts.collect::<anyhow::Result<Vec<_>>>()?, args.max_length)?)
    };
    let Some((path, kind)) = target else {
        let task = |chunk: &[Record]| Ok(embed(chunk)?.into_iter().map(Numbers).collect());
        drive(records, &mut args.common.output.writer(), task, rows)?;
        return Ok(ExitCode::SUCCESS);
    };
    let embeddings = super::collect(&mut records, &mut embed)?;
    match kind {
        Kind::Safetensors => {
            let pooling = args.pooling.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default();
            let facts = [("pooling", pooling), ("profile", setup.profile.to_string())];
            let metadata: HashMap<String, String> = facts.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
            tensors(&embeddings)?.write(path, metadata)?;
        }
        Kind::Npy => write_npy(path, &one_array(&embeddings)?.view())?,
    }
    println!("{} texts in {}", embeddings.len(), path.display());
    Ok(ExitCode::SUCCESS)
}

fn kind(path: &Path) -> anyhow::Result<Kind> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("safetensors") => Ok(Kind::Safetensors),
        Some("npy") => Ok(Kind::Npy),
        _ => bail!("--output {}: must end in .safetensors or .npy", path.display()),
    }
}

/// Vectors as one tensor; states as one a text, with the ids of their tokens.
fn tensors(embeddings: &[Embedding]) -> anyhow::Result<NamedTensors> {
    let mut tensors = NamedTensors::default();
    if embeddings.iter().all(|e| e.values.ndim() == 1) {
        tensors.entries.push(("embeddings".to_owned(), TensorData::new(&one_array(embeddings)?.view())));
        return Ok(tensors);
    }
    for (i, embedding) in embeddings.iter().enumerate() {
        let bytes = embedding.input_ids.iter().flat_map(|&id| i64::from(id).to_le_bytes()).collect();
        let ids = TensorData { dtype: Dtype::I64, shape: vec![embedding.input_ids.len()], bytes };
        tensors.entries.push((format!("input_ids.{i}"), ids));
        tensors.entries.push((format!("last_hidden_state.{i}"), TensorData::new(&embedding.values.view())));
    }
    Ok(tensors)
}

/// [N, E], or [N, L, E] with zeros after the last token.
fn one_array(embeddings: &[Embedding]) -> anyhow::Result<ArrayD<f32>> {
    if embeddings.iter().all(|e| e.values.ndim() == 1) {
        let rows: Vec<ArrayViewD<'_, f32>> = embeddings.iter().map(|e| e.values.view()).collect();
        return Ok(stack(Axis(0), &rows)?);
    }
    let length = embeddings.iter().map(|e| e.values.shape()[0]).max().unwrap_or(0);
    let width = embeddings.first().map_or(0, |e| e.values.shape()[1]);
    let mut all = Array::zeros((embeddings.len(), length, width));
    for (mut padded, embedding) in all.outer_iter_mut().zip(embeddings) {
        let states = embedding.values.view().into_dimensionality::<ndarray::Ix2>()?;
        padded.slice_mut(s![..states.nrows(), ..]).assign(&states);
    }
    Ok(all.into_dyn())
}

/// An embedding as JSON: states as a list of one list of rows.
struct Numbers(Embedding);

impl Serialize for Numbers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let values = &self.0.values;
        let wide = |row: ArrayViewD<'_, f32>| row.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
        if values.ndim() == 1 {
            return wide(values.view()).serialize(serializer);
        }
        let rows: Vec<Vec<f64>> = values.outer_iter().map(wide).collect();
        let mut list = serializer.serialize_seq(Some(1))?;
        list.serialize_element(&rows)?;
        list.end()
    }
}

fn rows(_: &Record, numbers: &Numbers) -> Vec<Row> {
    let values = &numbers.0.values;
    let shown = |row: ArrayViewD<'_, f32>| {
        let first: Vec<String> = row.iter().take(6).map(|v| format!("{v:>8.4}")).collect();
        let more = if row.len() > 6 { " …" } else { "" };
        Row { score: None, cells: vec![format!("{:?}", row.shape()), format!("{}{more}", first.join(" "))] }
    };
    match values.ndim() {
        1 => vec![shown(values.view())],
        _ => values.outer_iter().map(shown).collect(),
    }
}
