//! Measures a masked language model: how many of the tokens of a text does it find when they are hidden?
//!
//! `masked_accuracy [MODEL_DIR [FILE]]`, by default on the shipped model and the verses it was not trained on. Each line
//! is a text; in seven passes every seventh token is replaced by `[MASK]`, so that each is hidden once. The prediction is
//! the enhanced mask decoder's. `tools/shipped-model/export.py` measures the same in PyTorch.

use std::path::{Path, PathBuf};

use anyhow::Context;
use deberta_ref::tokenizer::{EncodeOptions, Tokenizer, Truncation};
use deberta_ref::{Head, Inputs, Keep, Labels, Model, ModelDirectory, Profile, Trace};
use ndarray::{Array2, ArrayD, Axis, Ix2};

/// One token in so many is hidden at a time.
const EVERY: usize = 7;
/// Texts in one forward pass.
const BATCH: usize = 32;

/// What came out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Measured {
    /// Tokens that were hidden, one after another.
    pub tokens: usize,
    /// How many of them were the first choice.
    pub right: usize,
    /// The sum of the cross-entropies.
    pub loss: f64,
}

/// Hides and predicts every token of `texts`.
///
/// # Errors
/// A directory without a masked language model and its tokenizer.
pub fn measure(directory: &Path, texts: &[&str]) -> anyhow::Result<Measured> {
    let directory = ModelDirectory::open(directory)?;
    let tokenizer = Tokenizer::from_directory(directory.path(), None)?;
    let mask = tokenizer.token_to_id("[MASK]").context("the tokenizer has no [MASK]")?;
    let model = directory.load::<f32>(Head::EnhancedMaskedLm, Profile::MICROSOFT)?;
    let limit = model.config().max_position_embeddings;
    let options = EncodeOptions { truncation: Some(Truncation::to(limit)), ..EncodeOptions::default() };
    let mut texts: Vec<Vec<u32>> =
        texts.iter().map(|&text| Ok(tokenizer.encode(text, &options)?.ids)).collect::<anyhow::Result<_>>()?;
    texts.sort_by_key(Vec::len);
    let mut measured = Measured::default();
    for batch in texts.chunks(BATCH) {
        for first in 0..EVERY {
            predict(&model, batch, first, mask, &mut measured)?;
        }
    }
    Ok(measured)
}

/// One pass: the tokens `first`, `first` + 7, … of each text are hidden. What frames a text, its ends, is not.
fn predict(
    model: &Model<'_, f32>,
    texts: &[Vec<u32>],
    first: usize,
    mask: u32,
    measured: &mut Measured,
) -> anyhow::Result<()> {
    let longest = texts.iter().map(Vec::len).max().unwrap_or(0);
    let mut ids = Array2::<i64>::zeros((texts.len(), longest)); // [B, L]
    let (mut exists, mut labels) = (ids.clone(), ids.clone());
    for (b, text) in texts.iter().enumerate() {
        for (i, &id) in text.iter().enumerate() {
            let hidden = i > 0 && i + 1 < text.len() && (i - 1) % EVERY == first;
            ids[[b, i]] = i64::from(if hidden { mask } else { id });
            exists[[b, i]] = 1;
            labels[[b, i]] = if hidden { i64::from(id) } else { 0 };
        }
    }
    let tokens = labels.iter().filter(|&&l| l > 0).count();
    if tokens == 0 {
        return Ok(());
    }
    let wanted: Vec<usize> = labels.iter().filter(|&&l| l > 0).map(|&l| usize::try_from(l).expect("an id")).collect();
    let inputs = Inputs {
        input_ids: Some(ids.into_dyn()),
        attention_mask: Some(exists.into_dyn()),
        labels: Some(Labels::Int(labels.into_dyn())),
        ..Inputs::default()
    };
    let outputs = model.forward(&inputs, Keep::default(), &mut Trace::off())?;
    let logits = outputs.logits.context("the model predicts no words")?.into_dimensionality::<Ix2>()?; // [M, V]
    let loss: ArrayD<f32> = outputs.loss.context("labels give a loss")?; // [M]
    measured.tokens += tokens;
    measured.loss += loss.iter().map(|&l| f64::from(l)).sum::<f64>();
    for (row, &id) in logits.axis_iter(Axis(0)).zip(&wanted) {
        measured.right += usize::from(row.iter().all(|&other| other <= row[id]));
    }
    Ok(())
}

// The tests use `measure` without the program.
#[allow(dead_code)]
fn main() -> anyhow::Result<()> {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/shipped");
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let directory = arguments.next().unwrap_or(shipped);
    let file = arguments.next().unwrap_or_else(|| directory.join("held-out.txt"));
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let Measured { tokens, right, loss } = measure(&directory, &lines)?;
    println!("{} texts, {tokens} tokens, each hidden once, one in {EVERY} at a time", lines.len());
    println!("found {right}, an accuracy of {:.2} %", 100.0 * right as f64 / tokens.max(1) as f64);
    println!("cross-entropy {:.4}", loss / tokens.max(1) as f64);
    Ok(())
}
