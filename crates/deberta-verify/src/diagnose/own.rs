//! What a step adds to the error of its inputs.
//!
//! ```text
//! own = (y − f(x)) − (y₀ − f(x₀))
//! ```
//!
//! y and x: the step and what it reads, in the actual dump; y₀ and x₀: in the expected one; f: the right formula, in `f64`. The
//! noise that x brings cancels, and so does whatever f leaves out on both sides. What remains is the rounding of one step:
//! smaller than the noise, even, and not the less so deep in the network.

use super::known_setting;
use super::node::{Kind, Node};
use super::replay::{Replay, Side};
use super::world::{Batch, Store, World};
use super::{Knowledge, depth_of};
use crate::budget;
use crate::dtype::Dtype;
use crate::dump::Dump;

/// The steps that heads compute each for itself, and that are not judged by what they read otherwise.
const OF_HEADS: [Kind; 8] =
    [Kind::Query, Kind::Key, Kind::Value, Kind::C2c, Kind::C2p, Kind::P2c, Kind::Scores, Kind::Context];

/// Those of them that are computed in every layer alike.
const WITHOUT_WEIGHTS: [Kind; 5] = [Kind::C2c, Kind::C2p, Kind::P2c, Kind::Scores, Kind::Context];

/// The inputs of a batch are read once for each of its sequences: of more than these, steps are not computed again.
const MOST_SEQUENCES: usize = 256;

/// Computes steps again from what either dump holds of the steps before.
pub(crate) struct Steps<'a> {
    world: World<'a>,
    /// One for each sequence, so that no more than one is in memory.
    sequences: Vec<Batch>,
    /// Kinds of steps whose formula was seen to hold in the expected dump: y₀ = f(x₀), and need not be computed.
    exact: Vec<Kind>,
}

impl<'a> Steps<'a> {
    /// `None` where the numbers of the model are not known, the dumps do not show what was read, or it is very much.
    pub fn new(
        expected: &'a Dump,
        actual: &'a Dump,
        computed_in: Dtype,
        knowledge: Option<&'a Knowledge<'a>>,
    ) -> Option<Self> {
        let setting = known_setting(expected, actual, knowledge)?;
        let depth = depth_of(expected, Some(&setting));
        let stores = (Store::new(expected, depth, |_| true), Store::new(actual, depth, |_| true));
        let batch = |b: usize| Batch::new([expected, actual], &stores.0, |whole, _| vec![b.min(whole - 1)]);
        let first = batch(0).filter(|b| b.whole <= MOST_SEQUENCES)?;
        let sequences = (0..first.whole).map(batch).collect::<Option<Vec<_>>>()?;
        let weights = knowledge.and_then(|k| k.weights);
        Some(Self { world: World::new(setting, first, stores, computed_in, weights), sequences, exact: Vec::new() })
    }

    /// Of the error of a step, what is its own, element by element: 0 where there is no error, or no number. `expected` is y₀,
    /// `error` is y − y₀. `None` for steps of other kinds, and for those whose inputs are not in the dumps or whose weights are
    /// not known.
    pub fn own_error(&mut self, name: &str, expected: &[f64], error: &[f64]) -> Option<Vec<f64>> {
        let node = self.node(name)?;
        let each = (error.len() / self.sequences.len()).max(1);
        self.in_turn(error.len(), |steps, b| {
            let (expected, error) = (expected.chunks(each).nth(b)?, error.chunks(each).nth(b)?);
            steps.added(node, expected, error)
        })
    }

    /// How large the sums of a product are while they are added up: [`f32`] rounds each of them. What is small by chance is
    /// rounded as coarsely at times, so the mean of the squares is added to each. `None` for steps that are none.
    pub fn partial_sums(&mut self, name: &str, len: usize) -> Option<Vec<f64>> {
        let node = self.node(name)?;
        let mut sums = self.in_turn(len, |steps, _| {
            let mut replay = Replay::new(&steps.world, Side::Expected, None).no_deeper_than(1);
            Some(replay.partial_sums(node)?.into_iter().collect())
        })?;
        let mean = sums.iter().map(|s| s * s).sum::<f64>() / sums.len().max(1) as f64;
        sums.iter_mut().for_each(|s| *s = (*s * *s + mean).sqrt());
        Some(sums)
    }

    fn node(&self, name: &str) -> Option<Node> {
        Node::of(name, self.world.depth).filter(|n| OF_HEADS.contains(&n.kind))
    }

    /// What `of` gives for each sequence, one after the other: `len` numbers.
    fn in_turn(&mut self, len: usize, of: impl Fn(&mut Self, usize) -> Option<Vec<f64>>) -> Option<Vec<f64>> {
        let mut all = Vec::with_capacity(len);
        for b in 0..self.sequences.len() {
            std::mem::swap(&mut self.world.batch, &mut self.sequences[b]);
            let found = of(self, b);
            std::mem::swap(&mut self.world.batch, &mut self.sequences[b]);
            self.world.forget_steps();
            let Some(found) = found else { break };
            all.extend(found);
        }
        self.world.forget_weights();
        (all.len() == len).then_some(all)
    }

    fn added(&mut self, node: Node, expected: &[f64], error: &[f64]) -> Option<Vec<f64>> {
        let predicted = |side| {
            let mut replay = Replay::new(&self.world, side, None).no_deeper_than(1);
            let values = replay.predict(node)?;
            (!replay.borrowed() && values.len() == error.len()).then_some(values)
        };
        let mut own: Vec<f64> = error.to_vec();
        if self.exact.contains(&node.kind) {
            own.iter_mut().zip(expected).for_each(|(e, x)| *e += x);
        } else {
            let prediction = predicted(Side::Expected)?;
            own.iter_mut().zip(prediction.iter()).for_each(|(e, p)| *e += p);
            if WITHOUT_WEIGHTS.contains(&node.kind) && is_exact(expected, prediction.iter()) {
                self.exact.push(node.kind);
            }
        }
        own.iter_mut().zip(predicted(Side::Actual)?.iter()).for_each(|(e, p)| *e -= p);
        own.iter_mut().zip(error).filter(|(_, e)| **e == 0.0 || !e.is_finite()).for_each(|(own, _)| *own = 0.0);
        own.iter().all(|e| e.is_finite()).then_some(own)
    }
}

/// Whether the formula meets the expected values as nearly as `f64` can.
fn is_exact<'p>(expected: &[f64], prediction: impl Iterator<Item = &'p f64>) -> bool {
    let size = (expected.iter().map(|x| x * x).sum::<f64>() / expected.len().max(1) as f64).sqrt();
    expected.iter().zip(prediction).all(|(x, p)| (x - p).abs() <= budget::EXACT * (x.abs() + size))
}
