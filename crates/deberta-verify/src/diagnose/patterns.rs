//! Mistakes that show in the values themselves, without a formula: shapes, exchanged tensors, a constant row, dropout.

use std::collections::BTreeMap;

use super::Cause;
use super::node::{Depth, Kind, Node};
use super::rows;
use super::trial::Match;
use crate::compare::{Comparison, Row};
use crate::dump::Dump;
use crate::judge::Fit;
use crate::order::canonical;
use crate::tensor::Tensor;
use crate::{Dtype, Positions, budget, measure};

/// The cause of a difference in shape, where the values say it.
pub fn of_shapes(expected: &Dump, actual: &Dump, row: &Row) -> Option<Cause> {
    let x = expected.get(&row.name)?;
    let y = actual.get(&row.key)?;
    if x.len() != y.len() || x.shape().len() != y.shape().len() || x.is_empty() {
        return None;
    }
    let y = y.to_f64();
    for axes in permutations(x.shape().len()) {
        let turned = y.view().permuted_axes(axes.clone());
        if turned.shape() != x.shape() {
            continue;
        }
        let (size, off) =
            x.values().zip(turned.iter()).fold((0.0, 0.0), |(s, o), (x, y)| (s + x * x, o + (x - y) * (x - y)));
        if off <= budget::SAME * budget::SAME * size {
            let evidence = format!(
                "{} holds the expected values with its axes in the order {axes:?}: relative residual {:.1e}",
                row.name,
                (off / size).sqrt()
            );
            return Some(Cause { name: "tensor-transposed".to_owned(), confidence: budget::CERTAIN, evidence });
        }
    }
    None
}

fn permutations(axes: usize) -> Vec<Vec<usize>> {
    if axes > 4 {
        return Vec::new();
    }
    let mut all = vec![Vec::new()];
    for _ in 0..axes {
        all = all
            .iter()
            .flat_map(|p: &Vec<usize>| {
                (0..axes).filter(|a| !p.contains(a)).map(|a| [p.as_slice(), &[a]].concat()).collect::<Vec<_>>()
            })
            .collect();
    }
    all
}

/// Lists of hidden states that are moved: each holds what another should.
pub fn of_lists(expected: &Dump, actual: &Dump, comparison: &Comparison) -> Option<Cause> {
    let row = comparison.first_divergent()?;
    let index = |name: &str| canonical(name).strip_prefix("hidden_states.")?.parse::<usize>().ok();
    index(&row.name)?;
    let rows: BTreeMap<usize, &Row> = comparison.rows.iter().filter_map(|r| Some((index(&r.name)?, r))).collect();
    for by in [1i64, -1] {
        let moved = |i: usize| {
            let other = rows.get(&usize::try_from(i as i64 + by).ok()?)?;
            let own = rows[&i];
            Some(own.holds(expected.get(&other.name)?, actual.get(&own.key)?))
        };
        let answers: Vec<bool> = rows.keys().filter_map(|&i| moved(i)).collect();
        if !answers.is_empty() && answers.iter().all(|a| *a) && rows.len() > 1 {
            let name = if by == 1 { "hidden-states-without-embeddings" } else { "layer-off-by-one" };
            let evidence = format!(
                "each of {} hidden states holds what is expected of the {} one, to within rounding",
                answers.len(),
                if by == 1 { "next" } else { "previous" }
            );
            let confidence = if answers.len() > 1 { budget::CERTAIN } else { budget::GUESS };
            return Some(Cause { name: name.to_owned(), confidence, evidence });
        }
    }
    None
}

/// Patterns in the values of the first divergent tensor. `exact` says that its formula was computed with the model's own
/// weights, so that a missing bias would have been found by name.
pub fn of_values(expected: &Dump, actual: &Dump, row: &Row, depth: Depth, exact: bool, found: &[Match]) -> Vec<Match> {
    let tensors = expected.get(&row.name).zip(actual.get(&row.key));
    let Some((x, y)) = tensors else { return Vec::new() };
    if !x.dtype().is_float() || x.len() > LARGEST {
        return Vec::new();
    }
    let (x, y) = (x.widened(), y.widened());
    let node = Node::of(&row.name, depth);
    let mut matches = Vec::new();
    if found.iter().any(|m| m.certain) {
        return matches;
    }
    matches.extend(exchanged(expected, row, node, depth, &y));
    matches.extend(node.and_then(|node| rows::of_rows((expected, actual), row, node, &x, &y)));
    matches.extend(dropout(row, &x, &y));
    if matches.is_empty() {
        matches.extend(constant_row(expected, row, node, depth, exact, &x, &y));
        matches.extend(scaled(row, &x, &y));
        matches.extend(half_precision(row, &x, &y));
    }
    matches
}

/// Tensors of more elements are not searched for patterns.
const LARGEST: usize = 1 << 24;

/// Another tensor of the expected dump in its place.
fn exchanged(expected: &Dump, row: &Row, node: Option<Node>, depth: Depth, y: &[f64]) -> Option<Match> {
    let node = node?;
    let mut tried = vec![node];
    for (name, other) in expected.iter() {
        let Some(place) = Node::of(name, depth).filter(|p| !tried.contains(p)) else { continue };
        if other.len() != y.len() || other.shape() != row.shape {
            continue;
        }
        tried.push(place);
        let cause = exchange_name(node, place);
        let Some(cause) = cause else { continue };
        let near = other.values().zip(y).take(64).all(|(a, b)| (a - b).abs() <= 0.1 * (a.abs() + b.abs()) + 1e-6);
        if !near {
            continue;
        }
        let values = other.widened();
        let fit = row.fit(&row.shape, 1, &values, y);
        if fit.within {
            let evidence = format!("{} holds what is expected of {name}: max residual {:.1e}", row.name, fit.max_abs);
            return Some(proven(cause, evidence, row, &fit));
        }
    }
    None
}

/// A pattern that leaves no more than rounding.
pub fn proven(name: &'static str, evidence: String, row: &Row, fit: &Fit) -> Match {
    let gain = gain(row, fit.noise);
    Match { name, evidence, noise: fit.noise, gain, explains: 0, certain: true, hypothesis: None }
}

/// How many times smaller the noise is than without the mistake.
pub fn gain(row: &Row, noise: f64) -> f64 {
    if noise > 0.0 { row.noise / noise } else { f64::INFINITY }
}

fn exchange_name(node: Node, other: Node) -> Option<&'static str> {
    use Kind::*;
    let projections = [Query, Key, Value];
    match (node.kind, other.kind) {
        (a, b) if projections.contains(&a) && projections.contains(&b) && node.at == other.at => {
            Some("projection-swapped")
        }
        (PositionKey, PositionQuery) | (PositionQuery, PositionKey) if node.at == other.at => {
            Some("position-projections-swapped")
        }
        (Hidden | Layer | Embeddings, Hidden | Embeddings) => Some("layer-off-by-one"),
        (C2p, P2c) | (P2c, C2p) if node.at == other.at => Some("position-terms-swapped"),
        _ => None,
    }
}

/// Each element zero, or as expected times 1/(1 − p).
fn dropout(row: &Row, x: &[f64], y: &[f64]) -> Option<Match> {
    let size = measure_rms(x);
    let counted = || x.iter().zip(y).filter(|(x, y)| x.is_finite() && y.is_finite() && x.abs() > 0.01 * size);
    let all = counted().count();
    let zeros = counted().filter(|(_, y)| **y == 0.0).count();
    if all < 64 || zeros * 200 < all || zeros * 20 > all * 19 {
        return None;
    }
    let mut ratios: Vec<f64> = counted().filter(|(_, y)| **y != 0.0).map(|(x, y)| y / x).collect();
    ratios.sort_by(f64::total_cmp);
    let middle = ratios[ratios.len() / 2];
    let values: Vec<f64> = x.iter().zip(y).map(|(x, y)| if *y == 0.0 { 0.0 } else { x * middle }).collect();
    let fit = row.fit(&row.shape, 1, &values, y);
    let rate = 1.0 - 1.0 / middle;
    let share = zeros as f64 / all as f64;
    if !fit.within || rate < 0.01 || (share - rate).abs() > 0.5 * rate {
        return None;
    }
    let evidence = format!(
        "{:.1} % of {} are zero and the rest are the expected values times {middle:.4}: dropout at {rate:.3} was on",
        100.0 * zeros as f64 / all as f64,
        row.name
    );
    Some(proven("dropout-active", evidence, row, &fit))
}

/// The same vector missing from each row: a bias.
fn constant_row(
    expected: &Dump,
    row: &Row,
    node: Option<Node>,
    depth: Depth,
    exact: bool,
    x: &[f64],
    y: &[f64],
) -> Option<Match> {
    use Kind::*;
    let node = node?;
    let width = *row.shape.last()?;
    let rows = x.len() / width.max(1);
    let name = match node.kind {
        Query | Key | Value | AttentionDense | InnerDense | OutputDense | PoolerDense | WordDense | ReplacedDense => {
            "bias-missing"
        }
        PositionKey | PositionQuery => "relative-projection-bias-missing",
        Logits | Spans => "classifier-bias-missing",
        _ => return None,
    };
    if rows < 3 || row.positions == Some(Positions::Padded) {
        return None;
    }
    let mut constant = vec![0.0; width];
    for (k, (x, y)) in x.iter().zip(y).enumerate() {
        constant[k % width] += (y - x) / rows as f64;
    }
    let values: Vec<f64> = x.iter().enumerate().map(|(k, x)| x + constant[k % width]).collect();
    let fit = row.fit(&row.shape, 1, &values, y);
    let gain = gain(row, fit.noise);
    if !fit.within || gain < budget::CLEAR_GAIN {
        return None;
    }
    let bias = known_bias(expected, node, depth);
    let proven = bias.as_ref().is_some_and(|b| {
        let off = b.iter().zip(&constant).map(|(b, c)| (b + c).powi(2)).sum::<f64>().sqrt();
        off <= budget::SAME * b.iter().map(|b| b * b).sum::<f64>().sqrt()
    });
    let size = constant.iter().map(|c| c * c).sum::<f64>().sqrt();
    // Relative rows need not be projected with the content's projections.
    let known = bias.is_some() && matches!(node.kind, Query | Key | Value);
    let how = match (proven, known || exact) {
        (true, _) => "which is minus the bias, as rows of zeros (padding) show it",
        (false, true) => return Some(differs(row, &fit, gain, size)),
        (false, false) => "as when the bias is left out; the weights (--model) would say whether it is that",
    };
    let evidence = format!(
        "every row of {} is off by one vector of length {size:.2e}, {how}: max residual {:.1e}",
        row.name, fit.max_abs
    );
    Some(Match { name, evidence, noise: fit.noise, gain, explains: 0, certain: proven, hypothesis: None })
}

fn differs(row: &Row, fit: &Fit, gain: f64, size: f64) -> Match {
    let evidence = format!(
        "every row of {} is off by one vector of length {size:.2e}, which is not its bias: max residual {:.1e}",
        row.name, fit.max_abs
    );
    Match { name: "bias-differs", evidence, noise: fit.noise, gain, explains: 0, certain: false, hypothesis: None }
}

/// A bias as padding shows it: in layer 0 its embeddings are zero, so a projection of it is the bias alone.
fn known_bias(expected: &Dump, node: Node, depth: Depth) -> Option<Vec<f64>> {
    use Kind::*;
    if node.at != 0 {
        return None;
    }
    let content = match node.kind {
        PositionKey => Key,
        PositionQuery => Query,
        kind @ (Query | Key | Value) => kind,
        _ => return None,
    };
    let find = |kind: Kind| {
        expected
            .iter()
            .find(|(n, t)| t.dtype().is_float() && Node::of(n, depth) == Some(Node::new(kind, 0)))
            .map(|f| f.1)
    };
    let (states, projected) = (find(Embeddings)?, find(content)?);
    let row = zero_row(states)?;
    let width = *projected.shape().last()?;
    (projected.shape().len() == 3).then(|| projected.values().skip(row * width).take(width).collect())
}

fn zero_row(states: &Tensor) -> Option<usize> {
    let width = *states.shape().last()?;
    let values = states.widened();
    values.chunks(width.max(1)).position(|row| row.iter().all(|v| *v == 0.0))
}

/// The expected values times a constant.
fn scaled(row: &Row, x: &[f64], y: &[f64]) -> Option<Match> {
    let number = |(x, y): &(&f64, &f64)| x.is_finite() && y.is_finite() && **x > budget::MASKED && **y > budget::MASKED;
    let (xy, xx) = x.iter().zip(y).filter(number).fold((0.0, 0.0), |(xy, xx), (x, y)| (xy + x * y, xx + x * x));
    let ratio = xy / xx;
    if !ratio.is_finite() || ratio == 0.0 || x.len() < 16 {
        return None;
    }
    let values: Vec<f64> = x.iter().map(|x| if *x > budget::MASKED { x * ratio } else { *x }).collect();
    let fit = row.fit(&row.shape, 1, &values, y);
    let gain = gain(row, fit.noise);
    (fit.within && gain >= budget::CLEAR_GAIN).then(|| Match {
        name: "scaled",
        evidence: format!("{} is {ratio:.6} times what is expected: max residual {:.1e}", row.name, fit.max_abs),
        noise: fit.noise,
        gain,
        explains: 0,
        certain: false,
        hypothesis: None,
    })
}

/// Values that fit in half precision, in a dump that does not, and that differ from the expected ones by its rounding.
fn half_precision(row: &Row, x: &[f64], y: &[f64]) -> Option<Match> {
    let narrow = measure::computed_dtype(row.dtypes.1, y)?;
    if !matches!(narrow, Dtype::Bf16 | Dtype::F16) || row.computed_in() == narrow {
        return None;
    }
    let allowed = budget::HALF_STEP * narrow.unit_roundoff();
    (row.noise <= allowed && !x.is_empty()).then(|| Match {
        name: "half-precision-step",
        evidence: format!(
            "every value of {} fits in {narrow}, those of other tensors do not; the noise, {:.1e}, is that of {narrow}",
            row.name, row.noise
        ),
        noise: row.noise,
        gain: 1.0,
        explains: 0,
        certain: false,
        hypothesis: None,
    })
}

fn measure_rms(x: &[f64]) -> f64 {
    let finite: Vec<f64> = x.iter().copied().filter(|v| v.is_finite()).collect();
    (finite.iter().map(|v| v * v).sum::<f64>() / finite.len().max(1) as f64).sqrt()
}
