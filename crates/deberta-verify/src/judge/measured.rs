//! What is measured of a pair before anything is judged. No other pair has a part in it, so that one can be measured while
//! another is judged.

use super::{has_heads, is_attention_matrix, magnitude, masks, significant};
use crate::compare::{Options, Pair};
use crate::dump::Dump;
use crate::mask::Mask;
use crate::measure::{Errors, Layout, cosine};

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
        let finite = || errors.error.iter().enumerate().filter(|(_, e)| e.is_finite());
        let relative = finite().filter(|(k, _)| x[*k] != 0.0 && x[*k].is_finite()).map(|(k, e)| (e / x[k]).abs());
        let ulps = finite().filter(|(_, e)| **e != 0.0).map(|(k, _)| coarser.ulps(x[k], y[k]));
        Some(Measured {
            largest: finite().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs())).map(|(k, _)| k),
            max_rel: relative.fold(0.0, f64::max),
            max_ulp: ulps.max().unwrap_or(0),
            cosine: cosine(&x, &y),
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
