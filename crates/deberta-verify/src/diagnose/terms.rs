//! Where no mistake fits: how much of each term of the score is in what was found.

use ndarray::ArrayD;

use super::node::{Kind, Node};
use super::replay::{Replay, Side};
use super::trial::Trial;
use crate::budget;

/// A sentence on the terms of the scores, where the first divergent tensor is the scores or the probabilities; empty
/// elsewhere.
pub fn note(trial: &Trial<'_, '_>) -> Option<String> {
    let at = trial.node.at;
    if !matches!(trial.node.kind, Kind::C2c | Kind::C2p | Kind::P2c | Kind::Scores | Kind::Probabilities) {
        return None;
    }
    let world = &trial.world;
    let term = |kind| Replay::new(world, Side::Expected, None).predict(Node::new(kind, at));
    let names =
        [("c2c", Kind::C2c, true), ("c2p", Kind::C2p, world.setting.c2p), ("p2c", Kind::P2c, world.setting.p2c)];
    let mut own = Vec::new();
    for (name, kind, _) in names.iter().filter(|n| n.2) {
        let node = Node::new(*kind, at);
        if let (Some(x), Some(y)) = (world.expected.get(node, &world.batch), world.actual.get(node, &world.batch)) {
            let off = x.iter().zip(y.iter()).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
            own.push(format!("{name} {off:.1e}"));
        }
    }
    if !own.is_empty() {
        return Some(format!("the terms of the scores in layer {at} are off by: {}", own.join(", ")));
    }
    let terms: Vec<(&str, _)> = names.iter().filter(|n| n.2).filter_map(|n| Some((n.0, term(n.1)?))).collect();
    let target = world.actual.get(trial.node, &world.batch)?;
    if terms.iter().any(|(_, t)| t.len() != target.len()) {
        return None;
    }
    let logits = |a: &ArrayD<f64>| match trial.node.kind {
        Kind::Probabilities => a.mapv(f64::ln),
        _ => a.clone(),
    };
    let target = logits(&target);
    let width = *target.shape().last()?;
    let arrays: Vec<Vec<f64>> = terms.iter().map(|(_, t)| t.iter().copied().collect()).collect();
    let seen: Vec<f64> = target.iter().copied().collect();
    let shares = regression(&arrays, &seen, width)?;
    let parts: Vec<String> = terms.iter().zip(&shares.0).map(|((name, _), f)| format!("{f:.3}·{name}")).collect();
    Some(format!(
        "the scores of layer {at} are nearest to {} (exactly 1 each if right); {:.0} % of their variance remains",
        parts.join(" + "),
        100.0 * shares.1
    ))
}

/// Least squares of centred rows: the factors, and the share of the variance that remains. Elements that are no number,
/// or masked, do not count.
#[allow(clippy::needless_range_loop, reason = "indices as the normal equations have them")]
fn regression(terms: &[Vec<f64>], seen: &[f64], width: usize) -> Option<(Vec<f64>, f64)> {
    let n = terms.len();
    let (mut normal, mut right, mut total) = (vec![vec![0.0; n]; n], vec![0.0; n], 0.0);
    for start in (0..seen.len()).step_by(width) {
        let at: Vec<usize> =
            (start..start + width).filter(|&k| seen[k].is_finite() && seen[k] > budget::MASKED).collect();
        if at.len() < 2 {
            continue;
        }
        let mean = |v: &[f64]| at.iter().map(|&k| v[k]).sum::<f64>() / at.len() as f64;
        let means: Vec<f64> = terms.iter().map(|t| mean(t)).collect();
        let own = mean(seen);
        for &k in &at {
            let x: Vec<f64> = terms.iter().zip(&means).map(|(t, m)| t[k] - m).collect();
            let y = seen[k] - own;
            total += y * y;
            for i in 0..n {
                right[i] += x[i] * y;
                for j in 0..n {
                    normal[i][j] += x[i] * x[j];
                }
            }
        }
    }
    let factors = solve(normal, right.clone())?;
    let explained: f64 = factors.iter().zip(&right).map(|(f, r)| f * r).sum();
    (total > 0.0).then(|| (factors, (1.0 - explained / total).max(0.0)))
}

/// Gaussian elimination with pivots.
#[allow(clippy::needless_range_loop, reason = "indices as the normal equations have them")]
fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Option<Vec<f64>> {
    let n = b.len();
    for c in 0..n {
        let pivot = (c..n).max_by(|&i, &j| a[i][c].abs().total_cmp(&a[j][c].abs()))?;
        if !(a[pivot][c].abs() > 0.0) {
            return None;
        }
        a.swap(c, pivot);
        b.swap(c, pivot);
        for r in c + 1..n {
            let f = a[r][c] / a[c][c];
            for k in c..n {
                a[r][k] -= f * a[c][k];
            }
            b[r] -= f * b[c];
        }
    }
    for c in (0..n).rev() {
        for k in c + 1..n {
            b[c] -= a[c][k] * b[k];
        }
        b[c] /= a[c][c];
    }
    Some(b)
}
