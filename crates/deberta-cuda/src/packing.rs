//! Which rows are computed. Sequences of a batch are of one length on paper and of many in truth; on the device their
//! rows stand one behind another, and what is padding has no row at all, so it costs nothing.
//!
//! ```text
//! tokens  a b c · ·       rows  a b c d e f g h i       starts  0 3 8 9
//!         d e f g h
//!         i · · · ·
//! ```
//!
//! A sequence keeps the run from its first to its last existing token. A hole inside the run keeps its row, and a mask
//! hides it. Distances between tokens are those of their rows, because a run is whole.
//!
//! What the references compute *in* padded rows (uniform attention over everything, in transformers) is seldom wanted,
//! and needs every row. [`Padding`] says whether it is; [`Padding::needed`] says when an output depends on it.

use std::ops::Range;

use deberta_model::{AttentionMask, Batch, Head, Inputs, Keep, Real};
use ndarray::Array2;

/// What becomes of the rows of tokens that do not exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Padding {
    /// They are not computed; in outputs they are zero.
    #[default]
    Skipped,
    /// They are computed as the reference computes them.
    Computed,
}

impl Padding {
    /// Whether an output that was asked for depends on padded rows: a loss over every row, a head that reads a first token
    /// which does not exist, probabilities over all keys, or a mask with rows of its own.
    pub fn needed<T: Real>(head: Head, inputs: &Inputs<T>, batch: &Batch<T>, keep: Keep) -> Self {
        let tokens = batch.mask.tokens();
        if tokens.iter().all(|&exists| exists) && batch.decoder_mask.is_none() {
            return Self::Skipped;
        }
        let reads_first =
            matches!(head, Head::SequenceClassification | Head::MultipleChoice | Head::ReplacedTokenDetection);
        let by_row = !matches!(head, Head::SequenceClassification | Head::MultipleChoice);
        let labelled = inputs.labels.is_some() || inputs.start_positions.is_some() || inputs.end_positions.is_some();
        let computed = keep.attentions
            || !batch.mask.is_of_tokens()
            || batch.decoder_mask.is_some()
            || (reads_first && tokens.column(0).iter().any(|&exists| !exists))
            || (by_row && labelled);
        if computed { Self::Computed } else { Self::Skipped }
    }
}

/// The rows of a batch on the device.
#[derive(Clone, Debug)]
pub struct Packing {
    /// The row among [B·L] that each row on the device, of N, stands for.
    pub rows: Vec<usize>,
    /// Where each sequence begins, and N, [B + 1].
    pub starts: Vec<i32>,
    /// The number of rows of the longest sequence.
    pub longest: usize,
    /// Whether the token of each row exists, \[N\]; absent where all do.
    pub exists: Option<Vec<u8>>,
    /// Which row each row may attend to; absent where each may attend to all of its sequence.
    pub mask: Option<MaskRows>,
    /// The same for the enhanced mask decoder.
    pub decoder_mask: Option<MaskRows>,
    padding: Padding,
    size: usize,
    length: usize,
}

/// A mask with a row a query: (b, i, j) stands at `starts[b]` + i·(rows of b) + j.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaskRows {
    /// Ones and zeros.
    pub bytes: Vec<u8>,
    /// Where each sequence begins, \[B\].
    pub starts: Vec<i64>,
}

impl Packing {
    /// The rows of `batch`.
    pub fn new<T: Real>(batch: &Batch<T>, padding: Padding) -> Self {
        let tokens = batch.mask.tokens();
        let runs = match padding {
            Padding::Computed => vec![0..batch.length; batch.size],
            Padding::Skipped => batch.mask.runs(),
        };
        let rows: Vec<usize> =
            runs.iter().enumerate().flat_map(|(b, run)| run.clone().map(move |i| b * batch.length + i)).collect();
        let starts = std::iter::once(0).chain(runs.iter().scan(0, |end, run| {
            *end += run.len();
            Some(*end)
        }));
        let exists: Vec<u8> = rows.iter().map(|row| tokens[[row / batch.length, row % batch.length]].into()).collect();
        Self {
            starts: starts.map(|at| i32::try_from(at).expect("fewer rows than an i32 counts")).collect(),
            longest: runs.iter().map(Range::len).max().unwrap_or(0),
            mask: MaskRows::new(&batch.mask, &runs),
            decoder_mask: batch.decoder_mask.as_ref().map(|mask| MaskRows::of(mask, &runs)),
            exists: exists.contains(&0).then_some(exists),
            rows,
            padding,
            size: batch.size,
            length: batch.length,
        }
    }

    /// N, the number of rows on the device.
    pub fn count(&self) -> usize {
        self.rows.len()
    }

    /// B and L of the batch.
    pub fn shape(&self) -> (usize, usize) {
        (self.size, self.length)
    }

    /// One value for each row on the device, from one for each of [B·L].
    pub fn pick(&self, values: &[usize]) -> Vec<i32> {
        self.rows.iter().map(|&row| index(values[row])).collect()
    }

    /// The rows on the device that stand for `rows` of [B·L], which are computed.
    pub fn find(&self, rows: &[usize]) -> Vec<i32> {
        rows.iter().map(|row| index(self.rows.binary_search(row).expect("a labelled row is computed"))).collect()
    }

    /// The sequence of each row on the device, \[N\].
    pub fn sequences(&self) -> Vec<i32> {
        self.rows.iter().map(|row| index(row / self.length)).collect()
    }

    /// Rows of the device [N, width] as [B·L, width]; what was not computed is zero.
    pub fn unpack(&self, packed: &Array2<f32>) -> Array2<f32> {
        let mut all = Array2::zeros((self.size * self.length, packed.ncols()));
        for (at, &row) in self.rows.iter().enumerate() {
            let exists = self.exists.as_ref().is_none_or(|exists| exists[at] == 1);
            if exists || self.padding == Padding::Computed {
                all.row_mut(row).assign(&packed.row(at));
            }
        }
        all
    }
}

impl MaskRows {
    /// The rows of `mask` within `runs`, or `None` where nothing in them is hidden.
    fn new(mask: &AttentionMask, runs: &[Range<usize>]) -> Option<Self> {
        let all_exist = |(b, run): (usize, &Range<usize>)| run.clone().all(|at| mask.tokens()[[b, at]]);
        if mask.is_of_tokens() && runs.iter().enumerate().all(all_exist) {
            return None;
        }
        Some(Self::of(mask, runs)).filter(|rows| rows.bytes.contains(&0))
    }

    fn of(mask: &AttentionMask, runs: &[Range<usize>]) -> Self {
        let (mut bytes, mut starts) = (Vec::new(), Vec::with_capacity(runs.len()));
        for (b, run) in runs.iter().enumerate() {
            starts.push(i64::try_from(bytes.len()).expect("fewer bytes than an i64 counts"));
            for query in run.clone() {
                let row = mask.row(b, query);
                bytes.extend(run.clone().map(|key| u8::from(row[key])));
            }
        }
        Self { bytes, starts }
    }
}

/// An index as the kernels take it.
pub fn index(value: usize) -> i32 {
    i32::try_from(value).expect("sizes on the device are below 2³¹")
}

#[cfg(test)]
mod tests {
    use deberta_model::DebertaV2Config;
    use ndarray::{ArrayD, IxDyn, array};

    use super::*;

    fn batch(mask: ArrayD<i64>) -> Batch<f32> {
        let (b, l) = (mask.shape()[0], *mask.shape().last().unwrap());
        let inputs =
            Inputs { input_ids: Some(ArrayD::zeros(IxDyn(&[b, l]))), attention_mask: Some(mask), ..Inputs::default() };
        let config = DebertaV2Config::from_json("{\"position_biased_input\": false}").unwrap();
        Batch::new(&config, Head::Base, &inputs).unwrap()
    }

    #[test]
    fn padding_has_no_row_on_either_side() {
        let batch = batch(array![[1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 0, 0], [0, 0, 1, 0]].into_dyn());
        let packing = Packing::new(&batch, Padding::Skipped);
        assert_eq!(packing.rows, [0, 1, 2, 5, 6, 7, 14]);
        assert_eq!(packing.starts, [0, 3, 6, 6, 7]);
        assert_eq!(packing.longest, 3);
        assert_eq!(packing.sequences(), [0, 0, 0, 1, 1, 1, 3]);
        assert!(packing.exists.is_none() && packing.mask.is_none());
        let values = Array2::from_shape_fn((7, 1), |(i, _)| i as f32 + 1.0);
        let all = packing.unpack(&values);
        assert_eq!(all.column(0).to_vec(), [1., 2., 3., 0., 0., 4., 5., 6., 0., 0., 0., 0., 0., 0., 7., 0.]);
    }

    #[test]
    fn a_hole_keeps_its_row_and_is_hidden() {
        let packing = Packing::new(&batch(array![[1, 0, 1, 0]].into_dyn()), Padding::Skipped);
        assert_eq!(packing.rows, [0, 1, 2]);
        assert_eq!(packing.exists.as_deref(), Some(&[1, 0, 1][..]));
        let mask = packing.mask.as_ref().unwrap();
        assert_eq!(mask.bytes, [1, 0, 1, 0, 0, 0, 1, 0, 1]);
        assert_eq!(mask.starts, [0]);
        assert_eq!(packing.unpack(&array![[1.0], [2.0], [3.0]]).column(0).to_vec(), [1.0, 0.0, 3.0, 0.0]);
    }

    #[test]
    fn every_row_is_kept_where_padding_is_computed() {
        let packing = Packing::new(&batch(array![[1, 1, 0], [1, 0, 0]].into_dyn()), Padding::Computed);
        assert_eq!(packing.starts, [0, 3, 6]);
        let mask = packing.mask.as_ref().unwrap();
        assert_eq!(mask.bytes, [1, 1, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(mask.starts, [0, 9]);
        assert_eq!(packing.unpack(&Array2::ones((6, 1))).sum(), 6.0);
    }

    #[test]
    fn padded_rows_are_computed_where_something_depends_on_them() {
        let keep = Keep::default();
        let needed = |head, mask: ArrayD<i64>, inputs: &Inputs<f32>| Padding::needed(head, inputs, &batch(mask), keep);
        let (plain, labelled) =
            (Inputs::default(), Inputs { start_positions: Some(array![0].into_dyn()), ..Inputs::default() });
        let (right, left) = (array![[1, 1, 0]].into_dyn(), array![[0, 1, 1]].into_dyn());
        assert_eq!(needed(Head::SequenceClassification, right.clone(), &plain), Padding::Skipped);
        assert_eq!(needed(Head::SequenceClassification, left.clone(), &plain), Padding::Computed);
        assert_eq!(needed(Head::TokenClassification, left, &plain), Padding::Skipped);
        assert_eq!(needed(Head::QuestionAnswering, right.clone(), &plain), Padding::Skipped);
        assert_eq!(needed(Head::QuestionAnswering, right, &labelled), Padding::Computed);
        assert_eq!(needed(Head::QuestionAnswering, array![[1, 1, 1]].into_dyn(), &labelled), Padding::Skipped);
        // A mask with a row a query: nothing is padding where somebody sees each token.
        assert_eq!(needed(Head::Base, array![[[1, 0], [1, 1]]].into_dyn(), &plain), Padding::Skipped);
        assert_eq!(needed(Head::Base, array![[[1, 0], [1, 0]]].into_dyn(), &plain), Padding::Computed);
        let rows = Packing::new(&batch(array![[[1, 0], [1, 1]]].into_dyn()), Padding::Skipped).mask;
        assert_eq!(rows.expect("queries differ in what they see").bytes, [1, 0, 1, 1]);
    }
}
