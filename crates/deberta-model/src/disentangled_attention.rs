//! Disentangled self-attention: content and relative position are scored apart and added
//! (equation 4 of the paper; `DisentangledSelfAttention` in the references).
//!
//! ```text
//! Q = q·Wqᵀ + bq        K = h·Wkᵀ + bk        V = h·Wvᵀ + bv
//! PosK = r·Wᵀ + b, with the position's own projection (pos_key_proj) or, shared, with key_proj
//! PosQ = r·Wᵀ + b, with the position's own projection (pos_query_proj) or, shared, with query_proj
//!
//! c2c[i, j] = Q_i · K_j / s
//! c2p[i, j] = Q_i · PosK[row(i − j)] / s
//! p2c[i, j] = K_j · PosQ[row(i − j)] / s           s = √(D · (1 + [c2p] + [p2c]))
//!
//! A = softmax(mask(c2c + c2p + p2c)) · V
//! ```
//!
//! h [K, E] are the hidden states, q [Q, E] the query states (h itself, but for the enhanced mask decoder), r [R, E]
//! the relative rows, and each line is meant for one head of width D.
//!
//! The paper writes δ(j, i) in p2c. Hugging Face gathers with the negated distance on the transpose, Microsoft with the
//! same distance: both read PosQ at the row of i − j, as here.
//!
//! The scale counts `pos_att_type` even where `relative_attention` is false, as the references do.

mod fused;
mod plan;
mod projected;
mod reference;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use deberta_ops::{Hidden, Panels, Real};
use ndarray::{Array2, Array3, Array4, ArrayView2, CowArray, IxDyn};

use crate::config::DebertaV2Config;
use crate::embeddings::emit_rows;
use crate::error::ModelError;
use crate::inputs::{AttentionMask, shape};
use crate::profile::{Profile, ScaleRounding};
use crate::relative_position::RelativePositions;
use crate::trace::Trace;
use crate::weights::{Linear, ONLY_LAYER, Weights};

pub(crate) use plan::Plan;

/// The bodies that attention has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attention {
    /// The equations, term by term, every one open to a trace.
    Reference,
    /// The same function, fast: blocked, on all threads, without padding. Used where nobody asks for intermediates or
    /// probabilities; see [`crate::Model::with_attention`].
    #[default]
    Fused,
}

pub(crate) struct DisentangledSelfAttention<'w, T: Clone> {
    heads: usize,
    head_size: usize,
    scale: T,
    hidden_scores: Hidden,
    centers_before_masking: bool,
    query_proj: Linear<'w, T>,
    key_proj: Linear<'w, T>,
    value_proj: Linear<'w, T>,
    position: Option<Position<'w, T>>,
}

/// The relative side of an attention.
struct Position<'w, T: Clone> {
    c2p: bool,
    p2c: bool,
    /// Absent where the content's projections are shared.
    key_proj: Option<Linear<'w, T>>,
    query_proj: Option<Linear<'w, T>>,
    /// Projected relative rows never change, so they are computed once a model.
    projected: OnceLock<Projected<T>>,
    /// The same for the fused body.
    kept: projected::Kept<T>,
}

/// Relative rows after projection, [R, H·D] each.
struct Projected<T> {
    keys: Option<Array2<T>>,
    queries: Option<Array2<T>>,
}

/// What attention needs to know beyond the states.
pub(crate) struct AttentionContext<'a, T> {
    pub(crate) size: usize,
    pub(crate) mask: &'a AttentionMask,
    /// Relative rows, normalized, [R, E]; absent without relative attention.
    pub(crate) relative_rows: Option<&'a Array2<T>>,
    pub(crate) positions: Option<&'a RelativePositions>,
    pub(crate) keep_probabilities: bool,
    /// Where the fused body is to be used: what it needs to know. Nobody then traces or keeps probabilities.
    pub(crate) fused: Option<&'a Plan>,
}

/// The context [B·Q, H·D], and, if asked for, the probabilities [B, H, Q, K].
pub(crate) struct Attended<T> {
    pub(crate) context: Array2<T>,
    pub(crate) probabilities: Option<Array4<T>>,
}

impl<'w, T: Real> DisentangledSelfAttention<'w, T> {
    pub(crate) fn new(config: &DebertaV2Config, profile: &Profile, weights: &mut Weights<'w, T>, at: &str) -> Self {
        let at = format!("{at}.attention.self");
        let position = config.relative_attention.then(|| Position {
            c2p: config.pos_att_type.c2p,
            p2c: config.pos_att_type.p2c,
            key_proj: weights.optional_linear(&format!("{at}.pos_key_proj")).filter(|_| !config.share_att_key),
            query_proj: weights.optional_linear(&format!("{at}.pos_query_proj")).filter(|_| !config.share_att_key),
            projected: OnceLock::new(),
            kept: projected::Kept::none(),
        });
        Self {
            heads: config.num_attention_heads,
            head_size: config.head_size(),
            scale: attention_scale(config, profile),
            hidden_scores: profile.hidden_scores,
            centers_before_masking: profile.centers_before_masking,
            query_proj: weights.linear(&format!("{at}.query_proj")),
            key_proj: weights.linear(&format!("{at}.key_proj")),
            value_proj: weights.linear(&format!("{at}.value_proj")),
            position,
        }
    }

    /// # Shapes
    /// `hidden_states` [B·K, E], `query_states` [B·Q, E]; returns [B·Q, H·D] and [B, H, Q, K].
    pub(crate) fn forward(
        &self,
        hidden_states: ArrayView2<'_, T>,
        query_states: ArrayView2<'_, T>,
        context: &AttentionContext<'_, T>,
        trace: &mut Trace<'_, T>,
    ) -> Attended<T> {
        if let Some(plan) = context.fused {
            let states =
                [(&self.query_proj, query_states), (&self.key_proj, hidden_states), (&self.value_proj, hidden_states)];
            let states = states.map(|(projection, states)| Panels::of(projection.forward(states).view()));
            let attended = self.fused(states.each_ref(), context.relative_rows, plan);
            return Attended { context: attended.to_rows(), probabilities: None };
        }
        trace.within("self", |trace| {
            let queries = self.query_proj.forward(query_states); // [B·Q, H·D]
            emit_rows(trace, "query_proj", &queries, context.size);
            let keys = self.key_proj.forward(hidden_states); // [B·K, H·D]
            emit_rows(trace, "key_proj", &keys, context.size);
            let values = self.value_proj.forward(hidden_states); // [B·K, H·D]
            emit_rows(trace, "value_proj", &values, context.size);
            let projected = self.projected(context.relative_rows, trace);
            let attended = self.reference(&queries, &keys, &values, projected, context, trace);
            emit_rows(trace, "", &attended.context, context.size);
            attended
        })
    }

    /// The same in panels and by the fused body, where no product [keeps more digits](Linear::is_wide).
    ///
    /// # Shapes
    /// `hidden_states` [N, E], `query_states` [N, E] or none where they are the same; returns [N, H·D].
    pub(crate) fn unseen(
        &self,
        hidden_states: &Panels<T>,
        query_states: Option<&Panels<T>>,
        relative_rows: Option<&Array2<T>>,
        plan: &Plan,
    ) -> Panels<T> {
        let [query, key, value] = self.projections().map(Linear::affine);
        // One product, where it is one of the same states.
        let [queries, keys, values] = match query_states {
            None => hidden_states.products_then([query, key, value], |_| ()),
            Some(query_states) => {
                let [queries] = query_states.products_then([query], |_| ());
                let [keys, values] = hidden_states.products_then([key, value], |_| ());
                [queries, keys, values]
            }
        };
        let context = self.fused([&queries, &keys, &values], relative_rows, plan);
        [queries, keys, values].into_iter().for_each(Panels::give);
        context
    }

    /// The projections of content: query, key and value.
    pub(crate) fn projections(&self) -> [&Linear<'w, T>; 3] {
        [&self.query_proj, &self.key_proj, &self.value_proj]
    }

    /// PosK and PosQ, as far as this attention uses them.
    fn projected(&self, rows: Option<&Array2<T>>, trace: &mut Trace<'_, T>) -> Option<&Projected<T>> {
        let (position, rows) = (self.position.as_ref()?, rows?);
        trace.emit("pos_dropout", rows.view());
        let projected = position.projected.get_or_init(|| {
            let key_proj = position.key_proj.as_ref().unwrap_or(&self.key_proj);
            let query_proj = position.query_proj.as_ref().unwrap_or(&self.query_proj);
            Projected {
                keys: position.c2p.then(|| key_proj.forward(rows.view())),
                queries: position.p2c.then(|| query_proj.forward(rows.view())),
            }
        });
        // Under these names also where the projection is the content's, so that the two calls can be told apart.
        for (name, rows) in [("pos_key_proj", &projected.keys), ("pos_query_proj", &projected.queries)] {
            if let Some(rows) = rows {
                emit_rows(trace, name, rows, 1);
            }
        }
        Some(projected)
    }
}

/// One attention by itself, with query states of its own and any number of them: for study, and for checking a port
/// against the `DisentangledSelfAttention` of a reference.
pub struct SelfAttention<'w, T: Clone> {
    config: DebertaV2Config,
    profile: Profile,
    attention: DisentangledSelfAttention<'w, T>,
}

/// What [`SelfAttention::forward`] is asked.
#[derive(Clone, Debug)]
pub struct AttentionInputs<T> {
    /// What keys and values are made of, [B, K, E].
    pub hidden_states: Array3<T>,
    /// What queries are made of, [B, Q, E]; absent: the hidden states.
    pub query_states: Option<Array3<T>>,
    /// Which key each query may attend to, [B, Q, K].
    pub attention_mask: Array3<bool>,
    /// The relative rows, already normalized, [2S, E]; needed with `relative_attention`.
    pub rel_embeddings: Option<Array2<T>>,
}

impl<'w, T: Real> SelfAttention<'w, T> {
    /// From arrays named `query_proj.weight`, `pos_key_proj.bias` and so on.
    ///
    /// # Errors
    /// [`ModelError::Weights`], which names every parameter that is missing or misshapen.
    pub fn new(
        config: DebertaV2Config,
        profile: Profile,
        arrays: BTreeMap<String, CowArray<'w, T, IxDyn>>,
    ) -> Result<Self, ModelError> {
        let mut weights = Weights::of_attention(&config, arrays)?;
        let attention = DisentangledSelfAttention::new(&config, &profile, &mut weights, ONLY_LAYER);
        Ok(Self { config, profile, attention })
    }

    /// The context [B, Q, E] and the probabilities [B, H, Q, K].
    ///
    /// # Errors
    /// Shapes that do not agree with the configuration or one another.
    pub fn forward(
        &self,
        inputs: &AttentionInputs<T>,
        trace: &mut Trace<'_, T>,
    ) -> Result<(Array3<T>, Array4<T>), ModelError> {
        let hidden = &inputs.hidden_states;
        let queries = inputs.query_states.as_ref().unwrap_or(hidden);
        let ((size, keys, width), (query_size, query_count, query_width)) = (hidden.dim(), queries.dim());
        if width != self.config.hidden_size || hidden.is_empty() {
            let expected = format!("[B, K, {}]", self.config.hidden_size);
            return Err(shape("hidden_states", expected, hidden.shape()));
        }
        if (query_size, query_width) != (size, width) || queries.is_empty() {
            return Err(shape("query_states", format!("[{size}, Q, {width}]"), queries.shape()));
        }
        if inputs.attention_mask.dim() != (size, query_count, keys) {
            let expected = format!("[{size}, {query_count}, {keys}]");
            return Err(shape("attention_mask", expected, inputs.attention_mask.shape()));
        }
        let rows = inputs.rel_embeddings.as_ref().filter(|_| self.config.relative_attention);
        let expected = [2 * self.config.att_span(), width];
        if self.config.relative_attention && rows.is_none_or(|rows| rows.shape() != expected) {
            let found = rows.map_or(&[][..], |rows| rows.shape());
            return Err(shape("rel_embeddings", format!("{expected:?}"), found));
        }
        let mask = AttentionMask::of_rows(inputs.attention_mask.clone());
        let positions = RelativePositions::new(&self.config, &self.profile, query_count, keys);
        let context = AttentionContext {
            size,
            mask: &mask,
            relative_rows: rows,
            positions: Some(&positions),
            keep_probabilities: true,
            fused: None,
        };
        let flat = |states: &Array3<T>, count: usize| {
            let rows = states.as_standard_layout().into_owned().into_shape_with_order((size * count, width));
            rows.expect("as many elements as before")
        };
        let (hidden, queries) = (flat(hidden, keys), flat(queries, query_count));
        let attended = self.attention.forward(hidden.view(), queries.view(), &context, trace);
        let states = attended.context.into_shape_with_order((size, query_count, width));
        let probabilities = attended.probabilities.expect("asked for above");
        Ok((states.expect("as many rows as queries"), probabilities))
    }
}

/// s = √(D · (1 + \[c2p\] + \[p2c\])), by which scores are divided, rounded as the profile says.
pub fn attention_scale<T: Real>(config: &DebertaV2Config, profile: &Profile) -> T {
    let square = (config.head_size() * config.pos_att_type.scale_factor()) as f64;
    match profile.scale_rounding {
        ScaleRounding::F32 => T::of(f64::from(<f32 as Real>::of(square).sqrt())),
        ScaleRounding::Model => T::of(square.sqrt()),
    }
}
