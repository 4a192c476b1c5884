//! What a forward pass is given: indices, masks and tables, made on the host and uploaded before the first kernel.

use deberta_model::relative_position::RelativePositions;
use deberta_model::{Batch, DebertaV2Config, Keep, Profile, Tokens};
use ndarray::{Array2, Axis};

use crate::device::{Device, Memory};
use crate::error::CudaError;
use crate::ops::{Ops, longest_run, runs};
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
    pub(crate) longest_run: usize,
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

/// The same on the host.
pub(crate) struct Given {
    ids: Option<Vec<i32>>,
    embeds: Option<Array2<f32>>,
    positions: Vec<i32>,
    token_types: Vec<i32>,
    starts: Vec<i32>,
    sequences: Vec<i32>,
    firsts: Vec<i32>,
    first_of_row: Vec<i32>,
    exists: Option<Vec<u8>>,
    mask: Option<MaskRows>,
    decoder_mask: Option<MaskRows>,
    slots: Vec<i32>,
    runs: Vec<i32>,
    labelled: Option<Vec<i32>>,
}

/// All that the launches of a pass depend on beside its model: passes of one shape differ in nothing but contents.
pub(crate) type Shape = [Option<usize>; 11];

impl Given {
    /// What `batch` needs. `labelled` are the rows on the device whose words are predicted, where not all are.
    pub(crate) fn new(
        config: &DebertaV2Config,
        profile: &Profile,
        batch: &Batch<f32>,
        packing: &Packing,
        labelled: Option<Vec<i32>>,
    ) -> Self {
        let (ids, embeds) = match &batch.tokens {
            Tokens::Ids(ids) => (Some(packing.pick(ids)), None),
            Tokens::Embeds(rows) => (None, Some(rows.select(Axis(0), &packing.rows))),
        };
        let sequences = packing.sequences();
        let slots = slots(config, profile, packing.longest);
        Self {
            ids,
            embeds,
            positions: packing.pick(&batch.positions),
            token_types: packing.pick(&batch.token_types),
            starts: packing.starts.clone(),
            firsts: packing.starts[..batch.size].to_vec(),
            first_of_row: sequences.iter().map(|&s| packing.starts[s as usize]).collect(),
            sequences,
            exists: packing.exists.clone(),
            mask: packing.mask.clone(),
            decoder_mask: packing.decoder_mask.clone(),
            runs: runs(&slots),
            slots,
            labelled,
        }
    }

    /// The shape of the pass over `packing` that keeps what `keep` says.
    pub(crate) fn shape(&self, packing: &Packing, keep: Keep) -> Shape {
        let bytes = |mask: &Option<MaskRows>| mask.as_ref().map(|mask| mask.bytes.len());
        [
            Some(packing.count()),
            Some(packing.shape().0),
            Some(packing.shape().1),
            Some(packing.longest),
            self.embeds.as_ref().map(Array2::ncols),
            self.exists.as_ref().map(Vec::len),
            bytes(&self.mask),
            bytes(&self.decoder_mask),
            self.labelled.as_ref().map(Vec::len),
            keep.hidden_states.then_some(0),
            keep.attentions.then_some(0),
        ]
    }
}

impl<M: Memory> Staged<M> {
    /// Uploads what was given.
    pub(crate) fn new<D: Device<Memory = M>>(ops: Ops<'_, D>, given: &Given) -> Result<Self, CudaError> {
        let device = ops.device;
        let list = |values: &Vec<i32>| List::upload(device, values);
        Ok(Self {
            ids: given.ids.as_ref().map(list).transpose()?,
            embeds: given.embeds.as_ref().map(|rows| Rows::upload(ops, rows.view())).transpose()?,
            positions: list(&given.positions)?,
            token_types: list(&given.token_types)?,
            starts: list(&given.starts)?,
            sequences: list(&given.sequences)?,
            firsts: list(&given.firsts)?,
            first_of_row: list(&given.first_of_row)?,
            exists: given.exists.as_ref().map(|bytes| List::upload(device, bytes)).transpose()?,
            mask: StagedMask::new(device, given.mask.as_ref())?,
            decoder_mask: StagedMask::new(device, given.decoder_mask.as_ref())?,
            slots: list(&given.slots)?,
            runs: list(&given.runs)?,
            longest_run: longest_run(&given.runs),
            labelled: given.labelled.as_ref().map(list).transpose()?,
        })
    }

    /// Overwrites everything with what was given of the same shape.
    pub(crate) fn write<D: Device<Memory = M>>(&self, ops: Ops<'_, D>, given: &Given) -> Result<(), CudaError> {
        let device = ops.device;
        for (list, values) in [
            (&self.positions, &given.positions),
            (&self.token_types, &given.token_types),
            (&self.starts, &given.starts),
            (&self.sequences, &given.sequences),
            (&self.firsts, &given.firsts),
            (&self.first_of_row, &given.first_of_row),
            (&self.slots, &given.slots),
            (&self.runs, &given.runs),
        ] {
            list.write(device, values)?;
        }
        for (list, values) in [(&self.ids, &given.ids), (&self.labelled, &given.labelled)] {
            list.iter().zip(values).try_for_each(|(list, values)| list.write(device, values))?;
        }
        self.exists.iter().zip(&given.exists).try_for_each(|(list, values)| list.write(device, values))?;
        self.embeds.iter().zip(&given.embeds).try_for_each(|(rows, values)| rows.write(ops, values.view()))?;
        for (mask, rows) in [(&self.mask, &given.mask), (&self.decoder_mask, &given.decoder_mask)] {
            mask.iter().zip(rows).try_for_each(|(mask, rows)| mask.write(device, rows))?;
        }
        Ok(())
    }
}

impl<M: Memory> StagedMask<M> {
    fn new<D: Device<Memory = M>>(device: &D, rows: Option<&MaskRows>) -> Result<Option<Self>, CudaError> {
        let staged = rows.map(|rows| {
            Ok(Self { bytes: List::upload(device, &rows.bytes)?, starts: List::upload(device, &rows.starts)? })
        });
        staged.transpose()
    }

    fn write<D: Device<Memory = M>>(&self, device: &D, rows: &MaskRows) -> Result<(), CudaError> {
        self.bytes.write(device, &rows.bytes)?;
        self.starts.write(device, &rows.starts)
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
