//! Zero-shot classification: labels of one's own, through a model that knows what follows from what
//! (`ZeroShotClassificationPipeline`).
//!
//! ```text
//! 1. a pair for each label: the text, and "This example is {label}."; the text alone is cut, to the model's length
//! 2. logits of entailment and contradiction for each pair
//! 3. one label is true:  scores = softmax over the labels of the logits of entailment
//!    any may be:         score  = softmax over contradiction and entailment, at entailment, label by label
//! 4. the labels, the best first
//! ```
//!
//! Entailment is the first class of `label2id` whose name begins with "entail", else the last class; contradiction is the
//! first class, or the last one where entailment is the first. Among equal scores the later label comes first, since the
//! pipeline turns an ascending order around.

use deberta_tokenizer::{Encoding, Input, TokenizerError, Truncation, TruncationStrategy};
use serde::Serialize;
use serde_json::Value;

use super::classify::Classify;
use super::error::{TaskError, TaskProblem};
use super::scores::{descending, plain_softmax};

/// The hypothesis about a label.
pub const DEFAULT_TEMPLATE: &str = "This example is {}.";

/// How to classify.
#[derive(Clone, Debug)]
pub struct ZeroShotOptions {
    /// The hypothesis about a label, which stands where the braces are.
    pub hypothesis_template: String,
    /// Whether any number of labels may be true.
    pub multi_label: bool,
}

impl Default for ZeroShotOptions {
    fn default() -> Self {
        Self { hypothesis_template: DEFAULT_TEMPLATE.to_owned(), multi_label: false }
    }
}

/// A text and the labels to choose from.
#[derive(Clone, Copy, Debug)]
pub struct ZeroShotText<'a, S> {
    /// The text.
    pub text: &'a str,
    /// The labels.
    pub candidate_labels: &'a [S],
}

/// The labels of a text, the best first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ranked {
    /// The text.
    pub sequence: String,
    /// The labels.
    pub labels: Vec<String>,
    /// The score of each.
    pub scores: Vec<f64>,
}

impl Classify<'_> {
    /// The class whose name begins with "entail"; without one, the last class is taken for it.
    pub fn entailment(&self) -> Option<usize> {
        let config = self.text.config();
        let entails = |label: &str| label.to_lowercase().starts_with("entail");
        let id = match config.unknown.get("label2id").and_then(Value::as_object) {
            Some(ids) => ids.iter().find(|(label, _)| entails(label))?.1.as_u64().and_then(|id| id.try_into().ok()),
            None => (0..config.num_labels()).find(|&id| entails(&config.label(id))),
        };
        id.filter(|&id| id < config.num_labels())
    }

    /// Classifies every text by labels of one's own.
    ///
    /// # Errors
    /// A text that the model cannot take, one without labels, and a template without a place for the label.
    pub fn zero_shot<S: AsRef<str>>(
        &self,
        texts: &[ZeroShotText<'_, S>],
        options: &ZeroShotOptions,
    ) -> Result<Vec<Ranked>, TaskError> {
        let template = Template::parse(&options.hypothesis_template)?;
        let mut encodings: Vec<Encoding> = Vec::new();
        for (i, text) in texts.iter().enumerate() {
            let empty = |part| TaskError::Input { index: i, problem: TaskProblem::Empty { part } };
            if text.text.is_empty() {
                return Err(empty("text"));
            }
            if text.candidate_labels.is_empty() {
                return Err(empty("candidate_labels"));
            }
            for label in text.candidate_labels {
                let hypothesis = template.with(label.as_ref());
                encodings.push(self.hypothesis(text.text, &hypothesis).map_err(TaskError::of_input(i))?);
            }
        }
        let sequences: Vec<&Encoding> = encodings.iter().collect();
        let mut logits = self.text.logits(&sequences)?.into_iter().map(|row| row.into_iter().collect::<Vec<f32>>());
        let mut ranked = Vec::new();
        for text in texts {
            let rows: Vec<Vec<f32>> = logits.by_ref().take(text.candidate_labels.len()).collect();
            ranked.push(rank(text, &self.follows(&rows, options.multi_label)));
        }
        Ok(ranked)
    }

    /// The text is cut to the model's length, if it has one and the hypothesis leaves room for any of it.
    fn hypothesis(&self, text: &str, hypothesis: &str) -> Result<Encoding, TaskProblem> {
        let input = Input::Pair(text, hypothesis);
        let tokenizer = self.text.tokenizer();
        let truncation = tokenizer.model_max_length().map(|n| Truncation {
            strategy: TruncationStrategy::OnlyFirst,
            side: tokenizer.truncation_side(),
            ..Truncation::to(n)
        });
        match self.text.encode_with(input, truncation) {
            Err(TaskProblem::Tokenizer(TokenizerError::MaxLengthTooShort { .. })) => self.text.encode_with(input, None),
            other => other,
        }
    }

    /// From logits [labels, C] to scores \[labels\].
    fn follows(&self, rows: &[Vec<f32>], multi_label: bool) -> Vec<f32> {
        let last = self.text.config().num_labels() - 1;
        let entailment = self.entailment().unwrap_or(last);
        let contradiction = if entailment == 0 { last } else { 0 };
        if multi_label || rows.len() == 1 {
            rows.iter().map(|row| plain_softmax(&[row[contradiction], row[entailment]])[1]).collect()
        } else {
            plain_softmax(&rows.iter().map(|row| row[entailment]).collect::<Vec<f32>>())
        }
    }
}

fn rank<S: AsRef<str>>(text: &ZeroShotText<'_, S>, scores: &[f32]) -> Ranked {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| descending(scores[a], scores[b]).then(b.cmp(&a)));
    Ranked {
        sequence: text.text.to_owned(),
        labels: order.iter().map(|&i| text.candidate_labels[i].as_ref().to_owned()).collect(),
        scores: order.iter().map(|&i| scores[i].into()).collect(),
    }
}

/// A hypothesis with places for a label, as `str.format` reads it: `{}` or `{0}`; doubled braces are braces.
struct Template {
    /// The text between the places.
    parts: Vec<String>,
}

impl Template {
    fn parse(template: &str) -> Result<Self, TaskError> {
        let refused = |reason: &str| TaskError::Setting {
            setting: "hypothesis_template",
            reason: format!("{template:?} {reason}, such as {DEFAULT_TEMPLATE:?}"),
        };
        let mut parts = vec![String::new()];
        let (mut next, mut numbered) = (0, false);
        let mut rest = template;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, brace) = rest.split_at(at);
            let part = parts.last_mut().expect("there is always a part");
            part.push_str(before);
            if let Some(after) = brace.strip_prefix("{{").or_else(|| brace.strip_prefix("}}")) {
                part.push_str(&brace[..1]);
                rest = after;
            } else if let Some(after) = brace.strip_prefix("{}") {
                next += 1;
                parts.push(String::new());
                rest = after;
            } else if let Some(after) = brace.strip_prefix("{0}") {
                numbered = true;
                parts.push(String::new());
                rest = after;
            } else {
                return Err(refused("has a brace that is not part of {}; double it, or use a template"));
            }
        }
        parts.last_mut().expect("there is always a part").push_str(rest);
        // Each {} is the next argument, and there is one label.
        if next > 1 || (next == 1 && numbered) {
            return Err(refused("has {} more than once; write {0} each time the label comes, or use a template"));
        }
        if parts.len() == 1 {
            return Err(refused("has no {} where the label goes; use a template"));
        }
        Ok(Self { parts })
    }

    fn with(&self, label: &str) -> String {
        self.parts.join(label)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates() {
        let with = |template: &str| Template::parse(template).map(|t| t.with("odd"));
        assert_eq!(with(DEFAULT_TEMPLATE).unwrap(), "This example is odd.");
        assert_eq!(with("{0} {{and}} {0}").unwrap(), "odd {and} odd");
        assert_eq!(with("{{}} about {}").unwrap(), "{} about odd");
        for refused in ["none", "{} {}", "{} {0}", "{label}", "{", "}", "{{}}"] {
            let said = with(refused).unwrap_err().to_string();
            assert!(said.contains("hypothesis_template"), "{said}");
        }
    }
}
