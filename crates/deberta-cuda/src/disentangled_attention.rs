//! Disentangled attention: one product for query, key and value, and one kernel for the rest. The position keys and
//! queries of a layer never change; they are computed when the model is loaded.

use deberta_model::{DebertaV2Config, Profile, Trace, attention_scale};
use deberta_ops::Hidden;

use crate::device::{Device, Matrix, Memory};
use crate::error::CudaError;
use crate::ops::Attention;
use crate::pass::Pass;
use crate::tensors::Rows;
use crate::weights::{Linear, Loader};

pub(crate) struct SelfAttention<M> {
    heads: usize,
    head_size: usize,
    scale: f32,
    hidden_scores: Hidden,
    /// `query_proj`, `key_proj` and `value_proj` beside one another, [3E, E].
    projections: Linear<M>,
    /// PosK and PosQ, [R, E] each.
    position_keys: Option<Rows<M>>,
    position_queries: Option<Rows<M>>,
}

impl<M: Memory> SelfAttention<M> {
    /// `relative_rows` are the rows that every layer sees, [R, E].
    pub(crate) fn new<D: Device<Memory = M>>(
        config: &DebertaV2Config,
        profile: &Profile,
        loader: &mut Loader<'_, '_, D>,
        relative_rows: Option<&Rows<M>>,
        at: &str,
    ) -> Result<Self, CudaError> {
        let at = format!("{at}.attention.self");
        let ops = loader.ops;
        let names = ["query_proj", "key_proj", "value_proj"].map(|name| format!("{at}.{name}"));
        let projections = loader.joined(&names.each_ref().map(String::as_str))?;
        let width = config.hidden_size;
        let (mut position_keys, mut position_queries) = (None, None);
        if let Some(rows) = relative_rows {
            let shared = |of: usize| projections.outputs(ops, rows.view(), of * width..(of + 1) * width);
            let mut own = |name| -> Result<Option<Rows<M>>, CudaError> {
                let own = loader.optional_linear(&format!("{at}.{name}"))?.filter(|_| !config.share_att_key);
                own.map(|own| own.forward(ops, rows.view())).transpose()
            };
            if config.pos_att_type.c2p {
                position_keys = Some(own("pos_key_proj")?.map_or_else(|| shared(1), Ok)?);
            }
            if config.pos_att_type.p2c {
                position_queries = Some(own("pos_query_proj")?.map_or_else(|| shared(0), Ok)?);
            }
        }
        Ok(Self {
            heads: config.num_attention_heads,
            head_size: config.head_size(),
            scale: attention_scale(config, profile),
            hidden_scores: profile.hidden_scores,
            projections,
            position_keys,
            position_queries,
        })
    }

    /// The context of each row, and the probabilities if they are kept.
    ///
    /// # Shapes
    /// `hidden_states` and `query_states` [N, E]; returns [N, H·D] and [B·H·L, L].
    pub(crate) fn forward<D: Device<Memory = M>>(
        &self,
        hidden_states: Matrix<'_>,
        query_states: Option<Matrix<'_>>,
        pass: &Pass<'_, D>,
        trace: &mut Trace<'_, f32>,
    ) -> Result<(Rows<M>, Option<Rows<M>>), CudaError> {
        let (ops, width) = (pass.ops, self.heads * self.head_size);
        // 1. Query, key and value, in one product where all are of the same states.
        let first = match query_states {
            None => self.projections.forward(ops, hidden_states)?, // [N, 3E]
            Some(states) => self.projections.outputs(ops, states, 0..width)?, // [N, E]
        };
        let other = query_states.map(|_| self.projections.outputs(ops, hidden_states, width..3 * width)).transpose()?;
        let query = first.view().column_range(0..width);
        let (key, value) = match &other {
            None => (first.view().column_range(width..2 * width), first.view().column_range(2 * width..3 * width)),
            Some(both) => (both.view().column_range(0..width), both.view().column_range(width..2 * width)),
        };
        for (name, columns) in [("query_proj", &query), ("key_proj", &key), ("value_proj", &value)] {
            pass.emit_columns(trace, name, columns)?;
        }
        // 2. Scores, probabilities, context.
        let out = Rows::new(ops, pass.count(), width)?;
        let attention = Attention {
            query,
            key,
            value,
            positions: pass.slots(self.position_keys.as_ref(), self.position_queries.as_ref()),
            cu_seqlens: pass.staged.starts.view(),
            max_length: pass.packing.longest,
            heads: self.heads,
            head_size: self.head_size,
            scale: self.scale,
            mask: pass.visible(self.hidden_scores),
        };
        let probabilities = pass.attend(&out.view(), &attention)?;
        pass.emit(trace, "", &out)?;
        Ok((out, probabilities))
    }
}
