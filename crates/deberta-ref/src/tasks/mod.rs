//! Tasks on text: from strings to what a person asks for, equal to the pipelines of transformers.
//!
//! A task is a loaded head, a tokenizer, and the way from logits to an answer. All of them go the same road:
//!
//! ```text
//! 1. encode       text → ids, cut or windowed as the pipeline cuts            (the tokenizer's crate)
//! 2. batch        the longest with the longest, under a budget of tokens      [`TextModel`]
//! 3. forward      ids → logits                                                (the model's crate)
//! 4. read         logits → labels, spans, words, with their scores            (one module a task)
//! ```
//!
//! | task | head | pipeline | module |
//! |---|---|---|---|
//! | [`FillMask`] | masked-lm or enhanced-masked-lm | `fill-mask` | `fill_mask` |
//! | [`Classify`] | sequence-classification | `text-classification` | `classify` |
//! | [`Classify::zero_shot`] | sequence-classification | `zero-shot-classification` | `zero_shot` |
//! | [`Tag`] | token-classification | `token-classification` | `tag` |
//! | [`Answer`] | question-answering | `question-answering` (transformers 4) | `answer` |
//! | [`Choose`] | multiple-choice | none | `choose` |
//! | [`Embed`] | base, or the pooler of sequence-classification | `feature-extraction` | `embed` |
//!
//! # Numerics
//! Pipelines take exponentials and sums in `f32` (numpy's), and some of their choices hang on what that rounds together:
//! two labels that both score 1 are a tie. `scores` therefore rounds each step to `f32` too, but sums in `f64`. Among equal
//! scores the first wins; where numpy leaves the order of equal scores to the processor, it is the first here.
//!
//! A batch holds padding, so sums run over other lengths than alone; that moves a score by rounding, never by more than
//! 1e-5, whatever the budget.

mod answer;
mod choose;
mod classify;
mod embed;
mod error;
mod fill_mask;
mod scores;
mod tag;
mod text_model;
mod zero_shot;

pub use answer::{Answer, AnswerOptions, Answered, Question, Span};
pub use choose::{Choose, Chosen, Prompt};
pub use classify::{Classify, ClassifyOptions, Label, Labelled, ScoreFunction, TextPair, TopLabels};
pub use embed::{Embed, Embedding, Pooling};
pub use error::{TaskError, TaskProblem};
pub use fill_mask::{FillMask, FillMaskOptions, Filled, FilledText};
pub use tag::{Aggregation, Tag, TagOptions, Tagged};
pub use text_model::{DEFAULT_BATCH_TOKENS, Setup, TextModel};
pub use zero_shot::{DEFAULT_TEMPLATE, Ranked, ZeroShotOptions, ZeroShotText};
