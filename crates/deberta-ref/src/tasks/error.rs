//! What can go wrong with a task: the model lacks its head, or an input cannot be taken.

use std::path::PathBuf;

use deberta_tokenizer::TokenizerError;
use thiserror::Error;

use crate::Error;

/// An error of a task.
#[derive(Debug, Error)]
pub enum TaskError {
    /// The model's files.
    #[error(transparent)]
    Model(#[from] Error),
    /// The tokenizer's files.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Weights that serve no head of the task.
    #[error("{}: cannot {task}: {reason}; without these weights the answers would be noise", path.display())]
    NoHead {
        /// The model directory.
        path: PathBuf,
        /// What was asked for.
        task: &'static str,
        /// What is missing.
        reason: String,
    },
    /// A setting that does not go with the model or another setting.
    #[error("{setting}: {reason}")]
    Setting {
        /// Its name on the command line.
        setting: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// An input that the task cannot take.
    #[error("input {}: {problem}", index + 1)]
    Input {
        /// Which one, from 0.
        index: usize,
        /// What is wrong with it.
        problem: TaskProblem,
    },
}

/// What is wrong with an input.
#[derive(Debug, Error)]
pub enum TaskProblem {
    /// A part without which there is nothing to compute.
    #[error("`{part}` is empty")]
    Empty {
        /// Its name in a JSON line.
        part: &'static str,
    },
    /// A text to fill without a place to fill.
    #[error("the text has no {mask} to fill")]
    NoMask {
        /// What marks the place.
        mask: String,
    },
    /// A text that the tokenizer cannot cut as asked.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A question as long as a window.
    #[error(
        "the question leaves a window of {max_seq_len} tokens no room for the context; use --max-seq-len {needed} or more, \
         or --max-question-len"
    )]
    NoRoom {
        /// The most tokens of a window.
        max_seq_len: usize,
        /// The least that works here.
        needed: usize,
    },
    /// More tokens than the model has absolute positions for.
    #[error(
        "{tokens} tokens are more than the {limit} absolute positions of the model (`max_position_embeddings`); cut the \
         text, or use --max-length"
    )]
    TooLong {
        /// How many there are.
        tokens: usize,
        /// How many there may be.
        limit: usize,
    },
    /// A token that the model has no row for.
    #[error("the token {token} has the id {id}, but the model has {vocab_size} rows (`vocab_size`)")]
    NotInVocabulary {
        /// What it reads.
        token: String,
        /// Its id in the tokenizer's files.
        id: u32,
        /// The number of rows.
        vocab_size: usize,
    },
}

impl TaskError {
    /// Adds which input it is to what is wrong with it.
    pub(crate) fn of_input<P: Into<TaskProblem>>(index: usize) -> impl Fn(P) -> Self {
        move |problem| Self::Input { index, problem: problem.into() }
    }
}
