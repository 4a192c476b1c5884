//! Packing: a batch without its padding.
//!
//! A row that is padding influences no row that is none: keys that do not exist are hidden, embeddings of what does not
//! exist are zero, and the convolution sees zeros beyond a sequence either way. So the rows that exist can be computed by
//! themselves. What is then said of the others is zero.

use std::ops::Range;

use deberta_ops::Real;
use ndarray::{Array2, ArrayD, Axis};

use super::{AttentionMask, Batch, Tokens};

/// Where the tokens that exist stand in a padded batch.
#[derive(Clone, Debug)]
pub(crate) struct Packing {
    /// The rows of each sequence that exist, among [B·L].
    spans: Vec<Range<usize>>,
    rows: usize,
}

impl<T: Real> Batch<T> {
    /// The batch without padding, and how to undo it. `None` where it cannot be: a mask says what single queries may see, or
    /// leaves holes in a sequence, over which distances would change.
    pub(crate) fn packed(&self) -> Option<(Self, Packing)> {
        let spans: Vec<Range<usize>> = self.mask.spans()?;
        let spans = spans.into_iter().enumerate().map(|(b, s)| b * self.length + s.start..b * self.length + s.end);
        let packing = Packing { spans: spans.collect(), rows: self.size * self.length };
        let kept: Vec<usize> = packing.spans.iter().cloned().flatten().collect();
        let pick = |from: &[usize]| kept.iter().map(|&i| from[i]).collect();
        let mut sequences = Vec::with_capacity(self.size);
        for span in &packing.spans {
            let start = sequences.last().map_or(0, |s: &Range<usize>| s.end);
            sequences.push(start..start + span.len());
        }
        let batch = Self {
            size: 1,
            length: kept.len(),
            choices: None,
            tokens: match &self.tokens {
                Tokens::Ids(ids) => Tokens::Ids(pick(ids)),
                Tokens::Embeds(rows) => Tokens::Embeds(rows.select(Axis(0), &kept)),
            },
            mask: AttentionMask::all(1, kept.len()),
            decoder_mask: None,
            token_types: pick(&self.token_types),
            positions: pick(&self.positions),
            positions_shared: false,
            sequences,
        };
        Some((batch, packing))
    }
}

impl Packing {
    /// B·L
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Whether the batch has padding at all.
    pub(crate) fn has_padding(&self) -> bool {
        self.padded_rows().next().is_some()
    }

    /// Whether the first token of every sequence exists.
    pub(crate) fn keeps_first_tokens(&self) -> bool {
        let length = self.rows / self.spans.len().max(1);
        self.spans.iter().enumerate().all(|(b, span)| !span.is_empty() && span.start == b * length)
    }

    /// The rows that are padding, among [B·L].
    pub(crate) fn padded_rows(&self) -> impl Iterator<Item = usize> {
        let ends = self.spans.iter().map(|s| s.start).chain([self.rows]);
        let starts = [0].into_iter().chain(self.spans.iter().map(|s| s.end));
        starts.zip(ends).flat_map(|(from, to)| from..to)
    }

    /// Packed rows in their places, and zeros elsewhere.
    ///
    /// # Shapes
    /// `packed` [N, width]; returns [B·L, width].
    pub(crate) fn unpack<T: Real>(&self, packed: Array2<T>) -> Array2<T> {
        if !self.has_padding() {
            return packed;
        }
        let mut rows = Array2::zeros((self.rows, packed.ncols()));
        let places = self.spans.iter().cloned().flatten();
        for (i, row) in places.zip(packed.rows()) {
            rows.row_mut(i).assign(&row);
        }
        rows
    }

    /// Zeros in place of what was computed for padding.
    ///
    /// # Shapes
    /// `values` [B, L] or [B, L, C].
    pub(crate) fn blank<T: Real>(&self, values: &mut ArrayD<T>) {
        if let Some(values) = values.as_slice_mut()
            && let Some(width) = values.len().checked_div(self.rows)
        {
            self.padded_rows().for_each(|i| values[i * width..(i + 1) * width].fill(T::zero()));
        }
    }
}
