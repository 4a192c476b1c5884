//! What a forward pass is given, on the device: indices, masks and tables, uploaded before the first kernel.

use deberta_model::relative_position::RelativePositions;
use deberta_model::{Batch, DebertaV2Config, Profile, Tokens};
use ndarray::Axis;

use crate::device::{Device, Memory};
use crate::error::CudaError;
use crate::ops::{Ops, runs};
use crate::packing::{MaskRows, Packing, index};
use crate::tensors::{List, Rows};

/// The inputs of a pass.
pub(crate) struct Staged<M> {
    /// Rows of the word embeddings, \[N\]; absent where [`Self::embeds`] stand in their place.
    pub(crate) ids: Option<List<M, i32>>,
    /// [N, E′]
    pub(crate) embeds: Option<Rows<M>>,
    /// Rows of the position table, \[N\].
    pub(crate) positions: List<M, i32>,
    /// Rows of the token types, \[N\].
    pub(crate) token_types: List<M, i32>,
    /// Where each sequence begins, and N, [B + 1].
    pub(crate) starts: List<M, i32>,
    /// The sequence of each row, \[N\].
    pub(crate) sequences: List<M, i32>,
    /// The first row of each sequence, \[B\].
    pub(crate) firsts: List<M, i32>,
    /// The first row of each row's sequence, \[N\].
    pub(crate) first_of_row: List<M, i32>,
    /// Whether the token of each row exists, \[N\]; absent where all do.
    pub(crate) exists: Option<List<M, u8>>,
    /// Which row each row may attend to.
    pub(crate) mask: Option<StagedMask<M>>,
    /// The same for the enhanced mask decoder.
    pub(crate) decoder_mask: Option<StagedMask<M>>,
    /// The relative row of each distance, [2·longest − 1].
    pub(crate) slots: List<M, i32>,
    /// Where the stretches of one row end in [`Self::slots`].
    pub(crate) runs: List<M, i32>,
    /// The rows whose words are predicted, \[M\], where not all are.
    pub(crate) labelled: Option<List<M, i32>>,
}

/// A mask with a row a query.
pub(crate) struct StagedMask<M> {
    /// Ones and zeros.
    pub(crate) bytes: List<M, u8>,
    /// Where each sequence begins in them, \[B\].
    pub(crate) starts: List<M, i64>,
}

impl<M: Memory> Staged<M> {
    /// Uploads what `batch` needs. `labelled` are the rows on the device whose words are predicted, where not all are.
    pub(crate) fn new<D: Device<Memory = M>>(
        ops: Ops<'_, D>,
        config: &DebertaV2Config,
        profile: &Profile,
        batch: &Batch<f32>,
        packing: &Packing,
        labelled: Option<&[i32]>,
    ) -> Result<Self, CudaError> {
        let device = ops.device;
        let list = |values: &[i32]| List::upload(device, values);
        let (ids, embeds) = match &batch.tokens {
            Tokens::Ids(ids) => (Some(list(&packing.pick(ids))?), None),
            Tokens::Embeds(rows) => (None, Some(Rows::upload(ops, rows.select(Axis(0), &packing.rows).view())?)),
        };
        let sequences = packing.sequences();
        let slots = slots(config, profile, packing.longest);
        let first_of_row: Vec<i32> = sequences.iter().map(|&s| packing.starts[s as usize]).collect();
        Ok(Self {
            ids,
            embeds,
            positions: list(&packing.pick(&batch.positions))?,
            token_types: list(&packing.pick(&batch.token_types))?,
            starts: list(&packing.starts)?,
            sequences: list(&sequences)?,
            firsts: list(&packing.starts[..batch.size])?,
            first_of_row: list(&first_of_row)?,
            exists: packing.exists.as_ref().map(|bytes| List::upload(device, bytes)).transpose()?,
            mask: StagedMask::new(device, packing.mask.as_ref())?,
            decoder_mask: StagedMask::new(device, packing.decoder_mask.as_ref())?,
            runs: list(&runs(&slots))?,
            slots: list(&slots)?,
            labelled: labelled.map(list).transpose()?,
        })
    }
}

impl<M: Memory> StagedMask<M> {
    fn new<D: Device<Memory = M>>(device: &D, rows: Option<&MaskRows>) -> Result<Option<Self>, CudaError> {
        let staged = rows.map(|rows| {
            Ok(Self { bytes: List::upload(device, &rows.bytes)?, starts: List::upload(device, &rows.starts)? })
        });
        staged.transpose()
    }
}

/// The relative row of distance d at d + `longest` − 1; zeros where no distance matters.
pub fn slots(config: &DebertaV2Config, profile: &Profile, longest: usize) -> Vec<i32> {
    if !config.relative_attention {
        return vec![0; 2 * longest - 1];
    }
    let positions = RelativePositions::new(config, profile, longest, longest);
    let behind = (1..longest).rev().map(|key| positions.row(0, key));
    let ahead = (0..longest).map(|query| positions.row(query, 0));
    behind.chain(ahead).map(index).collect()
}
