//! What the logits of a head become: outputs by their names in transformers, and a loss where there are labels.
//!
//! One function a kind of head, from the rows that its last product yields, wherever those were computed.

use deberta_ops::{Real, cross_entropy_each};
use ndarray::{Array1, Array2, ArrayD, s};

use crate::config::DebertaV2Config;
use crate::error::ModelError;
use crate::heads::{
    IGNORED, by_token, flat, label, mean_cross_entropy, replaced_token_detection_loss, scalar,
    sequence_classification_loss, span_loss,
};
use crate::inputs::{Batch, Inputs, Labels};
use crate::profile::{LanguageModelLoss, Profile};
use crate::schema::Head;

/// What a head makes of the encoder's states; see [`crate::Outputs`] for the shapes.
#[derive(Clone, Debug)]
pub struct Predicted<T> {
    /// What the head predicts.
    pub logits: Option<ArrayD<T>>,
    /// Where an answer begins.
    pub start_logits: Option<ArrayD<T>>,
    /// Where an answer ends.
    pub end_logits: Option<ArrayD<T>>,
    /// The loss.
    pub loss: Option<ArrayD<T>>,
}

impl<T> Default for Predicted<T> {
    fn default() -> Self {
        Self { logits: None, start_logits: None, end_logits: None, loss: None }
    }
}

impl<T: Real> Predicted<T> {
    fn of(logits: ArrayD<T>, loss: Option<ArrayD<T>>) -> Self {
        Self { logits: Some(logits), loss, ..Self::default() }
    }

    /// A class a sequence.
    ///
    /// # Shapes
    /// `logits` [B, C].
    ///
    /// # Errors
    /// Labels that do not fit the logits.
    pub fn sequences(
        config: &DebertaV2Config,
        profile: &Profile,
        logits: Array2<T>,
        labels: Option<&Labels>,
    ) -> Result<Self, ModelError> {
        let Some(labels) = labels else {
            return Ok(Self::of(logits.into_dyn(), None));
        };
        let (logits, loss) = sequence_classification_loss(config, profile, logits, labels)?;
        Ok(Self::of(logits, Some(scalar(loss))))
    }

    /// One of the `choices` of each question.
    ///
    /// # Shapes
    /// `logits` [B·C, 1].
    ///
    /// # Errors
    /// Labels that do not fit the logits.
    pub fn choices(logits: Array2<T>, choices: usize, labels: Option<&Labels>) -> Result<Self, ModelError> {
        let questions = logits.len() / choices;
        let logits = logits.into_shape_with_order((questions, choices)).expect("a logit for each choice");
        let loss = labels.map(|labels| mean_cross_entropy("labels", &logits, labels, |l| l == IGNORED)).transpose()?;
        Ok(Self::of(logits.into_dyn(), loss.map(scalar)))
    }

    /// A class a token, with the mean loss over the labels that the profile counts.
    ///
    /// # Shapes
    /// `logits` [B·L, C].
    ///
    /// # Errors
    /// Labels that do not fit the logits.
    pub fn tokens(
        profile: &Profile,
        logits: Array2<T>,
        batch: &Batch<T>,
        labels: Option<&Labels>,
    ) -> Result<Self, ModelError> {
        let ignored = |l| ignores_class(profile, l);
        let loss = labels.map(|labels| mean_cross_entropy("labels", &logits, labels, ignored)).transpose()?;
        Ok(Self::of(by_token(logits, batch), loss.map(scalar)))
    }

    /// The start and the end of an answer.
    ///
    /// # Shapes
    /// `logits` [B·L, 2].
    ///
    /// # Errors
    /// Positions that do not fit the logits.
    pub fn spans(logits: &Array2<T>, inputs: &Inputs<T>, batch: &Batch<T>) -> Result<Self, ModelError> {
        let column = |c: usize| {
            let flat = logits.slice(s![.., c]).to_owned();
            flat.into_shape_with_order((batch.size, batch.length)).expect("as many rows as tokens")
        };
        let (start, end) = (column(0), column(1));
        let loss = span_loss(&start, &end, inputs, batch)?;
        Ok(Self { start_logits: Some(start.into_dyn()), end_logits: Some(end.into_dyn()), loss, logits: None })
    }

    /// Whether each token was replaced.
    ///
    /// # Shapes
    /// `logits` [B·L, 1].
    ///
    /// # Errors
    /// Labels that do not fit the tokens.
    pub fn replaced(logits: Array2<T>, batch: &Batch<T>, labels: Option<&Labels>) -> Result<Self, ModelError> {
        let logits = logits.into_shape_with_order((batch.size, batch.length)).expect("one logit a token");
        let loss = labels.map(|labels| replaced_token_detection_loss(&logits, labels, batch)).transpose()?;
        Ok(Self::of(logits.into_dyn(), loss))
    }

    /// A word for every token.
    ///
    /// # Shapes
    /// `logits` [B·L, V].
    ///
    /// # Errors
    /// Labels that do not fit the logits.
    pub fn words(logits: Array2<T>, batch: &Batch<T>, labels: Option<&Labels>) -> Result<Self, ModelError> {
        let loss = labels.map(|labels| mean_cross_entropy("labels", &logits, labels, |l| l == IGNORED)).transpose()?;
        Ok(Self::of(by_token(logits, batch), loss.map(scalar)))
    }

    /// A word, and a loss, for each labelled token.
    ///
    /// # Shapes
    /// `logits` [M, V], a row for each of `labelled.rows`.
    ///
    /// # Errors
    /// A label that is no word.
    pub fn labelled_words(logits: Array2<T>, labelled: &LabelledWords) -> Result<Self, ModelError> {
        let each = cross_entropy_each(logits.view(), labelled.labels.view(), |_| false);
        let each = each.map_err(|e| label("labels", e))?;
        Ok(Self::of(logits.into_dyn(), Some(each.into_dyn())))
    }
}

/// The tokens whose words Microsoft's code predicts, where it predicts no others.
#[derive(Clone, Debug)]
pub struct LabelledWords {
    /// Their rows among [B·L].
    pub rows: Vec<usize>,
    labels: Array1<i64>,
}

/// Whether the loss over the classes of tokens leaves out a label.
pub(crate) fn ignores_class(profile: &Profile, label: i64) -> bool {
    if profile.ignores_negative_labels { label < 0 } else { label == IGNORED }
}

impl LabelledWords {
    /// Whether `head` or `profile` predicts no words but those with a label.
    pub(crate) fn serve(head: Head, profile: &Profile) -> bool {
        head == Head::EnhancedMaskedLm || profile.language_model_loss == LanguageModelLoss::EachPositiveLabel
    }

    /// The tokens whose labels are above 0, where there are labels and no others are predicted.
    ///
    /// # Errors
    /// Labels that are not one a token.
    pub fn of(
        head: Head,
        profile: &Profile,
        labels: Option<&Labels>,
        tokens: usize,
    ) -> Result<Option<Self>, ModelError> {
        let Some(labels) = labels.filter(|_| Self::serve(head, profile)) else {
            return Ok(None);
        };
        let labels = flat("labels", labels, tokens)?;
        let rows: Vec<usize> = (0..tokens).filter(|&row| labels[row] > 0).collect();
        let labels = rows.iter().map(|&row| labels[row]).collect();
        Ok(Some(Self { rows, labels }))
    }
}
