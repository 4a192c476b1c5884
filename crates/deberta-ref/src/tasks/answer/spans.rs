//! From the logits of windows to the spans of a context.

use deberta_tokenizer::Encoding;
use ndarray::ArrayD;

use super::{AnswerOptions, Span};
use crate::tasks::scores::{descending, first_sorted, softmax};

/// What a logit becomes that no answer may use.
const HIDDEN: f32 = -10_000.0;

/// How a window is read.
#[derive(Clone, Copy)]
pub(super) struct Reading {
    /// Whether the context is the second text.
    pub question_first: bool,
    /// The token of no answer.
    pub cls: u32,
}

/// A window with its logits, [L or more] each.
pub(super) struct Window<'a> {
    pub encoding: &'a Encoding,
    pub start: &'a ArrayD<f32>,
    pub end: &'a ArrayD<f32>,
    pub reader: Reading,
}

/// A span of tokens, both ends included.
struct Tokens {
    first: usize,
    last: usize,
    score: f32,
}

/// The answers of all windows so far.
pub(super) struct Found {
    context: Vec<char>,
    answers: Vec<Span>,
    /// What each answer reads in small letters, by which answers are told apart.
    lowered: Vec<String>,
    no_answer: f64,
}

impl Found {
    pub fn new(context: &str) -> Self {
        // The pipeline's starting value, which any window's is below.
        Self { context: context.chars().collect(), answers: Vec::new(), lowered: Vec::new(), no_answer: 1e6 }
    }

    /// Adds what a window says.
    pub fn add(&mut self, window: &Window<'_>, options: &AnswerOptions) {
        let allowed = window.allowed();
        let mut starts = window.probabilities(window.start, &allowed);
        let mut ends = window.probabilities(window.end, &allowed);
        self.no_answer = self.no_answer.min((starts[0] * ends[0]).into());
        (starts[0], ends[0]) = (0.0, 0.0);
        let count =
            if options.align_to_words { options.top_k.saturating_mul(2).saturating_add(10) } else { options.top_k };
        for span in best_spans(&starts, &ends, count, options.max_answer_len) {
            let (start, end) = window.characters(&span, options.align_to_words);
            let end_of_text = end.min(self.context.len());
            let answer: String = self.context.get(start..end_of_text).unwrap_or_default().iter().collect();
            let lowered = answer.to_lowercase();
            match self.lowered.iter().position(|l| *l == lowered) {
                Some(known) => self.answers[known].score += f64::from(span.score),
                None => {
                    self.answers.push(Span { score: span.score.into(), start, end, answer });
                    self.lowered.push(lowered);
                }
            }
        }
    }

    /// The most probable answers.
    pub fn best(mut self, options: &AnswerOptions) -> Vec<Span> {
        if options.handle_impossible_answer {
            self.answers.push(Span { score: self.no_answer, start: 0, end: 0, answer: String::new() });
        }
        self.answers.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.answers.truncate(options.top_k);
        self.answers
    }
}

impl Window<'_> {
    /// Which tokens an answer may use, \[L\]: the context's, and `[CLS]`, wherever it stands. With the context first, the
    /// pipeline allows everything.
    fn allowed(&self) -> Vec<bool> {
        let Reading { question_first, cls } = self.reader;
        let tokens = self.encoding.sequence_ids.iter().zip(&self.encoding.ids);
        tokens.map(|(sequence, &id)| !question_first || *sequence == Some(1) || id == cls).collect()
    }

    /// The softmax over the allowed tokens, \[L\].
    fn probabilities(&self, logits: &ArrayD<f32>, allowed: &[bool]) -> Vec<f32> {
        let masked = logits.iter().zip(allowed).map(|(&logit, &allowed)| if allowed { logit } else { HIDDEN });
        softmax(&masked.collect::<Vec<f32>>())
    }

    /// From where to where a span reaches in its text: over whole words, if both its ends are in words.
    fn characters(&self, span: &Tokens, align_to_words: bool) -> (usize, usize) {
        let whole = || {
            let first = self.word(self.encoding.word_ids[span.first]?)?;
            let last = self.word(self.encoding.word_ids[span.last]?)?;
            Some((first.0, last.1))
        };
        let tokens = || (self.encoding.offsets[span.first].0, self.encoding.offsets[span.last].1);
        if align_to_words { whole().unwrap_or_else(tokens) } else { tokens() }
    }

    /// The characters of a word of the context, as far as this window shows it.
    fn word(&self, word: u32) -> Option<(usize, usize)> {
        let sequence = Some(u8::from(self.reader.question_first));
        let of_word = |&i: &usize| self.encoding.sequence_ids[i] == sequence && self.encoding.word_ids[i] == Some(word);
        let first = (0..self.encoding.len()).find(of_word)?;
        let last = (0..self.encoding.len()).rfind(of_word)?;
        Some((self.encoding.offsets[first].0, self.encoding.offsets[last].1))
    }
}

/// The `count` most probable spans of at most `longest` tokens, the most probable first, of equals the earlier.
fn best_spans(starts: &[f32], ends: &[f32], count: usize, longest: usize) -> Vec<Tokens> {
    let mut spans = Vec::new();
    for (first, &p) in starts.iter().enumerate().filter(|(_, p)| **p > 0.0) {
        for (last, &q) in ends.iter().enumerate().skip(first).take(longest) {
            let score = p * q;
            if score > 0.0 {
                spans.push(Tokens { first, last, score });
            }
        }
    }
    let order = |a: &Tokens, b: &Tokens| descending(a.score, b.score).then((a.first, a.last).cmp(&(b.first, b.last)));
    first_sorted(spans, count, order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_in_order_of_probability() {
        let starts = [0.0, 0.5, 0.25, 0.25];
        let ends = [0.0, 0.25, 0.25, 0.5];
        let found = |count, longest| {
            let spans = best_spans(&starts, &ends, count, longest);
            spans.into_iter().map(|s| (s.first, s.last)).collect::<Vec<_>>()
        };
        assert_eq!(found(9, 9), [(1, 3), (1, 1), (1, 2), (2, 3), (3, 3), (2, 2)]);
        assert_eq!(found(3, 9), [(1, 3), (1, 1), (1, 2)]);
        assert_eq!(found(9, 1), [(1, 1), (3, 3), (2, 2)]);
    }
}
