//! One forward pass: where it runs, which rows it computes, what it was given, and who watches.

use deberta_model::{Keep, Trace};
use deberta_ops::Hidden;
use ndarray::Array2;

use crate::device::{Array, Device, Matrix};
use crate::error::CudaError;
use crate::ops::{Attention, Ops, Rung, Slots, Visible};
use crate::packing::Packing;
use crate::staged::Staged;
use crate::tensors::{List, Rows};

pub(crate) struct Pass<'a, D: Device> {
    pub(crate) ops: Ops<'a, D>,
    pub(crate) packing: &'a Packing,
    pub(crate) staged: &'a Staged<D::Memory>,
    pub(crate) keep: Keep,
    /// The kernel of attention; absent: the best that serves.
    rung: Option<Rung>,
    decodes: bool,
}

impl<'a, D: Device> Pass<'a, D> {
    pub(crate) fn new(
        ops: Ops<'a, D>,
        packing: &'a Packing,
        staged: &'a Staged<D::Memory>,
        keep: Keep,
        rung: Option<Rung>,
    ) -> Self {
        Self { ops, packing, staged, keep, rung, decodes: false }
    }

    /// The pass as the enhanced mask decoder sees it: under its own mask, and keeping no probabilities.
    pub(crate) fn of_decoder(&self) -> Self {
        Self { decodes: true, keep: Keep::default(), ..*self }
    }

    /// N, the number of rows.
    pub(crate) fn count(&self) -> usize {
        self.packing.count()
    }

    /// Which rows' tokens exist; absent where all do.
    pub(crate) fn exists(&self) -> Option<Array<'_, u8>> {
        self.staged.exists.as_ref().map(List::view)
    }

    /// The relative side of an attention; absent where it has none.
    pub(crate) fn slots<'m>(
        &'m self,
        keys: Option<&'m Rows<D::Memory>>,
        queries: Option<&'m Rows<D::Memory>>,
    ) -> Option<Slots<'m>> {
        let (slots, runs) = (self.staged.slots.view(), self.staged.runs.view());
        let longest_run = self.staged.longest_run;
        let any = keys.is_some() || queries.is_some();
        any.then(|| Slots { keys: keys.map(Rows::view), queries: queries.map(Rows::view), slots, runs, longest_run })
    }

    /// Which row each row may attend to; absent where each may attend to all of its sequence.
    pub(crate) fn visible(&self, hidden: Hidden) -> Option<Visible<'_>> {
        let own = self.staged.decoder_mask.as_ref().filter(|_| self.decodes);
        own.or(self.staged.mask.as_ref()).map(|mask| Visible {
            visible: mask.bytes.view(),
            starts: mask.starts.view(),
            uniform: hidden == Hidden::LowestFinite,
        })
    }

    /// Attends, by the kernel that was chosen or the best that serves, and returns the probabilities if they are kept,
    /// [B·H·L, L].
    pub(crate) fn attend(
        &self,
        out: &Matrix<'_>,
        attention: &Attention<'_>,
    ) -> Result<Option<Rows<D::Memory>>, CudaError> {
        let device = self.ops.device;
        let probabilities = self.keep.attentions.then(|| {
            let (size, length) = self.packing.shape();
            Rows::new(self.ops, size * attention.heads * length, length)
        });
        let probabilities = probabilities.transpose()?;
        let best = || Rung::best(attention, self.ops.precision, probabilities.is_some(), device.shared_memory_limit());
        let rung = self.rung.unwrap_or_else(best);
        let floats = rung.workspace(attention);
        let workspace = (floats > 0).then(|| List::<_, f32>::new(device, floats)).transpose()?;
        self.ops.attention(
            out,
            attention,
            rung,
            workspace.as_ref().map(List::view).as_ref(),
            probabilities.as_ref().map(Rows::view).as_ref(),
        )?;
        Ok(probabilities)
    }

    /// The rows whose words are predicted, where not all are, [M, E].
    pub(crate) fn labelled(&self, states: &Rows<D::Memory>) -> Result<Option<Rows<D::Memory>>, CudaError> {
        let Some(rows) = &self.staged.labelled else {
            return Ok(None);
        };
        let rows = rows.view();
        let gathered = Rows::new(self.ops, rows.len(), states.width())?;
        self.ops.gather_rows(&gathered.view(), &states.view(), &rows)?;
        Ok(Some(gathered))
    }

    /// Hands rows to the trace as [B, L, width], if it wants them.
    pub(crate) fn emit(&self, trace: &mut Trace<'_, f32>, name: &str, rows: &Rows<D::Memory>) -> Result<(), CudaError> {
        if trace.wants(name) {
            self.hand_over(trace, name, &rows.download(self.ops)?);
        }
        Ok(())
    }

    /// The same for some columns of rows.
    pub(crate) fn emit_columns(
        &self,
        trace: &mut Trace<'_, f32>,
        name: &str,
        columns: &Matrix<'_>,
    ) -> Result<(), CudaError> {
        if trace.wants(name) {
            let (count, width) = (columns.rows(), columns.columns());
            let list = List::new(self.ops.device, count * width)?;
            self.ops.to_f32(&list.view(), columns)?;
            let values = list.download(self.ops.device)?;
            let rows = Array2::from_shape_vec((count, width), values).expect("as many values as were asked for");
            self.hand_over(trace, name, &rows);
        }
        Ok(())
    }

    fn hand_over(&self, trace: &mut Trace<'_, f32>, name: &str, rows: &Array2<f32>) {
        let (size, length) = self.packing.shape();
        let all = self.packing.unpack(rows);
        let width = all.ncols();
        let tokens = all.into_shape_with_order((size, length, width)).expect("as many rows as tokens");
        trace.emit(name, tokens.view());
    }
}
