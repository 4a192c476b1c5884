//! The losses of sequence classification (`DebertaV2ForSequenceClassification.forward`).
//!
//! | `problem_type` | labels | loss |
//! |---|---|---|
//! | none, one class | \[B\] | squared error; the logits become \[B\], in the labels' type |
//! | none | one number a sequence | cross-entropy over labels ≥ 0; 0 where there is none |
//! | none | [B, C] | −mean Σ log softmax · labels |
//! | `regression` | \[B\] or [B, C] | squared error |
//! | `single_label_classification` | \[B\] | cross-entropy over labels other than −100 |
//! | `multi_label_classification` | [B, C] | binary cross-entropy with logits |

use deberta_ops::{
    LossError, Real, binary_cross_entropy_with_logits, cross_entropy, mean_squared_error, soft_cross_entropy,
};
use ndarray::{Array1, Array2, ArrayD, Axis};

use super::{IGNORED, flat, label, mean_cross_entropy};
use crate::config::{DebertaV2Config, ProblemType};
use crate::error::ModelError;
use crate::inputs::{Labels, shape};
use crate::profile::Profile;

/// The loss, and the logits as transformers returns them beside it.
pub(crate) fn sequence_classification_loss<T: Real>(
    config: &DebertaV2Config,
    profile: &Profile,
    logits: Array2<T>,
    labels: &Labels,
) -> Result<(ArrayD<T>, T), ModelError> {
    let classes = logits.ncols();
    let one_each = labels.shape().len() == 1 || labels.shape().last() == Some(&1);
    let loss = match config.problem_type {
        None if classes == 1 => return undeclared_regression(&logits, labels),
        None if one_each => undeclared_classes(profile, &logits, labels)?,
        None => soft_cross_entropy(logits.view(), same_shape(&logits, labels)?.view()),
        Some(ProblemType::Regression) if classes == 1 => {
            let values = one_column(labels, logits.nrows())?;
            mean_squared_error(logits.column(0).into_dyn(), values.view().into_dyn())
        }
        Some(ProblemType::Regression) => {
            mean_squared_error(logits.view().into_dyn(), same_shape(&logits, labels)?.view().into_dyn())
        }
        Some(ProblemType::SingleLabelClassification) => {
            mean_cross_entropy("labels", &logits, labels, |l| l == IGNORED)?
        }
        Some(ProblemType::MultiLabelClassification) => multi_label(&logits, labels)?,
    };
    Ok((logits.into_dyn(), loss))
}

/// The mean binary cross-entropy. PyTorch keeps its steps in the type of the labels: (1 − t), times x, less log σ(x),
/// each rounded to `f32` where the labels are.
fn multi_label<T: Real>(logits: &Array2<T>, labels: &Labels) -> Result<T, ModelError> {
    let targets = same_shape(logits, labels)?;
    let single = is_single(labels);
    let each = |(&x, &t): (&T, &T)| {
        if !single {
            return binary_cross_entropy_with_logits(x, t).wide();
        }
        let log_sigmoid = -binary_cross_entropy_with_logits(x.wide(), 1.0);
        to_single(to_single(to_single(1.0 - t.wide()) * x.wide()) - log_sigmoid)
    };
    let mean = logits.iter().zip(&targets).map(each).sum::<f64>() / logits.len() as f64;
    Ok(T::of(if single { to_single(mean) } else { mean }))
}

fn is_single(labels: &Labels) -> bool {
    matches!(labels, Labels::Float { single_precision: true, .. })
}

fn to_single(value: f64) -> f64 {
    <f32 as Real>::of(value).into()
}

/// One number a sequence, and no `problem_type`: the logits are rounded to the labels' type and lose their last axis.
fn undeclared_regression<T: Real>(logits: &Array2<T>, labels: &Labels) -> Result<(ArrayD<T>, T), ModelError> {
    let values = one_column::<T>(labels, logits.nrows())?;
    let single = is_single(labels);
    let round = |v: f64| if single { to_single(v) } else { v };
    let logits = logits.index_axis(Axis(1), 0).mapv(|v| T::of(round(v.wide())));
    let square = |(&x, &t): (&T, &T)| {
        let difference = round(x.wide() - t.wide());
        round(difference * difference)
    };
    let mean = logits.iter().zip(&values).map(square).sum::<f64>() / values.len() as f64;
    Ok((logits.into_dyn(), T::of(round(mean))))
}

fn undeclared_classes<T: Real>(profile: &Profile, logits: &Array2<T>, labels: &Labels) -> Result<T, ModelError> {
    let labels = flat("labels", labels, logits.nrows())?;
    if labels.iter().all(|&l| l < 0) {
        return Ok(T::zero());
    }
    if profile.classifies_in_f32 {
        let single = logits.mapv(|v| <f32 as Real>::of(v.wide()));
        return cross_entropy_in_f32(&single, &labels).map(|loss| T::of(loss.into())).map_err(|e| label("labels", e));
    }
    cross_entropy(logits.view(), labels.view(), |l| l < 0).map_err(|e| label("labels", e))
}

/// The mean cross-entropy over labels ≥ 0, each step rounded to `f32` in PyTorch's order: (x − m) − ln Σ exp(x − m),
/// summed, divided. Its exponentials differ from the correctly rounded ones now and then, so the result is PyTorch's
/// to a unit in the last place.
fn cross_entropy_in_f32(logits: &Array2<f32>, labels: &Array1<i64>) -> Result<f32, LossError> {
    let (mut sum, mut count) = (0.0_f32, 0.0_f32);
    for (index, (row, &label)) in logits.rows().into_iter().zip(labels).enumerate().filter(|(_, (_, l))| **l >= 0) {
        let class = usize::try_from(label).ok().filter(|&c| c < row.len());
        let class = class.ok_or(LossError { label, index, classes: row.len() })?;
        let max = row.iter().copied().fold(f32::NEG_INFINITY, |m, x| if x > m || x.is_nan() { x } else { m });
        let normalizer = row.iter().map(|x| <f32 as Real>::of((x - max).wide().exp())).sum::<f32>().wide().ln();
        sum -= (row[class] - max) - <f32 as Real>::of(normalizer);
        count += 1.0;
    }
    Ok(sum / count)
}

fn same_shape<T: Real>(logits: &Array2<T>, labels: &Labels) -> Result<Array2<T>, ModelError> {
    let expected = || shape("labels", format!("{:?}, one number a logit", logits.shape()), labels.shape());
    let targets = labels.float::<T>().into_dimensionality().map_err(|_| expected())?;
    if targets.dim() == logits.dim() { Ok(targets) } else { Err(expected()) }
}

fn one_column<T: Real>(labels: &Labels, count: usize) -> Result<Array1<T>, ModelError> {
    let values = Array1::from_iter(labels.float::<T>());
    if values.len() == count { Ok(values) } else { Err(shape("labels", format!("[{count}]"), labels.shape())) }
}
