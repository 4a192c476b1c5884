//! Affine maps and the matrix products below them.
//!
//! `linear`: y = x·Wᵀ + b, as `torch.nn.Linear`.
//!
//! Sums are taken in the type of the data ([`product()`]). Those of small products ([`SMALL_PRODUCT`]) are taken in `f64`, so
//! that in `f32` a small model carries the rounding of its states alone.

use ndarray::{Array, Array2, ArrayBase, ArrayView1, ArrayView2, Data, Dimension};

use crate::{Affine, Real, product};

/// Products of at most this many multiplications are accumulated in `f64`: two milliseconds at most, widening included.
pub const SMALL_PRODUCT: usize = 1 << 22;

/// y = x·Wᵀ + b.
///
/// # Shapes
/// `x` [N, I], `weight` [O, I], `bias` \[O\]; returns [N, O].
///
/// # Panics
/// If the shapes do not agree.
pub fn linear<T: Real>(x: ArrayView2<'_, T>, weight: ArrayView2<'_, T>, bias: Option<ArrayView1<'_, T>>) -> Array2<T> {
    if accumulates_wide::<T>(x.nrows(), &weight) {
        return narrow(&linear_wide(x, weight, bias));
    }
    product(x, Affine { weight, bias })
}

/// y = x·Wᵀ + b, before it is rounded to the type of the data: for what is summed, activated or normalized next.
///
/// # Shapes
/// `x` [N, I], `weight` [O, I], `bias` \[O\]; returns [N, O].
///
/// # Panics
/// If the shapes do not agree.
pub fn linear_wide<T: Real>(
    x: ArrayView2<'_, T>,
    weight: ArrayView2<'_, T>,
    bias: Option<ArrayView1<'_, T>>,
) -> Array2<f64> {
    if !accumulates_wide::<T>(x.nrows(), &weight) {
        return wide(&linear(x, weight, bias));
    }
    let (x, weight, bias) = (wide(&x), wide(&weight), bias.map(|b| wide(&b)));
    let map = Affine { weight: weight.view(), bias: bias.as_ref().map(|b| b.view()) };
    product(x.view(), map)
}

/// Whether the product of N rows with a weight [O, I] is small enough to be accumulated in `f64`.
pub fn accumulates_wide<T: Real>(rows: usize, weight: &ArrayView2<'_, T>) -> bool {
    T::NAME != f64::NAME && rows.saturating_mul(weight.len()) <= SMALL_PRODUCT
}

/// The array in `f64`.
pub fn wide<T: Real, S: Data<Elem = T>, D: Dimension>(array: &ArrayBase<S, D>) -> Array<f64, D> {
    array.map(|v| v.wide())
}

/// The array rounded to `T`.
pub fn narrow<T: Real, S: Data<Elem = f64>, D: Dimension>(array: &ArrayBase<S, D>) -> Array<T, D> {
    array.map(|&v| T::of(v))
}

#[cfg(test)]
mod tests {
    use deberta_testkit::oracle;
    use ndarray::{Array1, Array2};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn linear_is_the_sum_over_inputs(seed in any::<u64>(), n in 1usize..9, i in 1usize..12, o in 1usize..10) {
            let mut rng = oracle::Rng::new(seed);
            let (x, w, b) = (rng.matrix(n, i), rng.matrix(o, i), rng.vector(o));
            let y = linear(x.view(), w.view(), Some(b.view()));
            let plain = linear(x.view(), w.view(), None);
            for r in 0..n {
                for c in 0..o {
                    let sum: f64 = (0..i).map(|k| x[[r, k]] * w[[c, k]]).sum();
                    prop_assert!((plain[[r, c]] - sum).abs() <= oracle::ROUNDING_F64 * i as f64);
                    prop_assert!((y[[r, c]] - (sum + b[c])).abs() <= oracle::ROUNDING_F64 * (i + 1) as f64);
                }
            }
        }
    }

    #[test]
    fn rows_of_a_wider_array_are_accepted() {
        let wide = Array2::from_shape_fn((3, 10), |(r, c)| (r * 10 + c) as f32);
        let x = wide.slice(ndarray::s![.., 4..7]);
        let weight = Array2::from_shape_fn((2, 3), |(o, i)| if o == i { 1.0 } else { 0.0 });
        let y = linear(x, weight.view(), Some(Array1::from(vec![100.0, 200.0]).view()));
        assert_eq!(y, ndarray::array![[104.0, 205.0], [114.0, 215.0], [124.0, 225.0]]);
    }
}
