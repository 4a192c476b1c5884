//! Softmax over keys, with masked scores hidden: p_j = exp(s_j − m) / Σ exp(s_k − m), m the row's maximum.
//!
//! The references agree on rows that have at least one visible key and differ on rows that have none ([`Hidden`]).
//! NaN in a visible score makes the row NaN, as it does in PyTorch; in a hidden score it is overwritten.

use ndarray::{ArrayView1, ArrayViewMut1, Zip};

use crate::Real;

/// What stands in the place of a masked score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hidden {
    /// The most negative finite value. A row without a visible key becomes uniform over all keys (`torch.finfo.min`
    /// fill, transformers from 4.47).
    LowestFinite,
    /// Minus infinity, and probabilities of masked keys set to zero afterwards. A row without a visible key becomes
    /// all zeros (`XSoftmax` of Microsoft's code and of transformers before 4.47).
    Zeroed,
}

/// Replaces the scores of one query by its probabilities, in place.
///
/// # Shapes
/// `scores` \[K\]; `visible` \[K\], true where the query may attend to the key.
///
/// # Panics
/// If the lengths differ.
pub fn masked_softmax<T: Real>(mut scores: ArrayViewMut1<'_, T>, visible: ArrayView1<'_, bool>, hidden: Hidden) {
    let fill = match hidden {
        Hidden::LowestFinite => T::min_value(),
        Hidden::Zeroed => T::neg_infinity(),
    };
    Zip::from(&mut scores).and(visible).for_each(|s, &seen| {
        if !seen {
            *s = fill;
        }
    });
    // 1. The maximum; NaN wins, so that it spreads over the row.
    let max = scores.iter().fold(T::neg_infinity(), |m, &s| if s.is_nan() || s > m { s } else { m });
    let max = if scores.iter().any(|s| s.is_nan()) { T::nan() } else { max };
    if max == T::neg_infinity() {
        scores.fill(T::zero());
        return;
    }
    // 2. The exponentials and their sum.
    let mut sum = 0.0;
    for s in &mut scores {
        let e = (*s - max).wide().exp();
        *s = T::of(e);
        sum += e;
    }
    // 3. The quotients.
    scores.mapv_inplace(|s| T::of(s.wide() / sum));
    if hidden == Hidden::Zeroed {
        Zip::from(&mut scores).and(visible).for_each(|p, &seen| {
            if !seen {
                *p = T::zero();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use deberta_testkit::oracle;
    use ndarray::{Array1, array};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn equals_the_definition_over_the_visible(seed in any::<u64>(), k in 1usize..30, pattern in any::<u32>()) {
            let mut rng = oracle::Rng::new(seed);
            let scores = rng.vector(k) * 20.0;
            let visible = Array1::from_shape_fn(k, |j| j == 0 || pattern >> j & 1 == 1);
            let sum: f64 = (0..k).filter(|&j| visible[j]).map(|j| scores[j].exp()).sum();
            for hidden in [Hidden::LowestFinite, Hidden::Zeroed] {
                let mut p = scores.clone();
                masked_softmax(p.view_mut(), visible.view(), hidden);
                for j in 0..k {
                    let expected = if visible[j] { scores[j].exp() / sum } else { 0.0 };
                    prop_assert!((p[j] - expected).abs() <= oracle::ROUNDING_F64 * k as f64);
                }
            }
        }
    }

    #[test]
    fn a_row_without_a_visible_key() {
        let visible = array![false, false, false, false];
        let mut p = array![1.0_f32, f32::NAN, 3.0, -7.0];
        masked_softmax(p.view_mut(), visible.view(), Hidden::LowestFinite);
        assert_eq!(p, array![0.25, 0.25, 0.25, 0.25]);
        masked_softmax(p.view_mut(), visible.view(), Hidden::Zeroed);
        assert_eq!(p, array![0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn nan_spreads_only_from_visible_keys() {
        let mut p = array![f64::NAN, 0.0, 0.0];
        masked_softmax(p.view_mut(), array![false, true, true].view(), Hidden::LowestFinite);
        assert_eq!(p, array![0.0, 0.5, 0.5]);
        let mut p = array![f64::NAN, 0.0];
        masked_softmax(p.view_mut(), array![true, true].view(), Hidden::LowestFinite);
        assert!(p.iter().all(|v| v.is_nan()));
    }

    #[test]
    fn large_scores_do_not_overflow() {
        let mut p = array![3e38_f32, -3e38, 3e38];
        masked_softmax(p.view_mut(), array![true, true, true].view(), Hidden::LowestFinite);
        assert_eq!(p, array![0.5, 0.0, 0.5]);
    }
}
