//! Compares two dumps tensor by tensor, in the order of computation.
//!
//! 1. The outputs that stand in both are aligned by their canonical names and sorted by [`Position`].
//! 2. Each pair is measured ([`crate::measure`]) against its budget ([`crate::budget`]): shape first, then agreement on
//!    what is no number, then the level of the noise, then each element.
//! 3. The first that is beyond its budget is the first divergent; the one before it is the last good.

use std::collections::{BTreeMap, BTreeSet};

use crate::diagnose::{Cause, Knowledge, diagnose};
use crate::dtype::Dtype;
use crate::dump::{Dump, Origin};
use crate::judge::{Ruler, Run, Yardstick};
use crate::order::{self, Position, Role};
use crate::tensor::Tensor;
use crate::{HeatMap, VerifyError};

/// How to compare.
#[derive(Clone, Debug, Default)]
pub struct Options<'a> {
    /// `rtol`·|expected| + `atol` instead of the table of budgets. Either given, the other is 0.
    pub rtol: Option<f64>,
    /// See `rtol`.
    pub atol: Option<f64>,
    /// The reference's own f32 beside its f64, which is then `expected`: budgets become
    /// [`crate::budget::REFERENCE_MULTIPLE`] times the distance between these two.
    pub reference: Option<&'a Dump>,
    /// Do not look at padded positions, as far as the attention mask says which these are.
    pub ignore_padding: bool,
    /// For how many of the worst tensors to keep a heat map.
    pub heat_maps: usize,
    /// What is known of the model, for the cause of a divergence.
    pub knowledge: Option<&'a Knowledge<'a>>,
}

impl Options<'_> {
    pub(crate) fn tolerance(&self, x: f64) -> Option<f64> {
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
    /// What the actual dump's file calls it, where that is another name.
    pub actual_name: Option<String>,
    /// Where that name was matched by shape and value: the cosine it was guessed by.
    pub guessed: Option<f64>,
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
    /// The name that alignment went by.
    pub(crate) canonical: String,
    /// The name in the actual dump, once it is renamed.
    pub(crate) key: String,
    /// What else would be within the budget.
    pub(crate) yardstick: Yardstick,
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
    let ruler = Ruler::new(expected, actual, options, &pairs);
    let mut run = Run::new(expected, actual, options, &ruler, &pairs);
    let mut measured = ruler.measure(&pairs[0]);
    for (i, pair) in pairs.iter().enumerate() {
        // The next is measured meanwhile: not by a thread that rayon does not know, which would wait for those that wait for it
        // where rayon's own compare.
        let mut next = None;
        rayon::in_place_scope(|scope| {
            if let Some(pair) = pairs.get(i + 1) {
                scope.spawn(|_| next = ruler.measure(pair));
            }
            let row = run.judge_pair(pair, measured.take());
            run.rows.push(row);
        });
        measured = next;
        // A trace of a long text is larger than what has to be in memory at once.
        pair.expected.release();
        pair.actual.release();
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
    let diagnosis = diagnose(expected, actual, &comparison, options.knowledge);
    comparison.cause = diagnosis.cause;
    comparison.notes.extend(diagnosis.notes);
    Ok(comparison)
}

fn outputs(dump: &Dump) -> impl Iterator<Item = &str> {
    dump.iter().map(|(name, _)| name).filter(|name| order::role(name) == Role::Output)
}

/// A tensor that stands in both dumps.
pub(crate) struct Pair<'a> {
    pub canonical: String,
    pub expected_name: &'a str,
    pub actual_name: &'a str,
    /// What that name stands for, where it is not the file's own.
    pub origin: Option<&'a Origin>,
    pub expected: &'a Tensor,
    pub actual: &'a Tensor,
}

/// Tensors of one name, in any spelling; of one spelling, if there is a choice.
fn align<'a>(expected: &'a Dump, dump: &'a Dump) -> Vec<Pair<'a>> {
    let mut by_canonical: BTreeMap<String, Vec<(&str, &Tensor)>> = BTreeMap::new();
    for (name, tensor) in dump.iter() {
        by_canonical.entry(order::spelling(dump, name)).or_default().push((name, tensor));
    }
    let mut pairs: Vec<Pair<'a>> = outputs(expected)
        .filter_map(|name| {
            let canonical = order::spelling(expected, name);
            let candidates = by_canonical.get(&canonical)?;
            let &(actual_name, actual) = candidates.iter().find(|(n, _)| *n == name).or(candidates.first())?;
            let origin = dump.origin(actual_name);
            Some(Pair { canonical, expected_name: name, actual_name, origin, expected: expected.get(name)?, actual })
        })
        .collect();
    pairs.sort_by_cached_key(|pair| Position::of(&pair.canonical));
    pairs
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
