//! From rows to lanes and back: sixteen rows side by side, term after term, is how a tile ([`crate::Tiles`]) takes and leaves
//! them.
//!
//! Both ways go in blocks of four by four, which are turned within registers ([`Real::turned`]).

use crate::{LANES, Lanes, Real};

/// The side of a block.
const SIDE: usize = 4;

/// A square of numbers.
pub(crate) type Block<T> = [[T; SIDE]; SIDE];

/// The block with rows and columns exchanged, number by number.
pub(crate) fn turned<T: Copy>(from: Block<T>) -> Block<T> {
    std::array::from_fn(|k| from.map(|row| row[k]))
}

/// The same for `f32`, by the instructions that every x86-64 processor has: left to itself, the compiler moves the numbers
/// one by one.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn turned_single(from: Block<f32>) -> Block<f32> {
    use std::arch::x86_64::{__m128, _mm_movehl_ps, _mm_movelh_ps, _mm_unpackhi_ps, _mm_unpacklo_ps};
    // SAFETY: four numbers and a register of four are the same bits; every x86-64 processor has the instructions.
    unsafe {
        let [a, b, c, d] = std::mem::transmute::<Block<f32>, [__m128; SIDE]>(from);
        let (low, low_after) = (_mm_unpacklo_ps(a, b), _mm_unpacklo_ps(c, d));
        let (high, high_after) = (_mm_unpackhi_ps(a, b), _mm_unpackhi_ps(c, d));
        std::mem::transmute::<[__m128; SIDE], Block<f32>>([
            _mm_movelh_ps(low, low_after),
            _mm_movehl_ps(low_after, low),
            _mm_movelh_ps(high, high_after),
            _mm_movehl_ps(high_after, high),
        ])
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) use turned as turned_single;

/// Lays up to sixteen rows side by side: `lanes[k][l]` = `rows[l][k]`, and zero where there is no such row.
///
/// # Panics
/// If a row is shorter than `lanes`, or there are more than sixteen.
pub fn to_lanes<T: Real>(rows: &[&[T]], lanes: &mut [Lanes<T>]) {
    assert!(rows.len() <= LANES, "as many rows as lanes");
    let terms = lanes.len();
    let (blocks, rest) = lanes.as_chunks_mut::<SIDE>();
    let done = blocks.len() * SIDE;
    let row = |l: usize| rows.get(l).map_or(&[][..], |row| &row[..terms]);
    for first in (0..LANES).step_by(SIDE) {
        let rows: [&[T]; SIDE] = std::array::from_fn(|l| row(first + l));
        let mut rows = rows.map(|row| row.as_chunks::<SIDE>().0.iter());
        for block in blocks.iter_mut() {
            let from = rows.each_mut().map(|row| row.next().copied().unwrap_or([T::zero(); SIDE]));
            for (lanes, turned) in block.iter_mut().zip(T::turned(from)) {
                lanes[first..first + SIDE].copy_from_slice(&turned);
            }
        }
    }
    for (k, lanes) in rest.iter_mut().enumerate() {
        *lanes = std::array::from_fn(|l| row(l).get(done + k).copied().unwrap_or(T::zero()));
    }
}

/// Lays lanes out in up to sixteen rows: `rows[l][k]` = `lanes[k][l]`.
///
/// # Panics
/// If a row is shorter than `lanes`, or there are more than sixteen.
pub fn to_rows<T: Real>(lanes: &[Lanes<T>], rows: &mut [&mut [T]]) {
    assert!(rows.len() <= LANES, "as many rows as lanes");
    let (blocks, rest) = lanes.as_chunks::<SIDE>();
    let done = blocks.len() * SIDE;
    for (quarter, rows) in rows.chunks_mut(SIDE).enumerate() {
        let first = quarter * SIDE;
        for (b, block) in blocks.iter().enumerate() {
            let from = block.each_ref().map(|lanes| std::array::from_fn(|l| lanes[first + l]));
            for (row, turned) in rows.iter_mut().zip(T::turned(from)) {
                row[b * SIDE..][..SIDE].copy_from_slice(&turned);
            }
        }
        for (l, row) in rows.iter_mut().enumerate() {
            row[done..lanes.len()].iter_mut().zip(rest).for_each(|(to, lanes)| *to = lanes[first + l]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back<T: Real>() {
        for count in 0..=LANES {
            for terms in (0..20).chain([64]) {
                let rows: Vec<Vec<T>> =
                    (0..count).map(|l| (0..terms).map(|k| T::of((l * 100 + k + 1) as f64)).collect()).collect();
                let mut lanes = vec![[T::nan(); LANES]; terms];
                to_lanes(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>(), &mut lanes);
                for (k, lanes) in lanes.iter().enumerate() {
                    for (l, &lane) in lanes.iter().enumerate() {
                        assert_eq!(lane, rows.get(l).map_or(T::zero(), |row| row[k]), "lane {l} of term {k}");
                    }
                }
                let mut back = vec![vec![T::nan(); terms]; count];
                to_rows(&lanes, &mut back.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>());
                assert_eq!(back, rows);
            }
        }
    }

    #[test]
    fn rows_become_lanes_and_lanes_rows() {
        there_and_back::<f32>();
        there_and_back::<f64>();
    }
}
