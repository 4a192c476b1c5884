//! The likely cause of a divergence, found by testing mistakes on the numbers.
//!
//! The first divergent tensor is computed again, from what the actual dump holds of the steps before it, once by the
//! right formula and once with each mistake of a table (`mistake`). A mistake is accepted if it meets the actual values
//! to within the budget of the tensor, and clearly better than the right formula does. Actual inputs are used, so that
//! their noise cancels; so a dump of few tensors is enough, as long as what comes between can be computed: that takes
//! the weights for dense layers, and none for attention.
//!
//! 1. The numbers of the model: its configuration, or what fits the expected dump (`fit`).
//! 2. The right formula, on the expected dump: it has to meet it, or else nothing that is said here would hold.
//! 3. Each mistake, on the actual dump (`trial`).
//! 4. Patterns that need no formula: exchanged tensors, a constant row, dropout … (`patterns`); moved rows (`rows`); a dense
//!    layer that is right but for its weights (`refit`).
//! 5. One match is the cause; several that cannot be told apart are all named, with less confidence; none is said so,
//!    with the terms of the score and how far each accounts for the error (`terms`).

mod attention;
mod fit;
mod knowledge;
mod layers;
mod mistake;
mod node;
mod own;
mod patterns;
mod readers;
mod refit;
mod replay;
mod rows;
mod setting;
mod terms;
mod trial;
mod world;

pub use knowledge::{Knowledge, Weights};
pub(crate) use own::Steps;

use crate::compare::{Comparison, Row};
use crate::dump::Dump;
use crate::{Finding, budget};
use node::{Depth, Node};
use setting::Setting;
use trial::{Match, Trial};
use world::{Batch, Store, World, in_memory};

/// What went wrong, and how that is known.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Cause {
    /// A short name, the same for the same mistake.
    pub name: String,
    /// From 0 to 1. [`budget::CERTAIN`]: the actual values agree with the mistake to within rounding, and with no other.
    pub confidence: f64,
    /// The evidence, in a sentence with numbers.
    pub evidence: String,
}

/// A cause, if there is one, and what is worth saying besides.
pub(crate) struct Diagnosis {
    pub cause: Option<Cause>,
    pub notes: Vec<String>,
}

/// Looks for the cause of the first divergence.
pub(crate) fn diagnose(
    expected: &Dump,
    actual: &Dump,
    comparison: &Comparison,
    knowledge: Option<&Knowledge<'_>>,
) -> Diagnosis {
    let none = || Diagnosis { cause: None, notes: Vec::new() };
    let Some(row) = comparison.first_divergent() else { return none() };
    if row.finding == Finding::Shape {
        return Diagnosis { cause: patterns::of_shapes(expected, actual, row), notes: Vec::new() };
    }
    let setting = known_setting(expected, actual, knowledge);
    let depth = depth_of(expected, setting.as_ref());
    if let Some(cause) = patterns::of_lists(expected, actual, comparison) {
        return Diagnosis { cause: Some(cause), notes: Vec::new() };
    }
    let mut notes = Vec::new();
    let within = |name: &str| {
        comparison.rows.iter().any(|r| r.within && (r.name == name || r.actual_name.as_deref() == Some(name)))
    };
    let stores = || (Store::new(expected, depth, |_| true), Store::new(actual, depth, within));
    let focus = row.worst.as_ref().and_then(|w| w.index.first().copied()).unwrap_or(0);
    let weights = knowledge.and_then(|k| k.weights);
    let node = Node::of(&row.canonical, depth);
    let mut matches = Vec::new();
    let (mut exact, mut untested) = (false, 0);
    let setting = setting.or_else(|| fit::setting(expected, depth, focus));
    if let (Some(setting), Some(node)) = (setting, node)
        && let Some(batch) = Batch::new([expected, actual], &stores().0, in_memory(setting.heads, focus))
    {
        let world = World::new(setting, batch, stores(), comparison.computed_in.1, weights);
        let trial = Trial::new(world, comparison, (expected, actual), row, node);
        match trial.run() {
            trial::Outcome::Inherited => notes.push(format!(
                "{} follows from its inputs in the actual dump by the right formula: the error comes in with them",
                row.name
            )),
            trial::Outcome::Unknown => {}
            trial::Outcome::Tried { matches: found, weights_known, untested: count } => {
                exact = weights_known;
                matches = found;
                untested = count;
            }
        }
        matches.extend(patterns::of_values(expected, actual, row, depth, exact, &matches));
        if matches.is_empty() {
            matches.extend(refit::other_weights(&trial));
            notes.extend(terms::note(&trial));
        }
        if matches.is_empty() && untested > 0 && !trial.world.knows_weights() {
            notes.push(format!(
                "{untested} known mistakes could not be tested on {} without the weights: name the model (--model DIR)",
                row.name
            ));
        }
    } else {
        matches.extend(patterns::of_values(expected, actual, row, depth, false, &matches));
    }
    Diagnosis { cause: settle(row, matches), notes }
}

/// What is known of the model, from whoever knows it.
fn known_setting(expected: &Dump, actual: &Dump, knowledge: Option<&Knowledge<'_>>) -> Option<Setting> {
    if let Some(setting) = knowledge.and_then(|k| k.config.as_ref()).and_then(Setting::from_config) {
        return Some(setting);
    }
    [expected, actual].into_iter().find_map(|dump| {
        let text = dump.metadata().get("config")?;
        Setting::from_config(&serde_json::from_str(text).ok()?)
    })
}

/// The depth that the model is known to have, or that names show.
fn depth_of(dump: &Dump, setting: Option<&Setting>) -> Depth {
    if let Some(setting) = setting {
        return setting.depth();
    }
    let names = || dump.iter().map(|(name, _)| crate::order::canonical(name));
    let of_layer = |n: &str| n.strip_prefix("deberta.encoder.layer.")?.split('.').next()?.parse::<usize>().ok();
    let of_list = |n: &str| n.strip_prefix("attentions.")?.parse::<usize>().ok();
    let of_states = |n: &str| n.strip_prefix("hidden_states.")?.parse::<usize>().ok()?.checked_sub(1);
    let last = names().filter_map(|n| of_layer(&n).or_else(|| of_list(&n)).or_else(|| of_states(&n))).max();
    Depth { layers: last.map_or(0, |l| l + 1), convolution: names().any(|n| n.starts_with("deberta.encoder.conv")) }
}

/// One cause out of what matched.
fn settle(row: &Row, mut matches: Vec<Match>) -> Option<Cause> {
    matches
        .sort_by(|a, b| (b.certain, a.rank()).partial_cmp(&(a.certain, b.rank())).unwrap_or(std::cmp::Ordering::Equal));
    let best = matches.first()?;
    let mut rivals: Vec<&str> = Vec::new();
    for other in &matches[1..] {
        let near = other.noise <= budget::RIVAL * best.noise.max(row.rounding()) && other.explains >= best.explains;
        if near && other.certain == best.certain && other.name != best.name && !rivals.contains(&other.name) {
            rivals.push(other.name);
        }
    }
    let mut evidence = best.evidence.clone();
    let confidence = match (rivals.is_empty(), best.certain) {
        (true, true) if best.gain >= budget::CLEAR_GAIN => budget::CERTAIN,
        (true, true) => budget::LIKELY,
        (true, false) => budget::GUESS,
        (false, _) => {
            evidence = format!("{evidence}. These numbers do not tell it from {}", rivals.join(", "));
            budget::AMBIGUOUS
        }
    };
    Some(Cause { name: best.name.to_owned(), confidence, evidence })
}
