//! What holds of probabilities whatever the noise of their scores, so that one wrong element among noisy ones is seen.
//!
//! ```text
//! ln p_ij − s_ij is the same for every key j of query i
//! Σ_j p_ij is what is expected
//! ```
//!
//! s: scores, p = softmax(s). The noise of the scores is on both sides of the first, and cancels in the second; what is left is
//! the rounding of the softmax itself. A row in which the first does not hold of the expected values is left alone: a
//! query that is padding, for one.

use rayon::prelude::*;

use crate::budget;
use crate::dtype::Dtype;
use crate::measure::{Errors, robust};

/// The values of one side, in rows of one query.
pub(super) struct Side<'a> {
    pub probabilities: &'a [f64],
    pub scores: &'a [f64],
}

/// Elements that do not follow from the scores of their row as the others do, each with the error that would have passed.
pub(super) fn unlike_their_row(
    expected: &Side<'_>,
    actual: &Side<'_>,
    errors: &Errors,
    columns: usize,
    dtype: Dtype,
) -> Vec<(usize, f64)> {
    let allowed = |s: f64, (highest, largest): (f64, f64), p: f64| {
        let sums = budget::SOFTMAX_SUMS * 2f64.powi(-24) * (1.0 + highest - s);
        budget::SOFTMAX_STORAGE * dtype.unit_roundoff() * (1.0 + largest) + sums + dtype.underflow() / p
    };
    let of_row = |start: usize| {
        let is_number = |k: &usize| {
            [expected, actual].iter().all(|side| {
                side.probabilities[*k] > 0.0 && side.scores[*k].is_finite() && side.scores[*k] > budget::MASKED
            })
        };
        let keys: Vec<usize> = (start..(start + columns).min(errors.error.len())).filter(is_number).collect();
        if keys.len() < budget::SOFTMAX_FEWEST {
            return Vec::new();
        }
        let highest = keys.iter().map(|&k| actual.scores[k]).fold(f64::NEG_INFINITY, f64::max);
        let largest = keys.iter().map(|&k| actual.scores[k].abs()).fold(0.0, f64::max);
        let limit = |k: usize| allowed(actual.scores[k], (highest, largest), actual.probabilities[k]);
        if off_centre(expected, &keys).iter().zip(&keys).any(|(off, &k)| !(*off <= limit(k))) {
            return Vec::new();
        }
        off_centre(actual, &keys).into_iter().zip(keys.iter().map(|&k| (k, limit(k)))).collect::<Vec<_>>()
    };
    let found: Vec<_> = (0..errors.error.len()).into_par_iter().step_by(columns).flat_map_iter(of_row).collect();
    // Scores that were rounded for the dump alone leave more than the softmax does, in every element.
    let mut shares: Vec<f64> = found.iter().map(|(off, (_, limit))| off / limit).collect();
    let typical = (budget::SOFTMAX_TYPICAL * robust(&mut shares)).max(1.0);
    let beyond = found.into_iter().filter(|(off, (_, limit))| *off > typical * limit);
    beyond.map(|(off, (k, limit))| (k, errors.error[k].abs() * typical * limit / off)).collect()
}

/// |ln p − s − the median of that over `keys`|.
fn off_centre(side: &Side<'_>, keys: &[usize]) -> Vec<f64> {
    let mut offsets: Vec<f64> = keys.iter().map(|&k| side.probabilities[k].ln() - side.scores[k]).collect();
    let off = offsets.clone();
    let (_, median, _) = offsets.select_nth_unstable_by(keys.len() / 2, f64::total_cmp);
    off.iter().map(|o| (o - *median).abs()).collect()
}

/// Of each row that does not add up to what is expected, the element that is furthest off to that side, with the error that
/// would have passed.
pub(super) fn of_wrong_sums(expected: &[f64], errors: &Errors, columns: usize, dtype: Dtype) -> Vec<(usize, f64)> {
    let unit = dtype.unit_roundoff();
    let of_row = |(row, (x, error)): (usize, (&[f64], &[f64]))| {
        let off: f64 = error.iter().sum();
        // Equal probabilities are all rounded to the same side.
        let rounded: f64 = x.iter().map(|&x| dtype.round(x) - x).sum();
        let size = x.iter().map(|x| x * x).sum::<f64>().sqrt();
        let n = columns as f64;
        let limit = unit
            + budget::SOFTMAX_ROW * (unit * size + (1.0 + n.sqrt()) * 2f64.powi(-24))
            + rounded.abs()
            + n * dtype.underflow();
        let furthest = || (0..error.len()).max_by(|&a, &b| (error[a] * off).total_cmp(&(error[b] * off)));
        let k = (off.abs() > limit).then(furthest)??;
        Some((row * columns + k, error[k].abs() * limit / off.abs()))
    };
    expected.par_chunks(columns).zip(errors.error.par_chunks(columns)).enumerate().filter_map(of_row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{Layout, Magnitude};

    const COLUMNS: usize = 9;

    /// Scores of six queries with a noise of a thousandth, and their probabilities.
    fn sides(noise: f64) -> (Vec<f64>, Vec<f64>) {
        let scores: Vec<f64> = (0..6 * COLUMNS)
            .map(|k| (k as f64 * 1.7).sin() * 2.0 + noise * (k as f64 * 5.3).cos())
            .map(|s| f64::from(s as f32))
            .collect();
        let probabilities = scores.chunks(COLUMNS).flat_map(|row| {
            let sum: f64 = row.iter().map(|s| s.exp()).sum();
            row.iter().map(|s| f64::from((s.exp() / sum) as f32)).collect::<Vec<_>>()
        });
        (scores.clone(), probabilities.collect())
    }

    #[test]
    fn an_element_that_its_score_does_not_explain_is_found_below_the_noise() {
        let ((s, p), (t, mut q)) = (sides(0.0), sides(1e-3));
        let found = |q: &[f64]| {
            let errors = Errors::new(&p, q, &Layout::of(&[1, 1, 6, COLUMNS], None), Magnitude::Own, false);
            let sides = (Side { probabilities: &p, scores: &s }, Side { probabilities: q, scores: &t });
            let unlike = unlike_their_row(&sides.0, &sides.1, &errors, COLUMNS, Dtype::F32);
            (unlike, of_wrong_sums(&p, &errors, COLUMNS, Dtype::F32))
        };
        let (unlike, sums) = found(&q);
        assert!(unlike.is_empty() && sums.is_empty(), "{unlike:?} {sums:?}");
        q[13] *= 1.0 + 1e-4;
        let (unlike, sums) = found(&q);
        assert_eq!(unlike.iter().map(|u| u.0).collect::<Vec<_>>(), [13]);
        assert_eq!(sums.len(), 1);
        assert!(sums[0].0 / COLUMNS == 1);
    }
}
