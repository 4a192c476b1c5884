//! Two tensors that claim to be the same: are they, and if not, how do they differ?
//!
//! The strongest of these that holds is told:
//! 1. equal to the bit;
//! 2. equal in value, in another type;
//! 3. equal once rounded to the coarser type;
//! 4. one is the transpose of the other;
//! 5. the same rows, columns or numbers in another order;
//! 6. different, by the relative distance ‖A − B‖/‖A‖ (Frobenius) and the cosine of the angle between them.
//!
//! Orders are told by sums of hashes, which do not depend on the order: 64 bits each, so that a chance agreement is out of the
//! question. Numbers are compared as the coarser of the two types rounds them. Nothing is copied: values are widened one by
//! one where they lie.

use deberta_verify::{Dtype, Tensor};
use serde::Serialize;

/// How two tensors of one name relate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "relation")]
pub enum Likeness {
    /// The same type, shape and bytes.
    Identical,
    /// The same numbers, in another type, or with zeros of another sign.
    Equal,
    /// The same numbers as far as the coarser type can tell.
    Rounded,
    /// The numbers of one are those of the other with the two axes exchanged.
    Transposed,
    /// The same rows in another order.
    RowsPermuted,
    /// The same columns in another order.
    ColumnsPermuted,
    /// The same numbers in another order, or in another shape.
    Permuted,
    /// Other numbers.
    Different {
        /// ‖A − B‖/‖A‖.
        distance: f64,
        /// The cosine of the angle between the two; `None` where one is zero.
        cosine: Option<f64>,
    },
    /// Another shape, and other numbers.
    Shape,
}

impl Likeness {
    /// Of two tensors.
    pub fn of(a: &Tensor, b: &Tensor) -> Self {
        if a.len() != b.len() {
            return Self::Shape;
        }
        let same_shape = a.shape() == b.shape();
        if same_shape && a.dtype() == b.dtype() && a.to_bytes() == b.to_bytes() {
            return Self::Identical;
        }
        let coarse = a.dtype().coarser(b.dtype());
        if same_shape {
            if a.values().zip(b.values()).all(|(x, y)| same(x, y)) {
                return Self::Equal;
            }
            if a.values().zip(b.values()).all(|(x, y)| same(coarse.round(x), coarse.round(y))) {
                return Self::Rounded;
            }
        }
        if let Some(order) = reordered(a, b, coarse) {
            return order;
        }
        if same_shape { different(a, b) } else { Self::Shape }
    }

    /// Whether the two hold the same numbers, whatever their type and order.
    pub fn is_same(self) -> bool {
        !matches!(self, Self::Different { .. } | Self::Shape)
    }
}

fn same(x: f64, y: f64) -> bool {
    x == y || (x.is_nan() && y.is_nan())
}

/// A number that is spread over 64 bits (the finalizer of SplitMix64).
fn mixed(x: u64) -> u64 {
    let z = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Hashes of the values, as `dtype` rounds them; both zeros are one, and all NaNs.
fn hashes(tensor: &Tensor, dtype: Dtype) -> impl Iterator<Item = u64> + '_ {
    tensor.values().map(move |x| {
        let x = dtype.round(x) + 0.0;
        mixed(if x.is_nan() { f64::NAN } else { x }.to_bits())
    })
}

/// Sums over a matrix that do not depend on the order of its rows, of its columns, or of all its numbers.
#[derive(PartialEq)]
struct Sums {
    rows: u64,
    columns: u64,
    all: u64,
}

fn sums(tensor: &Tensor, columns: usize, dtype: Dtype) -> Sums {
    let mut by_column = vec![0u64; columns];
    let (mut rows, mut all, mut row) = (0u64, 0u64, 0u64);
    let mut height = 0u64;
    for (k, hash) in hashes(tensor, dtype).enumerate() {
        let column = k % columns;
        all = all.wrapping_add(hash);
        // The place within a row matters to the row, the place within a column to the column.
        row = row.wrapping_add(mixed(hash.wrapping_add(column as u64)));
        by_column[column] = by_column[column].wrapping_add(mixed(hash.wrapping_add(height)));
        if column + 1 == columns {
            rows = rows.wrapping_add(mixed(row));
            (row, height) = (0, height + 1);
        }
    }
    Sums { rows, columns: by_column.into_iter().map(mixed).fold(0, u64::wrapping_add), all }
}

fn reordered(a: &Tensor, b: &Tensor, dtype: Dtype) -> Option<Likeness> {
    // Very short tensors agree by chance, and a constant in any order.
    if a.len() < 2 {
        return None;
    }
    let columns = |t: &Tensor| t.shape().last().copied().unwrap_or(1).max(1);
    let (of_a, of_b) = (sums(a, columns(a), dtype), sums(b, columns(b), dtype));
    if of_a.all != of_b.all {
        return None;
    }
    if let (&[rows, columns], &[across, down]) = (a.shape(), b.shape())
        && (rows, columns) == (down, across)
        && (0..a.len()).all(|k| {
            let (i, j) = (k / columns, k % columns);
            same(dtype.round(a.value(k)), dtype.round(b.value(j * rows + i)))
        })
    {
        return Some(Likeness::Transposed);
    }
    let same_shape = a.shape() == b.shape() && a.shape().len() > 1;
    Some(match () {
        () if same_shape && of_a.rows == of_b.rows => Likeness::RowsPermuted,
        () if same_shape && of_a.columns == of_b.columns => Likeness::ColumnsPermuted,
        () => Likeness::Permuted,
    })
}

fn different(a: &Tensor, b: &Tensor) -> Likeness {
    let (mut apart, mut aa, mut bb, mut ab) = (0.0, 0.0, 0.0, 0.0);
    for (x, y) in a.values().zip(b.values()) {
        apart += (x - y) * (x - y);
        aa += x * x;
        bb += y * y;
        ab += x * y;
    }
    let distance = if aa == 0.0 && apart > 0.0 { f64::INFINITY } else { (apart / aa).sqrt() };
    Likeness::Different { distance, cosine: (aa > 0.0 && bb > 0.0).then(|| ab / (aa * bb).sqrt()) }
}

#[cfg(test)]
mod tests {
    use deberta_testkit::oracle::Rng;
    use half::bf16;
    use ndarray::{Array2, Axis};

    use super::*;

    fn f32s(array: &Array2<f64>) -> Tensor {
        Tensor::from_f32(&array.mapv(|x| x as f32).into_dyn())
    }

    fn bf16s(array: &Array2<f64>) -> Tensor {
        let bytes = array.iter().flat_map(|&x| bf16::from_f64(x).to_le_bytes()).collect();
        Tensor::from_bytes("x", Dtype::Bf16, array.shape().to_vec(), bytes).expect("as many bytes")
    }

    #[test]
    fn each_relation_is_told() {
        let a = Rng::new(3).matrix(6, 4);
        let of = |b: &Tensor| Likeness::of(&f32s(&a), b);
        assert_eq!(of(&f32s(&a)), Likeness::Identical);
        assert_eq!(of(&Tensor::from_f64(&a.mapv(|x| f64::from(x as f32)).into_dyn())), Likeness::Equal);
        assert_eq!(of(&bf16s(&a)), Likeness::Rounded);
        assert_eq!(of(&f32s(&a.t().as_standard_layout().into_owned())), Likeness::Transposed);
        assert_eq!(of(&bf16s(&a.t().as_standard_layout().into_owned())), Likeness::Transposed);
        assert_eq!(of(&f32s(&a.select(Axis(0), &[1, 0, 5, 4, 2, 3]))), Likeness::RowsPermuted);
        assert_eq!(of(&f32s(&a.select(Axis(1), &[3, 1, 2, 0]))), Likeness::ColumnsPermuted);
        let mut swapped = a.clone();
        swapped.swap([0, 0], [3, 2]);
        assert_eq!(of(&f32s(&swapped)), Likeness::Permuted);
        assert_eq!(of(&f32s(&Array2::zeros((4, 4)))), Likeness::Shape);
        let mut other = a.clone();
        other[[2, 1]] += 0.5;
        let Likeness::Different { distance, cosine } = of(&f32s(&other)) else { panic!("it differs") };
        let norm = a.iter().map(|x| x * x).sum::<f64>().sqrt();
        assert!((distance - 0.5 / norm).abs() < 1e-6, "{distance}");
        assert!(cosine.is_some_and(|c| c > 0.9 && c < 1.0));
    }

    #[test]
    fn nan_and_zeros_of_either_sign_are_equal_to_themselves() {
        let a = Array2::from_shape_vec((1, 3), vec![0.0, f64::NAN, 1.0]).expect("three");
        let b = Array2::from_shape_vec((1, 3), vec![-0.0, f64::NAN, 1.0]).expect("three");
        assert!(Likeness::of(&f32s(&a), &f32s(&b)).is_same());
        let zero = Likeness::of(&f32s(&Array2::zeros((2, 2))), &f32s(&Array2::ones((2, 2))));
        assert_eq!(zero, Likeness::Different { distance: f64::INFINITY, cosine: None });
    }
}
