//! Tagging: a label for each token, or for spans of tokens (`TokenClassificationPipeline`).
//!
//! ```text
//! 1. [CLS] text [SEP], cut to the model's length; with a stride, windows of that length over the whole text
//! 2. p = softmax(logits) at each token                       [L, C]
//! 3. tokens that were put in are left out; words are made of tokens, and spans of words (the module `group`)
//! 4. spans labelled O are left out; of spans of two windows that overlap, the longer stays, or the more probable
//! ```

mod group;

use deberta_model::Head;
use deberta_tokenizer::{Encoding, Truncation};
use ndarray::{ArrayD, Axis};
use serde::Serialize;
use serde_json::Value;

use super::error::TaskError;
use super::scores::softmax;
use super::text_model::{Setup, TextModel};
use crate::ModelDirectory;
use group::{PreEntity, aggregate};

/// A classifier of tokens.
pub struct Tag<'d> {
    text: TextModel<'d>,
}

/// How tokens become spans (`aggregation_strategy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Aggregation {
    /// Not at all: one result a token.
    #[default]
    None,
    /// Neighbours of one label, by B- and I-; a word may be split.
    Simple,
    /// As `Simple` over words, each with the label of its first token.
    First,
    /// As `Simple` over words, each with the best label of its mean scores.
    Average,
    /// As `Simple` over words, each with the label of its most certain token.
    Max,
}

/// How to tag.
#[derive(Clone, Debug)]
pub struct TagOptions {
    /// How tokens become spans.
    pub aggregation: Aggregation,
    /// Labels that are left out.
    pub ignore_labels: Vec<String>,
    /// Read a long text in windows, each with so many tokens of the one before; `None`: cut it.
    pub stride: Option<usize>,
}

impl Default for TagOptions {
    fn default() -> Self {
        Self { aggregation: Aggregation::None, ignore_labels: vec!["O".to_owned()], stride: None }
    }
}

/// A token or a span with its label.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tagged {
    /// The label of a span, without B- and I-.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entity_group: Option<String>,
    /// The label of a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entity: Option<String>,
    /// Its probability.
    pub score: f64,
    /// The place of a token in its sequence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    /// What the tokens read.
    pub word: String,
    /// Where it begins in the text, in characters.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
}

impl Tagged {
    fn label(&self) -> &str {
        self.entity_group.as_deref().or(self.entity.as_deref()).unwrap_or_default()
    }
}

impl<'d> Tag<'d> {
    /// Loads the classifier of a directory.
    ///
    /// # Errors
    /// Weights without a classifier of tokens, and files that are broken.
    pub fn load(directory: &'d ModelDirectory, setup: &Setup) -> Result<Self, TaskError> {
        let (task, head) = ("tag texts", Head::TokenClassification);
        // A classifier of whole texts has the same names and shapes, and a pooler in front.
        let named = directory.config(head).unknown.get("architectures").and_then(Value::as_array);
        let named = named.into_iter().flatten().any(|name| name.as_str() == head.architecture());
        if !named && directory.serves(Head::SequenceClassification, &setup.profile)? {
            let reason =
                format!("its classifier reads what the pooler makes of a text, not tokens, so {head} is absent");
            return Err(TaskError::NoHead { path: directory.path().to_owned(), task, reason });
        }
        Ok(Self { text: TextModel::load_for(task, directory, head, setup)? })
    }

    /// The model and its tokenizer.
    pub fn text_model(&self) -> &TextModel<'d> {
        &self.text
    }

    /// Tags every text.
    ///
    /// # Errors
    /// A text that the model cannot take, and a stride that leads nowhere.
    pub fn run<S: AsRef<str>>(&self, texts: &[S], options: &TagOptions) -> Result<Vec<Vec<Tagged>>, TaskError> {
        let truncation = self.truncation(options)?;
        let encode = |(i, text): (usize, &S)| {
            self.text.encode_with(text.as_ref().into(), truncation).map_err(TaskError::of_input(i))
        };
        let encodings: Vec<Encoding> = texts.iter().enumerate().map(encode).collect::<Result<_, _>>()?;
        let windows = |encoding: &'_ Encoding| match options.stride {
            Some(_) => encoding.overflowing.len(),
            None => 0,
        };
        let sequences: Vec<&Encoding> = encodings
            .iter()
            .flat_map(|encoding| std::iter::once(encoding).chain(&encoding.overflowing[..windows(encoding)]))
            .collect();
        let logits = self.text.logits(&sequences)?;
        let mut pairs = sequences.iter().zip(&logits);
        let mut all = Vec::new();
        for (text, encoding) in texts.iter().zip(&encodings) {
            let characters: Vec<char> = text.as_ref().chars().collect();
            let count = 1 + windows(encoding);
            let mut tagged = Vec::new();
            for (window, logits) in pairs.by_ref().take(count) {
                tagged.extend(self.tag(&characters, window, logits, options)?);
            }
            all.push(if count > 1 { without_overlaps(tagged) } else { tagged });
        }
        Ok(all)
    }

    fn truncation(&self, options: &TagOptions) -> Result<Option<Truncation>, TaskError> {
        let tokenizer = self.text.tokenizer();
        let refused = |reason: String| TaskError::Setting { setting: "stride", reason };
        let stride = options.stride.unwrap_or(0);
        if options.stride.is_some() && options.aggregation == Aggregation::None {
            return Err(refused("windows overlap, so their tokens need an aggregation other than none".to_owned()));
        }
        match tokenizer.model_max_length() {
            Some(length) if stride >= length => {
                Err(refused(format!("{stride} leaves nothing new in a window of {length} tokens (model_max_length)")))
            }
            Some(length) => {
                let side = tokenizer.truncation_side();
                Ok(Some(Truncation { stride, side, ..Truncation::to(length) }))
            }
            None => Ok(None),
        }
    }

    /// The spans of one window, from its logits [L, C].
    fn tag(
        &self,
        text: &[char],
        window: &Encoding,
        logits: &ArrayD<f32>,
        options: &TagOptions,
    ) -> Result<Vec<Tagged>, TaskError> {
        let tokenizer = self.text.tokenizer();
        let tokens = (0..window.len()).filter(|&i| window.special_tokens_mask[i] == 0).map(|i| {
            let (start, end) = window.offsets[i];
            let row: Vec<f32> = logits.index_axis(Axis(0), i).iter().copied().collect();
            let unknown = Some(window.ids[i]) == tokenizer.unk_token_id();
            let word = match unknown {
                true => text[start..end].iter().collect(),
                false => tokenizer.convert_ids_to_tokens(&window.ids[i..=i]).pop().flatten().unwrap_or_default(),
            };
            let around = &text[start.saturating_sub(1)..(start + 1).min(text.len())];
            let is_subword = !unknown && start > 0 && !around.contains(&' ');
            PreEntity { word, scores: softmax(&row), start, end, index: i, is_subword }
        });
        let label = |id| self.text.config().label(id);
        let entities = aggregate(tokens.collect(), options.aggregation, &label, tokenizer)?;
        Ok(entities.into_iter().filter(|e| !options.ignore_labels.iter().any(|l| l == e.label())).collect())
    }
}

/// Of spans that overlap, the longer, or the more probable of two equally long ones. (A first span of no characters comes
/// twice, as it overlaps nothing, not even itself.)
fn without_overlaps(mut spans: Vec<Tagged>) -> Vec<Tagged> {
    spans.sort_by_key(|span| span.start);
    let Some(mut best) = spans.first().cloned() else { return spans };
    let mut kept = Vec::new();
    for span in spans {
        if !(best.start <= span.start && span.start < best.end) {
            kept.push(std::mem::replace(&mut best, span));
            continue;
        }
        let (length, longest) = (span.end as isize - span.start as isize, best.end as isize - best.start as isize);
        if length > longest || length == longest && span.score > best.score {
            best = span;
        }
    }
    kept.push(best);
    kept
}
