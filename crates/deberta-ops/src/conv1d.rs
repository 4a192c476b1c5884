//! One-dimensional convolution over the sequence: y[l, o] = b\[o\] + Σ_t Σ_c W[o, c, t] · x[l + t − (k − 1)/2, c],
//! rows outside the sequence being zero. With groups, output channel o sees the input channels of its own group only.
//!
//! As `torch.nn.Conv1d` with `padding = (k − 1) / 2`, but with channels last. The rows that a tap can reach are laid
//! beside one another, and each group is one matrix product with the kernel as it lies in memory.

use ndarray::{Array2, ArrayView1, ArrayView2, ArrayView3, s};

use crate::{Real, linear_wide};

/// The convolution of one sequence, before it is rounded to the type of the data.
///
/// # Shapes
/// `x` [L, E], `weight` [O, E / groups, k] with k odd, `bias` \[O\]; returns [L, O].
///
/// # Panics
/// If the shapes do not agree, `k` is even, or `groups` does not divide E and O.
pub fn conv1d<T: Real>(
    x: ArrayView2<'_, T>,
    weight: ArrayView3<'_, T>,
    bias: ArrayView1<'_, T>,
    groups: usize,
) -> Array2<f64> {
    let (length, channels_in) = x.dim();
    let (channels_out, per_group_in, taps) = weight.dim();
    assert!(taps % 2 == 1, "an even kernel has no centre");
    assert!(per_group_in * groups == channels_in && channels_out % groups == 0, "groups divide the channels");
    let per_group_out = channels_out / groups;
    let reach = taps / 2;
    let kernel = weight.to_shape((channels_out, per_group_in * taps)).expect("as many elements as before");

    let mut y = Array2::zeros((length, channels_out)); // [L, O]
    for group in 0..groups {
        let (i, o) = (group * per_group_in, group * per_group_out);
        let mut rows = Array2::<T>::zeros((length, per_group_in * taps)); // [L, E / groups · k]
        for tap in 0..taps {
            // Output rows l for which l + tap − reach lies inside the sequence.
            let first = reach.saturating_sub(tap);
            let end = (length + reach).saturating_sub(tap).min(length);
            if first < end {
                let from = first + tap - reach;
                let reached = x.slice(s![from..from + (end - first), i..i + per_group_in]);
                rows.slice_mut(s![first..end, tap..;taps]).assign(&reached);
            }
        }
        let kernel = kernel.slice(s![o..o + per_group_out, ..]);
        let bias = bias.slice(s![o..o + per_group_out]);
        y.slice_mut(s![.., o..o + per_group_out]).assign(&linear_wide(rows.view(), kernel, Some(bias)));
    }
    y
}

#[cfg(test)]
mod tests {
    use deberta_testkit::oracle;
    use ndarray::Array3;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn equals_the_definition(seed in any::<u64>(), length in 1usize..8, groups in 1usize..4, reach in 0usize..4,
                                 ci in 1usize..4, co in 1usize..4) {
            let mut rng = oracle::Rng::new(seed);
            let taps = 2 * reach + 1;
            let x = rng.matrix(length, ci * groups);
            let flat = rng.vector(co * groups * ci * taps);
            let weight = Array3::from_shape_vec((co * groups, ci, taps), flat.to_vec()).unwrap();
            let bias = rng.vector(co * groups);
            let y = conv1d(x.view(), weight.view(), bias.view(), groups);
            for l in 0..length {
                for o in 0..co * groups {
                    let mut sum = bias[o];
                    for c in 0..ci {
                        for t in 0..taps {
                            let at = (l + t).checked_sub(reach).filter(|&at| at < length);
                            sum += at.map_or(0.0, |at| weight[[o, c, t]] * x[[at, o / co * ci + c]]);
                        }
                    }
                    prop_assert!((y[[l, o]] - sum).abs() <= oracle::ROUNDING_F64 * (ci * taps + 1) as f64);
                }
            }
        }
    }
}
