//! The most probable cut of a text into pieces (`unigram_model.cc`, `Model::EncodeOptimized`).
//!
//! With independent pieces the best cut of a prefix is a best cut of a shorter prefix and one more piece:
//!
//! ```text
//! best(e) = max over pieces p that end at e of  best(e − |p|) + score(p)
//! ```
//!
//! So one pass from left to right suffices: at every character that a cut can reach, every piece that starts there is
//! tried, and the best way to each end is kept. Where no piece is exactly the one character that stands there, the
//! unknown piece takes it, at the lowest score of the model less 10. Of equal sums the first one found stays.
//!
//! Numerics: a sum is taken in f64 from an f32 score and the f32 kept so far, compared with the f32 kept at its end, and
//! kept rounded to f32. The unknown piece's sum is taken in f32. Ties depend on it, and so do the ids of long texts.

use yada::DoubleArray;
use yada::builder::DoubleArrayBuilder;

use super::{PieceType, Span};

/// What the unknown piece costs below the lowest score (`kUnkPenalty`).
const UNKNOWN_PENALTY: f32 = 10.0;

/// The pieces that text can be cut into, with their scores.
pub(super) struct Unigram {
    trie: DoubleArray<Vec<u8>>,
    /// By id.
    scores: Vec<Score>,
    unknown_id: u32,
    unknown_score: f32,
    highest: f32,
}

#[derive(Clone, Copy)]
enum Score {
    Normal(f32),
    /// Scored by length, so that it always wins.
    UserDefined,
    Unused,
}

/// A piece that can stand in text: its id, what it reads, its score and its kind.
pub(super) struct Candidate<'a> {
    pub id: u32,
    pub piece: &'a str,
    pub score: f32,
    pub kind: PieceType,
}

/// The best way to a position: the last piece on it and where that starts.
#[derive(Clone, Copy)]
struct Best {
    score: f32,
    id: u32,
    /// `u32::MAX` while no way is known.
    start: u32,
}

impl Unigram {
    /// From the candidates in the order of what they read. `None` where the trie cannot be built, which takes more pieces
    /// than ids can count.
    pub fn new(vocab_size: usize, unknown_id: u32, candidates: &[Candidate<'_>]) -> Option<Self> {
        let keys: Vec<(&[u8], u32)> = candidates.iter().map(|c| (c.piece.as_bytes(), c.id)).collect();
        let trie = DoubleArray::new(DoubleArrayBuilder::build(&keys).ok()?).ok()?;
        // The bounds as the C++ has them: unless a score lies within, they stay.
        let (mut lowest, mut highest) = (f32::MAX, f32::MIN_POSITIVE);
        let mut scores = vec![Score::Unused; vocab_size];
        for c in candidates {
            scores[c.id as usize] = match c.kind {
                PieceType::Unused => Score::Unused,
                PieceType::UserDefined => Score::UserDefined,
                _ => {
                    lowest = if c.score < lowest { c.score } else { lowest };
                    highest = if highest < c.score { c.score } else { highest };
                    Score::Normal(c.score)
                }
            };
        }
        Some(Self { trie, scores, unknown_id, unknown_score: lowest - UNKNOWN_PENALTY, highest })
    }

    /// Cuts normalized text. The spans follow each other and cover it.
    pub fn cut(&self, text: &str) -> Vec<Span> {
        let bytes = text.as_bytes();
        // The trie's search takes no NUL, and no piece holds one: text is searched up to the next.
        let next_nul = |from: usize| bytes[from..].iter().position(|b| *b == 0).map_or(bytes.len(), |i| from + i);
        let mut nul = next_nul(0);
        let mut best = vec![Best { score: 0.0, id: self.unknown_id, start: u32::MAX }; bytes.len() + 1];
        for (start, c) in text.char_indices() {
            let so_far = best[start].score;
            let (one, mut one_is_a_piece) = (c.len_utf8(), false);
            if start > nul {
                nul = next_nul(start);
            }
            for (id, length) in self.trie.common_prefix_search(&bytes[start..nul]) {
                let score = match self.scores[id as usize] {
                    Score::Normal(score) => f64::from(score),
                    Score::UserDefined => f64::from(length as f32 * self.highest) - 0.1,
                    Score::Unused => continue,
                };
                let sum = score + f64::from(so_far);
                let end = &mut best[start + length];
                if end.start == u32::MAX || sum > f64::from(end.score) {
                    *end = Best { score: sum as f32, id, start: start as u32 };
                }
                one_is_a_piece |= length == one;
            }
            if !one_is_a_piece {
                let sum = self.unknown_score + so_far;
                let end = &mut best[start + one];
                if end.start == u32::MAX || sum > end.score {
                    *end = Best { score: sum, id: self.unknown_id, start: start as u32 };
                }
            }
        }
        backtrack(&best)
    }
}

fn backtrack(best: &[Best]) -> Vec<Span> {
    let mut spans = Vec::new();
    let mut end = best.len() - 1;
    while end > 0 {
        let Best { id, start, .. } = best[end];
        spans.push(Span { id, start: start as usize, end });
        end = start as usize;
    }
    spans.reverse();
    spans
}
