//! The numbers of the model from its expected dump alone, where no configuration says them: those are taken with which
//! the right formula of the attention meets it.

use std::collections::BTreeMap;

use super::attention;
use super::node::{Depth, Kind, Node};
use super::replay::{Replay, Side};
use super::setting::{Act, Convolution, Logarithm, Padded, Relative, Setting};
use super::world::{Batch, Store, World, one_of};
use crate::budget;
use crate::dtype::Dtype;
use crate::dump::Dump;
use crate::order::canonical;

/// `None` where the dump shows no attention that some setting reproduces.
pub fn setting(expected: &Dump, depth: Depth, focus: usize) -> Option<Setting> {
    let store = || Store::new(expected, depth, |_| true);
    let own = store();
    let shape = |kind| own.shape(Node::new(kind, 0));
    let rows = [Kind::PositionKey, Kind::PositionQuery]
        .into_iter()
        .find_map(shape)
        .and_then(|s| s.get(s.len().checked_sub(2)?).copied());
    let holds = |kind| own.holds(Node::new(kind, 0));
    let conv = depth.convolution.then_some(Convolution { groups: 1, act: Act::Tanh });
    let base = Setting {
        layers: depth.layers,
        heads: 1,
        relative: rows.filter(|r| *r >= 2).map(|r| Relative {
            span: r / 2,
            buckets: None,
            max: r / 2,
            log: Logarithm::F32,
            clamps_distance: false,
        }),
        c2p: holds(Kind::PositionKey) || holds(Kind::C2p),
        p2c: holds(Kind::PositionQuery) || holds(Kind::P2c),
        factor: 1.0,
        share: false,
        norm_rel: true,
        eps: 1e-7,
        act: Act::Gelu,
        convolution: conv,
        position_biased: holds_name(expected, "deberta.embeddings.position_embeddings"),
        token_types: holds_name(expected, "deberta.embeddings.token_type_embeddings"),
        pad_token_id: 0,
        pooler_act: Act::Gelu,
        scale_f32: true,
        padded: Padded::Uniform,
        enhanced: false,
        maxima: Vec::new(),
    };
    let base = Setting { factor: 1.0 + f64::from(u8::from(base.c2p) + u8::from(base.p2c)), ..base };
    let matrix = [Kind::C2c, Kind::Scores, Kind::Probabilities].into_iter().find_map(shape).filter(|s| s.len() == 4);
    let width = shape(Kind::Query).or_else(|| shape(Kind::Context)).and_then(|s| s.last().copied());
    let heads: Vec<usize> = match (matrix, width) {
        (Some(matrix), _) => vec![matrix[1]],
        (None, Some(width)) => (1..=width).filter(|h| width % h == 0 && width / h >= 2).collect(),
        (None, None) => return Some(base),
    };
    let mut best: Option<(f64, Setting)> = None;
    for heads in heads {
        let candidate = Setting { heads, ..base.clone() };
        for candidate in with_buckets(&candidate, length(expected)) {
            for padded in [Padded::Uniform, Padded::Zero] {
                let candidate = Setting { padded, ..candidate.clone() };
                let Some(residual) = residual(expected, store(), &candidate, depth, focus) else { continue };
                if best.as_ref().is_none_or(|(b, _)| residual < b / 2.0) {
                    best = Some((residual, candidate));
                }
                if residual <= budget::FITTED_EXACTLY {
                    return best.map(|b| b.1);
                }
            }
        }
    }
    match best {
        Some((residual, setting)) if residual <= budget::FITTED_SETTING => Some(setting),
        // Nothing of the attention can be computed: what needs none of these numbers can still be tested.
        None => Some(Setting { heads: matrix.map_or(1, |m| m[1]), ..base }),
        Some(_) => None,
    }
}

fn holds_name(dump: &Dump, wanted: &str) -> bool {
    dump.iter().any(|(name, _)| canonical(name) == wanted)
}

fn length(dump: &Dump) -> usize {
    dump.get("input_ids").and_then(|t| t.shape().last().copied()).unwrap_or(0)
}

/// The maxima of published models, and how far to look for others.
const PUBLISHED: [usize; 5] = [512, 128, 256, 1024, 2048];
const MAXIMA: usize = 1024;
const LONG: usize = 128;

/// Without buckets, and with as many as there are rows and every maximum that makes a difference.
fn with_buckets(setting: &Setting, length: usize) -> Vec<Setting> {
    let mut all = vec![setting.clone()];
    if let Some(relative) = setting.relative {
        let mid = relative.span / 2;
        // Of the maxima that put the distances at hand into the same buckets, one will do.
        let mut tables: BTreeMap<Vec<usize>, usize> = BTreeMap::new();
        tables.insert(attention::columns(&relative, length.max(1), None), 0);
        // A long sequence tells nearly every maximum from every other, and takes long to try each.
        let others = if length <= LONG { mid + 2..=MAXIMA } else { 0..=0 };
        for max in PUBLISHED.into_iter().chain(others).filter(|&m| mid >= 1 && m > mid + 1) {
            let relative = Relative { buckets: Some(relative.span), max, ..relative };
            let at = *tables.entry(attention::columns(&relative, length.max(1), None)).or_insert(all.len());
            if at == all.len() {
                all.push(Setting { relative: Some(relative), ..setting.clone() });
            }
            all[at].maxima.push(max);
        }
    }
    all
}

/// How far the formulas of layer 0 are from what the dump holds, relative to its size.
fn residual(expected: &Dump, store: Store<'_>, setting: &Setting, depth: Depth, focus: usize) -> Option<f64> {
    use Kind::*;
    // One sequence says enough.
    let batch = Batch::new([expected, expected], &store, one_of(focus))?;
    let empty = Dump::default();
    let world = World::new(setting.clone(), batch, (store, Store::new(&empty, depth, |_| true)), Dtype::F64, None);
    let mut worst: Option<f64> = None;
    for kind in [C2c, C2p, P2c, Scores, Probabilities, Context] {
        let node = Node::new(kind, 0);
        let Some(held) = world.expected.get(node, &world.batch) else { continue };
        let Some(computed) = Replay::new(&world, Side::Expected, None).predict(node) else { continue };
        if computed.len() != held.len() {
            return Some(f64::INFINITY);
        }
        let (mut off, mut size) = (0.0, 0.0);
        for (x, y) in held.iter().zip(computed.iter()) {
            if x.is_finite() && y.is_finite() && *x > budget::MASKED {
                (off, size) = (off + (x - y) * (x - y), size + x * x);
            }
        }
        let residual = if size > 0.0 { (off / size).sqrt() } else { 0.0 };
        worst = Some(worst.map_or(residual, |w| w.max(residual)));
    }
    worst
}
