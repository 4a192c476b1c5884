//! What a step adds to the error of its inputs.
//!
//! ```text
//! own = (y − f(x)) − (y₀ − f(x₀))
//! ```
//!
//! y and x: the step and what it reads, in the actual dump; y₀ and x₀: in the expected one; f: the right formula, in `f64`. The
//! noise that x brings cancels, and so does whatever f leaves out on both sides. What remains is the rounding of one step:
//! smaller than the noise, even, and not the less so deep in the network.

use std::array::from_fn;
use std::collections::BTreeMap;
use std::rc::Rc;

use rayon::prelude::*;

use super::known_setting;
use super::layers;
use super::node::{Kind, Node};
use super::readers::{Own, READINGS, Reading, Sums, Times, Unread};
use super::replay::{Replay, Side};
use super::world::{Batch, Store, World, one_of};
use super::{Knowledge, depth_of};
use crate::budget::{self, Operation};
use crate::dtype::Dtype;
use crate::dump::Dump;
use crate::order::canonical;

/// The steps that heads compute each for itself, and that are not judged by what they read otherwise.
const OF_HEADS: [Kind; 8] =
    [Kind::Query, Kind::Key, Kind::Value, Kind::C2c, Kind::C2p, Kind::P2c, Kind::Scores, Kind::Context];

/// Those of them that are computed in every layer alike.
const WITHOUT_WEIGHTS: [Kind; 5] = [Kind::C2c, Kind::C2p, Kind::P2c, Kind::Scores, Kind::Context];

/// The inputs of a batch are read once for each of its sequences: of more than these, steps are not computed again.
const MOST_SEQUENCES: usize = 256;

/// Attention matrices of more elements than this, all sequences together, are not kept.
const MOST_KEPT: usize = 1 << 22;

/// Computes steps again from what either dump holds of the steps before.
pub(crate) struct Steps<'a> {
    world: World<'a>,
    /// One for each sequence, so that no more than one is in memory.
    sequences: Vec<Batch>,
    /// Kinds of steps whose formula was seen to hold in the expected dump: y₀ = f(x₀), and need not be computed.
    exact: Vec<Kind>,
    /// What steps of one layer were found to add, by sequence: each has several tests.
    kept: BTreeMap<(Node, usize), Rc<Own>>,
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
        let store = |dump| Store::new(dump, depth, |name| Operation::of(&canonical(name)) != Operation::Copy);
        let stores = (store(expected), store(actual));
        let batch = |b: usize| Batch::new([expected, actual], &stores.0, one_of(b));
        let first = batch(0).filter(|b| b.whole <= MOST_SEQUENCES)?;
        let sequences = (0..first.whole).map(batch).collect::<Option<Vec<_>>>()?;
        let weights = knowledge.and_then(|k| k.weights);
        Some(Self {
            world: World::new(setting, first, stores, computed_in, weights),
            sequences,
            exact: Vec::new(),
            kept: BTreeMap::new(),
        })
    }

    /// Of the error of a step, what is its own, element by element: 0 where there is no error, or no number. `expected` is y₀,
    /// `error` is y − y₀. `None` for steps of other kinds, and for those whose inputs are not in the dumps or whose weights are
    /// not known.
    pub fn own_error(&mut self, name: &str, expected: &[f64], error: &[f64]) -> Option<Vec<f64>> {
        let node = self.node(name)?;
        let each = (error.len() / self.sequences.len()).max(1);
        self.in_turn(error.len(), |steps, b| {
            let (expected, error) = (expected.chunks(each).nth(b)?, error.chunks(each).nth(b)?);
            let kept = steps.kept.get(&(node, b)).filter(|kept| kept.whole == error);
            match kept {
                Some(kept) => kept.error.as_slice().map(<[f64]>::to_vec),
                None => steps.added(node, expected, error),
            }
        })
    }

    /// What those say of a step that read it, which is of `len` elements. `None` for steps that nobody reads linearly, and where
    /// there is no sequence of which they say anything.
    pub fn unread(&mut self, name: &str, len: usize, least: f64) -> Option<Unread> {
        // What is returned again of a step ("attentions.0") is not what was read of it.
        let node = Node::of(name, self.world.depth).filter(|_| Operation::of(name) != Operation::Copy)?;
        let reading = READINGS.iter().find(|r| r.step == node.kind)?;
        let sums = self.in_turn(self.sequences.len(), |steps, b| Some(vec![steps.missed(node, b, least)]))?;
        Unread::new(reading.lines, sums, len)
    }

    /// What the rounding of a product follows: `written`, the size of the result, or how large the sums are while they are added
    /// up, in one of several orders, for [`f32`] rounds each of them. It is the one under which what the step adds is likeliest.
    /// `None` for steps that are no such products.
    pub fn rounded(&mut self, name: &str, added: &[f64], written: &[f64]) -> Option<Vec<f64>> {
        let node = self.node(name)?;
        let mut sums = self.in_turn(added.len(), |steps, _| {
            let each = layers::ORDERS.map(|order| {
                Replay::new(&steps.world, Side::Expected, None).no_deeper_than(1).partial_sums(node, order)
            });
            let [Some(a), Some(b), Some(c), Some(d)] = each else { return None };
            Some(a.iter().zip(&b).zip(c.iter().zip(&d)).map(|((a, b), (c, d))| [*a, *b, *c, *d]).collect())
        })?;
        // What is small by chance is rounded more coarsely than that at times.
        let squares = total(sums.len(), |k| sums[k].map(|s| s * s));
        let floor = squares.map(|square| budget::PARTIAL_SUMS_FLOOR * square / sums.len().max(1) as f64);
        sums.par_iter_mut().for_each(|s| *s = from_fn(|o| (s[o] * s[o] + floor[o]).sqrt()));
        let of_order: [f64; 4] = from_fn(|order| surprise(added, |k| sums[k][order]));
        let likeliest = (0..4).min_by(|&a, &b| of_order[a].total_cmp(&of_order[b]))?;
        if surprise(added, |k| written[k]) <= of_order[likeliest] {
            return Some(written.to_vec());
        }
        Some(sums.into_iter().map(|sums| sums[likeliest]).collect())
    }

    fn node(&self, name: &str) -> Option<Node> {
        Node::of(name, self.world.depth).filter(|n| OF_HEADS.contains(&n.kind))
    }

    /// What `of` gives for each sequence, one after the other: `len` in all.
    fn in_turn<T>(&mut self, len: usize, of: impl Fn(&mut Self, usize) -> Option<Vec<T>>) -> Option<Vec<T>> {
        let mut all = Vec::new();
        for b in 0..self.sequences.len() {
            std::mem::swap(&mut self.world.batch, &mut self.sequences[b]);
            let found = of(self, b);
            std::mem::swap(&mut self.world.batch, &mut self.sequences[b]);
            self.world.forget_steps();
            let Some(found) = found else { break };
            if all.is_empty() {
                // Of one sequence it is the whole, which is not copied.
                all = found;
            } else {
                all.extend(found);
            }
        }
        self.world.forget_weights();
        (all.len() == len).then_some(all)
    }

    /// What the readers of a step say in sequence `b`, which is the one looked at. `None` where the dumps do not hold who reads
    /// it, and where nothing can be off by `least` times what the rounding of the readers blurs.
    fn missed(&mut self, node: Node, b: usize, least: f64) -> Option<Sums> {
        let mut all = READINGS.into_iter().filter(|r| r.step == node.kind);
        all.try_fold(None, |sums: Option<Sums>, reading| match (sums, self.said_by(reading, node.at, b, least)) {
            (Some(sums), Some(more)) => sums.and(&more).map(Some),
            (sums, more) => Some(sums.or(more)),
        })?
    }

    fn said_by(&mut self, reading: Reading, at: usize, b: usize, least: f64) -> Option<Sums> {
        let reader = Node::new(reading.reader, at);
        let world = &self.world;
        let of = |store: &Store<'_>, node| store.get(node, &world.batch);
        let other = match reading.times {
            Times::Step(other) => Some(of(&world.actual, Node::new(other, at))?),
            Times::Weights if world.knows_weights() => {
                let name = Replay::new(world, Side::Actual, None).parameter(reader, None)?;
                Some(world.weight(&format!("{name}.weight"))?)
            }
            Times::Weights => return None,
            Times::One => None,
        };
        let own = self.own(reader, b)?;
        if matches!(reading.times, Times::One) && own.peak <= least {
            return None;
        }
        Sums::of(&self.world.setting, reading, &own, other.as_deref())
    }

    /// What a step adds in sequence `b`, which is the one looked at.
    fn own(&mut self, node: Node, b: usize) -> Option<Rc<Own>> {
        if let Some(own) = self.kept.get(&(node, b)) {
            return Some(Rc::clone(own));
        }
        let World { batch, setting, .. } = &self.world;
        let (heads, small) = (setting.heads, batch.whole * setting.heads * batch.length.pow(2) <= MOST_KEPT);
        let held = |store: &Store<'_>| store.get(node, batch);
        let (expected, actual) = (held(&self.world.expected)?, held(&self.world.actual)?);
        let own = Rc::new(Own::of(&expected, &actual, heads, |x, error| self.added(node, x, error))?);
        if small {
            self.kept.retain(|(other, _), _| other.at == node.at);
            self.kept.insert((node, b), Rc::clone(&own));
        }
        Some(own)
    }

    fn added(&mut self, node: Node, expected: &[f64], error: &[f64]) -> Option<Vec<f64>> {
        let predicted = |side| {
            let mut replay = Replay::new(&self.world, side, None).no_deeper_than(1);
            let values = replay.predict(node)?;
            (!replay.borrowed() && values.len() == error.len()).then_some(values)
        };
        let read = if self.exact.contains(&node.kind) {
            None
        } else {
            let prediction = predicted(Side::Expected)?;
            if WITHOUT_WEIGHTS.contains(&node.kind) && is_exact(expected, prediction.as_slice()?) {
                self.exact.push(node.kind);
            }
            Some(prediction)
        };
        let (right, prediction) =
            (read.as_ref().map_or(Some(expected), |read| read.as_slice())?, predicted(Side::Actual)?);
        let own = |((error, right), prediction): ((&f64, &f64), &f64)| {
            if *error == 0.0 || !error.is_finite() { 0.0 } else { error + right - prediction }
        };
        let own: Vec<f64> = error.par_iter().zip(right).zip(prediction.as_slice()?).map(own).collect();
        own.par_iter().all(|e| e.is_finite()).then_some(own)
    }
}

/// How unlikely errors are that are normal and as large as `sizes` but for a factor that they tell themselves: −ln of that, for one
/// of them, but for a constant.
fn surprise(errors: &[f64], size: impl Fn(usize) -> f64 + Sync) -> f64 {
    let [n, squares, logarithms] = total(errors.len(), |k| match (errors[k], size(k)) {
        (error, size) if error != 0.0 && size > 0.0 => [1.0, (error / size).powi(2), size.ln()],
        _ => [0.0; 3],
    });
    let n = n.max(1.0);
    logarithms / n + (squares / n).ln() / 2.0
}

/// Σ of what `of` says of each element, the same however many threads add up.
fn total<const N: usize>(len: usize, of: impl Fn(usize) -> [f64; N] + Sync) -> [f64; N] {
    const PART: usize = 4096;
    let add = |a: [f64; N], b: [f64; N]| from_fn(|n| a[n] + b[n]);
    let of_part = |part: usize| (part * PART..len.min((part + 1) * PART)).map(&of).fold([0.0; N], add);
    let parts: Vec<[f64; N]> = (0..len.div_ceil(PART)).into_par_iter().map(of_part).collect();
    parts.into_iter().fold([0.0; N], add)
}

/// Whether the formula meets the expected values as nearly as `f64` can.
fn is_exact(expected: &[f64], prediction: &[f64]) -> bool {
    let size = (expected.iter().map(|x| x * x).sum::<f64>() / expected.len().max(1) as f64).sqrt();
    expected.par_iter().zip(prediction).all(|(x, p)| (x - p).abs() <= budget::EXACT * (x.abs() + size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sizes_that_errors_follow_are_the_likeliest_whatever_their_unit() {
        let sizes: Vec<f64> = (1..200).map(|k| 1.0 + f64::from(k % 7)).collect();
        let mut errors: Vec<f64> = sizes.iter().enumerate().map(|(k, s)| s * 1e-6 * (k as f64 * 1.7).sin()).collect();
        let (even, other) = (vec![4.0; sizes.len()], sizes.iter().rev().copied().collect::<Vec<_>>());
        let of = |errors: &[f64], sizes: &[f64]| surprise(errors, |k| sizes[k]);
        let times = |factor: f64| sizes.iter().map(|s| s * factor).collect::<Vec<_>>();
        assert!((of(&errors, &sizes) - of(&errors, &times(1e-3))).abs() < 1e-9);
        // One that stands out does not decide.
        errors[17] *= 10.0;
        assert!(of(&errors, &sizes) < of(&errors, &even).min(of(&errors, &other)));
    }
}
