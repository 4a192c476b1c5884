//! Affine maps and the matrix products below them.
//!
//! `linear`: y = x·Wᵀ + b, as `torch.nn.Linear`. The bias is laid into the output first and the product accumulates on
//! it, so that the addition costs no pass of its own.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayBase, ArrayView1, ArrayView2, DataMut, Ix2};

use crate::Real;

/// y = x·Wᵀ + b.
///
/// # Shapes
/// `x` [N, I], `weight` [O, I], `bias` [O]; returns [N, O].
///
/// # Panics
/// If the shapes do not agree.
pub fn linear<T: Real>(x: ArrayView2<'_, T>, weight: ArrayView2<'_, T>, bias: Option<ArrayView1<'_, T>>) -> Array2<T> {
    let shape = (x.nrows(), weight.nrows());
    let Some(bias) = bias else {
        return product_transposed(x, weight);
    };
    let mut y = Array2::from_shape_fn(shape, |(_, o)| bias[o]); // [N, O]
    general_mat_mul(T::one(), &x, &weight.t(), T::one(), &mut y);
    y
}

/// a·bᵀ.
///
/// # Shapes
/// `a` [M, K], `b` [N, K]; returns [M, N].
///
/// # Panics
/// If the shapes do not agree.
pub fn product_transposed<T: Real>(a: ArrayView2<'_, T>, b: ArrayView2<'_, T>) -> Array2<T> {
    let mut out = Array2::zeros((a.nrows(), b.nrows()));
    general_mat_mul(T::one(), &a, &b.t(), T::zero(), &mut out);
    out
}

/// out += a·b.
///
/// # Shapes
/// `a` [M, K], `b` [K, N], `out` [M, N].
///
/// # Panics
/// If the shapes do not agree.
pub fn add_product<T: Real, S: DataMut<Elem = T>>(
    a: ArrayView2<'_, T>,
    b: ArrayView2<'_, T>,
    out: &mut ArrayBase<S, Ix2>,
) {
    general_mat_mul(T::one(), &a, &b, T::one(), out);
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
