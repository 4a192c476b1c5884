//! Classification of a text, or of a pair (`TextClassificationPipeline`).
//!
//! ```text
//! 1. [CLS] text [SEP], or [CLS] text [SEP] text_pair [SEP], not cut unless asked
//! 2. scores = f(logits)                                      [C]
//! 3. the best label, or the best k
//! ```
//!
//! f, unless it is chosen: nothing for a regression, the sigmoid for labels that exclude nothing and for a single label,
//! else softmax.

use deberta_model::Head;
use deberta_model::config::ProblemType;
use deberta_tokenizer::{Encoding, Input};
use serde::{Serialize, Serializer};

use super::error::TaskError;
use super::scores::{argmax, largest, sigmoid, softmax};
use super::text_model::{Setup, TextModel};
use crate::ModelDirectory;

/// A classifier of texts.
pub struct Classify<'d> {
    pub(super) text: TextModel<'d>,
}

/// A text, and another one beside it for a pair such as premise and hypothesis. An empty one is none, as it is for the
/// tokenizer of transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextPair<'a> {
    /// The text.
    pub text: &'a str,
    /// The other one.
    pub text_pair: Option<&'a str>,
}

impl<'a> TextPair<'a> {
    pub(crate) fn input(self) -> Input<'a> {
        match self.text_pair.filter(|other| !other.is_empty()) {
            Some(other) => Input::Pair(self.text, other),
            None => Input::Single(self.text),
        }
    }
}

/// How logits become scores (`function_to_apply`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScoreFunction {
    /// Each label by itself.
    Sigmoid,
    /// The labels against one another.
    Softmax,
    /// The logits as they are.
    None,
}

/// How many labels to return.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TopLabels {
    /// The best, by itself.
    #[default]
    Best,
    /// A list of so many, the best first.
    First(usize),
    /// A list of all, the best first.
    All,
}

/// How to classify.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClassifyOptions {
    /// How logits become scores; `None`: as the configuration says.
    pub function: Option<ScoreFunction>,
    /// How many labels to return.
    pub top: TopLabels,
    /// Cut longer texts to this many tokens; `None`: never.
    pub max_length: Option<usize>,
}

/// A label and its score.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Label {
    /// Its name in `id2label`.
    pub label: String,
    /// How well it fits.
    pub score: f64,
}

/// What a text was classified as.
#[derive(Clone, Debug, PartialEq)]
pub struct Labelled {
    /// The labels, the best first.
    pub labels: Vec<Label>,
    /// Whether a list was asked for.
    pub list: bool,
}

/// The best label by itself, or a list.
impl Serialize for Labelled {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.labels.as_slice() {
            [best] if !self.list => best.serialize(serializer),
            list => list.serialize(serializer),
        }
    }
}

impl<'d> Classify<'d> {
    /// Loads the classifier of a directory.
    ///
    /// # Errors
    /// Weights without a classifier, and files that are broken.
    pub fn load(directory: &'d ModelDirectory, setup: &Setup) -> Result<Self, TaskError> {
        let text = TextModel::load_for("classify texts", directory, Head::SequenceClassification, setup)?;
        Ok(Self { text })
    }

    /// The model and its tokenizer.
    pub fn text_model(&self) -> &TextModel<'d> {
        &self.text
    }

    /// How logits become scores where nobody chooses.
    pub fn default_function(&self) -> ScoreFunction {
        let config = self.text.config();
        match config.problem_type {
            Some(ProblemType::Regression) => ScoreFunction::None,
            Some(ProblemType::MultiLabelClassification) => ScoreFunction::Sigmoid,
            _ if config.num_labels() == 1 => ScoreFunction::Sigmoid,
            _ => ScoreFunction::Softmax,
        }
    }

    /// Classifies every text.
    ///
    /// # Errors
    /// A text that the model cannot take.
    pub fn run(&self, texts: &[TextPair<'_>], options: &ClassifyOptions) -> Result<Vec<Labelled>, TaskError> {
        let encode = |(i, text): (usize, &TextPair<'_>)| {
            self.text.encode(text.input(), options.max_length).map_err(TaskError::of_input(i))
        };
        let encodings: Vec<Encoding> = texts.iter().enumerate().map(encode).collect::<Result<_, _>>()?;
        let sequences: Vec<&Encoding> = encodings.iter().collect();
        let function = options.function.unwrap_or_else(|| self.default_function());
        let logits = self.text.logits(&sequences)?;
        Ok(logits.iter().map(|row| self.label(row.iter().copied().collect(), function, options.top)).collect())
    }

    fn label(&self, logits: Vec<f32>, function: ScoreFunction, top: TopLabels) -> Labelled {
        let scores = match function {
            ScoreFunction::Sigmoid => logits.into_iter().map(sigmoid).collect(),
            ScoreFunction::Softmax => softmax(&logits),
            ScoreFunction::None => logits,
        };
        let places = match top {
            TopLabels::Best => vec![argmax(&scores)],
            TopLabels::First(count) => largest(&scores, count),
            TopLabels::All => largest(&scores, scores.len()),
        };
        let label = |i| Label { label: self.text.config().label(i), score: scores[i].into() };
        Labelled { labels: places.into_iter().map(label).collect(), list: top != TopLabels::Best }
    }
}
