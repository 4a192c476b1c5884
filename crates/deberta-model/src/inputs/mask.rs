//! Masks: which tokens exist, and which key each query may attend to.
//!
//! | shape | a query attends to | as in transformers |
//! |---|---|---|
//! | [B, L] | every existing key, if it exists itself; else none | the outer product of `get_attention_mask` |
//! | [B, 1, 1, L] | every existing key, whether it exists itself or not | used as it is |
//! | [B, L, L], [B, 1, L, L] | the keys its row says | used as it is |
//!
//! The embeddings and the convolution need to know which tokens exist. With a row a query, a token exists where any
//! query may attend to it (`attention_mask.sum(-2) > 0`). The references fail there in the embeddings; this follows
//! what their encoder says.

use std::ops::Range;

use ndarray::{Array1, Array2, Array3, ArrayView1, ArrayView2, ArrayViewD, Axis, Dimension, IxDyn};

use crate::error::ModelError;

/// Which tokens of a batch exist, and which key each query may attend to.
#[derive(Clone, Debug)]
pub struct AttentionMask {
    /// [B, L]
    tokens: Array2<bool>,
    queries: Queries,
    /// \[L\], all false: the row of a query that may attend to nothing.
    nothing: Array1<bool>,
}

#[derive(Clone, Debug)]
enum Queries {
    /// Tokens that exist attend to tokens that exist.
    Existing,
    /// All attend to tokens that exist.
    All,
    /// Each has a row of its own, [B, Q, K].
    Each(Array3<bool>),
}

impl AttentionMask {
    /// The mask under which everything sees everything.
    pub fn all(size: usize, length: usize) -> Self {
        Self::of(Array2::from_elem((size, length), true), Queries::Existing)
    }

    /// Reads a mask of zeros and ones in any of the shapes above; a leading axis of one stands for the whole batch.
    ///
    /// # Errors
    /// Another shape, or another number.
    pub fn new(input: &'static str, mask: ArrayViewD<'_, i64>, size: usize, length: usize) -> Result<Self, ModelError> {
        if let Some((at, value)) = mask.indexed_iter().find(|(_, v)| !(0..=1).contains(*v)) {
            return Err(ModelError::Value {
                input,
                found: value.to_string(),
                index: at.slice().to_vec(),
                reason: "a mask holds 0 (hidden) and 1 (visible)".to_owned(),
            });
        }
        let misshapen = || ModelError::Shape {
            input,
            expected: format!(
                "[{size}, {length}], [{size}, 1, 1, {length}], [{size}, {length}, {length}] or \
                 [{size}, 1, {length}, {length}]"
            ),
            found: mask.shape().to_vec(),
        };
        let seen = mask.mapv(|v| v == 1);
        // Without the axis of heads, which must be one.
        let (seen, of_keys) = match *mask.shape() {
            [_, 1, 1, _] => (seen.remove_axis(Axis(1)).remove_axis(Axis(1)), true),
            [_, 1, _, _] => (seen.remove_axis(Axis(1)), false),
            [_, _, _] | [_, _] => (seen, false),
            _ => return Err(misshapen()),
        };
        if seen.ndim() == 2 {
            let tokens = seen.broadcast(IxDyn(&[size, length])).ok_or_else(misshapen)?.to_owned();
            let tokens = tokens.into_dimensionality().map_err(|_| misshapen())?;
            // A single query sees the same under either reading, and a mask of rows has the shape of one of keys then.
            return Ok(Self::of(tokens, if of_keys { Queries::All } else { Queries::Existing }));
        }
        if seen.shape()[1..] != [length, length] {
            return Err(misshapen());
        }
        let rows = seen.broadcast(IxDyn(&[size, length, length])).ok_or_else(misshapen)?.to_owned();
        let rows: Array3<bool> = rows.into_dimensionality().map_err(|_| misshapen())?;
        Ok(Self::of_rows(rows))
    }

    /// A mask with a row for each query, each \[K\].
    ///
    /// # Shapes
    /// `rows` [B, Q, K].
    pub fn of_rows(rows: Array3<bool>) -> Self {
        let tokens = rows.map_axis(Axis(1), |queries| queries.iter().any(|&s| s));
        Self::of(tokens, Queries::Each(rows))
    }

    /// The mask of the tokens that exist, where this one has a row a query.
    pub(crate) fn without_rows(&self) -> Option<Self> {
        matches!(self.queries, Queries::Each(_)).then(|| Self::of(self.tokens.clone(), Queries::Existing))
    }

    /// The tokens of each sequence that exist, where they stand together and every query sees the same keys.
    pub(crate) fn spans(&self) -> Option<Vec<Range<usize>>> {
        if matches!(self.queries, Queries::Each(_)) {
            return None;
        }
        let whole = |(b, run): (usize, &Range<usize>)| run.clone().all(|i| self.tokens[[b, i]]);
        let runs = self.runs();
        runs.iter().enumerate().all(whole).then_some(runs)
    }

    /// From the first to the last token of each sequence that exists; empty where none does.
    pub fn runs(&self) -> Vec<Range<usize>> {
        let run = |tokens: ArrayView1<'_, bool>| {
            let first = tokens.iter().position(|&exists| exists).unwrap_or(0);
            first..tokens.iter().rposition(|&exists| exists).map_or(first, |last| last + 1)
        };
        self.tokens.rows().into_iter().map(run).collect()
    }

    fn of(tokens: Array2<bool>, queries: Queries) -> Self {
        let nothing = Array1::from_elem(tokens.ncols(), false);
        Self { tokens, queries, nothing }
    }

    /// Whether existing tokens attend to all existing tokens, and the others to nothing: the mask then says no more than
    /// [`Self::tokens`].
    pub fn is_of_tokens(&self) -> bool {
        matches!(self.queries, Queries::Existing)
    }

    /// Which tokens exist.
    ///
    /// # Shapes
    /// [B, L].
    pub fn tokens(&self) -> ArrayView2<'_, bool> {
        self.tokens.view()
    }

    /// The keys that `query` of `sequence` may attend to.
    ///
    /// # Shapes
    /// \[K\].
    pub fn row(&self, sequence: usize, query: usize) -> ArrayView1<'_, bool> {
        match &self.queries {
            Queries::Existing if !self.tokens[[sequence, query]] => self.nothing.view(),
            Queries::Existing | Queries::All => self.tokens.row(sequence),
            Queries::Each(rows) => rows.slice(ndarray::s![sequence, query, ..]),
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{ArrayD, array};

    use super::*;

    fn mask(array: ArrayD<i64>, size: usize, length: usize) -> AttentionMask {
        AttentionMask::new("attention_mask", array.view(), size, length).unwrap()
    }

    fn row(m: &AttentionMask, sequence: usize, query: usize) -> Vec<bool> {
        m.row(sequence, query).to_vec()
    }

    #[test]
    fn tokens_hide_queries_and_keys_but_keys_hide_keys_alone() {
        let tokens = array![[1, 0, 1], [1, 1, 1]];
        let of_tokens = mask(tokens.clone().into_dyn(), 2, 3);
        assert_eq!(row(&of_tokens, 0, 0), [true, false, true]);
        assert_eq!(row(&of_tokens, 0, 1), [false, false, false]);
        let of_keys = mask(tokens.into_shape_with_order((2, 1, 1, 3)).unwrap().into_dyn(), 2, 3);
        assert_eq!(row(&of_keys, 0, 1), [true, false, true]);
        assert_eq!(of_keys.tokens(), of_tokens.tokens());
    }

    #[test]
    fn a_row_a_query_and_one_mask_for_the_batch() {
        let rows = array![[[1, 0, 0], [1, 1, 0], [0, 0, 0]]].into_dyn();
        for rows in [rows.clone(), rows.insert_axis(Axis(1))] {
            let m = mask(rows, 2, 3);
            assert_eq!(row(&m, 1, 0), [true, false, false]);
            assert_eq!(row(&m, 1, 2), [false, false, false]);
            assert_eq!(m.tokens(), array![[true, true, false], [true, true, false]]);
        }
    }

    #[test]
    fn other_shapes_and_numbers_are_refused() {
        for shape in [vec![3], vec![2, 4], vec![3, 3], vec![2, 3, 4], vec![2, 2, 3, 3], vec![2, 1, 3, 4], vec![1; 5]] {
            let m = ArrayD::ones(IxDyn(&shape));
            assert!(AttentionMask::new("attention_mask", m.view(), 2, 3).is_err(), "{shape:?}");
        }
        let error = AttentionMask::new("attention_mask", array![[1, 1, 2]].into_dyn().view(), 1, 3).unwrap_err();
        assert!(error.to_string().contains("`attention_mask` holds 2 at index [0, 2]"), "{error}");
    }
}
