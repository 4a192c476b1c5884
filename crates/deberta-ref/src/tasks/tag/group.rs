//! From labelled tokens to labelled spans.
//!
//! ```text
//! none       token → its best label
//! simple     tokens → their best labels → spans
//! the rest   tokens → words → one label a word → spans
//! ```
//!
//! A word begins where a space stands at or before its first character; the tokenizer does not say (SentencePiece knows no
//! words), so text and punctuation without a space between them are one. A span grows while the label stays the same
//! behind its B- or I-, and no B- begins another. Its score is the mean of its parts'. What it reads is put together from
//! the tokens by the tokenizer; words that were put together before have lost the space in front.

use deberta_tokenizer::Tokenizer;

use super::{Aggregation, Tagged};
use crate::tasks::error::TaskError;
use crate::tasks::scores::{argmax, mean};

/// A token with the probabilities of its labels.
pub(super) struct PreEntity {
    pub word: String,
    /// \[C\]
    pub scores: Vec<f32>,
    pub start: usize,
    pub end: usize,
    pub index: usize,
    /// Whether it goes on with the word of the token before.
    pub is_subword: bool,
}

/// A token or a word with its label.
struct Entity {
    label: String,
    score: f32,
    index: Option<usize>,
    word: String,
    start: usize,
    end: usize,
}

pub(super) fn aggregate(
    tokens: Vec<PreEntity>,
    aggregation: Aggregation,
    label: &dyn Fn(usize) -> String,
    tokenizer: &Tokenizer,
) -> Result<Vec<Tagged>, TaskError> {
    let entities: Vec<Entity> = match aggregation {
        Aggregation::None | Aggregation::Simple => tokens.into_iter().map(|token| of_token(token, label)).collect(),
        _ => words(&tokens).map(|word| of_word(word, aggregation, label, tokenizer)).collect::<Result<_, _>>()?,
    };
    if aggregation == Aggregation::None {
        return Ok(entities.into_iter().map(Tagged::from).collect());
    }
    spans(&entities).map(|span| of_span(span, tokenizer)).collect()
}

fn of_token(token: PreEntity, label: &dyn Fn(usize) -> String) -> Entity {
    let best = argmax(&token.scores);
    let PreEntity { word, scores, start, end, index, .. } = token;
    Entity { label: label(best), score: scores[best], index: Some(index), word, start, end }
}

/// Runs of tokens, each beginning with one that goes on with no word.
fn words(tokens: &[PreEntity]) -> impl Iterator<Item = &[PreEntity]> {
    tokens.chunk_by(|_, next| next.is_subword)
}

fn of_word(
    tokens: &[PreEntity],
    aggregation: Aggregation,
    label: &dyn Fn(usize) -> String,
    tokenizer: &Tokenizer,
) -> Result<Entity, TaskError> {
    let averaged;
    let scores = match aggregation {
        Aggregation::Average => {
            let column = |c: usize| mean(&tokens.iter().map(|t| t.scores[c]).collect::<Vec<f32>>());
            averaged = (0..tokens[0].scores.len()).map(column).collect::<Vec<f32>>();
            &averaged
        }
        Aggregation::Max => {
            let certainties: Vec<f32> = tokens.iter().map(|t| t.scores[argmax(&t.scores)]).collect();
            &tokens[argmax(&certainties)].scores
        }
        _ => &tokens[0].scores,
    };
    let best = argmax(scores);
    let parts: Vec<&str> = tokens.iter().map(|t| t.word.as_str()).collect();
    Ok(Entity {
        label: label(best),
        score: scores[best],
        index: None,
        word: tokenizer.convert_tokens_to_string(&parts)?,
        start: tokens[0].start,
        end: tokens[tokens.len() - 1].end,
    })
}

/// Runs of entities that read as one.
fn spans(entities: &[Entity]) -> impl Iterator<Item = &[Entity]> {
    entities.chunk_by(|last, next| {
        let ((_, last), (begins, next)) = (tag(&last.label), tag(&next.label));
        last == next && !begins
    })
}

/// Whether a label begins a span, and what it says of it. Labels without B- or I- go on with a span.
fn tag(label: &str) -> (bool, &str) {
    match (label.strip_prefix("B-"), label.strip_prefix("I-")) {
        (Some(tag), _) => (true, tag),
        (_, Some(tag)) => (false, tag),
        _ => (false, label),
    }
}

fn of_span(entities: &[Entity], tokenizer: &Tokenizer) -> Result<Tagged, TaskError> {
    let label = &entities[0].label;
    let group = label.split_once('-').map_or(label.as_str(), |(_, tag)| tag);
    let parts: Vec<&str> = entities.iter().map(|e| e.word.as_str()).collect();
    Ok(Tagged {
        entity_group: Some(group.to_owned()),
        entity: None,
        score: mean(&entities.iter().map(|e| e.score).collect::<Vec<f32>>()).into(),
        index: None,
        word: tokenizer.convert_tokens_to_string(&parts)?,
        start: entities[0].start,
        end: entities[entities.len() - 1].end,
    })
}

impl From<Entity> for Tagged {
    fn from(entity: Entity) -> Self {
        let Entity { label, score, index, word, start, end } = entity;
        Self { entity_group: None, entity: Some(label), score: score.into(), index, word, start, end }
    }
}
