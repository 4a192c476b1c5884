//! The noise that rounding explains in a tensor, from the noise that was seen in those it is computed from: see
//! [`crate::budget`].

use std::collections::{BTreeMap, BTreeSet};

use super::Run;
use crate::budget::{self, Operation};
use crate::compare::Pair;
use crate::order;
use crate::tensor::Tensor;

/// How much is allowed.
#[derive(Clone, Copy)]
pub(super) struct Level {
    /// Of the noise of the whole.
    pub noise: f64,
    /// Of the error of an element relative to its magnitude, before [`budget::ELEMENT`].
    pub element: f64,
}

impl Level {
    /// Where the whole is not tested.
    pub const NONE: Self = Self { noise: f64::INFINITY, element: f64::INFINITY };

    /// Where elements are as noisy as the whole.
    pub fn even(noise: f64) -> Self {
        Self { noise, element: noise }
    }
}

impl Run<'_> {
    /// The noise that rounding explains in this tensor.
    pub(super) fn level(&self, pair: &Pair<'_>, x: &[f64], u: f64) -> Level {
        let name = pair.canonical.as_str();
        let (sources, skipped) = self.sources(name);
        let operation = match Operation::of(name) {
            // Where the scores and probabilities were not dumped, the copy is the softmax itself.
            Operation::Copy if name.starts_with("attentions.") && skipped > 0 => Operation::Softmax,
            operation => operation,
        };
        let line = operation.line();
        if sources.is_empty() {
            return Level::even(match operation {
                Operation::Lookup => line.own(u),
                _ => self
                    .noise_of_embeddings(name, pair.expected.shape(), u)
                    .unwrap_or_else(|| budget::unseen(u, depth(name, &self.expected))),
            });
        }
        if operation == Operation::Copy && skipped == 0 {
            let allowed = |of: fn(Level) -> f64| {
                let levels = sources.iter().map(|s| of(self.noise[s].level)).filter(|l| l.is_finite());
                line.own(u) + line.growth * levels.fold(0.0, f64::max)
            };
            return Level { noise: allowed(|l| l.noise), element: allowed(|l| l.element) };
        }
        if operation == Operation::Softmax {
            let columns = pair.expected.shape().last().copied().unwrap_or(1);
            return self.level_of_probabilities(x, columns, &sources, u);
        }
        let carried = match operation {
            Operation::Norm if skipped == 0 => self.noise_of_normalised(&sources),
            _ => sources.iter().map(|s| self.noise[s].noise).fold(0.0, f64::max),
        };
        // Operations between this tensor and the ones it is judged from add their own noise independently.
        let hops = (1.0 + skipped as f64).sqrt();
        let unseen = if skipped == 0 { line.own(u) } else { Operation::Product.line().own(u).max(line.own(u)) };
        Level::even(hops * (unseen + line.growth * carried))
    }

    /// The nearest tensors of the dump that `name` is computed from, and the number of operations passed on the way.
    pub(super) fn sources(&self, name: &str) -> (Vec<String>, usize) {
        let (mut found, mut asked, mut skipped) = (BTreeSet::new(), BTreeSet::new(), 0);
        let mut queue = order::inputs(name, self.conv);
        while let Some(input) = queue.pop() {
            if self.noise.contains_key(&input) {
                found.insert(input);
            } else if asked.insert(input.clone()) {
                let inputs = order::inputs(&input, self.conv);
                if Operation::of(&input) != Operation::Copy {
                    skipped += usize::from(!inputs.is_empty());
                }
                queue.extend(inputs);
            }
        }
        (found.into_iter().collect(), skipped)
    }

    /// Softmax turns the error δs of a score into the error p·(δs − Σ p·δs) of a probability: relative to p, at most about
    /// δs, and of the whole (1 − p)·δs where p is the largest of its row. δs is the noise of the scores times their size.
    /// Where they were not dumped, the logarithms of the probabilities are the scores, but for a constant a row; and their
    /// noise is that of a product of what was dumped. Measured on clean models, f32 and bf16, of 1 to 4 layers: probabilities
    /// are off by 7.4 · (1 − p) · size · noise of the hidden states at most, where a product is allowed 8.
    fn level_of_probabilities(&self, x: &[f64], columns: usize, sources: &[String], u: f64) -> Level {
        let line = Operation::Softmax.line();
        let seen: Vec<_> = sources.iter().map(|s| self.noise[s]).collect();
        let of_scores = match (sources, seen.as_slice()) {
            ([name], [scores]) if name.ends_with(".scores") => line.growth * scores.noise * scores.rms.max(1.0),
            _ => {
                let product = Operation::Product.line();
                let carried = seen.iter().map(|s| s.noise).fold(0.0, f64::max);
                size_of_scores(x, columns) * (product.own(u) + product.growth * carried)
            }
        };
        let (sum, damped) = x.iter().fold((0.0, 0.0), |(s, d), p| (s + p * p, d + (p * (1.0 - p)).powi(2)));
        let damping = if sum > 0.0 { (damped / sum).sqrt().min(1.0) } else { 1.0 };
        Level { noise: line.own(u) + damping * of_scores, element: line.own(u) + of_scores }
    }

    /// A layer norm divides by the standard deviation of the sum that it normalises, which may be smaller than its terms.
    fn noise_of_normalised(&self, sources: &[String]) -> f64 {
        let absolute = sources.iter().map(|s| self.noise[s]).map(|s| s.noise * s.rms).fold(0.0, f64::hypot);
        let relative = sources.iter().map(|s| self.noise[s].noise).fold(0.0, f64::max);
        let terms: Vec<&Tensor> = sources.iter().filter_map(|s| self.expected.get(s).copied()).collect();
        if terms.len() < 2 || terms.iter().any(|t| t.shape() != terms[0].shape()) {
            return relative;
        }
        let mut sum = terms[0].widened();
        for term in &terms[1..] {
            sum.iter_mut().zip(term.values()).for_each(|(s, t)| *s += t);
        }
        let typical = deviation(&sum, terms[0].shape().last().copied().unwrap_or(1));
        if typical > 0.0 { relative.max(absolute / typical) } else { relative }
    }

    /// The noise of the embeddings behind their layer norm where nothing before it was dumped, from what is expected there:
    /// each table is rounded, and so is each sum of them. `None` for other tensors, and where nothing says what was normalised.
    fn noise_of_embeddings(&self, name: &str, shape: &[usize], u: f64) -> Option<f64> {
        if !order::is_embeddings(name) {
            return None;
        }
        let term = |leaf: &str| self.expected.get(&format!("deberta.embeddings.{leaf}")).copied();
        let (terms, own): (Vec<&Tensor>, f64) = match term("embed_proj") {
            Some(projected) => (vec![projected], Operation::Product.line().own(u)),
            None => {
                let added = ["position_embeddings", "token_type_embeddings"].into_iter().filter_map(term);
                (std::iter::once(term("word_embeddings")?).chain(added).collect(), Operation::Lookup.line().own(u))
            }
        };
        if terms[0].shape() != shape || terms.iter().any(|t| t.is_empty() || terms[0].len() % t.len() != 0) {
            return None;
        }
        let mut sum = vec![0.0; terms[0].len()];
        let mut absolute = 0.0;
        for (i, term) in terms.iter().enumerate() {
            // Positions may be the same for all sequences.
            let values = term.widened();
            sum.iter_mut().zip(values.iter().cycle()).for_each(|(s, t)| *s += t);
            absolute = f64::hypot(absolute, own * rms(&values) + if i > 0 { u * rms(&sum) } else { 0.0 });
        }
        let typical = deviation(&sum, shape.last().copied()?);
        let line = Operation::Norm.line();
        (typical > 0.0).then(|| line.own(u) + line.growth * absolute / typical)
    }
}

/// The standard deviation of a row of `columns` values, typically.
fn deviation(values: &[f64], columns: usize) -> f64 {
    let variance = |row: &[f64]| {
        let mean = row.iter().sum::<f64>() / row.len() as f64;
        row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / row.len() as f64
    };
    let rows: Vec<f64> = values.chunks(columns.max(1)).map(variance).filter(|v| *v > 0.0).collect();
    (rows.iter().sum::<f64>() / rows.len().max(1) as f64).sqrt()
}

fn rms(values: &[f64]) -> f64 {
    (values.iter().map(|v| v * v).sum::<f64>() / values.len().max(1) as f64).sqrt()
}

/// The rms of the scores, less the mean of their row, as their probabilities show it; rows of `columns`.
fn size_of_scores(probabilities: &[f64], columns: usize) -> f64 {
    let (mut squares, mut count) = (0.0, 0usize);
    for row in probabilities.chunks(columns.max(1)) {
        let scores: Vec<f64> = row.iter().filter(|p| **p > f64::from(f32::MIN_POSITIVE)).map(|p| p.ln()).collect();
        let mean = scores.iter().sum::<f64>() / scores.len().max(1) as f64;
        squares += scores.iter().map(|s| (s - mean).powi(2)).sum::<f64>();
        count += scores.len();
    }
    (squares / count.max(1) as f64).sqrt()
}

fn depth(name: &str, expected: &BTreeMap<String, &Tensor>) -> usize {
    let layer = |n: &str| {
        let digits = n.strip_prefix("hidden_states.").or_else(|| n.strip_prefix("attentions."));
        let digits = digits.or_else(|| n.strip_prefix("deberta.encoder.layer."))?;
        digits.split('.').next()?.parse::<usize>().ok()
    };
    // A head's output knows no layer; where the dump shows none, 24 is the deepest of the published models bar one.
    layer(name).unwrap_or_else(|| expected.keys().filter_map(|n| layer(n)).max().unwrap_or(24))
}
