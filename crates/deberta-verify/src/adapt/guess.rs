//! Which expected tensor a tensor of a foreign name is: a guess by shape and value.
//!
//! 1. Every foreign tensor is held against every expected one that it could be read as ([`super::layout`]). The distance of
//!    two is that of their directions, |x/|x| − y/|y||: a wrong scale, which a comparison is to find, changes nothing. It is
//!    taken over a sample of the elements, the same for all of one size; masked and non-finite ones do not count.
//! 2. A pair is believed where each is nearest to the other, the distance is at most [`WIDEST`], and any other candidate is at
//!    least [`MARGIN`] times as far; candidates with the same values, such as a layer norm and the dropout after it, count as
//!    one. So neighbours in the residual stream, which resemble one another, are not confused.
//! 3. What the names of believed pairs have in common ([`super::pattern`]) names their siblings: behind an error the values
//!    tell nothing, and `blocks.7.q` is to layer 7 what `blocks.3.q` is to layer 3.
//!
//! Everything matched here is called a guess wherever it is shown.

use std::collections::{BTreeMap, BTreeSet};

use super::layout::layouts;
use super::pattern::{self, Pattern};
use super::{By, Match};
use crate::order::{Position, canonical};
use crate::tensor::Tensor;

/// The greatest distance of a believed pair: a cosine of 0.97. Unrelated tensors are near √2.
pub(super) const WIDEST: f64 = 0.245;

/// How many times as far any other candidate must be.
pub(super) const MARGIN: f64 = 4.0;

/// The distance below which two expected tensors have the same values.
const SAME: f64 = 1e-6;

/// With fewer elements directions agree by chance: then the values must agree as well, to this.
const FEW: usize = 32;
const FEW_AGREE: f64 = 1e-3;

/// How many elements are looked at.
const SAMPLES: usize = 4096;

/// What a masked score is filled with is at least this far from zero.
const MASKED: f64 = 6e4;

/// Elements of a tensor at places that depend on the number of its elements alone.
pub(super) struct Sample(Vec<f64>);

impl Sample {
    /// Of a tensor whose element for place `k` lies at `place(k)`.
    pub fn of(tensor: &Tensor, place: impl Fn(usize) -> usize) -> Self {
        Self(places(tensor.len()).map(|k| tensor.value(place(k))).collect())
    }

    /// The distance of the directions; infinite where there is nothing to compare.
    pub fn distance(&self, other: &Self) -> f64 {
        let usable = |x: f64| x.is_finite() && x.abs() < MASKED;
        let (mut xx, mut yy, mut xy, mut apart, mut count) = (0.0, 0.0, 0.0, 0.0, 0);
        for (&x, &y) in self.0.iter().zip(&other.0).filter(|(x, y)| usable(**x) && usable(**y)) {
            xx += x * x;
            yy += y * y;
            xy += x * y;
            apart += (x - y) * (x - y);
            count += 1;
        }
        if xx == 0.0 || yy == 0.0 {
            return f64::INFINITY;
        }
        let relative = (apart / xx.max(yy)).sqrt();
        if count < FEW && relative > FEW_AGREE {
            return f64::INFINITY;
        }
        // The cosine of nearly equal directions has lost these digits.
        if relative <= SAME {
            return relative;
        }
        (2.0 - 2.0 * xy / (xx * yy).sqrt()).max(0.0).sqrt()
    }
}

/// Places of a row-major order: all of them, or a pseudo-random sample.
fn places(len: usize) -> impl Iterator<Item = usize> {
    let all = len <= SAMPLES;
    let mut state = len as u64;
    (0..len.min(SAMPLES)).map(move |k| {
        if all {
            return k;
        }
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((u128::from(state) * len as u128) >> 64) as usize
    })
}

/// A tensor and its name.
pub(super) type Named<'a> = (&'a str, &'a Tensor);

/// The matches that are believed, in the order of computation.
pub(super) fn guess(expected: &[Named<'_>], actual: &[Named<'_>], heads: Option<usize>) -> Vec<Match> {
    let floats = |list: &[Named<'_>]| list.iter().filter(|(_, t)| t.dtype().is_float() && !t.is_empty()).count();
    if floats(expected) == 0 || floats(actual) == 0 {
        return Vec::new();
    }
    let table = Table::new(expected, actual, heads);
    let believed = table.believed();
    let pairs: Vec<(&str, &str)> = believed.iter().map(|&(a, e)| (actual[a].0, expected[e].0)).collect();
    let patterns = pattern::learn(&pairs);
    let mut matches = table.settle(&believed, &patterns);
    matches.sort_by_cached_key(|m| Position::of(&m.expected));
    matches
}

/// The distance of every pair that could be one.
struct Table<'a> {
    expected: &'a [Named<'a>],
    actual: &'a [Named<'a>],
    /// By actual, then expected.
    distances: BTreeMap<(usize, usize), f64>,
    /// For each expected tensor the first with the same values.
    same: Vec<usize>,
}

impl<'a> Table<'a> {
    fn new(expected: &'a [Named<'a>], actual: &'a [Named<'a>], heads: Option<usize>) -> Self {
        let samples: Vec<Sample> = expected.iter().map(|(_, t)| Sample::of(t, |k| k)).collect();
        let mut distances = BTreeMap::new();
        for (a, (_, theirs)) in actual.iter().enumerate().filter(|(_, (_, t))| t.dtype().is_float()) {
            // Tensors of one shape are many: each layout is sampled once.
            let mut read: BTreeMap<&[usize], Vec<Sample>> = BTreeMap::new();
            for (e, (_, ours)) in expected.iter().enumerate().filter(|(_, (_, t))| t.len() == theirs.len()) {
                let read = read.entry(ours.shape()).or_insert_with(|| {
                    let layouts = layouts(ours.shape(), theirs.shape(), heads);
                    layouts.iter().map(|l| Sample::of(theirs, |k| l.place(k))).collect()
                });
                let nearest = read.iter().map(|s| s.distance(&samples[e])).fold(f64::INFINITY, f64::min);
                if nearest.is_finite() {
                    distances.insert((a, e), nearest);
                }
            }
        }
        let mut same: Vec<usize> = (0..expected.len()).collect();
        for e in 0..expected.len() {
            let twin = (0..e).find(|&f| {
                same[f] == f
                    && expected[f].1.shape() == expected[e].1.shape()
                    && samples[f].distance(&samples[e]) <= SAME
            });
            same[e] = twin.unwrap_or(e);
        }
        Self { expected, actual, distances, same }
    }

    /// Pairs of an actual and an expected tensor that the values speak for.
    fn believed(&self) -> Vec<(usize, usize)> {
        let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for a in 0..self.actual.len() {
            if let Some(group) = self.nearest(a) {
                groups.entry(group).or_default().push(a);
            }
        }
        let mut pairs = Vec::new();
        for (group, mut claims) in groups {
            let distance = |a: &usize| self.to_group(*a, group);
            let best = claims.iter().map(distance).fold(f64::INFINITY, f64::min);
            claims.retain(|a| distance(a) <= (best * MARGIN).max(SAME));
            claims.sort_by_cached_key(|&a| Position::of(self.actual[a].0));
            pairs.extend(claims.iter().copied().zip(self.members(group, claims.len())));
        }
        pairs
    }

    /// The group of expected tensors that an actual one is nearest to, if it is near enough and no other is.
    fn nearest(&self, a: usize) -> Option<usize> {
        let mut by_group: BTreeMap<usize, f64> = BTreeMap::new();
        for (&(_, e), &distance) in self.distances.range((a, 0)..(a + 1, 0)) {
            let least = by_group.entry(self.same[e]).or_insert(f64::INFINITY);
            *least = least.min(distance);
        }
        let mut ranked: Vec<(f64, usize)> = by_group.into_iter().map(|(group, distance)| (distance, group)).collect();
        ranked.sort_by(|x, y| x.0.total_cmp(&y.0));
        let &(best, group) = ranked.first()?;
        let second = ranked.get(1).map_or(f64::INFINITY, |r| r.0);
        (best <= WIDEST && best <= second / MARGIN).then_some(group)
    }

    fn to_group(&self, a: usize, group: usize) -> f64 {
        let distances = self.distances.range((a, 0)..(a + 1, 0)).filter(|((_, e), _)| self.same[*e] == group);
        distances.map(|(_, &d)| d).fold(f64::INFINITY, f64::min)
    }

    /// The members of a group that `count` tensors are taken for: one is the module that the values are the output of, the
    /// one of a layer with the shortest path; several are the first in the order of computation.
    fn members(&self, group: usize, count: usize) -> Vec<usize> {
        let mut members: Vec<usize> = (0..self.expected.len()).filter(|&e| self.same[e] == group).collect();
        members.sort_by_cached_key(|&e| Position::of(self.expected[e].0));
        if count == 1 {
            let depth = |e: &usize| {
                let name = canonical(self.expected[*e].0);
                (!name.contains(".layer."), !name.starts_with("deberta"), name.matches('.').count())
            };
            members = members.into_iter().min_by_key(depth).into_iter().collect();
        }
        members
    }

    /// The final matches: believed pairs that their siblings do not contradict, and the siblings that patterns name.
    fn settle(&self, believed: &[(usize, usize)], patterns: &[Pattern]) -> Vec<Match> {
        let place: BTreeMap<String, usize> =
            self.expected.iter().enumerate().map(|(e, (name, _))| (canonical(name), e)).collect();
        let named = |a: usize| {
            let name = self.actual[a].0;
            let to = patterns.iter().find_map(|p| p.apply(name))?;
            place.get(&canonical(&to)).copied().filter(|&e| self.distances.contains_key(&(a, e)))
        };
        let by_value: BTreeMap<usize, usize> = believed.iter().copied().collect();
        let mut taken = BTreeSet::new();
        let mut matches = Vec::new();
        let mut add = |a: usize, e: usize, by: fn(f64) -> By| {
            let distance = self.distances.get(&(a, e)).copied().unwrap_or(f64::INFINITY);
            let (actual, expected) = (self.actual[a].0.to_owned(), self.expected[e].0.to_owned());
            matches.push(Match { actual, expected, by: by(1.0 - distance * distance / 2.0) });
        };
        let mut unnamed = Vec::new();
        for a in 0..self.actual.len() {
            match (named(a), by_value.get(&a)) {
                (Some(e), own) if taken.insert(e) => {
                    let agree = own.is_some_and(|&own| self.same[own] == self.same[e]);
                    add(a, e, if agree { By::Value } else { By::Pattern });
                }
                (_, Some(&own)) => unnamed.push((a, own)),
                _ => {}
            }
        }
        // What no pattern names takes what is free of the tensors with its values.
        for (a, own) in unnamed {
            let members = (0..self.expected.len()).filter(|&e| self.same[e] == self.same[own]);
            let free = std::iter::once(own).chain(members).find(|e| !taken.contains(e));
            if let Some(e) = free {
                taken.insert(e);
                add(a, e, By::Value);
            }
        }
        matches
    }
}
