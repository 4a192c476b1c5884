//! Terms of scores that are looked up by distance, for sixteen queries at once.
//!
//! A key has a term for each relative row, and query i wants that of row(i − j). From query to query the distance grows by
//! one, and the row by one or by none, where buckets are no finer than distances: then eight queries find their terms among
//! eight neighbours, which the processor rearranges in one instruction.

use crate::{LANES, Lanes, Real};

/// Half of the lanes: as many as one instruction rearranges.
const HALF: usize = LANES / 2;

/// The row of each distance.
#[derive(Clone, Debug)]
pub struct LookUp {
    rows: Vec<usize>,
    /// How far behind the row of each distance those of it and the next seven lie; none, where one lies further away than
    /// there are steps to it.
    steps: Vec<[u8; HALF]>,
}

/// Where to look: see [`LookUp::add`].
#[derive(Clone, Copy, Debug)]
pub struct At {
    /// The place in the table of the distance between the first query and the first key.
    pub place: usize,
    /// The row whose terms come first; it may lie before the first of the table.
    pub row: isize,
    /// From the terms of a key to those of the next.
    pub width: usize,
}

impl LookUp {
    /// A table of the rows of distances that grow by one.
    pub fn new(rows: Vec<usize>) -> Self {
        let near = rows.windows(2).all(|pair| pair[1].wrapping_sub(pair[0]) <= 1);
        let steps = rows.windows(HALF).filter(|_| near);
        let steps = steps.map(|rows| std::array::from_fn(|l| u8::try_from(rows[l] - rows[0]).unwrap_or(u8::MAX)));
        Self { steps: steps.collect(), rows }
    }

    /// The rows, by place.
    pub fn rows(&self) -> &[usize] {
        &self.rows
    }

    /// Adds to the score of key j and query i the term of the row of their distance.
    ///
    /// # Shapes
    /// `scores` [keys, 16]; `terms` [keys, width], eight numbers of which lie behind the last row that is looked up. From key
    /// to key the place falls by one, from query to query it grows by one.
    ///
    /// # Panics
    /// If a place or a row is not there.
    pub fn add<T: Real>(&self, scores: &mut [Lanes<T>], terms: &[T], at: At) {
        assert!(scores.is_empty() || at.place + 1 >= scores.len(), "a place for every key");
        assert!(at.place + LANES <= self.rows.len(), "a place for every query");
        T::add_looked_up(self, scores, terms, at);
    }
}

pub(crate) fn add_one_by_one<T: Real>(look_up: &LookUp, scores: &mut [Lanes<T>], terms: &[T], at: At) {
    for (j, (score, terms)) in scores.iter_mut().zip(terms.chunks_exact(at.width)).enumerate() {
        let rows = &look_up.rows[at.place - j..][..LANES];
        score.iter_mut().zip(rows).for_each(|(score, row)| *score += terms[row.wrapping_sub(at.row as usize)]);
    }
}

pub(crate) fn add_single(look_up: &LookUp, scores: &mut [Lanes<f32>], terms: &[f32], at: At) {
    #[cfg(target_arch = "x86_64")]
    if !look_up.steps.is_empty() && is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has what the function is compiled for.
        return unsafe { add_rearranged(look_up, scores, terms, at) };
    }
    add_one_by_one(look_up, scores, terms, at);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn add_rearranged(look_up: &LookUp, scores: &mut [Lanes<f32>], terms: &[f32], at: At) {
    use std::arch::x86_64::*;
    for (j, (score, terms)) in scores.iter_mut().zip(terms.chunks_exact(at.width)).enumerate() {
        for (half, score) in score.as_chunks_mut::<HALF>().0.iter_mut().enumerate() {
            let place = at.place - j + half * HALF;
            let from = look_up.rows[place].wrapping_sub(at.row as usize);
            let neighbours: &[f32] = &terms[from..from + HALF];
            let steps: &[u8; HALF] = &look_up.steps[place];
            // SAFETY: eight numbers each are read and written, which is how many there are.
            unsafe {
                let steps = _mm256_cvtepu8_epi32(_mm_loadl_epi64(steps.as_ptr().cast()));
                let found = _mm256_permutevar8x32_ps(_mm256_loadu_ps(neighbours.as_ptr()), steps);
                let sum = _mm256_add_ps(_mm256_loadu_ps(score.as_ptr()), found);
                _mm256_storeu_ps(score.as_mut_ptr(), sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use deberta_testkit::oracle;
    use proptest::prelude::*;

    use super::*;

    fn check<T: Real>(seed: u64, keys: usize, step: impl Fn(f64) -> usize) {
        let mut rng = oracle::Rng::new(seed);
        let mut row = 3;
        let rows: Vec<usize> = (0..keys + LANES)
            .map(|_| {
                row += step(rng.vector(1)[0]);
                row
            })
            .collect();
        let look_up = LookUp::new(rows.clone());
        let first = rows[0];
        let width = rows[rows.len() - 1] - first + HALF;
        let terms: Vec<T> = rng.vector(keys * width).iter().map(|&v| T::of(v)).collect();
        let before: Vec<Lanes<T>> = (0..keys).map(|_| std::array::from_fn(|_| T::of(rng.vector(1)[0]))).collect();
        let mut after = before.clone();
        look_up.add(&mut after, &terms, At { place: keys, row: first as isize, width });
        for j in 0..keys {
            for l in 0..LANES {
                let term = terms[j * width + rows[keys - j + l] - first];
                assert_eq!(after[j][l], before[j][l] + term, "key {j}, query {l}");
            }
        }
    }

    proptest! {
        #[test]
        fn terms_are_those_of_the_row_of_the_distance(seed in any::<u64>(), keys in 1usize..70) {
            // Each row after the other, some twice, and some left out.
            check::<f32>(seed, keys, |_| 1);
            check::<f32>(seed, keys, |v| usize::from(v > 0.3));
            check::<f32>(seed, keys, |v| if v > 0.8 { 2 } else { 1 });
            check::<f64>(seed, keys, |v| usize::from(v > 0.3));
        }
    }
}
