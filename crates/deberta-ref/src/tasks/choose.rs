//! Multiple choice: which continuation goes with a prompt (`DebertaV2ForMultipleChoice`, as `run_swag` feeds it).
//!
//! ```text
//! 1. [CLS] prompt [SEP] choice [SEP] for each choice, cut to the model's length if it has one, the longer text first
//! 2. scores = softmax of the pairs' logits                   [C]
//! ```

use deberta_model::Head;
use deberta_tokenizer::{Encoding, Input};
use serde::Serialize;

use super::error::{TaskError, TaskProblem};
use super::scores::{argmax, softmax};
use super::text_model::{Setup, TextModel};
use crate::ModelDirectory;

/// A model that chooses.
pub struct Choose<'d> {
    text: TextModel<'d>,
}

/// A prompt and its continuations.
#[derive(Clone, Copy, Debug)]
pub struct Prompt<'a, S> {
    /// What comes before.
    pub prompt: &'a str,
    /// What may come after.
    pub choices: &'a [S],
}

/// The choice for a prompt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Chosen {
    /// Which choice is the best, from 0.
    pub choice: usize,
    /// The probability of each choice, in their order.
    pub scores: Vec<f64>,
}

impl<'d> Choose<'d> {
    /// Loads the model of a directory.
    ///
    /// # Errors
    /// Weights without a head for choices, and files that are broken.
    pub fn load(directory: &'d ModelDirectory, setup: &Setup) -> Result<Self, TaskError> {
        Ok(Self { text: TextModel::load_for("choose", directory, Head::MultipleChoice, setup)? })
    }

    /// The model and its tokenizer.
    pub fn text_model(&self) -> &TextModel<'d> {
        &self.text
    }

    /// Chooses for every prompt. Pairs are cut to `max_length`, or else to the model's length.
    ///
    /// # Errors
    /// A prompt without choices, and a text that the model cannot take.
    pub fn run<S: AsRef<str>>(
        &self,
        prompts: &[Prompt<'_, S>],
        max_length: Option<usize>,
    ) -> Result<Vec<Chosen>, TaskError> {
        let max_length = max_length.or(self.text.tokenizer().model_max_length());
        let mut encodings: Vec<Encoding> = Vec::new();
        for (i, prompt) in prompts.iter().enumerate() {
            if prompt.choices.is_empty() {
                return Err(TaskError::Input { index: i, problem: TaskProblem::Empty { part: "choices" } });
            }
            for choice in prompt.choices {
                let input = Input::Pair(prompt.prompt, choice.as_ref());
                encodings.push(self.text.encode(input, max_length).map_err(TaskError::of_input(i))?);
            }
        }
        let sequences: Vec<&Encoding> = encodings.iter().collect();
        // A choice is computed by itself, [N, 1, L]: its logit does not hang on the others.
        let logits = self.text.logits(&sequences)?;
        let mut logits = logits.iter().map(|row| row.iter().copied().sum::<f32>());
        let chosen = prompts.iter().map(|prompt| {
            let row: Vec<f32> = logits.by_ref().take(prompt.choices.len()).collect();
            let scores = softmax(&row);
            Chosen { choice: argmax(&scores), scores: scores.into_iter().map(f64::from).collect() }
        });
        Ok(chosen.collect())
    }
}
