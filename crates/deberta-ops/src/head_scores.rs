//! The scores of one head in columns: sixteen queries side by side, key after key.
//!
//! Softmax then runs down the keys with no step across lanes, and what depends on the distance i − j alone is laid beneath
//! the scores by shifting: see [`skew`].

use crate::dispatch::dispatched;
use crate::{LANES, Real};

/// A row of scores: one key, sixteen queries.
pub type Lanes<T> = [T; LANES];

dispatched! {
    /// Shifts lane l up by l rows: row x becomes \[row x lane 0, row x + 1 lane 1, …\]. The last fifteen rows are spent.
    ///
    /// A term of the scores that depends on query i and distance i − j, laid out as a row for each distance, becomes one with
    /// a row for each key. In four passes: each moves the lanes whose number has a given bit by as many rows as the bit says.
    pub fn skew<T>(rows: &mut [Lanes<T>]) = skew_body
}

#[inline(always)]
fn skew_body<T: Real>(rows: &mut [Lanes<T>]) {
    for bit in [1, 2, 4, 8] {
        for x in 0..rows.len().saturating_sub(bit) {
            let further = rows[x + bit];
            for (l, (here, further)) in rows[x].iter_mut().zip(further).enumerate() {
                if l & bit != 0 {
                    *here = further;
                }
            }
        }
    }
}

dispatched! {
    /// Adds the rows of `terms`, the last first, to `scores`.
    pub fn add_reversed<T>(scores: &mut [Lanes<T>], terms: &[Lanes<T>]) = add_reversed_body
}

#[inline(always)]
fn add_reversed_body<T: Real>(scores: &mut [Lanes<T>], terms: &[Lanes<T>]) {
    for (score, term) in scores.iter_mut().zip(terms.iter().rev()) {
        score.iter_mut().zip(term).for_each(|(score, &term)| *score += term);
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
        max.iter_mut().zip(row).for_each(|(max, &s)| *max = if s > *max { s } else { *max });
    }
    let mut sums = [0.0; LANES];
    for rows in scores.chunks_mut(64) {
        for row in rows.iter_mut() {
            row.iter_mut().zip(max).for_each(|(s, max)| *s -= max);
        }
        T::exp_slice(rows.as_flattened_mut());
        let mut partial = [T::zero(); LANES];
        for row in rows.iter() {
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
        fn skewed_rows_stand_as_many_rows_higher_as_their_lane(seed in any::<u64>(), count in 16usize..90) {
            let mut rng = oracle::Rng::new(seed);
            let before: Vec<Lanes<f64>> = (0..count).map(|_| std::array::from_fn(|_| rng.vector(1)[0])).collect();
            let mut after = before.clone();
            skew(&mut after);
            for x in 0..count - LANES + 1 {
                for l in 0..LANES {
                    prop_assert_eq!(after[x][l], before[x + l][l]);
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
