//! Attention, in `f64` and term by term, with the mistakes it can be computed with.
//!
//! score\[i, j\] = (Q_i·K_j + Q_i·PosK\[col(i, j)\] + K_j·PosQ\[col(i, j)\]) / s, s = √(D·f), col = clamp(δ + S, 0, 2S − 1),
//! δ = bucket(i − j).

use ndarray::{Array2, Array3, ArrayD, ArrayView2, Axis, Ix3, Ix4, IxDyn, s};
use rayon::prelude::*;

use super::mistake::{Column, Gather, Masking, Mistake, Scale};
use super::node::Kind;
use super::setting::{Logarithm, Padded, Relative, Setting};
use super::world::{Batch, flat};

/// The row of every distance from −(L − 1) to L − 1, at index distance + L − 1.
pub fn columns(relative: &Relative, length: usize, column: Option<Column>) -> Vec<usize> {
    let reach = length as i64 - 1;
    (-reach..=reach).map(|x| row(relative, x, column)).collect()
}

fn row(relative: &Relative, x: i64, column: Option<Column>) -> usize {
    let span = relative.span as i64;
    let last = 2 * span - 1;
    let x = if column == Some(Column::Negated) { -x } else { x };
    let delta = bucket(relative, x, column).clamp(-4 * span, 4 * span);
    let at = match column {
        Some(Column::NoOffsetClamped) => delta.clamp(0, last),
        Some(Column::NoOffsetWrapped) => delta.clamp(-2 * span, last).rem_euclid(2 * span),
        Some(Column::Shifted(by)) => (delta + span + by).clamp(0, last),
        // Row 2S does not exist: a port that reads it anyway reads zeros, or on from the first.
        Some(Column::ClampAt(0)) => (delta + span).clamp(0, 2 * span),
        Some(Column::ClampAtWrapped) => (delta + span).clamp(0, 2 * span).rem_euclid(2 * span),
        Some(Column::ClampAt(by)) => (delta + span).clamp(0, (2 * span + by).max(0)),
        Some(Column::Reversed) => last - (delta + span).clamp(0, last),
        _ => (delta + span).clamp(0, last),
    };
    at as usize
}

fn bucket(relative: &Relative, x: i64, column: Option<Column>) -> i64 {
    let Some(buckets) = relative.buckets.filter(|_| column != Some(Column::NoBuckets)) else { return x };
    let mut max = relative.max as f64;
    let mut mid = buckets as i64 / 2;
    let mut log = relative.log;
    let mut clamps = relative.clamps_distance;
    match column {
        Some(Column::MaximumIs(m)) => max = m as f64,
        Some(Column::MiddleIs(by)) => mid = (mid + by).max(1),
        Some(Column::LogarithmInF64) => log = Logarithm::F64,
        Some(Column::ClampDistance(to)) => clamps = to,
        _ => {}
    }
    let x = if clamps { x.clamp(1 - max as i64, max as i64 - 1) } else { x };
    if x.abs() <= mid || mid < 1 {
        return x;
    }
    let middle = mid as f64;
    let top = if column == Some(Column::LogarithmOfMaximum) { max } else { max - 1.0 };
    let quotient = match column {
        Some(Column::IntegerRatio) => (x.abs() / mid) as f64,
        _ => x.abs() as f64 / middle,
    };
    let ln = |v: f64| match log {
        Logarithm::F64 => v.ln(),
        // The f32 logarithm of an f32 quotient, as the references take it.
        Logarithm::F32 => f64::from(f64::from(v as f32).ln() as f32),
    };
    let steps = middle - 1.0;
    let exact = match log {
        Logarithm::F64 => ln(quotient) / ln(top / middle) * steps,
        Logarithm::F32 => f64::from(ln(quotient) as f32 / ln(top / middle) as f32 * steps as f32),
    };
    let rounded = match column {
        Some(Column::Floor) => exact.floor(),
        Some(Column::Round) => exact.round(),
        Some(Column::FloorOfLogarithms) => (ln(quotient) / ln(top / middle)).floor() * steps,
        _ => exact.ceil(),
    };
    if !rounded.is_finite() {
        return x;
    }
    x.signum() * (rounded as i64).saturating_add(mid)
}

/// The factor that a term is divided by.
pub fn scale(setting: &Setting, term: Kind, head_size: usize, mistake: Option<&Mistake>) -> f64 {
    let d = head_size as f64;
    let round = |root: f64| if setting.scale_f32 { f64::from(root as f32) } else { root };
    let right = round((d * setting.factor).sqrt());
    let Some(Mistake::Scale(wrong)) = mistake else { return right };
    let positions = term != Kind::C2c;
    match *wrong {
        Scale::Factor(f) => round((d * f64::from(f)).sqrt()),
        Scale::NoRoot => d * setting.factor,
        Scale::Missing => 1.0,
        Scale::HiddenSize => round((d * setting.heads as f64 * setting.factor).sqrt()),
        Scale::ContentFactor1 if !positions => round(d.sqrt()),
        Scale::PositionsNotScaled if positions => 1.0,
        Scale::PositionsNoRoot if positions => d * setting.factor,
        Scale::PositionsFactor1 if positions => round(d.sqrt()),
        Scale::ExactRoot => (d * setting.factor).sqrt(),
        Scale::RootInF32 => f64::from((d * setting.factor).sqrt() as f32),
        _ => right,
    }
}

/// One head's features.
///
/// # Shapes
/// `rows` [N, H·D]; returns [N, D].
fn head(rows: ArrayView2<'_, f64>, h: usize, heads: usize, mistake: Option<&Mistake>) -> Array2<f64> {
    let size = rows.ncols() / heads;
    if let Some(Mistake::SplitHeads { .. }) = mistake {
        return Array2::from_shape_fn((rows.nrows(), size), |(i, d)| rows[[i, d * heads + h]]);
    }
    rows.slice(s![.., h * size..(h + 1) * size]).to_owned()
}

/// What a term of the score is computed from.
pub struct Sides<'a> {
    /// [B, Q, E]
    pub queries: &'a ArrayD<f64>,
    /// [B, K, E]
    pub keys: &'a ArrayD<f64>,
    /// [R, E]; absent for c2c.
    pub rows: Option<&'a ArrayD<f64>>,
}

/// x·yᵀ, or something else of that shape.
pub type Product = fn(ArrayView2<'_, f64>, ArrayView2<'_, f64>) -> Array2<f64>;

/// c2c, c2p or p2c, divided by the scale: [B, H, Q, K].
pub fn term(
    setting: &Setting,
    kind: Kind,
    sides: &Sides<'_>,
    product: Product,
    mistake: Option<&Mistake>,
) -> Option<ArrayD<f64>> {
    let queries = sides.queries.view().into_dimensionality::<Ix3>().ok()?;
    let keys = sides.keys.view().into_dimensionality::<Ix3>().ok()?;
    let (size, q, width) = queries.dim();
    let k = keys.dim().1;
    let heads = setting.heads;
    if width % heads != 0 || keys.dim() != (size, k, width) || width == 0 {
        return None;
    }
    let divisor = scale(setting, kind, width / heads, mistake);
    let mut out = ArrayD::zeros(IxDyn(&[size, heads, q, k]));
    let rows = match (kind, sides.rows) {
        (Kind::C2c, _) => None,
        (_, Some(rows)) => Some(flat(rows).filter(|r| r.ncols() == width)?),
        _ => return None,
    };
    let table = match rows {
        None => Vec::new(),
        Some(rows) => {
            let relative = setting.relative.as_ref()?;
            let column = match mistake {
                Some(Mistake::Column { c2p, p2c, column })
                    if (kind == Kind::C2p && *c2p) || (kind == Kind::P2c && *p2c) =>
                {
                    Some(*column)
                }
                _ => None,
            };
            if q != k {
                return None;
            }
            let table = columns(relative, q, column);
            let beyond = usize::from(column == Some(Column::ClampAt(0)));
            (table.iter().max().copied()? < rows.nrows() + beyond).then_some(table)?
        }
    };
    let col = |i: usize, j: usize| table[i + k - 1 - j];
    let gather = match (kind, mistake) {
        (Kind::C2p, Some(Mistake::C2p(g))) | (Kind::P2c, Some(Mistake::P2c(g))) => Some(*g),
        _ => None,
    };
    let matrices = out.as_slice_mut()?.par_chunks_mut((q * k).max(1)).enumerate();
    matrices.for_each(|(at, matrix)| {
        let (b, h) = (at / heads, at % heads);
        let of = |rows: ArrayView2<'_, f64>| head(rows, h, heads, mistake);
        let (query, key) = (of(queries.index_axis(Axis(0), b)), of(keys.index_axis(Axis(0), b)));
        let Some(rows) = rows else {
            let products = product(query.view(), key.view()); // [Q, K]
            matrix.iter_mut().zip(&products).for_each(|(score, product)| *score = product / divisor);
            return;
        };
        let row = of(rows);
        let c2p = kind == Kind::C2p;
        let own_is_query = c2p != matches!(gather, Some(Gather::OtherStates { .. }));
        let own = if own_is_query { query } else { key };
        let products = product(own.view(), row.view()); // [Q or K, R]
        for i in 0..q {
            for j in 0..k {
                let (by_query, by_key) = (i, j);
                let natural = if c2p { by_query } else { by_key };
                let other = if c2p { by_key } else { by_query };
                let at = match gather {
                    Some(Gather::AnotherAxis { negated: true }) => [other, col(j, i)],
                    Some(Gather::AnotherAxis { negated: false }) => [other, col(i, j)],
                    Some(Gather::OtherStates { other_axis: true }) => [other, col(i, j)],
                    _ => [natural, col(i, j)],
                };
                matrix[i * k + j] = products.get(at).copied().unwrap_or(0.0) / divisor;
            }
        }
    });
    Some(out)
}

/// Probabilities of scores before the mask: [B, H, Q, K].
pub fn probabilities(
    setting: &Setting,
    batch: &Batch,
    scores: &ArrayD<f64>,
    round: impl Fn(f64) -> f64,
    mistake: Option<&Mistake>,
) -> Option<ArrayD<f64>> {
    let mut out = scores.clone().into_dimensionality::<Ix4>().ok()?;
    let (size, _, q, k) = out.dim();
    if size != batch.size() || q != batch.length || k != batch.length {
        return None;
    }
    let masking = match mistake {
        Some(Mistake::Mask(masking)) => Some(*masking),
        _ => None,
    };
    let padded = match masking {
        Some(Masking::ZeroRows) => Padded::Zero,
        Some(Masking::UniformRows) => Padded::Uniform,
        _ => setting.padded,
    };
    let over_queries = masking == Some(Masking::OverQueries);
    if over_queries {
        out = out.permuted_axes([0, 1, 3, 2]).as_standard_layout().into_owned();
    }
    for b in 0..size {
        for mut matrix in out.index_axis_mut(Axis(0), b).outer_iter_mut() {
            for (i, row) in matrix.outer_iter_mut().enumerate() {
                let sees = |j: usize| match masking {
                    Some(Masking::None | Masking::Additive { .. } | Masking::ScoreZero | Masking::AfterSoftmax) => true,
                    Some(Masking::KeysOnly) => batch.exists[[b, j]],
                    Some(Masking::Inverted) => !batch.sees(b, i, j),
                    Some(Masking::Causal) => j <= i && batch.sees(b, i, j),
                    _ if over_queries => batch.sees(b, j, i),
                    _ => batch.sees(b, i, j),
                };
                let mut row = row;
                for (j, score) in row.iter_mut().enumerate() {
                    match masking {
                        Some(Masking::Additive { fill, rounded }) if !batch.sees(b, i, j) => {
                            *score = if rounded { round(*score + fill) } else { *score + fill };
                        }
                        Some(Masking::ScoreZero) if !batch.sees(b, i, j) => *score = 0.0,
                        _ => {}
                    }
                }
                softmax(&mut row, sees, padded, masking);
                if masking == Some(Masking::AfterSoftmax) {
                    row.indexed_iter_mut().for_each(|(j, p)| *p *= f64::from(u8::from(batch.sees(b, i, j))));
                }
            }
        }
    }
    if over_queries || masking == Some(Masking::Transposed) {
        out = out.permuted_axes([0, 1, 3, 2]).as_standard_layout().into_owned();
    }
    Some(out.into_dyn())
}

fn softmax(
    row: &mut ndarray::ArrayViewMut1<'_, f64>,
    sees: impl Fn(usize) -> bool,
    padded: Padded,
    masking: Option<Masking>,
) {
    let visible = |j: usize, s: f64| sees(j) && s > crate::budget::MASKED;
    let max = row.indexed_iter().filter(|&(j, s)| visible(j, *s)).map(|(_, s)| *s).fold(f64::NEG_INFINITY, f64::max);
    if max == f64::NEG_INFINITY {
        let n = row.len() as f64;
        row.fill(match (masking, padded) {
            (Some(Masking::Infinite), _) => f64::NAN,
            (_, Padded::Uniform) => 1.0 / n,
            (_, Padded::Zero) => 0.0,
        });
        return;
    }
    row.indexed_iter_mut().for_each(|(j, s)| *s = if visible(j, *s) { (*s - max).exp() } else { 0.0 });
    let sum: f64 = row.sum();
    row.mapv_inplace(|e| e / sum);
}

/// Probabilities times values: [B, Q, E].
pub fn context(
    setting: &Setting,
    probabilities: &ArrayD<f64>,
    values: &ArrayD<f64>,
    mistake: Option<&Mistake>,
) -> Option<ArrayD<f64>> {
    let p = probabilities.view().into_dimensionality::<Ix4>().ok()?;
    let v = values.view().into_dimensionality::<Ix3>().ok()?;
    let (size, heads, q, k) = p.dim();
    let width = v.dim().2;
    if heads != setting.heads || v.dim() != (size, k, width) || width % heads != 0 {
        return None;
    }
    let d = width / heads;
    let of_head = |at: usize| {
        let (b, h) = (at / heads, at % heads);
        p.slice(s![b, h, .., ..]).dot(&head(v.index_axis(Axis(0), b), h, heads, mistake)) // [Q, D]
    };
    let products: Vec<Array2<f64>> = (0..size * heads).into_par_iter().map(of_head).collect();
    let mut out = Array3::zeros((size, q, width));
    for (at, product) in products.iter().enumerate() {
        let (b, h) = (at / heads, at % heads);
        for ((i, f), &x) in product.indexed_iter() {
            let (i, e) = match mistake {
                // [H, L, D] in memory, read as [L, H·D].
                Some(Mistake::MergeHeads) => {
                    let at = (h * q + i) * d + f;
                    (at / width, at % width)
                }
                Some(Mistake::SplitHeads { merged_alike: true }) => (i, f * heads + h),
                _ => (i, h * d + f),
            };
            out[[b, i, e]] = x;
        }
    }
    Some(out.into_dyn())
}
