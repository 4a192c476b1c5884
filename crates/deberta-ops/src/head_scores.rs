//! The scores of one head in columns: sixteen queries side by side, key after key.
//!
//! Softmax then runs down the keys with no step across lanes, and what depends on the distance i − j alone is laid beneath
//! the scores by shifting: see [`add_skewed`].

use crate::dispatch::{dispatched, row_by_row};
use crate::{LANES, Real};

/// A row of scores: one key, sixteen queries.
pub type Lanes<T> = [T; LANES];

dispatched! {
    /// Adds to the scores of keys j, j + 1, … a term that depends on query i and distance i − j alone.
    ///
    /// `terms` has a row for each distance, from that of the last key and the first query on: row x is \[term of query 0, term
    /// of query 1, …\]. Lane l of key j then wants the row that stands l further down than lane 0's: the lanes are shifted in
    /// two passes, the first by as many rows as the last two bits of l say, the second by the rest.
    ///
    /// # Panics
    /// If there are not fifteen rows more than scores, or `space` has fewer than there are in `terms`.
    pub fn add_skewed<T>(scores: &mut [Lanes<T>], terms: &[Lanes<T>], space: &mut [Lanes<T>]) = add_skewed_body
}

#[inline(always)]
fn add_skewed_body<T: Real>(scores: &mut [Lanes<T>], terms: &[Lanes<T>], space: &mut [Lanes<T>]) {
    let count = scores.len();
    assert_eq!(terms.len(), count + LANES - 1, "a row for each distance");
    let half = &mut space[..count + 12];
    for (to, rows) in half.iter_mut().zip(terms.windows(4)) {
        row_by_row();
        for l in 0..LANES {
            to[l] = rows[l % 4][l];
        }
    }
    for (score, rows) in scores.iter_mut().rev().zip(half.windows(13)) {
        row_by_row();
        for l in 0..LANES {
            score[l] += rows[l / 4 * 4][l];
        }
    }
}

dispatched! {
    /// Replaces each score s of a column by exp(s − m), m the column's maximum, and returns the sums of the columns.
    ///
    /// Sums of up to sixty-four exponentials are of the type of the data, and sums of these of `f64`.
    pub fn exponentials<T>(scores: &mut [Lanes<T>]) -> [f64; LANES] = exponentials_body
}

#[inline(always)]
fn exponentials_body<T: Real>(scores: &mut [Lanes<T>]) -> [f64; LANES] {
    let mut max = [T::neg_infinity(); LANES];
    for row in scores.iter() {
        row_by_row();
        max.iter_mut().zip(row).for_each(|(max, &s)| *max = if s > *max { s } else { *max });
    }
    let mut sums = [0.0; LANES];
    for rows in scores.chunks_mut(64) {
        for row in rows.iter_mut() {
            row_by_row();
            row.iter_mut().zip(max).for_each(|(s, max)| *s -= max);
        }
        T::exp_slice(rows.as_flattened_mut());
        let mut partial = [T::zero(); LANES];
        for row in rows.iter() {
            row_by_row();
            partial.iter_mut().zip(row).for_each(|(sum, &e)| *sum += e);
        }
        sums.iter_mut().zip(partial).for_each(|(sum, part)| *sum += part.wide());
    }
    sums
}

#[cfg(test)]
mod tests {
    use deberta_testkit::oracle;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn skewed_terms_reach_the_key_and_query_of_their_distance(seed in any::<u64>(), count in 1usize..70) {
            let mut rng = oracle::Rng::new(seed);
            let mut rows = |count| -> Vec<Lanes<f64>> {
                (0..count).map(|_| std::array::from_fn(|_| rng.vector(1)[0])).collect()
            };
            let (before, terms) = (rows(count), rows(count + LANES - 1));
            let mut after = before.clone();
            add_skewed(&mut after, &terms, &mut rows(count + LANES));
            for j in 0..count {
                for l in 0..LANES {
                    // The distance of query l from key j, less that of query 0 from the last key.
                    let x = l + count - 1 - j;
                    prop_assert_eq!(after[j][l], before[j][l] + terms[x][l]);
                }
            }
        }

        #[test]
        fn exponentials_over_a_column_are_those_of_softmax(seed in any::<u64>(), count in 1usize..200) {
            let mut rng = oracle::Rng::new(seed);
            let scores: Vec<Lanes<f64>> = (0..count).map(|_| std::array::from_fn(|_| rng.vector(1)[0] * 30.0)).collect();
            let mut found = scores.clone();
            let sums = exponentials(&mut found);
            for l in 0..LANES {
                let max = scores.iter().map(|row| row[l]).fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|row| (row[l] - max).exp()).sum();
                prop_assert!((sums[l] - sum).abs() <= oracle::ROUNDING_F64 * count as f64);
                for (row, found) in scores.iter().zip(&found) {
                    prop_assert!((found[l] - (row[l] - max).exp()).abs() <= oracle::ROUNDING_F64);
                }
            }
        }
    }

    #[test]
    fn nan_and_infinity_reach_the_sum() {
        let mut scores = [[0.0_f32; LANES]; 3];
        scores[1][4] = f32::NAN;
        scores[2][5] = f32::INFINITY;
        let sums = exponentials(&mut scores);
        assert!(sums[4].is_nan() && sums[5].is_nan());
        assert!(sums[0] == 3.0);
    }
}
