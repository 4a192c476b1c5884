//! Judges one pair of tensors after another: each by its budget, which follows from those before it.

mod level;
mod look;
mod measured;
mod odd;
mod probabilities;
mod twins;
mod yardstick;

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::budget::{self, Operation};
use crate::compare::{Difference, Finding, Options, Pair, Row};
use crate::diagnose::Steps;
use crate::dtype::Dtype;
use crate::dump::Dump;
use crate::measure::{self, Errors, Magnitude};
use crate::order;
use crate::tensor::Tensor;
use level::Level;
pub(crate) use measured::{Measured, Ruler};
pub(crate) use yardstick::{Fit, Yardstick};

/// What earlier tensors tell about later ones.
pub(crate) struct Run<'a> {
    options: &'a Options<'a>,
    pub rows: Vec<Row>,
    noise: BTreeMap<String, Seen>,
    expected: BTreeMap<String, &'a Tensor>,
    actual: BTreeMap<String, &'a Tensor>,
    reference: BTreeMap<String, &'a Tensor>,
    pub computed_in: (Dtype, Dtype),
    conv: bool,
    ruler: &'a Ruler,
    dumps: [&'a Dump; 2],
    /// Once they were asked for; `None` inside where they cannot be computed.
    steps: Option<Option<Steps<'a>>>,
    pub notes: Vec<String>,
}

/// The noise of a tensor that was compared.
#[derive(Clone, Copy)]
struct Seen {
    /// What was observed, if it was within the budget.
    noise: f64,
    rms: f64,
    /// What was allowed.
    level: Level,
}

impl<'a> Run<'a> {
    pub fn new(
        expected: &'a Dump,
        actual: &'a Dump,
        options: &'a Options<'a>,
        ruler: &'a Ruler,
        pairs: &[Pair<'a>],
    ) -> Self {
        let names = |dump: &'a Dump| dump.iter().map(|(name, t)| (order::spelling(dump, name), t)).collect();
        let computed_in = (
            vote(pairs.iter().map(|p| (p.canonical.as_str(), p.expected))),
            vote(pairs.iter().map(|p| (p.canonical.as_str(), p.actual))),
        );
        let stored = |t: fn(&Pair<'a>) -> &'a Tensor| pairs.iter().map(t).map(Tensor::dtype).find(|d| d.is_float());
        let mut notes = [expected.notes.as_slice(), &actual.notes].concat();
        for (which, dtype, stored) in
            [("expected", computed_in.0, stored(|p| p.expected)), ("actual", computed_in.1, stored(|p| p.actual))]
        {
            if stored.is_some_and(|s| s.unit_roundoff() < dtype.unit_roundoff()) {
                notes.push(format!(
                    "the {which} values are stored in {} but all fit in {dtype}: taken as computed in {dtype}",
                    stored.unwrap_or(dtype)
                ));
            }
        }
        let expected_by_name: BTreeMap<String, &'a Tensor> = names(expected);
        Self {
            options,
            rows: Vec::with_capacity(pairs.len()),
            noise: BTreeMap::new(),
            conv: expected_by_name.keys().any(|n| n.starts_with("deberta.encoder.conv")),
            expected: expected_by_name,
            actual: names(actual),
            reference: options.reference.map(names).unwrap_or_default(),
            computed_in,
            dumps: [expected, actual],
            steps: None,
            ruler,
            notes,
        }
    }

    /// Judges the next pair, in the order of computation, by what was measured of it.
    pub fn judge_pair(&mut self, pair: &Pair<'_>, measured: Option<Measured>) -> Row {
        let shown = pair.origin.map_or(pair.actual_name, |origin| &origin.name);
        let mut row = Row {
            name: pair.expected_name.to_owned(),
            actual_name: (shown != pair.expected_name).then(|| shown.to_owned()),
            guessed: pair.origin.and_then(|o| o.guess),
            shape: pair.expected.shape().to_vec(),
            actual_shape: pair.actual.shape().to_vec(),
            dtypes: (pair.expected.dtype(), pair.actual.dtype()),
            max_abs: f64::NAN,
            max_rel: f64::NAN,
            max_ulp: 0,
            cosine: None,
            noise: f64::NAN,
            budget: f64::NAN,
            within: false,
            finding: Finding::Shape,
            worst: None,
            first_differing: Vec::new(),
            beyond: 0,
            positions: None,
            heat_map: None,
            canonical: pair.canonical.clone(),
            key: pair.actual_name.to_owned(),
            yardstick: Yardstick::none(&pair.canonical, self.computed_in.1),
        };
        let Some(measured) = measured else { return row };
        let judged = self.judge(pair, &measured);
        row.yardstick = self.yardstick(pair, &judged);
        self.remember(&pair.canonical, &measured.errors, &judged);
        fill(&mut row, &measured, &judged);
        row.positions = self.ruler.mask.as_ref().and_then(|m| m.positions(&row.shape, &judged.beyond));
        row
    }

    /// Keeps the noise for what is computed from this tensor. That of a tensor beyond its budget is not noise: what is
    /// typical of its own inputs stands in, so that budgets do not widen behind an error.
    fn remember(&mut self, name: &str, errors: &Errors, judged: &Judged) {
        let noise = if judged.finding == Finding::Within {
            errors.noise
        } else {
            let (sources, _) = self.sources(name);
            sources.iter().map(|s| self.noise[s].noise).fold(judged.level.noise.min(errors.noise) / 8.0, f64::min)
        };
        self.noise.entry(name.to_owned()).or_insert(Seen { noise, rms: errors.rms, level: judged.level });
    }

    /// The dtype whose rounding decides for this pair.
    fn precision(&self, pair: &Pair<'_>) -> Dtype {
        let stored = pair.expected.dtype().coarser(pair.actual.dtype());
        stored.coarser(self.computed_in.0).coarser(self.computed_in.1)
    }

    fn judge(&mut self, pair: &Pair<'_>, measured: &Measured) -> Judged {
        let Measured { x, errors, .. } = measured;
        let dtype = self.precision(pair);
        if let Some(own) = self.reference_distance(pair, x) {
            let least = Operation::of(&pair.canonical).line().own(dtype.unit_roundoff());
            let bound = budget::REFERENCE_MULTIPLE * own;
            let budgets = errors.magnitude.iter().map(|m| bound.max(least * m)).collect();
            return Judged::new(errors, budgets, Level::NONE, Finding::Reference);
        }
        if let Some(budgets) = x.iter().map(|&x| self.options.tolerance(x)).collect::<Option<Vec<f64>>>() {
            return Judged::new(errors, budgets, Level::NONE, Finding::Tolerance);
        }
        if !dtype.is_float() {
            return Judged::new(errors, vec![0.0; x.len()], Level::NONE, Finding::Element);
        }
        if dtype == Dtype::F64 {
            let budgets = errors.magnitude.iter().map(|m| budget::F64_ABSOLUTE * m.max(1.0)).collect();
            return Judged::new(errors, budgets, Level::NONE, Finding::Element);
        }
        let level = self.level(pair, x, dtype.unit_roundoff());
        let (relative, least) = (budget::ELEMENT * level.element, dtype.underflow());
        let element = errors.magnitude.par_iter().map(|m| (relative * m).max(least)).collect();
        let judged = Judged::new(errors, element, level, Finding::Element);
        if judged.finding != Finding::Within {
            return judged;
        }
        let look = self.look(pair, measured, dtype);
        let odd = self.odd_elements(pair, measured, dtype, look.as_ref());
        if look.is_none() && odd.is_empty() {
            return judged;
        }
        let mut budgets = judged.budgets;
        if let Some(look) = look {
            let narrow =
                |(k, budget): (usize, &mut f64)| *budget = look.passes(k, errors.error[k]).max(least).min(*budget);
            budgets.par_iter_mut().enumerate().for_each(narrow);
        }
        odd.into_iter().for_each(|(k, allowed)| budgets[k] = allowed.min(budgets[k]));
        Judged::new(errors, budgets, level, Finding::Outlier)
    }

    /// What computes steps again; few comparisons need it.
    fn steps(&mut self) -> Option<&mut Steps<'a>> {
        let ([expected, actual], computed_in) = (self.dumps, self.computed_in.1);
        let knowledge = self.options.knowledge;
        self.steps.get_or_insert_with(|| Steps::new(expected, actual, computed_in, knowledge)).as_mut()
    }

    /// What a prediction of this tensor is measured by: the budget, without the test for outliers.
    fn yardstick(&self, pair: &Pair<'_>, judged: &Judged) -> Yardstick {
        let dtype = self.precision(pair);
        let floor = judged.budgets.iter().copied().fold(f64::INFINITY, f64::min);
        let (relative, absolute) = match judged.test {
            Finding::Tolerance | Finding::Reference => (0.0, floor),
            _ if dtype == Dtype::F64 || !dtype.is_float() => (budget::F64_ABSOLUTE, budget::F64_ABSOLUTE),
            _ => (budget::ELEMENT * judged.level.element, dtype.underflow()),
        };
        Yardstick {
            name: pair.canonical.clone(),
            level: judged.level.noise,
            relative,
            absolute,
            unit: dtype.unit_roundoff(),
            computed_in: self.computed_in.1,
        }
    }

    fn reference_distance(&self, pair: &Pair<'_>, x: &[f64]) -> Option<f64> {
        let reference = self.reference.get(&pair.canonical)?;
        if reference.len() != x.len() {
            return None;
        }
        let distance = reference.values().zip(x).map(|(r, x)| (r - x).abs()).filter(|d| d.is_finite());
        Some(distance.fold(0.0, f64::max))
    }
}

/// How an element's magnitude is counted: the error of a probability is relative.
fn magnitude(name: &str) -> Magnitude {
    match Operation::of(name) {
        Operation::Softmax => Magnitude::Own,
        _ if name.starts_with("attentions.") => Magnitude::Own,
        _ => Magnitude::Surroundings,
    }
}

/// Whether values this low are masks, whatever they are.
fn masks(name: &str) -> bool {
    name.ends_with(".scores")
}

/// Whether `error` is within `budget`; NaN is not.
fn within(error: f64, budget: f64) -> bool {
    error <= budget
}

/// A pair's budgets and what they say.
struct Judged {
    /// The test that was applied to elements.
    test: Finding,
    budgets: Vec<f64>,
    level: Level,
    finding: Finding,
    beyond: Vec<usize>,
}

impl Judged {
    fn new(errors: &Errors, budgets: Vec<f64>, level: Level, test: Finding) -> Self {
        let each = errors.error.par_iter().zip(&budgets).enumerate();
        let beyond: Vec<usize> = each.filter(|(_, (e, b))| !within(e.abs(), **b)).map(|(k, _)| k).collect();
        let finding = match () {
            () if !errors.non_finite.is_empty() => Finding::NonFinite,
            () if !within(errors.noise, level.noise) => Finding::Level,
            () if !beyond.is_empty() => test,
            () => Finding::Within,
        };
        let beyond = match finding {
            Finding::NonFinite => errors.non_finite.clone(),
            // The level is that of the tensor; the elements that make it up are those above the average allowed.
            Finding::Level if beyond.is_empty() => {
                (0..errors.error.len()).filter(|&k| errors.error[k].abs() > level.noise * errors.magnitude[k]).collect()
            }
            _ => beyond,
        };
        Self { test, budgets, level, finding, beyond }
    }
}

/// Writes what was found into the row.
fn fill(row: &mut Row, measured: &Measured, judged: &Judged) {
    let Measured { x, y, errors, largest, .. } = measured;
    let at = |k: usize| Difference { index: measure::multi_index(&row.shape, k), expected: x[k], actual: y[k] };
    row.max_abs = largest.map_or(f64::NAN, |k| errors.error[k].abs());
    row.max_rel = measured.max_rel;
    row.max_ulp = measured.max_ulp;
    row.cosine = measured.cosine;
    row.noise = errors.noise;
    row.finding = judged.finding;
    row.within = judged.finding == Finding::Within;
    row.beyond = judged.beyond.len();
    row.first_differing = judged.beyond.iter().take(5).map(|&k| at(k)).collect();
    let ratio = |k: usize| errors.error[k].abs() / judged.budgets[k];
    let furthest = || judged.beyond.iter().copied().max_by(|&a, &b| ratio(a).total_cmp(&ratio(b)));
    let worst = match judged.finding {
        Finding::NonFinite => judged.beyond.first().copied(),
        Finding::Within | Finding::Level => *largest,
        // The largest error, if it is itself beyond its budget.
        _ => largest.filter(|&k| !within(ratio(k), 1.0)).or_else(furthest),
    };
    row.budget = match (judged.finding, worst) {
        (Finding::Level, _) => row.max_abs * judged.level.noise / errors.noise,
        (_, Some(k)) => judged.budgets[k],
        (_, None) => 0.0,
    };
    if x.is_empty() {
        row.max_abs = 0.0;
    }
    row.worst = worst.map(at);
}

/// A shape without leading axes of size 1: relative rows are [1, R, E] to one program and [R, E] to another.
fn significant(shape: &[usize]) -> &[usize] {
    let first = shape.iter().position(|&s| s != 1).unwrap_or(shape.len());
    &shape[first..]
}

fn is_attention_matrix(name: &str) -> bool {
    name.starts_with("attentions.")
        || [".c2c", ".c2p", ".p2c", ".scores", ".probs"].iter().any(|suffix| name.ends_with(suffix))
}

/// Whether the last axis of this tensor is heads times head size.
fn has_heads(name: &str) -> bool {
    name.ends_with("attention.self")
        || ["query_proj", "key_proj", "value_proj"].iter().any(|s| name.ends_with(s)) && name.contains(".self.")
}

/// What a whole dump was computed in: the coarsest dtype that at least a third of its computed tensors fit in.
fn vote<'a>(tensors: impl Iterator<Item = (&'a str, &'a Tensor)>) -> Dtype {
    let mut votes: Vec<Dtype> = tensors
        .filter(|(name, t)| t.dtype().is_float() && Operation::of(name) != Operation::Lookup)
        .filter_map(|(_, t)| measure::computed_dtype(t.dtype(), &sample(t)))
        .collect();
    votes.sort_by(|a, b| b.unit_roundoff().total_cmp(&a.unit_roundoff()));
    votes.get(votes.len() / 3).copied().unwrap_or(Dtype::F64)
}

/// Enough values to tell a dtype by.
fn sample(tensor: &Tensor) -> Vec<f64> {
    tensor.values().take(4096).collect()
}
