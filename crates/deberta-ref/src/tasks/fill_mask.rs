//! Fill-mask: the words that a masked language model puts in the place of `[MASK]` (`FillMaskPipeline`).
//!
//! ```text
//! 1. tokens of the text, not cut unless asked; the places of [MASK] among them
//! 2. p = softmax(logits at each place)                       [V]
//! 3. the top k of p, or of p at the targets alone
//! 4. the text with the word in its place, decoded: without special tokens if there was one [MASK], with them if several
//! ```
//!
//! Logits come from one of two heads. `masked-lm` is what transformers computes: the last layer's states through a
//! transform and the word embeddings. `enhanced-masked-lm` is how DeBERTa was trained: two more passes of the last layer
//! over positions that were added late, then the same product. transformers has no such head, so there is no pipeline to
//! be equal to; everything but the logits is the same.
//!
//! Each place is filled by itself. With several, the scores are not those of the words together.

use deberta_model::profile::LanguageModelLoss;
use deberta_model::{Head, Profile};
use deberta_tokenizer::{EncodeOptions, Encoding, Truncation};
use ndarray::Ix2;
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::error::{TaskError, TaskProblem};
use super::scores::{largest, softmax};
use super::text_model::{Setup, TextModel};
use crate::ModelDirectory;

/// A masked language model, ready to fill.
pub struct FillMask<'d> {
    text: TextModel<'d>,
    mask: u32,
}

/// How to fill.
#[derive(Clone, Debug)]
pub struct FillMaskOptions {
    /// How many words a place gets.
    pub top_k: usize,
    /// The only words to choose from; see [`FillMask::targets`].
    pub targets: Option<Vec<u32>>,
    /// Cut longer texts to this many tokens; `None`: never.
    pub max_length: Option<usize>,
}

impl Default for FillMaskOptions {
    fn default() -> Self {
        Self { top_k: 5, targets: None, max_length: None }
    }
}

/// A word for a place.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Filled {
    /// Its probability.
    pub score: f64,
    /// Its id.
    pub token: u32,
    /// What it reads.
    pub token_str: String,
    /// The text with the word in it.
    pub sequence: String,
}

/// The words of each place of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct FilledText {
    /// In the order of the places, the most probable word of each first.
    pub places: Vec<Vec<Filled>>,
}

/// A list of words if there was one place, and a list of such lists if there were several.
impl Serialize for FilledText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.places.as_slice() {
            [only] => only.serialize(serializer),
            several => several.serialize(serializer),
        }
    }
}

impl<'d> FillMask<'d> {
    /// Loads the head that was asked for, or else that of [`FillMask::head_of`].
    ///
    /// # Errors
    /// Weights that serve no such head, and a tokenizer without `[MASK]`.
    pub fn load(directory: &'d ModelDirectory, head: Option<Head>, setup: &Setup) -> Result<Self, TaskError> {
        let head = head.map_or_else(|| Self::head_of(directory, &setup.profile), Ok)?;
        if !matches!(head, Head::MaskedLm | Head::EnhancedMaskedLm) {
            let reason = format!("{head} predicts no words; use masked-lm or enhanced-masked-lm");
            return Err(TaskError::Setting { setting: "--head", reason });
        }
        if let Some(reason) = missing(directory, head, &setup.profile)? {
            return Err(TaskError::NoHead { path: directory.path().to_owned(), task: "fill masks", reason });
        }
        // Logits are computed where a label asks for them alone: a place of [MASK] in a text, not every token of it.
        let profile = Profile { language_model_loss: LanguageModelLoss::EachPositiveLabel, ..setup.profile };
        let text = TextModel::load(directory, head, &Setup { profile, ..*setup })?;
        let mask = text.tokenizer().mask_token_id().ok_or_else(|| TaskError::Setting {
            setting: "mask_token",
            reason: "the tokenizer's files name no token that marks a place to fill".to_owned(),
        })?;
        Ok(Self { text, mask })
    }

    /// The head that fills best: transformers' where `architectures` names it and its weights are there; else Microsoft's
    /// enhanced mask decoder if it is there, since a model that has it was trained through it; else transformers'.
    ///
    /// # Errors
    /// [`TaskError::NoHead`] where neither is there.
    pub fn head_of(directory: &ModelDirectory, profile: &Profile) -> Result<Head, TaskError> {
        let named = directory.config(Head::MaskedLm).unknown.get("architectures").and_then(Value::as_array);
        let plain_named = named.into_iter().flatten().any(|name| name.as_str() == Head::MaskedLm.architecture());
        let order = match plain_named {
            true => [Head::MaskedLm, Head::EnhancedMaskedLm],
            false => [Head::EnhancedMaskedLm, Head::MaskedLm],
        };
        let mut reasons = Vec::new();
        for head in order {
            match missing(directory, head, profile)? {
                None => return Ok(head),
                Some(reason) => reasons.push(reason),
            }
        }
        let reason = reasons.join("; ");
        Err(TaskError::NoHead { path: directory.path().to_owned(), task: "fill masks", reason })
    }

    /// The head that fills.
    pub fn head(&self) -> Head {
        self.text.head()
    }

    /// The model and its tokenizer.
    pub fn text_model(&self) -> &TextModel<'d> {
        &self.text
    }

    /// The ids of words to choose from: of the token that reads so, else of the first token of the word. Of those that are
    /// not tokens it says what stands in for them.
    ///
    /// # Errors
    /// Where no word is left.
    pub fn targets<S: AsRef<str>>(&self, words: &[S]) -> Result<(Vec<u32>, Vec<String>), TaskError> {
        let tokenizer = self.text.tokenizer();
        let first = EncodeOptions {
            add_special_tokens: false,
            truncation: Some(Truncation { side: tokenizer.truncation_side(), ..Truncation::to(1) }),
            ..EncodeOptions::default()
        };
        let (mut ids, mut notes) = (Vec::new(), Vec::new());
        for word in words.iter().map(AsRef::as_ref) {
            let id = match tokenizer.token_to_id(word) {
                Some(id) => id,
                None => match tokenizer.encode(word, &first)?.ids.first() {
                    Some(&id) => {
                        let token = tokenizer.convert_ids_to_tokens(&[id]).pop().flatten().unwrap_or_default();
                        notes.push(format!("the target {word:?} is no token; its first, {token:?}, stands in for it"));
                        id
                    }
                    None => {
                        notes.push(format!("the target {word:?} has no token, and is left out"));
                        continue;
                    }
                },
            };
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        if ids.is_empty() {
            return Err(TaskError::Setting { setting: "targets", reason: "no word to choose from".to_owned() });
        }
        Ok((ids, notes))
    }

    /// Fills every `[MASK]` of every text.
    ///
    /// # Errors
    /// A text without `[MASK]`, or one that the model cannot take.
    pub fn run<S: AsRef<str>>(&self, texts: &[S], options: &FillMaskOptions) -> Result<Vec<FilledText>, TaskError> {
        let encodings = texts
            .iter()
            .enumerate()
            .map(|(i, text)| self.encode(text.as_ref(), options.max_length).map_err(TaskError::of_input(i)));
        let encodings: Vec<Encoding> = encodings.collect::<Result<_, _>>()?;
        let sequences: Vec<&Encoding> = encodings.iter().collect();
        let mut filled = vec![FilledText { places: Vec::new() }; texts.len()];
        let labels = |encoding: &Encoding| encoding.ids.iter().map(|&id| i64::from(id == self.mask)).collect();
        for batch in self.text.batches(&sequences, Some(&labels)) {
            let logits = self.text.forward(&batch)?.logits.expect("a head that predicts words has logits");
            let logits = logits.into_dimensionality::<Ix2>().expect("one row a labelled token"); // [M, V]
            let mut rows = logits.rows().into_iter();
            for &member in &batch.members {
                let encoding = sequences[member];
                let places: Vec<usize> = (0..encoding.len()).filter(|&i| encoding.ids[i] == self.mask).collect();
                for (&place, row) in places.iter().zip(rows.by_ref()) {
                    let words = self.fill(encoding, place, places.len() == 1, &row.to_vec(), options)?;
                    filled[member].places.push(words);
                }
            }
        }
        Ok(filled)
    }

    fn encode(&self, text: &str, max_length: Option<usize>) -> Result<Encoding, TaskProblem> {
        let encoding = self.text.encode(text.into(), max_length)?;
        if !encoding.ids.contains(&self.mask) {
            let mask = self.text.tokenizer().mask_token().unwrap_or_default().to_owned();
            return Err(TaskProblem::NoMask { mask });
        }
        Ok(encoding)
    }

    /// The words of one place, from its logits \[V\].
    fn fill(
        &self,
        encoding: &Encoding,
        place: usize,
        only: bool,
        logits: &[f32],
        options: &FillMaskOptions,
    ) -> Result<Vec<Filled>, TaskError> {
        let tokenizer = self.text.tokenizer();
        let probabilities = softmax(logits);
        let candidates: Vec<(u32, f32)> = match &options.targets {
            None => largest(&probabilities, options.top_k).into_iter().map(|i| (i as u32, probabilities[i])).collect(),
            Some(ids) => {
                let of = |&id: &u32| probabilities.get(id as usize).copied().unwrap_or(0.0);
                let chosen: Vec<f32> = ids.iter().map(of).collect();
                largest(&chosen, options.top_k).into_iter().map(|i| (ids[i], chosen[i])).collect()
            }
        };
        let words = candidates.into_iter().map(|(token, score)| {
            let mut ids = encoding.ids.clone();
            ids[place] = token;
            ids.retain(|&id| id != tokenizer.pad_token_id());
            Ok(Filled {
                score: score.into(),
                token,
                token_str: tokenizer.decode(&[token], false)?,
                sequence: tokenizer.decode(&ids, only)?,
            })
        });
        words.collect()
    }
}

/// Why `head` cannot fill; `None` where it can.
fn missing(directory: &ModelDirectory, head: Head, profile: &Profile) -> Result<Option<String>, TaskError> {
    if directory.serves(head, profile)? {
        return Ok(None);
    }
    let legacy = directory.config(head).legacy;
    Ok(Some(match head {
        Head::MaskedLm if legacy => format!("{head} needs cls.predictions.*, which the weights lack"),
        Head::MaskedLm => format!("{head} needs lm_predictions.lm_head.*, which the weights lack"),
        _ => format!(
            "{head} needs lm_predictions.lm_head.* and, unless absolute positions are added at the input, \
             deberta.embeddings.position_embeddings.weight, which the weights lack"
        ),
    }))
}
