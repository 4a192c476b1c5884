//! The embeddings: sum, layer norm and mask in one kernel; apart where E′ must be widened to E first.

use deberta_model::{DebertaV2Config, Trace};

use crate::device::{Device, Memory};
use crate::error::CudaError;
use crate::ops::Embed;
use crate::pass::Pass;
use crate::tensors::{List, Rows};
use crate::weights::{LayerNorm, Linear, Loader};

pub(crate) struct Embeddings<M> {
    pub(crate) word: Rows<M>,
    /// Absolute positions; also where only the enhanced mask decoder adds them.
    pub(crate) position: Option<Rows<M>>,
    token_type: Option<Rows<M>>,
    embed_proj: Option<Linear<M>>,
    layer_norm: LayerNorm<M>,
    position_biased: bool,
}

impl<M: Memory> Embeddings<M> {
    pub(crate) fn new<D: Device<Memory = M>>(
        config: &DebertaV2Config,
        loader: &mut Loader<'_, '_, D>,
    ) -> Result<Self, CudaError> {
        let at = "deberta.embeddings";
        Ok(Self {
            word: loader.table(&format!("{at}.word_embeddings.weight"))?,
            position: loader.optional_table(&format!("{at}.position_embeddings.weight"))?,
            token_type: loader.optional_table(&format!("{at}.token_type_embeddings.weight"))?,
            embed_proj: loader.optional_linear(&format!("{at}.embed_proj"))?,
            layer_norm: loader.layer_norm(&format!("{at}.LayerNorm"))?,
            position_biased: config.position_biased_input,
        })
    }

    /// # Shapes
    /// Returns [N, E].
    pub(crate) fn forward<D: Device<Memory = M>>(
        &self,
        pass: &Pass<'_, D>,
        trace: &mut Trace<'_, f32>,
    ) -> Result<Rows<M>, CudaError> {
        let (ops, staged) = (pass.ops, pass.staged);
        let embed = Embed {
            ids: staged.ids.as_ref().map(List::view),
            word: staged.embeds.as_ref().unwrap_or(&self.word).view(),
            positions: self
                .position
                .as_ref()
                .filter(|_| self.position_biased)
                .map(|table| (staged.positions.view(), table.view())),
            types: self.token_type.as_ref().map(|table| (staged.token_types.view(), table.view())),
        };
        let exists = pass.exists();
        let width = staged.embeds.as_ref().unwrap_or(&self.word).width();
        let out = match &self.embed_proj {
            None => {
                let out = Rows::new(ops, pass.count(), width)?;
                ops.embed_layer_norm(&out.view(), &embed, &self.layer_norm.view(), exists.as_ref())?;
                out
            }
            Some(projection) => {
                let sum = Rows::new(ops, pass.count(), width)?; // [N, E′]
                ops.embed_sum(&sum.view(), &embed)?;
                let wide = projection.forward(ops, sum.view())?; // [N, E]
                let out = Rows::new(ops, pass.count(), wide.width())?;
                ops.layer_norm(&out.view(), &wide.view(), None, None, &self.layer_norm.view(), exists.as_ref())?;
                out
            }
        };
        pass.emit(trace, "embeddings", &out)?;
        Ok(out)
    }
}
