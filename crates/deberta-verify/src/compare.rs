//! Compares two dumps tensor by tensor, in the order of computation.
//!
//! 1. The outputs that stand in both are aligned by their canonical names and sorted by [`Position`].
//! 2. Each pair is measured ([`crate::measure`]) against its budget ([`crate::budget`]): shape first, then agreement on
//!    what is no number, then the level of the noise, then each element.
//! 3. The first that is beyond its budget is the first divergent; the one before it is the last good.

use std::collections::{BTreeMap, BTreeSet};

use crate::budget::{self, Operation};
use crate::diagnose::Cause;
use crate::measure::{self, Errors, Layout, Magnitude};
use crate::order::{self, Position, Role, canonical};
use crate::tensor::{Dtype, Dump, Tensor};
use crate::{HeatMap, VerifyError};

/// How to compare.
#[derive(Clone, Debug, Default)]
pub struct Options<'a> {
    /// `rtol`·|expected| + `atol` instead of the table of budgets. Either given, the other is 0.
    pub rtol: Option<f64>,
    /// See `rtol`.
    pub atol: Option<f64>,
    /// The reference's own f32 beside its f64, which is then `expected`: budgets become
    /// [`budget::REFERENCE_MULTIPLE`] times the distance between these two.
    pub reference: Option<&'a Dump>,
    /// Do not look at padded positions, as far as the attention mask says which these are.
    pub ignore_padding: bool,
    /// For how many of the worst tensors to keep a heat map.
    pub heat_maps: usize,
}

impl Options<'_> {
    fn tolerance(&self, x: f64) -> Option<f64> {
        if self.rtol.is_none() && self.atol.is_none() {
            return None;
        }
        Some(self.atol.unwrap_or(0.0) + self.rtol.unwrap_or(0.0) * x.abs())
    }
}

/// What came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Every tensor is within its budget.
    Within,
    /// At least one is not.
    Beyond,
    /// There was nothing to compare.
    Incomparable,
}

/// Why a tensor is within its budget or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// All tests passed.
    Within,
    /// The shapes differ.
    Shape,
    /// One is NaN, infinite or masked where the other is not.
    NonFinite,
    /// The noise as a whole is above what rounding explains.
    Level,
    /// Single elements are above what rounding explains.
    Element,
    /// Single elements stand out of the noise around them.
    Outlier,
    /// Beyond `--rtol` and `--atol`.
    Tolerance,
    /// Beyond a multiple of the reference's own distance.
    Reference,
}

/// Which positions an error is in, as the attention mask has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Positions {
    /// Tokens that are attended to.
    Valid,
    /// Padding alone.
    Padded,
    /// Both.
    Both,
}

/// An element that differs.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Difference {
    /// Its multi-index.
    pub index: Vec<usize>,
    /// What was expected there.
    pub expected: f64,
    /// What was found.
    pub actual: f64,
}

/// One tensor of the comparison.
#[derive(Clone, Debug)]
pub struct Row {
    /// The name, as the expected dump spells it.
    pub name: String,
    /// The name in the actual dump, where it is another one.
    pub actual_name: Option<String>,
    /// The expected shape.
    pub shape: Vec<usize>,
    /// The actual shape.
    pub actual_shape: Vec<usize>,
    /// The dtypes the two are stored in.
    pub dtypes: (Dtype, Dtype),
    /// max |actual − expected|, over the elements that are numbers in both. NaN if there are none.
    pub max_abs: f64,
    /// max |actual − expected| / |expected|, over those with expected ≠ 0.
    pub max_rel: f64,
    /// The largest number of representable values between the two, in the coarser of their dtypes.
    pub max_ulp: u64,
    /// The cosine of the angle between the two.
    pub cosine: Option<f64>,
    /// rms(error) / rms(expected).
    pub noise: f64,
    /// The `max_abs` that the budget allows. `max_abs ≤ budget` if and only if the tensor is within it, as far as its
    /// shape and what is no number agree.
    pub budget: f64,
    /// Whether the tensor is within its budget.
    pub within: bool,
    /// Which test decided.
    pub finding: Finding,
    /// Where the error is worst: within the budget, the largest; beyond it, the one furthest beyond.
    pub worst: Option<Difference>,
    /// The first five elements that are beyond the budget.
    pub first_differing: Vec<Difference>,
    /// How many elements are.
    pub beyond: usize,
    /// Where they are, if an attention mask says.
    pub positions: Option<Positions>,
    /// The error as a picture, for the worst tensors.
    pub heat_map: Option<HeatMap>,
}

/// The outcome of a comparison.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// Where the expected tensors came from.
    pub expected: String,
    /// Where the actual tensors came from.
    pub actual: String,
    /// The tensors that stand in both, in the order of computation.
    pub rows: Vec<Row>,
    /// Outputs that only the expected dump holds.
    pub only_expected: Vec<String>,
    /// Outputs that only the actual dump holds.
    pub only_actual: Vec<String>,
    /// The dtypes that the two were computed in, as their values tell.
    pub computed_in: (Dtype, Dtype),
    /// What is worth saying besides.
    pub notes: Vec<String>,
    /// The likely cause of the first divergence.
    pub cause: Option<Cause>,
}

impl Comparison {
    /// Within, beyond, or incomparable.
    pub fn verdict(&self) -> Verdict {
        match (self.rows.is_empty(), self.first_divergent()) {
            (true, _) => Verdict::Incomparable,
            (false, None) => Verdict::Within,
            (false, Some(_)) => Verdict::Beyond,
        }
    }

    /// The first tensor beyond its budget.
    pub fn first_divergent(&self) -> Option<&Row> {
        self.rows.iter().find(|row| !row.within)
    }

    /// The tensor before the first divergent one; where none diverges, the last.
    pub fn last_good(&self) -> Option<&Row> {
        self.rows.iter().take_while(|row| row.within).last()
    }
}

/// Compares the outputs that stand in both dumps.
///
/// # Errors
/// [`VerifyError::NothingInCommon`] where no output stands in both.
pub fn compare(expected: &Dump, actual: &Dump, options: &Options<'_>) -> Result<Comparison, VerifyError> {
    let pairs = align(expected, actual);
    if pairs.is_empty() {
        return Err(VerifyError::NothingInCommon {
            expected: expected.source.clone(),
            actual: actual.source.clone(),
            expected_names: order::some_names(outputs(expected)),
            actual_names: order::some_names(outputs(actual)),
        });
    }
    let mut run = Run::new(expected, actual, options, &pairs);
    for pair in &pairs {
        let row = run.compare_pair(pair);
        run.rows.push(row);
    }
    let matched: BTreeSet<&str> = pairs.iter().flat_map(|p| [p.expected_name, p.actual_name]).collect();
    let unmatched = |dump: &Dump| {
        let mut names: Vec<_> = outputs(dump).filter(|n| !matched.contains(n)).map(str::to_owned).collect();
        names.sort_by_cached_key(|n| Position::of(n));
        names
    };
    let mut comparison = Comparison {
        expected: expected.source.clone(),
        actual: actual.source.clone(),
        rows: run.rows,
        only_expected: unmatched(expected),
        only_actual: unmatched(actual),
        computed_in: run.computed_in,
        notes: run.notes,
        cause: None,
    };
    add_heat_maps(&mut comparison, &pairs, options.heat_maps);
    Ok(comparison)
}

fn outputs(dump: &Dump) -> impl Iterator<Item = &str> {
    dump.iter().map(|(name, _)| name).filter(|name| order::role(name) == Role::Output)
}

struct Pair<'a> {
    canonical: String,
    expected_name: &'a str,
    actual_name: &'a str,
    expected: &'a Tensor,
    actual: &'a Tensor,
}

fn align<'a>(expected: &'a Dump, actual: &'a Dump) -> Vec<Pair<'a>> {
    let by_canonical: BTreeMap<String, (&str, &Tensor)> =
        actual.iter().map(|(name, tensor)| (canonical(name), (name, tensor))).collect();
    let mut pairs: Vec<Pair<'a>> = outputs(expected)
        .filter_map(|name| {
            let key = canonical(name);
            let same = actual
                .get(name)
                .map(|tensor| (actual.iter().find(|(n, _)| *n == name).map_or(name, |(n, _)| n), tensor));
            let &(actual_name, tensor) = same.as_ref().or_else(|| by_canonical.get(&key))?;
            Some(Pair {
                canonical: key,
                expected_name: name,
                actual_name,
                expected: expected.get(name)?,
                actual: tensor,
            })
        })
        .collect();
    pairs.sort_by_cached_key(|pair| Position::of(pair.expected_name));
    pairs
}

/// What earlier tensors tell about later ones.
struct Run<'a> {
    options: &'a Options<'a>,
    rows: Vec<Row>,
    noise: BTreeMap<String, Seen>,
    expected: BTreeMap<String, &'a Tensor>,
    reference: BTreeMap<String, &'a Tensor>,
    computed_in: (Dtype, Dtype),
    heads: Option<usize>,
    conv: bool,
    mask: Option<Mask>,
    notes: Vec<String>,
}

/// The noise of a tensor that was compared.
#[derive(Clone, Copy)]
struct Seen {
    /// What was observed, if it was within the budget.
    noise: f64,
    rms: f64,
    /// What was allowed.
    level: f64,
}

impl<'a> Run<'a> {
    fn new(expected: &'a Dump, actual: &Dump, options: &'a Options<'a>, pairs: &[Pair<'a>]) -> Self {
        let names = |dump: &'a Dump| dump.iter().map(|(name, tensor)| (canonical(name), tensor)).collect();
        let heads = pairs
            .iter()
            .filter(|p| is_attention_matrix(&p.canonical))
            .find_map(|p| (p.expected.shape().len() == 4).then(|| p.expected.shape()[1]));
        let computed_in = (
            vote(pairs.iter().map(|p| (p.canonical.as_str(), p.expected))),
            vote(pairs.iter().map(|p| (p.canonical.as_str(), p.actual))),
        );
        let stored = |t: fn(&Pair<'a>) -> &'a Tensor| pairs.iter().map(t).map(Tensor::dtype).find(|d| d.is_float());
        let mut notes = Vec::new();
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
            reference: options.reference.map(names).unwrap_or_default(),
            computed_in,
            heads,
            mask: Mask::of(expected).or_else(|| Mask::of(actual)),
            notes,
        }
    }

    fn compare_pair(&mut self, pair: &Pair<'_>) -> Row {
        let mut row = Row {
            name: pair.expected_name.to_owned(),
            actual_name: (pair.actual_name != pair.expected_name).then(|| pair.actual_name.to_owned()),
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
        };
        if significant(&row.shape) != significant(&row.actual_shape) {
            return row;
        }
        let x: Vec<f64> = pair.expected.values().collect();
        let mut y: Vec<f64> = pair.actual.values().collect();
        if self.options.ignore_padding {
            self.hide_padding(pair, &x, &mut y);
        }
        let layout = Layout::of(&row.shape, self.heads.filter(|_| has_heads(&pair.canonical)));
        let magnitude = match Operation::of(&pair.canonical) {
            Operation::Softmax => Magnitude::Own,
            _ if pair.canonical.starts_with("attentions.") => Magnitude::Own,
            _ => Magnitude::Surroundings,
        };
        let errors = Errors::new(&x, &y, &layout, magnitude, pair.canonical.ends_with(".scores"));
        let judged = self.judge(pair, &x, &errors, &layout);
        self.remember(&pair.canonical, &errors, &judged);
        fill(&mut row, &x, &y, &errors, &judged);
        row.positions = self.mask.as_ref().and_then(|m| m.positions(&row.shape, &judged.beyond));
        row
    }

    fn hide_padding(&self, pair: &Pair<'_>, x: &[f64], y: &mut [f64]) {
        let Some(mask) = &self.mask else { return };
        for (k, y) in y.iter_mut().enumerate() {
            if mask.is_padded(pair.expected.shape(), k) == Some(true) {
                *y = x[k];
            }
        }
    }

    /// Keeps the noise for what is computed from this tensor. That of a tensor beyond its budget is not noise: what is
    /// typical of its own inputs stands in, so that budgets do not widen behind an error.
    fn remember(&mut self, name: &str, errors: &Errors, judged: &Judged) {
        let noise = if judged.finding == Finding::Within {
            errors.noise
        } else {
            let (sources, _) = self.sources(name);
            sources.iter().map(|s| self.noise[s].noise).fold(judged.level.min(errors.noise) / 8.0, f64::min)
        };
        self.noise.entry(name.to_owned()).or_insert(Seen { noise, rms: errors.rms, level: judged.level });
    }

    /// The dtype whose rounding decides for this pair.
    fn precision(&self, pair: &Pair<'_>) -> Dtype {
        let stored = pair.expected.dtype().coarser(pair.actual.dtype());
        stored.coarser(self.computed_in.0).coarser(self.computed_in.1)
    }

    fn judge(&self, pair: &Pair<'_>, x: &[f64], errors: &Errors, layout: &Layout) -> Judged {
        let dtype = self.precision(pair);
        if let Some(own) = self.reference_distance(pair, x) {
            let least = Operation::of(&pair.canonical).line().own(dtype.unit_roundoff());
            let bound = budget::REFERENCE_MULTIPLE * own;
            let budgets = errors.magnitude.iter().map(|m| bound.max(least * m)).collect();
            return Judged::new(errors, budgets, f64::INFINITY, Finding::Reference);
        }
        if let Some(budgets) = x.iter().map(|&x| self.options.tolerance(x)).collect::<Option<Vec<f64>>>() {
            return Judged::new(errors, budgets, f64::INFINITY, Finding::Tolerance);
        }
        if !dtype.is_float() {
            return Judged::new(errors, vec![0.0; x.len()], f64::INFINITY, Finding::Element);
        }
        if dtype == Dtype::F64 {
            let budgets = errors.magnitude.iter().map(|m| budget::F64_ABSOLUTE * m.max(1.0)).collect();
            return Judged::new(errors, budgets, f64::INFINITY, Finding::Element);
        }
        let level = self.level(&pair.canonical, x, dtype.unit_roundoff());
        let element: Vec<f64> =
            errors.magnitude.iter().map(|m| (budget::ELEMENT * level * m).max(dtype.underflow())).collect();
        let judged = Judged::new(errors, element, level, Finding::Element);
        if judged.finding != Finding::Within {
            return judged;
        }
        match errors.outlier_budget(layout, dtype.unit_roundoff() / 2.0, dtype.underflow()) {
            Some(outlier) => {
                let both = outlier.iter().zip(&judged.budgets).map(|(o, e)| o.max(dtype.underflow()).min(*e)).collect();
                Judged::new(errors, both, level, Finding::Outlier)
            }
            None => judged,
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

    /// The noise that rounding explains in this tensor: see [`crate::budget`].
    fn level(&self, name: &str, x: &[f64], u: f64) -> f64 {
        let (sources, skipped) = self.sources(name);
        let operation = match Operation::of(name) {
            // Where the scores and probabilities were not dumped, the copy is the softmax itself.
            Operation::Copy if name.starts_with("attentions.") && skipped > 0 => Operation::Softmax,
            operation => operation,
        };
        let line = operation.line();
        if sources.is_empty() {
            return match operation {
                Operation::Lookup => line.own(u),
                _ => budget::unseen(u, depth(name, &self.expected)),
            };
        }
        if operation == Operation::Copy && skipped == 0 {
            let allowed = sources.iter().map(|s| self.noise[s].level).filter(|l| l.is_finite()).fold(0.0, f64::max);
            return line.own(u) + line.growth * allowed;
        }
        let carried = match operation {
            Operation::Softmax => self.noise_of_scores(x, &sources),
            Operation::Norm if skipped == 0 => self.noise_of_normalised(&sources),
            _ => sources.iter().map(|s| self.noise[s].noise).fold(0.0, f64::max),
        };
        // Operations between this tensor and the ones it is judged from add their own noise independently.
        let hops = (1.0 + skipped as f64).sqrt();
        let unseen = if skipped == 0 { line.own(u) } else { Operation::Product.line().own(u).max(line.own(u)) };
        hops * (unseen + line.growth * carried)
    }

    /// The nearest tensors of the dump that `name` is computed from, and the number of operations passed on the way.
    fn sources(&self, name: &str) -> (Vec<String>, usize) {
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

    /// Softmax turns the absolute error of a score into the relative error of a probability. Where the scores were not
    /// dumped, the logarithms of the probabilities say how far apart they were.
    fn noise_of_scores(&self, x: &[f64], sources: &[String]) -> f64 {
        if let [scores] = sources
            && scores.ends_with(".scores")
        {
            let seen = self.noise[scores];
            return seen.noise * seen.rms.max(1.0);
        }
        let positive = x.iter().filter(|p| **p > f64::from(f32::MIN_POSITIVE));
        let (low, high) = positive.fold((1.0f64, 0.0f64), |(l, h), &p| (l.min(p), h.max(p)));
        let spread = if high > low { (high / low).ln() } else { 1.0 };
        spread.max(1.0) * sources.iter().map(|s| self.noise[s].noise).fold(0.0, f64::max)
    }

    /// A layer norm divides by the standard deviation of the sum that it normalises, which may be smaller than its terms.
    fn noise_of_normalised(&self, sources: &[String]) -> f64 {
        let absolute = sources.iter().map(|s| self.noise[s]).map(|s| s.noise * s.rms).fold(0.0, f64::hypot);
        let relative = sources.iter().map(|s| self.noise[s].noise).fold(0.0, f64::max);
        let terms: Vec<&Tensor> = sources.iter().filter_map(|s| self.expected.get(s).copied()).collect();
        if terms.len() < 2 || terms.iter().any(|t| t.shape() != terms[0].shape()) {
            return relative;
        }
        let mut sum: Vec<f64> = terms[0].values().collect();
        for term in &terms[1..] {
            sum.iter_mut().zip(term.values()).for_each(|(s, t)| *s += t);
        }
        let columns = terms[0].shape().last().copied().unwrap_or(1).max(1);
        let deviation = |row: &[f64]| {
            let mean = row.iter().sum::<f64>() / row.len() as f64;
            row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / row.len() as f64
        };
        let rows: Vec<f64> = sum.chunks(columns).map(deviation).filter(|v| *v > 0.0).collect();
        let typical = (rows.iter().sum::<f64>() / rows.len().max(1) as f64).sqrt();
        if typical > 0.0 { relative.max(absolute / typical) } else { relative }
    }
}

/// Whether `error` is within `budget`; NaN is not.
fn within(error: f64, budget: f64) -> bool {
    error <= budget
}

/// A pair's budgets and what they say.
struct Judged {
    budgets: Vec<f64>,
    level: f64,
    finding: Finding,
    beyond: Vec<usize>,
}

impl Judged {
    fn new(errors: &Errors, budgets: Vec<f64>, level: f64, test: Finding) -> Self {
        let beyond: Vec<usize> = errors
            .error
            .iter()
            .zip(&budgets)
            .enumerate()
            .filter(|(_, (e, b))| !within(e.abs(), **b))
            .map(|(k, _)| k)
            .collect();
        let finding = match () {
            () if !errors.non_finite.is_empty() => Finding::NonFinite,
            () if !within(errors.noise, level) => Finding::Level,
            () if !beyond.is_empty() => test,
            () => Finding::Within,
        };
        let beyond = match finding {
            Finding::NonFinite => errors.non_finite.clone(),
            // The level is that of the tensor; the elements that make it up are those above the average allowed.
            Finding::Level if beyond.is_empty() => {
                (0..errors.error.len()).filter(|&k| errors.error[k].abs() > level * errors.magnitude[k]).collect()
            }
            _ => beyond,
        };
        Self { budgets, level, finding, beyond }
    }
}

/// Writes what was found into the row.
fn fill(row: &mut Row, x: &[f64], y: &[f64], errors: &Errors, judged: &Judged) {
    let coarser = row.dtypes.0.coarser(row.dtypes.1);
    let at = |k: usize| Difference { index: measure::multi_index(&row.shape, k), expected: x[k], actual: y[k] };
    let finite = || errors.error.iter().enumerate().filter(|(_, e)| e.is_finite());
    let largest = finite().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs())).map(|(k, _)| k);
    row.max_abs = largest.map_or(f64::NAN, |k| errors.error[k].abs());
    row.max_rel =
        finite().filter(|(k, _)| x[*k] != 0.0 && x[*k].is_finite()).map(|(k, e)| (e / x[k]).abs()).fold(0.0, f64::max);
    row.max_ulp = finite().filter(|(_, e)| **e != 0.0).map(|(k, _)| coarser.ulps(x[k], y[k])).max().unwrap_or(0);
    row.cosine = measure::cosine(x, y);
    row.noise = errors.noise;
    row.finding = judged.finding;
    row.within = judged.finding == Finding::Within;
    row.beyond = judged.beyond.len();
    row.first_differing = judged.beyond.iter().take(5).map(|&k| at(k)).collect();
    let ratio = |k: usize| errors.error[k].abs() / judged.budgets[k];
    let furthest = || judged.beyond.iter().copied().max_by(|&a, &b| ratio(a).total_cmp(&ratio(b)));
    let worst = match judged.finding {
        Finding::NonFinite => judged.beyond.first().copied(),
        Finding::Within | Finding::Level => largest,
        // The largest error, if it is itself beyond its budget.
        _ => largest.filter(|&k| !within(ratio(k), 1.0)).or_else(furthest),
    };
    row.budget = match (judged.finding, worst) {
        (Finding::Level, _) => row.max_abs * judged.level / errors.noise,
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

fn depth(name: &str, expected: &BTreeMap<String, &Tensor>) -> usize {
    let layer = |n: &str| {
        let digits = n.strip_prefix("hidden_states.").or_else(|| n.strip_prefix("attentions."));
        let digits = digits.or_else(|| n.strip_prefix("deberta.encoder.layer."))?;
        digits.split('.').next()?.parse::<usize>().ok()
    };
    // A head's output knows no layer; where the dump shows none, 24 is the deepest of the published models bar one.
    layer(name).unwrap_or_else(|| expected.keys().filter_map(|n| layer(n)).max().unwrap_or(24))
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

/// Which positions are padding.
struct Mask {
    batch: usize,
    length: usize,
    valid: Vec<bool>,
}

impl Mask {
    fn of(dump: &Dump) -> Option<Self> {
        let mask = dump.get("attention_mask")?;
        let &[batch, length] = mask.shape() else { return None };
        Some(Self { batch, length, valid: mask.values().map(|v| v != 0.0).collect() })
    }

    /// Whether element `k` of a tensor of this shape belongs to a padded position; `None` where the shape does not tell.
    ///
    /// # Shapes
    /// [B, L, …] by its token; [B, H, Q, K] by its query and its key.
    fn is_padded(&self, shape: &[usize], k: usize) -> Option<bool> {
        let index = measure::multi_index(shape, k);
        let valid = |b: usize, i: usize| self.valid[b * self.length + i];
        match *shape {
            [b, _, q, l] if b == self.batch && q == self.length && l == self.length => {
                Some(!(valid(index[0], index[2]) && valid(index[0], index[3])))
            }
            [b, l, _] | [b, l] if b == self.batch && l == self.length => Some(!valid(index[0], index[1])),
            _ => None,
        }
    }

    fn positions(&self, shape: &[usize], elements: &[usize]) -> Option<Positions> {
        let (mut padded, mut valid) = (false, false);
        for &k in elements {
            match self.is_padded(shape, k)? {
                true => padded = true,
                false => valid = true,
            }
        }
        match (valid, padded) {
            (true, false) => Some(Positions::Valid),
            (false, true) => Some(Positions::Padded),
            (true, true) => Some(Positions::Both),
            (false, false) => None,
        }
    }
}

fn add_heat_maps(comparison: &mut Comparison, pairs: &[Pair<'_>], wanted: usize) {
    let excess = |row: &Row| if row.budget > 0.0 { row.max_abs / row.budget } else { f64::INFINITY };
    let mut order: Vec<usize> = (0..comparison.rows.len()).filter(|&i| !comparison.rows[i].max_abs.is_nan()).collect();
    let first = comparison.rows.iter().position(|row| !row.within);
    order.sort_by(|&a, &b| {
        let key = |i: usize| (Some(i) != first, comparison.rows[i].within, -excess(&comparison.rows[i]));
        let (a, b) = (key(a), key(b));
        (a.0, a.1).cmp(&(b.0, b.1)).then(a.2.total_cmp(&b.2))
    });
    let mut shown: Vec<u64> = Vec::new();
    for i in order {
        // The same values under two names are one picture.
        let print = comparison.rows[i].max_abs.to_bits();
        if shown.len() == wanted {
            break;
        }
        if shown.contains(&print) {
            continue;
        }
        shown.push(print);
        let (x, y) = (pairs[i].expected.to_f64(), pairs[i].actual.values());
        comparison.rows[i].heat_map = Some(HeatMap::new(&comparison.rows[i].shape, x.iter().copied().zip(y)));
    }
}
