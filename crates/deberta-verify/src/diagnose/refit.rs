//! The weights of a dense layer as a dump shows them: y = x·Wᵀ + b, by least squares, where there are clearly more tokens than
//! features. So `compare` can test mistakes in weights without the model, and a layer with other weights than the model's
//! can be told from one that computes something else.

use std::collections::BTreeMap;

use ndarray::{Array1, Array2, ArrayD, Axis};

use super::layers;
use super::node::{Kind, Node};
use super::patterns::gain;
use super::replay::{Replay, Side};
use super::trial::{self, Match, Trial};
use super::world::{Shared, World, flat};
use crate::budget;
use crate::order::canonical;

/// A dense layer.
pub struct Dense {
    /// [outputs, inputs]
    pub weight: Array2<f64>,
    /// \[outputs\]
    pub bias: Array1<f64>,
}

/// There must be this many times as many rows as unknowns, or what is fitted follows the noise.
const ROWS: f64 = 1.25;
/// Wider layers would take long.
const WIDEST: usize = 1024;
/// A pivot below this share of the largest is nothing: f32 leaves 1e-14.
const RANK: f64 = 1e-9;

/// W and b that meet `y` best, and whether no others do as well. The outputs of a layer norm, for one, lie in a plane: what W
/// does across it does not show.
///
/// # Shapes
/// `x` [N, inputs], `y` [N, outputs], in any leading axes.
pub fn dense(x: &ArrayD<f64>, y: &ArrayD<f64>) -> Option<(Dense, bool)> {
    let (x, y) = (flat(x)?, flat(y)?);
    let (rows, inputs) = x.dim();
    if y.nrows() != rows || inputs > WIDEST || (rows as f64) < ROWS * (inputs as f64 + 1.0) {
        return None;
    }
    let (mean_x, mean_y) = (x.mean_axis(Axis(0))?, y.mean_axis(Axis(0))?);
    let (x, y) = (&x - &mean_x, &y - &mean_y);
    let root = cholesky(x.t().dot(&x));
    let weight = solve(&root, x.t().dot(&y)).reversed_axes().as_standard_layout().into_owned();
    let bias = mean_y - weight.dot(&mean_x);
    Some((Dense { weight, bias }, root.diag().iter().all(|pivot| *pivot > 0.0)))
}

/// The lower triangle R with R·Rᵀ = a; its columns are zero where the rows of x span no more.
fn cholesky(mut a: Array2<f64>) -> Array2<f64> {
    let n = a.nrows();
    let largest = a.diag().iter().copied().fold(0.0, f64::max);
    for j in 0..n {
        for k in 0..j {
            let factor = a[[j, k]];
            for i in j..n {
                a[[i, j]] -= a[[i, k]] * factor;
            }
        }
        let pivot = a[[j, j]];
        let root = if pivot > RANK * largest { pivot.sqrt() } else { f64::INFINITY };
        (j..n).for_each(|i| a[[i, j]] /= root);
    }
    a
}

/// x with R·Rᵀ·x = b, zero where R is.
fn solve(root: &Array2<f64>, mut b: Array2<f64>) -> Array2<f64> {
    let n = root.nrows();
    let divided = |v: f64, pivot: f64| if pivot > 0.0 { v / pivot } else { 0.0 };
    for i in 0..n {
        for k in 0..i {
            let row = b.row(k).to_owned();
            b.row_mut(i).scaled_add(-root[[i, k]], &row);
        }
        b.row_mut(i).mapv_inplace(|v| divided(v, root[[i, i]]));
    }
    for i in (0..n).rev() {
        for k in i + 1..n {
            let row = b.row(k).to_owned();
            b.row_mut(i).scaled_add(-root[[k, i]], &row);
        }
        b.row_mut(i).mapv_inplace(|v| divided(v, root[[i, i]]));
    }
    b
}

/// A parameter of a dense layer from the expected dump, as far as both sides of the layer are in it.
pub fn parameter(world: &World<'_>, name: &str) -> Option<Shared> {
    let (module, part) = name.rsplit_once('.')?;
    let output = Node::of(module, world.depth)?;
    let input = input_of(output)?;
    let held = |node| world.expected.get(node, &world.batch);
    let (fitted, _) = dense(&*held(input)?, &*held(output)?).filter(|(_, alone)| *alone)?;
    match part {
        "weight" => Some(fitted.weight.into_dyn().into()),
        "bias" => Some(fitted.bias.into_dyn().into()),
        _ => None,
    }
}

/// What a dense layer reads as it is.
pub fn input_of(node: Node) -> Option<Node> {
    use Kind::*;
    let kind = match node.kind {
        Query | Key | Value => match node.at.checked_sub(1) {
            None => return Some(Node::new(Embeddings, 0)),
            Some(before) if node.at < Node::DECODER => return Some(Node::hidden(before)),
            Some(_) => return None,
        },
        PositionKey | PositionQuery => return Some(Node::new(RelativeNorm, 0)),
        AttentionDense => Context,
        InnerDense => Attention,
        OutputDense => Inner,
        _ => return None,
    };
    Some(Node::new(kind, node.at))
}

/// Rows of an embedding table from the expected dump, where every id that is asked for occurs in it.
pub fn rows(world: &World<'_>, name: &str, ids: &[usize]) -> Option<Array2<f64>> {
    let node = Node::of(canonical(name).strip_suffix(".weight")?, world.depth)?;
    let held = world.expected.get(node, &world.batch)?;
    let batch = &world.batch;
    let given = match node.kind {
        Kind::Word => batch.ids.clone()?,
        Kind::TokenType => batch.types.clone()?,
        Kind::Position => (0..flat(&held)?.nrows()).map(|i| i % batch.length).collect(),
        _ => return None,
    };
    let held = flat(&held)?;
    let place: BTreeMap<usize, usize> = given.iter().take(held.nrows()).enumerate().map(|(at, id)| (*id, at)).collect();
    let wanted: Vec<usize> = ids.iter().map(|id| place.get(id).copied()).collect::<Option<_>>()?;
    Some(held.select(Axis(0), &wanted))
}

/// Other weights than the model's, where the first divergent tensor is a dense layer and nothing but that is wrong with it.
pub fn other_weights(trial: &Trial<'_, '_>) -> Option<Match> {
    use Kind::*;
    let (world, row, node) = (&trial.world, trial.row, trial.node);
    let mut replay = Replay::new(world, Side::Actual, None);
    let x = replay.read_by(node).filter(|_| !replay.borrowed())?;
    // Without the weights, what is expected: what is read was within its budget.
    let right = replay.predict(node).or_else(|| world.expected.get(node, &world.batch))?;
    let y = trial.found(row, node).filter(|y| y.len() == right.len())?;
    let (found, _) = dense(&x, &y)?;
    let prediction = layers::linear(&x, &found.weight.into_dyn(), Some(&found.bias.into_dyn()))?;
    let fit = trial::fit(row, world.setting.heads, &prediction, &y).filter(|fit| fit.within)?;
    let (right, y) = (flat(&right)?, flat(&y)?);
    let (own, other) = (&right - &right.mean_axis(Axis(0))?, &y - &y.mean_axis(Axis(0))?);
    let product = |a: &Array2<f64>, b: &Array2<f64>| (a * b).sum();
    let cosine = product(&own, &other) / (product(&own, &own) * product(&other, &other)).sqrt();
    let heads = matches!(node.kind, PoolerDense | WordDense | ReplacedDense);
    let name = if heads && cosine.abs() < budget::UNRELATED { "head-not-loaded" } else { "weights-differ" };
    let off = (&y - &right).pow2().sum_axis(Axis(0));
    let size = budget::SAME.powi(2) * own.pow2().sum() / off.len() as f64;
    let evidence = format!(
        "{} is linear in what it reads, by other weights: {} of {} features differ, and the cosine with what the model's would \
         give is {cosine:.3}; max residual {:.1e}",
        row.name,
        off.iter().filter(|o| **o > size).count(),
        off.len(),
        fit.max_abs
    );
    // Weights in another order are other weights too: what happened to them is a guess.
    Some(Match {
        name,
        evidence,
        noise: fit.noise,
        gain: gain(row, fit.noise),
        explains: 0,
        certain: false,
        hypothesis: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_found_again() {
        let draw = |k: usize| (((k * 7919 + 13) % 1009) as f64 / 504.5 - 1.0).sin();
        let x = Array2::from_shape_fn((40, 7), |(i, j)| draw(i * 7 + j));
        let weight = Array2::from_shape_fn((5, 7), |(i, j)| draw(1000 + i * 7 + j));
        let bias = Array1::from_shape_fn(5, |i| draw(2000 + i));
        let y = x.dot(&weight.t()) + &bias;
        let (found, alone) =
            dense(&x.clone().into_dyn(), &y.clone().into_dyn()).expect("forty rows for eight unknowns");
        assert!(alone);
        let apart = |a: f64, b: f64| (a - b).abs() < 1e-10;
        assert!(found.weight.iter().zip(&weight).all(|(a, b)| apart(*a, *b)));
        assert!(found.bias.iter().zip(&bias).all(|(a, b)| apart(*a, *b)));
        // The last feature the sum of two others: other weights do as well, and meet y as well.
        let flat = Array2::from_shape_fn((40, 7), |(i, j)| if j == 6 { x[[i, 0]] + x[[i, 1]] } else { x[[i, j]] });
        let y_flat = flat.dot(&weight.t()) + &bias;
        let (found, alone) = dense(&flat.clone().into_dyn(), &y_flat.clone().into_dyn()).expect("forty rows");
        let again = flat.dot(&found.weight.t()) + &found.bias;
        assert!(!alone && again.iter().zip(&y_flat).all(|(a, b)| apart(*a, *b)));
        let few = |rows: usize| dense(&x.slice(ndarray::s![..rows, ..]).to_owned().into_dyn(), &y.clone().into_dyn());
        assert!(few(9).is_none());
    }
}
