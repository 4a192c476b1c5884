//! What stands on top of the encoder: from hidden states to logits, and from logits and labels to a loss.

mod language_model;
mod pooler;
mod question_answering;
mod replaced_token_detection;
mod sequence_classification;

use deberta_ops::{Activation, LossError, Real, cross_entropy, narrow};
use ndarray::{Array2, ArrayD, Ix1, arr0};

use crate::config::DebertaV2Config;
use crate::embeddings::emit_wide;
use crate::error::ModelError;
use crate::inputs::{Batch, Labels, shape};
use crate::profile::Profile;
use crate::schema::Head;
use crate::trace::Trace;
use crate::weights::{Linear, Weights};

pub(crate) use language_model::LanguageModelHead;
use pooler::Pooler;
pub(crate) use pooler::pool_by_attention;
pub(crate) use question_answering::span_loss;
use replaced_token_detection::ReplacedTokenDetection;
pub(crate) use replaced_token_detection::loss as replaced_token_detection_loss;
pub(crate) use sequence_classification::sequence_classification_loss;

/// The label that transformers leaves out of every loss.
pub(crate) const IGNORED: i64 = -100;

/// The parameters of a head.
pub(crate) enum HeadWeights<'w, T: Clone> {
    Base,
    LanguageModel(LanguageModelHead<'w, T>),
    /// A pooled sequence and its classes: sequence classification, and, with one class, multiple choice.
    /// The pooler is absent where the profile pools by attention.
    Pooled {
        pooler: Option<Pooler<'w, T>>,
        classifier: Linear<'w, T>,
    },
    /// A class a token, after a projection where Microsoft's NER model has one.
    Token {
        proj: Option<Linear<'w, T>>,
        classifier: Linear<'w, T>,
    },
    QuestionAnswering(Linear<'w, T>),
    ReplacedTokenDetection(ReplacedTokenDetection<'w, T>),
}

impl<'w, T: Real> HeadWeights<'w, T> {
    pub(crate) fn new(config: &DebertaV2Config, head: Head, profile: &Profile, weights: &mut Weights<'w, T>) -> Self {
        match head {
            Head::Base => Self::Base,
            Head::MaskedLm if config.legacy => Self::LanguageModel(LanguageModelHead::legacy(config, weights)),
            Head::MaskedLm | Head::EnhancedMaskedLm => Self::LanguageModel(LanguageModelHead::new(config, weights)),
            Head::SequenceClassification | Head::MultipleChoice => {
                let by_attention = head == Head::MultipleChoice && profile.pools_choices_by_attention;
                Self::Pooled {
                    pooler: (!by_attention).then(|| Pooler::new(config, weights)),
                    classifier: weights.linear("classifier"),
                }
            }
            Head::TokenClassification => {
                Self::Token { proj: weights.optional_linear("proj"), classifier: weights.linear("classifier") }
            }
            Head::QuestionAnswering => Self::QuestionAnswering(weights.linear("qa_outputs")),
            Head::ReplacedTokenDetection => Self::ReplacedTokenDetection(ReplacedTokenDetection::new(config, weights)),
        }
    }
}

/// The logits of a token classification, [B·L, C] (`DebertaV2ForTokenClassification`; with `proj`, Microsoft's
/// `NERModel`, whose activation is GELU always).
pub(crate) fn token_classification<T: Real>(
    states: &Array2<T>,
    proj: Option<&Linear<'_, T>>,
    classifier: &Linear<'_, T>,
    batch: &Batch<T>,
    trace: &mut Trace<'_, T>,
) -> Array2<T> {
    batch.emit(trace, "dropout", states);
    let projected = proj.map(|proj| {
        let mut projected = proj.forward_wide(states.view());
        emit_wide(trace, "proj", &projected, batch.size);
        Activation::Gelu.apply_inplace(&mut projected);
        narrow(&projected)
    });
    let logits = classifier.forward(projected.as_ref().unwrap_or(states).view()); // [B·L, C]
    batch.emit(trace, "classifier", &logits);
    logits
}

/// The mean cross-entropy of [N, C] logits over labels that are not ignored, of any shape with N elements.
pub(crate) fn mean_cross_entropy<T: Real>(
    input: &'static str,
    logits: &Array2<T>,
    labels: &Labels,
    ignored: impl Fn(i64) -> bool,
) -> Result<T, ModelError> {
    let classes = flat(input, labels, logits.nrows())?;
    cross_entropy(logits.view(), classes.view(), ignored).map_err(|source| label(input, source))
}

pub(crate) fn label(input: &'static str, problem: LossError) -> ModelError {
    ModelError::Label { input, problem }
}

/// Labels as `count` whole numbers.
pub(crate) fn flat(input: &'static str, labels: &Labels, count: usize) -> Result<ndarray::Array1<i64>, ModelError> {
    let found = labels.shape().to_vec();
    let flat = ndarray::Array1::from_iter(labels.int());
    if flat.len() == count { Ok(flat) } else { Err(shape(input, format!("{count} labels"), &found)) }
}

/// [B·L, width] → [B, L, width].
pub(crate) fn by_token<T: Real>(rows: Array2<T>, batch: &Batch<T>) -> ArrayD<T> {
    let shape = (batch.size, batch.length, rows.ncols());
    rows.into_shape_with_order(shape).expect("as many rows as tokens").into_dyn()
}

/// One number, shape [].
pub(crate) fn scalar<T: Real>(value: T) -> ArrayD<T> {
    arr0(value).into_dyn()
}

/// Positions \[B\] (or [B, 1]) as one whole number a sequence.
pub(crate) fn one_each(
    input: &'static str,
    values: &ArrayD<i64>,
    size: usize,
) -> Result<ndarray::Array1<i64>, ModelError> {
    let flat = values.as_standard_layout().into_owned();
    let joined =
        if values.shape().last() == Some(&1) && values.ndim() == 2 { flat.remove_axis(ndarray::Axis(1)) } else { flat };
    match joined.into_dimensionality::<Ix1>() {
        Ok(one) if one.len() == size => Ok(one),
        _ => Err(shape(input, format!("[{size}]"), values.shape())),
    }
}
