//! What the readers of a step say that it held.
//!
//! ```text
//! c2c_ij = Σ_c q_ic x_jc, x = k / s       own_ij = −δ_ic x_jc + rounding       δ̂_ic = −Σ_j own_ij x_jc / Σ_j x_jc²
//! ```
//!
//! Where the dump holds q + δ and c2c read q, what c2c adds of its own ([`super::own`]) is off by δ all along a row: least
//! squares tell δ from many elements that show nothing each. Likewise from c2p; for keys from c2c and p2c; for values and
//! probabilities from the context; for the terms from the scores; for the context, where weights are known, from the dense layer
//! behind it.
//!
//! An element of the reader may be off itself, and then it looks as if each of a line of the step were: the fit has to explain
//! more than the worst of the errors that it is made of.

use std::collections::HashSet;
use std::ops::Range;

use ndarray::{Array1, Array2, ArrayD, ArrayView1, ArrayView2, Axis, Ix4, Zip, s};
use rayon::prelude::*;

use super::attention;
use super::node::Kind;
use super::setting::Setting;
use super::world::flat;
use crate::measure::{Errors, Layout, Lines, Magnitude};

/// A step, who reads it, and how.
#[derive(Clone, Copy)]
pub struct Reading {
    pub step: Kind,
    pub reader: Kind,
    pub times: Times,
    /// Where one element of the step that is off makes others look so: what is read with it by the same products.
    pub lines: Lines,
}

/// What the reader multiplies the step with.
#[derive(Clone, Copy)]
pub enum Times {
    Step(Kind),
    Weights,
    One,
}

/// All that are linear in the step.
pub const READINGS: [Reading; 10] = [
    reading(Kind::Query, Kind::C2c, Times::Step(Kind::Key)),
    reading(Kind::Query, Kind::C2p, Times::Step(Kind::PositionKey)),
    reading(Kind::Key, Kind::C2c, Times::Step(Kind::Query)),
    reading(Kind::Key, Kind::P2c, Times::Step(Kind::PositionQuery)),
    reading(Kind::C2c, Kind::Scores, Times::One),
    reading(Kind::C2p, Kind::Scores, Times::One),
    reading(Kind::P2c, Kind::Scores, Times::One),
    Reading { lines: Lines::Columns, ..reading(Kind::Value, Kind::Context, Times::Step(Kind::Probabilities)) },
    reading(Kind::Probabilities, Kind::Context, Times::Step(Kind::Value)),
    reading(Kind::Context, Kind::AttentionDense, Times::Weights),
];

const fn reading(step: Kind, reader: Kind, times: Times) -> Reading {
    Reading { step, reader, times, lines: Lines::Rows }
}

/// What a reader adds of its own in one sequence: [1, H, L, L] or [1, L, E].
pub struct Own {
    pub error: ArrayD<f64>,
    /// All of the error, its own or not.
    pub whole: Vec<f64>,
    /// What each error is measured against.
    magnitude: ArrayD<f64>,
    /// The largest error, in units of that.
    pub peak: f64,
}

impl Own {
    /// `added` tells what part of the error of a reader is its own. `None` where it cannot, or where something is no number
    /// and no mask.
    pub fn of(
        expected: &ArrayD<f64>,
        actual: &ArrayD<f64>,
        heads: usize,
        added: impl FnOnce(&[f64], &[f64]) -> Option<Vec<f64>>,
    ) -> Option<Self> {
        let (x, y) = (expected.as_slice()?, actual.as_slice()?);
        let layout = Layout::of(expected.shape(), Some(heads));
        let errors = (x.len() == y.len()).then(|| Errors::new(x, y, &layout, Magnitude::Surroundings, true))?;
        let own = errors.non_finite.is_empty().then(|| added(x, &errors.error)).flatten()?;
        let peak = own.par_iter().zip(&errors.magnitude).map(|(e, m)| (e / m).abs()).reduce(|| 0.0, f64::max);
        let shaped = |values| ArrayD::from_shape_vec(expected.raw_dim(), values).ok();
        Some(Self { error: shaped(own)?, magnitude: shaped(errors.magnitude)?, whole: errors.error, peak })
    }

    /// Some features of [1, L, E]: the errors, and the squares of what they are measured against.
    fn part(&self, features: Range<usize>) -> Option<(Array2<f64>, Array2<f64>)> {
        Some((part(&self.error, features.clone())?.to_owned(), part(&self.magnitude, features)?.mapv(|m| m * m)))
    }
}

/// The sums of least squares for a step in one sequence, by head: [L, D], or [L, L] of terms and probabilities.
pub struct Sums {
    heads: Vec<OfHead>,
    /// Whether the tensor is [H, L, L], and not [L, E].
    matrices: bool,
}

struct OfHead {
    /// −Σ own·x
    products: Array2<f64>,
    /// Σ magnitude²·x²
    blurs: Array2<f64>,
    /// Σ x²; one row or one column, where all are the same.
    gains: Array2<f64>,
    /// The largest own²/magnitude² of those that are added up; one row or one column, likewise.
    peaks: Array2<f64>,
}

/// What the sums of one head are made of: two products of matrices, and the third sum.
struct Factors {
    products: (Array2<f64>, Array2<f64>),
    blurs: (Array2<f64>, Array2<f64>),
    gains: Array2<f64>,
    peaks: Array2<f64>,
}

impl Sums {
    /// What one reader says. `other`: what it multiplies the step with. `None` where shapes do not fit.
    pub fn of(setting: &Setting, reading: Reading, own: &Own, other: Option<&ArrayD<f64>>) -> Option<Self> {
        let heads = setting.heads;
        let matrices = matches!(reading.step, Kind::C2c | Kind::C2p | Kind::P2c | Kind::Probabilities);
        let Some(other) = other else {
            let of_head = |h| {
                let (error, magnitude) = (matrix(&own.error, h)?, matrix(&own.magnitude, h)?);
                let (products, blurs) = (error.mapv(|own| -own), magnitude.mapv(|m| m * m));
                Some(OfHead { products, blurs, gains: Array2::ones((1, 1)), peaks: Array2::zeros((1, 1)) })
            };
            return Some(Self { heads: (0..heads).into_par_iter().map(of_head).collect::<Option<_>>()?, matrices });
        };
        let width = *if reading.step == Kind::Value { &own.error } else { other }.shape().last()?;
        let size = width.checked_div(heads).filter(|d| d * heads == width)?;
        let of_head = |h: usize| {
            let features = h * size..(h + 1) * size;
            let factors = match (reading.step, reading.reader) {
                (_, Kind::C2c | Kind::C2p | Kind::P2c) => of_term(setting, reading, own, other, features, h)?,
                (Kind::Probabilities, _) => of_probabilities(own, other, features)?,
                (_, Kind::Context) => of_values(own, other, features, h)?,
                _ => of_dense(own, other, features)?,
            };
            let product =
                |(left, right): (Array2<f64>, Array2<f64>)| (left.ncols() == right.nrows()).then(|| left.dot(&right));
            let (products, blurs) = (-product(factors.products)?, product(factors.blurs)?);
            Some(OfHead { products, blurs, gains: factors.gains, peaks: factors.peaks })
        };
        Some(Self { heads: (0..heads).into_par_iter().map(of_head).collect::<Option<_>>()?, matrices })
    }

    /// … and what another says of the same step.
    pub fn and(mut self, other: &Self) -> Option<Self> {
        for (head, more) in self.heads.iter_mut().zip(&other.heads) {
            (head.products.dim() == more.products.dim()).then_some(())?;
            head.products += &more.products;
            head.blurs += &more.blurs;
            head.gains = &head.gains + &more.gains;
            head.peaks.zip_mut_with(&more.peaks, |peak, more| *peak = peak.max(*more));
        }
        Some(self)
    }

    /// Rows and columns of a head.
    fn dim(&self) -> (usize, usize) {
        self.heads.first().map_or((0, 0), |head| head.products.dim())
    }

    fn len(&self) -> usize {
        self.heads.iter().map(|head| head.products.len()).sum()
    }

    /// The sums of the `n`-th row in the order of the tensor.
    fn row(&self, n: usize) -> impl Iterator<Item = OfElement> + '_ {
        let (heads, rows) = (self.heads.len(), self.dim().0);
        let (h, row) = if self.matrices { (n / rows, n % rows) } else { (n % heads, n / heads) };
        let OfHead { products, blurs, gains, peaks } = &self.heads[h];
        let at = move |lines: &Array2<f64>, c: usize| lines[[row.min(lines.nrows() - 1), c.min(lines.ncols() - 1)]];
        let sums = products.row(row).into_iter().zip(blurs.row(row)).enumerate();
        sums.map(move |(c, (&product, &blur))| OfElement { product, blur, gain: at(gains, c), peak: at(peaks, c) })
    }
}

/// The sums for one element.
struct OfElement {
    /// −Σ own·x
    product: f64,
    /// Σ magnitude²·x²
    blur: f64,
    /// Σ x²
    gain: f64,
    /// max own²/magnitude²
    peak: f64,
}

/// What the readers of a step say that its elements are off by.
pub struct Unread {
    /// Where one element that is off makes others look so.
    pub lines: Lines,
    /// By sequence; `None` where they say nothing.
    sums: Vec<Option<Sums>>,
    /// The number of elements of a sequence.
    each: usize,
}

impl Unread {
    /// Of a step of `len` elements. `None` where the readers say nothing of any sequence, or of other shapes.
    pub fn new(lines: Lines, sums: Vec<Option<Sums>>, len: usize) -> Option<Self> {
        let each = len.checked_div(sums.len())?;
        let mut said = sums.iter().flatten().map(Sums::len).peekable();
        let fits = each > 0
            && said.peek().is_some()
            && said.all(|of_sequence| of_sequence == each)
            && each * sums.len() == len;
        fits.then_some(Self { lines, sums, each })
    }

    /// The elements that may not be what was read, with what else is known of them: they are `off` by so much, which alone gives
    /// alarm at `alarm`. What the readers say is more than chance where it is more than `least` times what their rounding blurs,
    /// and counts if it is also, to `part`, what the element is off by, and explains more than one wrong element of a reader.
    pub fn suspects(&self, off: &[f64], alarm: &[f64], least: f64, part: f64) -> Vec<usize> {
        let is_suspect = |OfElement { product, blur, gain, peak }: OfElement, off: f64, alarm: f64| {
            let (said, known) = (product * product, (off / alarm).powi(2));
            said > least * least * (1.0 - known) * blur
                && said + known * least * least * blur > peak * blur
                && (known > part * part || (product / gain - off).abs() <= part * off.abs())
        };
        let mut suspects = Vec::new();
        for (b, sums) in self.sums.iter().enumerate() {
            let Some(sums) = sums else { continue };
            let columns = sums.dim().1;
            let of_row = |n: usize| {
                let start = b * self.each + n * columns;
                let elements = sums.row(n).zip(&off[start..]).zip(&alarm[start..]).enumerate();
                elements
                    .filter_map(move |(c, ((sums, off), alarm))| is_suspect(sums, *off, *alarm).then_some(start + c))
            };
            suspects.par_extend((0..self.each / columns).into_par_iter().flat_map_iter(of_row));
        }
        suspects
    }

    /// What every element is off by, and what the rounding of the readers blurs of that; 0 and 1 where nobody reads it.
    pub fn solve(&self) -> (Vec<f64>, Vec<f64>) {
        let len = self.each * self.sums.len();
        let (mut off, mut blurred) = (vec![0.0; len], vec![1.0; len]);
        for ((off, blurred), sums) in off.chunks_mut(self.each).zip(blurred.chunks_mut(self.each)).zip(&self.sums) {
            let Some(sums) = sums else { continue };
            let columns = sums.dim().1;
            off.par_chunks_mut(columns).zip(blurred.par_chunks_mut(columns)).enumerate().for_each(
                |(n, (off, blurred))| {
                    for ((off, blurred), sums) in off.iter_mut().zip(blurred).zip(sums.row(n)) {
                        let OfElement { product, blur, gain, .. } = sums;
                        if gain > 0.0 && blur > 0.0 {
                            (*off, *blurred) = (product / gain, blur.sqrt() / gain);
                        }
                    }
                },
            );
        }
        (off, blurred)
    }
}

/// A row of the term is linear in a row of the step: Σ_j own_ij x_jc, the relative rows being gathered.
fn of_term(
    setting: &Setting,
    Reading { step, reader, .. }: Reading,
    own: &Own,
    other: &ArrayD<f64>,
    features: Range<usize>,
    h: usize,
) -> Option<Factors> {
    let scale = attention::scale(setting, reader, features.len(), None);
    let x = part(other, features)?.mapv(|x| x / scale);
    let by_row = |array| matrix(array, h).map(|m| if step == Kind::Query { m } else { m.reversed_axes() });
    let (error, magnitude) = (by_row(&own.error)?, by_row(&own.magnitude)?);
    let squares = magnitude.mapv(|m| m * m);
    if reader == Kind::C2c {
        let some = distinct(x.view());
        if some.len() == x.nrows() {
            return Some(by_rows((error.to_owned(), squares), x));
        }
        let of = |array: ArrayView2<'_, f64>| array.select(Axis(1), &some);
        return Some(by_rows((of(error), of(squares.view())), x.select(Axis(0), &some)));
    }
    let peaks = peaks(error, squares.view(), Axis(1));
    let squared = x.mapv(|x| x * x);
    let length = error.nrows();
    let column = attention::columns(setting.relative.as_ref()?, length, None);
    let [mut errors, mut blurs, mut counts] = [(); 3].map(|()| Array2::<f64>::zeros((length, x.nrows())));
    for at in 0..length {
        let mut sums = (errors.row_mut(at), blurs.row_mut(at), counts.row_mut(at));
        for (beside, (error, square)) in error.row(at).into_iter().zip(squares.row(at)).enumerate() {
            let read = column[if step == Kind::Query { at + length - 1 - beside } else { beside + length - 1 - at }];
            *sums.0.get_mut(read)? += error;
            sums.1[read] += square;
            sums.2[read] += 1.0;
        }
    }
    // All that read the same relative row are one product, gathered: they say once what they say.
    for sums in [&mut errors, &mut blurs] {
        sums.zip_mut_with(&counts, |sum, count| *sum /= count.max(1.0));
    }
    counts.mapv_inplace(|count| count.min(1.0));
    Some(Factors { gains: counts.dot(&squared), products: (errors, x), blurs: (blurs, squared), peaks })
}

/// A column of the context is linear in a column of the values: Σ_i p_ij own_ic.
fn of_values(own: &Own, probabilities: &ArrayD<f64>, features: Range<usize>, h: usize) -> Option<Factors> {
    let (error, squares) = own.part(features)?;
    let read = matrix(probabilities, h)?.reversed_axes().to_owned();
    let squared = read.mapv(|p| p * p);
    let gains = squared.sum_axis(Axis(1)).insert_axis(Axis(1));
    let peaks = peaks(error.view(), squares.view(), Axis(0));
    Some(Factors { products: (read, error), blurs: (squared, squares), gains, peaks })
}

/// A row of the context is linear in a row of the probabilities: Σ_c own_ic v_jc.
fn of_probabilities(own: &Own, values: &ArrayD<f64>, features: Range<usize>) -> Option<Factors> {
    Some(by_rows(own.part(features.clone())?, part(values, features)?.reversed_axes().to_owned()))
}

/// A row of a dense layer is linear in a row of what it reads: Σ_o own_io w_oc.
fn of_dense(own: &Own, weight: &ArrayD<f64>, features: Range<usize>) -> Option<Factors> {
    Some(by_rows(own.part(0..*weight.shape().first()?)?, part(weight, features)?.to_owned()))
}

/// Sums along rows of the errors, which every row of the step reads by the same `x`.
fn by_rows((errors, squares): (Array2<f64>, Array2<f64>), x: Array2<f64>) -> Factors {
    let squared = x.mapv(|x| x * x);
    let gains = squared.sum_axis(Axis(0)).insert_axis(Axis(0));
    let peaks = peaks(errors.view(), squares.view(), Axis(1));
    Factors { products: (errors, x), blurs: (squares, squared), gains, peaks }
}

/// The first of each set of equal rows. What is multiplied with equal ones, as with the keys of padding or of a token that occurs
/// twice, is off by the same: it says once what it says.
fn distinct(rows: ArrayView2<'_, f64>) -> Vec<usize> {
    let mut seen = HashSet::new();
    let bits = |row: ArrayView1<'_, f64>| row.iter().map(|x| x.to_bits()).collect::<Vec<u64>>();
    (0..rows.nrows()).filter(|&r| seen.insert(bits(rows.row(r)))).collect()
}

/// The largest error²/magnitude² of each row (axis 1) or column (axis 0), from the squares of the magnitudes; in the order of memory.
fn peaks(errors: ArrayView2<'_, f64>, squares: ArrayView2<'_, f64>, axis: Axis) -> Array2<f64> {
    let other = Axis(1 - axis.index());
    let share = |error: &f64, square: &f64| error * error / square;
    let peaks = if errors.stride_of(axis).abs() == 1 {
        let lines = errors.axis_iter(other).zip(squares.axis_iter(other));
        let of_line = |(e, s): (ArrayView1<'_, f64>, ArrayView1<'_, f64>)| {
            e.iter().zip(s).fold(0.0, |peak: f64, (e, s)| peak.max(share(e, s)))
        };
        lines.map(of_line).collect()
    } else {
        let mut peaks = Array1::<f64>::zeros(errors.len_of(other));
        for (errors, squares) in errors.axis_iter(axis).zip(squares.axis_iter(axis)) {
            Zip::from(&mut peaks).and(errors).and(squares).for_each(|peak, e, s| *peak = peak.max(share(e, s)));
        }
        peaks
    };
    peaks.insert_axis(axis)
}

/// One head of [1, H, L, L].
fn matrix(array: &ArrayD<f64>, h: usize) -> Option<ArrayView2<'_, f64>> {
    let array = array.view().into_dimensionality::<Ix4>().ok()?;
    (array.dim().0 == 1 && h < array.dim().1).then(|| array.index_axis_move(Axis(0), 0).index_axis_move(Axis(0), h))
}

/// Some features of [1, L, E], [R, E] or a weight, [out, E].
fn part(array: &ArrayD<f64>, features: Range<usize>) -> Option<ArrayView2<'_, f64>> {
    flat(array).filter(|rows| features.end <= rows.ncols()).map(|rows| rows.slice_move(s![.., features]))
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn equal_rows_are_counted_once() {
        let rows = array![[1.0, 2.0], [3.0, 4.0], [1.0, 2.0], [0.0, -0.0], [0.0, 0.0], [3.0, 4.0]];
        assert_eq!(distinct(rows.view()), [0, 1, 3, 4]);
        assert_eq!(distinct(rows.slice(s![.., ..1])), [0, 1, 3]);
    }

    #[test]
    fn peaks_are_the_largest_share_in_either_order_of_memory() {
        let (errors, squares) = (array![[1.0, -6.0, 2.0], [3.0, 0.0, 5.0]], array![[1.0, 4.0, 1.0], [9.0, 1.0, 1.0]]);
        let (rows, columns) = (array![[9.0], [25.0]], array![[1.0, 9.0, 25.0]]);
        assert_eq!(peaks(errors.view(), squares.view(), Axis(1)), rows);
        assert_eq!(peaks(errors.view(), squares.view(), Axis(0)), columns);
        assert_eq!(peaks(errors.t(), squares.t(), Axis(0)), rows.t());
        assert_eq!(peaks(errors.t(), squares.t(), Axis(1)), columns.t());
    }
}
