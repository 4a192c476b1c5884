//! What is measured of a pair before anything is judged. No other pair has a part in it, so that one can be measured while
//! another is judged.

use rayon::prelude::*;

use super::{has_heads, is_attention_matrix, magnitude, masks, significant};
use crate::budget;
use crate::compare::{Options, Pair};
use crate::dtype::Dtype;
use crate::dump::Dump;
use crate::mask::Mask;
use crate::measure::{Errors, Layout, PART};

/// What has to be known of the dumps to measure their tensors.
pub(crate) struct Ruler {
    /// H, where an attention matrix shows it.
    heads: Option<usize>,
    pub(super) mask: Option<Mask>,
    ignore_padding: bool,
}

/// A pair of tensors of one shape.
pub(crate) struct Measured {
    /// What is expected, and what was found.
    pub(super) x: Vec<f64>,
    pub(super) y: Vec<f64>,
    pub(super) layout: Layout,
    pub(super) errors: Errors,
    /// Where the largest error is.
    pub(super) largest: Option<usize>,
    /// See the fields of [`crate::Row`].
    pub(super) max_rel: f64,
    pub(super) max_ulp: u64,
    pub(super) cosine: Option<f64>,
}

impl Ruler {
    pub fn new(expected: &Dump, actual: &Dump, options: &Options<'_>, pairs: &[Pair<'_>]) -> Self {
        let matrices = pairs.iter().filter(|p| is_attention_matrix(&p.canonical)).map(|p| p.expected.shape());
        Self {
            heads: matrices.filter(|shape| shape.len() == 4).map(|shape| shape[1]).next(),
            mask: Mask::of(expected).or_else(|| Mask::of(actual)),
            ignore_padding: options.ignore_padding,
        }
    }

    /// `None` where the shapes differ.
    pub fn measure(&self, pair: &Pair<'_>) -> Option<Measured> {
        let shape = pair.expected.shape();
        if significant(shape) != significant(pair.actual.shape()) {
            return None;
        }
        let (x, mut y) = (pair.expected.widened(), pair.actual.widened());
        if self.ignore_padding {
            self.hide_padding(shape, &x, &mut y);
        }
        let layout = Layout::of(shape, self.heads.filter(|_| has_heads(&pair.canonical)));
        let errors = Errors::new(&x, &y, &layout, magnitude(&pair.canonical), masks(&pair.canonical));
        let coarser = pair.expected.dtype().coarser(pair.actual.dtype());
        let parts = x.par_chunks(PART).zip(y.par_chunks(PART)).zip(errors.error.par_chunks(PART)).enumerate();
        let of_part = |(n, ((x, y), error)): (usize, _)| Figures::of(n * PART, x, y, error, coarser);
        let figures = parts.map(of_part).collect::<Vec<_>>().into_iter().fold(Figures::default(), Figures::and);
        Some(Measured {
            largest: figures.largest.map(|(_, k)| k),
            max_rel: figures.max_rel,
            max_ulp: figures.max_ulp,
            cosine: figures.cosine(),
            layout,
            errors,
            x,
            y,
        })
    }

    fn hide_padding(&self, shape: &[usize], x: &[f64], y: &mut [f64]) {
        let Some(mask) = &self.mask else { return };
        for (k, y) in y.iter_mut().enumerate() {
            if mask.is_padded(shape, k) == Some(true) {
                *y = x[k];
            }
        }
    }
}

/// What a look at each element in turn tells.
#[derive(Default)]
struct Figures {
    /// The largest error, the last of equals, and where it is.
    largest: Option<(f64, usize)>,
    max_rel: f64,
    max_ulp: u64,
    /// Σ xy, Σ x², Σ y².
    products: [f64; 3],
}

impl Figures {
    /// Of a part of a tensor, from element `start` on.
    fn of(start: usize, x: &[f64], y: &[f64], error: &[f64], coarser: Dtype) -> Self {
        let mut figures = Self::default();
        let number = |v: f64| v.is_finite() && v > budget::MASKED;
        for (k, ((&x, &y), error)) in x.iter().zip(y).zip(error).enumerate() {
            if error.is_finite() {
                let size = error.abs();
                if figures.largest.is_none_or(|(largest, _)| size >= largest) {
                    figures.largest = Some((size, start + k));
                }
                if x != 0.0 && x.is_finite() {
                    figures.max_rel = figures.max_rel.max(size / x.abs());
                }
                if size != 0.0 {
                    figures.max_ulp = figures.max_ulp.max(coarser.ulps(x, y));
                }
            }
            if number(x) && number(y) {
                let [xy, xx, yy] = &mut figures.products;
                (*xy, *xx, *yy) = (*xy + x * y, *xx + x * x, *yy + y * y);
            }
        }
        figures
    }

    /// … and of what follows it.
    fn and(self, next: Self) -> Self {
        let larger = next.largest.filter(|(size, _)| self.largest.is_none_or(|(largest, _)| *size >= largest));
        Self {
            largest: larger.or(self.largest),
            max_rel: self.max_rel.max(next.max_rel),
            max_ulp: self.max_ulp.max(next.max_ulp),
            products: std::array::from_fn(|i| self.products[i] + next.products[i]),
        }
    }

    /// The cosine of the angle between the two, over the elements that are numbers in both; `None` where one is zero.
    fn cosine(&self) -> Option<f64> {
        let [xy, xx, yy] = self.products;
        let norm = xx.sqrt() * yy.sqrt();
        (norm > 0.0).then(|| xy / norm)
    }
}
