//! Tests each mistake of the table on the first divergent tensor, and what passes on the tensors after it.

use std::collections::BTreeSet;

use ndarray::ArrayD;

use super::mistake::{self, Hypothesis};
use super::node::Node;
use super::replay::{Replay, Side};
use super::setting::{Logarithm, Padded, Relative, Setting};
use super::world::{self, World};
use crate::Positions;
use crate::budget;
use crate::compare::{Comparison, Row};
use crate::dump::Dump;
use crate::judge::Fit;

/// A mistake that the numbers bear out.
#[derive(Clone, Debug)]
pub struct Match {
    pub name: &'static str,
    pub evidence: String,
    /// The relative noise that remains.
    pub noise: f64,
    /// How many times smaller it is than without the mistake.
    pub gain: f64,
    /// How many other tensors the mistake explains, less those that it would have made wrong and that are right.
    pub explains: i32,
    /// Whether the formula has no free parameter.
    pub certain: bool,
    /// The entry of the table, if it is one.
    pub hypothesis: Option<Hypothesis>,
}

impl Match {
    /// What explains more comes first, then what leaves less.
    pub fn rank(&self) -> (std::cmp::Reverse<i32>, f64) {
        (std::cmp::Reverse(self.explains), self.noise)
    }
}

/// What the trial of one tensor says.
pub enum Outcome {
    /// The right formula meets the actual values: whatever is wrong came before.
    Inherited,
    /// The tensor cannot be computed from what is known.
    Unknown,
    Tried {
        matches: Vec<Match>,
        /// Whether the right formula could be computed, weights and all.
        weights_known: bool,
        /// How many names of mistakes could not be tested.
        untested: usize,
    },
}

/// The test of one tensor.
pub struct Trial<'w, 'a> {
    pub world: World<'a>,
    comparison: &'w Comparison,
    dumps: (&'a Dump, &'a Dump),
    pub row: &'w Row,
    pub node: Node,
}

/// How many other tensors a match is tested on, and among how many they are looked for.
const WITNESSES: usize = 8;
const CANDIDATES: usize = 40;

/// How many maxima are tried where none is known.
const MAXIMA: usize = 32;

impl<'w, 'a> Trial<'w, 'a> {
    pub fn new(
        world: World<'a>,
        comparison: &'w Comparison,
        dumps: (&'a Dump, &'a Dump),
        row: &'w Row,
        node: Node,
    ) -> Self {
        let mut trial = Self { world, comparison, dumps, row, node };
        trial.calibrate();
        trial
    }

    /// What the actual dump holds under the name of a row; other names of the same step may hold something else.
    pub fn found(&self, row: &Row, node: Node) -> Option<ArrayD<f64>> {
        let tensor = self.dumps.1.get(&row.key)?;
        world::load(tensor, node, &self.world.batch)
    }

    fn calibration(&self) -> Option<Fit> {
        let prediction = Replay::new(&self.world, Side::Expected, None).predict(self.node)?;
        let expected = world::load(self.dumps.0.get(&self.row.name)?, self.node, &self.world.batch)?;
        fit(self.row, self.world.setting.heads, &prediction, &expected)
    }

    /// Takes those of the references' choices that meet the expected dump best.
    fn calibrate(&mut self) {
        let Some(first) = self.calibration() else { return };
        if first.score() <= self.row.rounding() {
            return;
        }
        let (mut best, mut lowest) = (self.world.setting.clone(), first.score());
        for choice in choices(&best) {
            self.world.setting = choice.clone();
            let score = self.calibration().map_or(f64::INFINITY, |f| f.score());
            if score < lowest / 2.0 {
                (best, lowest) = (choice, score);
            }
        }
        self.world.setting = best;
    }

    pub fn run(&self) -> Outcome {
        // Where the right formula does not meet the expected dump, nothing that follows from it would hold.
        let calibrated = self.calibration().map(|fit| fit.within);
        let Some(target) = self.found(self.row, self.node).filter(|_| calibrated != Some(false)) else {
            return Outcome::Unknown;
        };
        let heads = self.world.setting.heads;
        let mut right = Replay::new(&self.world, Side::Actual, None);
        let prediction = right.predict(self.node);
        let of_right = prediction.and_then(|p| fit(self.row, heads, &p, &target));
        if of_right.as_ref().is_some_and(|f| f.within) && !right.borrowed() {
            return Outcome::Inherited;
        }
        let (mut matches, mut untested) = (Vec::new(), BTreeSet::new());
        for hypothesis in mistake::all().into_iter().filter(|h| right.is_touched_by(&h.mistake)) {
            if hypothesis.is_another(&self.world.setting) {
                continue;
            }
            let Some(found) = self.best_fit(&hypothesis, &right, &target) else {
                untested.insert(hypothesis.name);
                continue;
            };
            let gain = match &of_right {
                // What is no number has no noise; that it agrees is all.
                Some(right) if right.non_finite > 0 => f64::INFINITY,
                Some(right) => right.noise / found.noise.max(f64::MIN_POSITIVE),
                None => self.row.noise / found.noise.max(f64::MIN_POSITIVE),
            };
            if found.within && gain >= budget::LEAST_GAIN {
                matches.push(self.describe(hypothesis, &found, of_right.as_ref(), gain, calibrated.is_some()));
            }
        }
        if matches.len() > 1 {
            self.hear_witnesses(&mut matches);
        }
        // Names of one step that hold different things: something is done between them that no formula here knows.
        if self.is_contradicted(&target) {
            matches.iter_mut().for_each(|m| m.certain = false);
        }
        Outcome::Tried { matches, weights_known: of_right.is_some() && !right.borrowed(), untested: untested.len() }
    }

    /// How far the values with a mistake are from what was found; with the maximum that fits best, where it was fitted.
    fn best_fit(&self, hypothesis: &Hypothesis, right: &Replay<'_, 'a>, target: &ArrayD<f64>) -> Option<Fit> {
        let world = &self.world;
        let run = |setting: &Setting| {
            let replay = Replay::new(world, Side::Actual, Some(&hypothesis.mistake)).under(setting);
            let prediction = replay.after(right).predict(self.node)?;
            fit(self.row, world.setting.heads, &prediction, target)
        };
        let mut best = run(&world.setting);
        if best.as_ref().is_some_and(|f| f.within) || !hypothesis.mistake.depends_on_maximum() {
            return best;
        }
        for max in world.setting.maxima.iter().skip(1).take(MAXIMA) {
            let relative = world.setting.relative.map(|r| Relative { max: *max, ..r });
            let found = run(&Setting { relative, ..world.setting.clone() });
            if found.as_ref().is_some_and(|f| best.as_ref().is_none_or(|b| f.score() < b.score())) {
                best = found;
            }
        }
        best
    }

    /// Whether another name of the step holds something else in the actual dump, and the same in the expected one.
    fn is_contradicted(&self, target: &ArrayD<f64>) -> bool {
        self.comparison.rows.iter().any(|other| {
            other.name != self.row.name
                && !crate::order::is_list(&other.canonical)
                && !crate::order::is_list(&self.row.canonical)
                && Node::of(&other.canonical, self.world.depth) == Some(self.node)
                && self.found(other, self.node).is_some_and(|found| {
                    fit(self.row, self.world.setting.heads, &found, target).is_some_and(|f| !f.within)
                })
        })
    }

    fn describe(&self, h: Hypothesis, found: &Fit, right: Option<&Fit>, gain: f64, calibrated: bool) -> Match {
        let without = match right {
            Some(fit) if fit.non_finite > 0 => {
                format!(
                    "{} elements that are a number by the right formula and none here, or the reverse",
                    fit.non_finite
                )
            }
            Some(fit) => format!("{:.1e} by the right formula", fit.max_abs),
            None => format!("{:.1e} from the expected values", self.row.max_abs),
        };
        let padded =
            if self.row.positions == Some(Positions::Padded) { "; padded positions alone are off" } else { "" };
        let evidence = format!(
            "{} is as if {}: max residual {:.1e}, against {without}{padded}",
            self.row.name, h.says, found.max_abs
        );
        Match {
            name: h.name,
            evidence,
            noise: found.noise,
            gain,
            explains: 0,
            certain: calibrated,
            hypothesis: Some(h),
        }
    }

    /// Tests matches on other tensors, those of the same layer first: what a mistake explains speaks for it, and what it
    /// would have made wrong and is right speaks against it.
    fn hear_witnesses(&self, matches: &mut [Match]) {
        let mut others: Vec<(&Row, Node)> = Vec::new();
        for row in &self.comparison.rows {
            let Some(node) = Node::of(&row.canonical, self.world.depth) else { continue };
            if node != self.node && row.name != self.row.name && others.iter().all(|(_, n)| *n != node) {
                others.push((row, node));
            }
        }
        others.sort_by_key(|(_, n)| (n.at != self.node.at, n.kind != self.node.kind));
        for found in matches.iter_mut() {
            let Some(hypothesis) = found.hypothesis.clone() else { continue };
            let mut tested = 0;
            for (row, node) in others.iter().take(CANDIDATES) {
                let verdict = self.witness(&hypothesis, row, *node);
                tested += usize::from(verdict.is_some());
                match verdict {
                    Some(true) => found.explains += 1,
                    Some(false) => found.explains -= 1,
                    None => {}
                }
                if tested == WITNESSES {
                    break;
                }
            }
        }
    }

    /// Whether a tensor is as the mistake has it, and not as the right formula does (true), or the reverse (false).
    fn witness(&self, hypothesis: &Hypothesis, row: &Row, node: Node) -> Option<bool> {
        let target = self.found(row, node)?;
        let run = |mistake| {
            let mut replay = Replay::new(&self.world, Side::Actual, mistake);
            let prediction = replay.predict(node)?;
            let acts = replay.is_touched_by(&hypothesis.mistake);
            (acts && !replay.borrowed()).then(|| fit(row, self.world.setting.heads, &prediction, &target)).flatten()
        };
        let (wrong, right) = (run(Some(&hypothesis.mistake))?, run(None)?);
        match (wrong.within, right.within) {
            (true, true) if right.score() >= budget::LEAST_GAIN * wrong.score() => Some(true),
            (true, true) if wrong.score() >= budget::LEAST_GAIN * right.score() => Some(false),
            (true, false) => Some(true),
            (false, true) => Some(false),
            _ => None,
        }
    }
}

/// A prediction measured against what was found, by the budget of the row.
pub fn fit(row: &Row, heads: usize, prediction: &ArrayD<f64>, target: &ArrayD<f64>) -> Option<Fit> {
    let squeezed = |a: &ArrayD<f64>| a.shape().iter().copied().filter(|&s| s != 1).collect::<Vec<_>>();
    let repeated = prediction.broadcast(target.raw_dim()).filter(|_| squeezed(prediction) != squeezed(target));
    let repeated = repeated.map(|r| r.to_owned());
    let prediction = repeated.as_ref().unwrap_or(prediction);
    if squeezed(prediction) != squeezed(target) {
        return None;
    }
    let (x, y): (Vec<f64>, Vec<f64>) = (prediction.iter().copied().collect(), target.iter().copied().collect());
    Some(row.fit(target.shape(), heads, &x, &y))
}

/// The places where the references differ, each the other way.
fn choices(setting: &Setting) -> Vec<Setting> {
    let mut all = Vec::new();
    for padded in [Padded::Uniform, Padded::Zero] {
        for scale_f32 in [true, false] {
            for log in [Logarithm::F32, Logarithm::F64] {
                for clamps_distance in [false, true] {
                    let mut choice = Setting { padded, scale_f32, ..setting.clone() };
                    if let Some(relative) = &mut choice.relative {
                        (relative.log, relative.clamps_distance) = (log, clamps_distance);
                    }
                    all.push(choice);
                }
            }
        }
    }
    all
}
