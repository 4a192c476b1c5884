//! Answers to questions: spans of a context of any length (`QuestionAnsweringPipeline` of transformers 4; 5 has none).
//!
//! ```text
//! 1. windows      [CLS] question [SEP] context [SEP], the context cut to `max_seq_len`, each window with `doc_stride`
//!                 tokens of the one before
//! 2. p, q         softmax of start and end logits over the context's tokens and [CLS], then p₀ = q₀ = 0    [L]
//! 3. spans        the most probable p_i·q_j with i ≤ j < i + `max_answer_len`, twice as many as asked for and ten more
//! 4. text         from the first character of the first token's word to the last of the last one's
//! 5. answers      spans of one text, in small letters, are one answer: its score is their sum, over all windows
//! 6. no answer    the lowest p₀·q₀ of all windows (before step 2 took it away), as an answer without characters
//! ```
//!
//! A span of probability zero is no answer. numpy lists some where a context has fewer spans than were asked for; which
//! ones, and in which order equal scores come, depends on the processor it runs on. Here, earlier spans come first.

mod spans;

use deberta_model::Head;
use deberta_tokenizer::{EncodeOptions, Encoding, Input, Side, TokenizerError, Truncation, TruncationStrategy};
use ndarray::ArrayD;
use serde::{Serialize, Serializer};

use super::error::{TaskError, TaskProblem};
use super::text_model::{Setup, TextModel};
use crate::ModelDirectory;
use spans::{Found, Window};

/// The logits of where an answer starts and of where it ends.
type StartsAndEnds = (ArrayD<f32>, ArrayD<f32>);

/// A reader that answers questions.
pub struct Answer<'d> {
    text: TextModel<'d>,
}

/// A question and the text that may answer it.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The question.
    pub question: &'a str,
    /// The text.
    pub context: &'a str,
}

/// How to answer.
#[derive(Clone, Copy, Debug)]
pub struct AnswerOptions {
    /// How many answers.
    pub top_k: usize,
    /// The most tokens of a window, the question included; `None`: 384, or the model's length if that is less.
    pub max_seq_len: Option<usize>,
    /// How many tokens of the context come again in the next window; `None`: 128, or half a window if that is less.
    pub doc_stride: Option<usize>,
    /// The most tokens of an answer.
    pub max_answer_len: usize,
    /// The most tokens of a question; `None`: all of it, as the pipeline has it with a fast tokenizer.
    pub max_question_len: Option<usize>,
    /// Whether there may be no answer.
    pub handle_impossible_answer: bool,
    /// Whether answers are whole words.
    pub align_to_words: bool,
}

impl Default for AnswerOptions {
    fn default() -> Self {
        Self {
            top_k: 1,
            max_seq_len: None,
            doc_stride: None,
            max_answer_len: 15,
            max_question_len: None,
            handle_impossible_answer: false,
            align_to_words: true,
        }
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Span {
    /// Its probability; where several spans read the same, the sum of theirs.
    pub score: f64,
    /// Where it begins in the context, in characters.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
    /// What it reads.
    pub answer: String,
}

/// The answers to a question, the most probable first.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    /// Fewer than were asked for where the context has no more.
    pub answers: Vec<Span>,
}

/// One answer by itself, several as a list.
impl Serialize for Answered {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.answers.as_slice() {
            [only] => only.serialize(serializer),
            list => list.serialize(serializer),
        }
    }
}

impl<'d> Answer<'d> {
    /// Loads the reader of a directory.
    ///
    /// # Errors
    /// Weights without a head for answers, and files that are broken.
    pub fn load(directory: &'d ModelDirectory, setup: &Setup) -> Result<Self, TaskError> {
        Ok(Self { text: TextModel::load_for("answer questions", directory, Head::QuestionAnswering, setup)? })
    }

    /// The model and its tokenizer.
    pub fn text_model(&self) -> &TextModel<'d> {
        &self.text
    }

    /// Answers every question.
    ///
    /// # Errors
    /// An empty question or context, a question that leaves a window no room, and settings that do not go together.
    pub fn run(&self, questions: &[Question<'_>], options: &AnswerOptions) -> Result<Vec<Answered>, TaskError> {
        let truncation = self.truncation(options)?;
        let encode = |(i, question): (usize, &Question<'_>)| {
            self.encode(question, truncation, options.max_question_len).map_err(TaskError::of_input(i))
        };
        let encodings: Vec<Encoding> = questions.iter().enumerate().map(encode).collect::<Result<_, _>>()?;
        let sequences: Vec<&Encoding> =
            encodings.iter().flat_map(|first| std::iter::once(first).chain(&first.overflowing)).collect();
        let logits = self.span_logits(&sequences)?;
        let mut windows = sequences.iter().zip(&logits);
        let answered = questions.iter().zip(&encodings).map(|(question, encoding)| {
            let mut found = Found::new(question.context);
            for (window, (start, end)) in windows.by_ref().take(1 + encoding.overflowing.len()) {
                let window = Window { encoding: window, start, end, reader: self.reading() };
                found.add(&window, options);
            }
            Answered { answers: found.best(options) }
        });
        Ok(answered.collect())
    }

    /// Whether the question stands before the context: where padding is at the end.
    fn question_first(&self) -> bool {
        self.text.tokenizer().padding_side() == Side::Right
    }

    fn reading(&self) -> spans::Reading {
        spans::Reading { question_first: self.question_first(), cls: self.text.tokenizer().cls_token_id() }
    }

    fn truncation(&self, options: &AnswerOptions) -> Result<Truncation, TaskError> {
        let refused = |setting, reason: String| Err(TaskError::Setting { setting, reason });
        for (setting, number) in [("top_k", options.top_k), ("max_answer_len", options.max_answer_len)] {
            if number == 0 {
                return refused(setting, "must be at least 1".to_owned());
            }
        }
        let tokenizer = self.text.tokenizer();
        let max_length = options.max_seq_len.unwrap_or(tokenizer.model_max_length().unwrap_or(384).min(384));
        let stride = options.doc_stride.unwrap_or((max_length / 2).min(128));
        if stride > max_length {
            return refused("doc_stride", format!("{stride} is more than `max_seq_len`, {max_length}"));
        }
        let strategy = match self.question_first() {
            true => TruncationStrategy::OnlySecond,
            false => TruncationStrategy::OnlyFirst,
        };
        Ok(Truncation { max_length, strategy, stride, side: tokenizer.truncation_side() })
    }

    fn encode(
        &self,
        question: &Question<'_>,
        truncation: Truncation,
        max_question_len: Option<usize>,
    ) -> Result<Encoding, TaskProblem> {
        for (part, text) in [("question", question.question), ("context", question.context)] {
            if text.is_empty() {
                return Err(TaskProblem::Empty { part });
            }
        }
        let asked = match max_question_len {
            None => question.question,
            Some(length) => {
                let plain = EncodeOptions { add_special_tokens: false, ..EncodeOptions::default() };
                let tokens = self.text.tokenizer().encode(question.question, &plain)?.byte_offsets;
                let end = tokens.get(length).and(tokens.get(length.wrapping_sub(1)));
                end.map_or(question.question, |&(_, end)| &question.question[..end])
            }
        };
        let input = match self.question_first() {
            true => Input::Pair(asked, question.context),
            false => Input::Pair(question.context, asked),
        };
        self.text.encode_with(input, Some(truncation)).map_err(|problem| match problem {
            TaskProblem::Tokenizer(TokenizerError::MaxLengthTooShort { max_length, needed, .. }) => {
                TaskProblem::NoRoom { max_seq_len: max_length, needed }
            }
            other => other,
        })
    }

    /// Start and end logits of every sequence, [L or more] each.
    fn span_logits(&self, sequences: &[&Encoding]) -> Result<Vec<StartsAndEnds>, TaskError> {
        let mut all = vec![StartsAndEnds::default(); sequences.len()];
        for batch in self.text.batches(sequences, None) {
            let outputs = self.text.forward(&batch)?;
            let (Some(starts), Some(ends)) = (outputs.start_logits, outputs.end_logits) else {
                unreachable!("a head for answers has start and end logits");
            };
            for ((start, end), &member) in starts.outer_iter().zip(ends.outer_iter()).zip(&batch.members) {
                all[member] = (start.to_owned(), end.to_owned());
            }
        }
        Ok(all)
    }
}
