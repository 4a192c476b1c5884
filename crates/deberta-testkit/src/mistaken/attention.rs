//! Disentangled attention of one sequence, head by head and element by element.

use ndarray::{Array2, ArrayView1, s};

use super::{Mistake, Mistaken};

/// What one sequence reads.
pub(super) struct Projected {
    /// [L, E]
    pub q: Array2<f64>,
    pub k: Array2<f64>,
    pub v: Array2<f64>,
    /// [R, E]
    pub pos_k: Option<Array2<f64>>,
    pub pos_q: Option<Array2<f64>>,
}

/// What one head yields, each [L, L].
pub(super) struct Head {
    pub c2c: Array2<f64>,
    pub c2p: Array2<f64>,
    pub p2c: Array2<f64>,
    pub scores: Array2<f64>,
    pub probs: Array2<f64>,
    /// [L, D]
    pub context: Array2<f64>,
}

impl Mistaken {
    fn bucket(&self, x: i64, wrong: Option<Mistake>) -> i64 {
        let buckets = self.config.get("position_buckets").and_then(|v| v.as_i64()).unwrap_or(-1);
        if buckets <= 0 || wrong == Some(Mistake::NoBuckets) {
            return x;
        }
        let mid = buckets / 2;
        let a = x.abs();
        if a <= mid {
            return x;
        }
        let max = self.max_distance() as f32;
        let m = mid as f32;
        let ratio = if wrong == Some(Mistake::BucketIntegerDivision) { (a / mid) as f32 } else { a as f32 / m };
        let top = if wrong == Some(Mistake::BucketLogOfMaximum) { max } else { max - 1.0 };
        let log = ratio.ln() / (top / m).ln() * (m - 1.0);
        let log = if wrong == Some(Mistake::BucketFloor) { log.floor() } else { log.ceil() };
        x.signum() * (log as i64 + mid)
    }

    fn max_distance(&self) -> i64 {
        let max = self.config.get("max_relative_positions").and_then(|v| v.as_i64()).unwrap_or(-1);
        if max > 0 { max } else { self.number("max_position_embeddings").expect("a size") as i64 }
    }

    /// S
    pub(super) fn span(&self) -> i64 {
        match self.config.get("position_buckets").and_then(|v| v.as_i64()) {
            Some(buckets) if buckets > 0 => buckets,
            _ => self.max_distance(),
        }
    }

    /// The relative row that query i and key j read in c2p (`p2c` false) or p2c.
    fn column(&self, i: usize, j: usize, p2c: bool, wrong: Option<Mistake>) -> usize {
        let span = self.span();
        let mut x = i as i64 - j as i64;
        if wrong == Some(Mistake::NegatedDelta) || (p2c && wrong == Some(Mistake::P2cDeltaTransposed)) {
            x = -x;
        }
        let mut at = self.bucket(x, wrong);
        let moved = match wrong {
            Some(Mistake::C2pWithoutSpan) => p2c,
            Some(Mistake::P2cWithoutSpan) => !p2c,
            Some(Mistake::BothWithoutSpan) => false,
            _ => true,
        };
        if moved {
            at += span;
        }
        if wrong == Some(Mistake::ColumnOffByOne) {
            at += 1;
        }
        at.clamp(0, 2 * span - 1) as usize
    }

    /// `sees(i, j)` says which keys a query sees; `hidden` which probabilities a query that sees none has.
    pub(super) fn head(&self, of: &Projected, h: usize, mask: &[bool], wrong: Option<Mistake>) -> Head {
        let length = of.q.nrows();
        let heads = self.number("num_attention_heads").expect("a number of heads");
        let d = of.q.ncols() / heads;
        let part = |rows: &Array2<f64>| {
            Array2::from_shape_fn((rows.nrows(), d), |(i, f)| match wrong {
                Some(Mistake::HeadsInterleaved | Mistake::HeadsSplitInterleaved) => rows[[i, f * heads + h]],
                _ => rows[[i, h * d + f]],
            })
        };
        let (q, k, v) = (part(&of.q), part(&of.k), part(&of.v));
        let (pos_k, mut pos_q) = (of.pos_k.as_ref().map(part), of.pos_q.as_ref().map(part));
        if wrong == Some(Mistake::PositionRowsSwapped) {
            pos_q.clone_from(&pos_k);
        }
        let factor = 1.0 + f64::from(u8::from(pos_k.is_some())) + f64::from(u8::from(pos_q.is_some()));
        let root = |f: f64| f64::from((d as f64 * f).sqrt() as f32);
        let scale = match wrong {
            Some(Mistake::ScaleFactor1) => root(1.0),
            Some(Mistake::ScaleFactor2) => root(2.0),
            Some(Mistake::ScaleWithoutRoot) => d as f64 * factor,
            Some(Mistake::ScaleLeftOut) => 1.0,
            _ => root(factor),
        };
        let of_positions = if wrong == Some(Mistake::ScaleOfContentOnly) { 1.0 } else { scale };
        let dot = |a: ArrayView1<'_, f64>, b: ArrayView1<'_, f64>| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        let mut out = Head {
            c2c: Array2::zeros((length, length)),
            c2p: Array2::zeros((length, length)),
            p2c: Array2::zeros((length, length)),
            scores: Array2::zeros((length, length)),
            probs: Array2::zeros((length, length)),
            context: Array2::zeros((length, d)),
        };
        for i in 0..length {
            for j in 0..length {
                out.c2c[[i, j]] = dot(q.row(i), k.row(j)) / scale;
                if let Some(rows) = &pos_k {
                    let own = if wrong == Some(Mistake::C2pOnKeys) { k.row(i) } else { q.row(i) };
                    out.c2p[[i, j]] = dot(own, rows.row(self.column(i, j, false, wrong))) / of_positions;
                }
                if let Some(rows) = &pos_q {
                    let column = self.column(i, j, true, wrong);
                    let (own, column) = match wrong {
                        Some(Mistake::P2cNotTransposed) => (k.row(i), self.column(j, i, true, wrong)),
                        Some(Mistake::P2cOnQueries) => (q.row(j), column),
                        _ => (k.row(j), column),
                    };
                    out.p2c[[i, j]] = dot(own, rows.row(column)) / of_positions;
                }
                let c2p = if matches!(wrong, Some(Mistake::C2pLeftOut | Mistake::BothLeftOut)) {
                    0.0
                } else {
                    out.c2p[[i, j]]
                };
                let p2c = if matches!(wrong, Some(Mistake::P2cLeftOut | Mistake::BothLeftOut)) {
                    0.0
                } else {
                    out.p2c[[i, j]]
                };
                out.scores[[i, j]] = out.c2c[[i, j]] + c2p + p2c;
            }
        }
        self.softmax(&mut out, mask, wrong);
        let values = if wrong == Some(Mistake::ContextOfKeys) { &k } else { &v };
        for i in 0..length {
            for f in 0..d {
                out.context[[i, f]] = (0..length).map(|j| out.probs[[i, j]] * values[[j, f]]).sum();
            }
        }
        out
    }

    #[allow(clippy::needless_range_loop, reason = "indices as the equations have them")]
    fn softmax(&self, head: &mut Head, mask: &[bool], wrong: Option<Mistake>) {
        let length = mask.len();
        for i in 0..length {
            let sees = |j: usize| match wrong {
                Some(Mistake::PaddingSeen) => true,
                Some(Mistake::MaskOfKeys) => mask[j],
                _ => mask[i] && mask[j],
            };
            let score = |j: usize| match wrong {
                Some(Mistake::SoftmaxOverQueries) => head.scores[[j, i]],
                _ => head.scores[[i, j]],
            };
            let filled: Vec<f64> = (0..length)
                .map(|j| match wrong {
                    _ if sees(j) => score(j),
                    Some(Mistake::MaskAdditive) => score(j) - 10_000.0,
                    Some(Mistake::MaskInfinite) => f64::NEG_INFINITY,
                    _ => f64::MIN,
                })
                .collect();
            let max = filled.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = filled.iter().map(|s| (s - max).exp()).sum();
            for j in 0..length {
                let mut p = (filled[j] - max).exp() / sum;
                if wrong == Some(Mistake::PaddedRowsZero) && !sees(j) {
                    p = 0.0;
                }
                let at = if wrong == Some(Mistake::SoftmaxOverQueries) { [j, i] } else { [i, j] };
                head.probs[at] = p;
            }
        }
    }

    /// The heads side by side: [L, E].
    pub(super) fn merge(heads: &[Head], wrong: Option<Mistake>) -> Array2<f64> {
        let (length, d) = heads[0].context.dim();
        let mut out = Array2::zeros((length, heads.len() * d));
        for (h, head) in heads.iter().enumerate() {
            match wrong {
                Some(Mistake::HeadsMergedUntransposed) => {
                    for ((i, f), &x) in head.context.indexed_iter() {
                        let at = (h * length + i) * d + f;
                        out[[at / (heads.len() * d), at % (heads.len() * d)]] = x;
                    }
                }
                Some(Mistake::HeadsInterleaved) => {
                    for ((i, f), &x) in head.context.indexed_iter() {
                        out[[i, f * heads.len() + h]] = x;
                    }
                }
                _ => out.slice_mut(s![.., h * d..(h + 1) * d]).assign(&head.context),
            }
        }
        out
    }
}
