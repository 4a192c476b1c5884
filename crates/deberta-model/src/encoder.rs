//! The stack of layers over one set of relative rows (`DebertaV2Encoder`).
//!
//! The relative rows are layer-normed once, if at all, and are the same for every layer; so are the relative positions,
//! which depend on the lengths alone. The convolution stands after layer 0.

use std::sync::OnceLock;

use deberta_ops::{Panels, Real, recycle};
use ndarray::{Array2, Array4, CowArray, Ix2};

use crate::config::DebertaV2Config;
use crate::conv_layer::ConvLayer;
use crate::disentangled_attention::{AttentionContext, Plan};
use crate::inputs::{AttentionMask, Batch};
use crate::layer::Layer;
use crate::model::Keep;
use crate::profile::Profile;
use crate::relative_position::RelativePositions;
use crate::trace::Trace;
use crate::weights::{LayerNorm, Weights};

pub(crate) struct Encoder<'w, T: Clone> {
    pub(crate) layers: Vec<Layer<'w, T>>,
    conv: Option<ConvLayer<'w, T>>,
    relative: Option<Relative<'w, T>>,
}

struct Relative<'w, T: Clone> {
    embeddings: CowArray<'w, T, Ix2>,
    layer_norm: Option<LayerNorm<'w, T>>,
    /// The rows after their layer norm, which never change.
    rows: OnceLock<Array2<T>>,
}

/// What an encoder leaves behind.
pub(crate) struct Encoded<T> {
    /// The output of the last layer, [B·L, E].
    pub(crate) last: Array2<T>,
    /// The output of the layer before it: the embeddings, where there is one layer.
    pub(crate) before_last: Array2<T>,
    /// The outputs of all layers, if kept.
    pub(crate) hidden_states: Vec<Array2<T>>,
    /// The probabilities of all layers, [B, H, L, L], if kept.
    pub(crate) attentions: Vec<Array4<T>>,
}

impl<'w, T: Real> Encoder<'w, T> {
    pub(crate) fn new(config: &DebertaV2Config, profile: &Profile, weights: &mut Weights<'w, T>) -> Self {
        let at = "deberta.encoder";
        let layer_norm =
            config.normalizes_relative().then(|| weights.layer_norm(&format!("{at}.LayerNorm"), config.layer_norm_eps));
        Self {
            layers: (0..config.num_hidden_layers).map(|i| Layer::new(config, profile, weights, i)).collect(),
            conv: ConvLayer::new(config, weights),
            relative: config.relative_attention.then(|| Relative {
                embeddings: weights.take(&format!("{at}.rel_embeddings.weight")),
                layer_norm,
                rows: OnceLock::new(),
            }),
        }
    }

    /// The relative rows as every layer sees them, [R, E].
    pub(crate) fn relative_rows(&self) -> Option<&Array2<T>> {
        let relative = self.relative.as_ref()?;
        Some(relative.rows.get_or_init(|| match &relative.layer_norm {
            Some(norm) => norm.forward(relative.embeddings.view()),
            None => relative.embeddings.to_owned(),
        }))
    }

    /// What every attention over this batch needs.
    pub(crate) fn context<'a>(
        &'a self,
        mask: &'a AttentionMask,
        positions: Option<&'a RelativePositions>,
        size: usize,
        keep_probabilities: bool,
        fused: Option<&'a Plan>,
    ) -> AttentionContext<'a, T> {
        AttentionContext { size, mask, relative_rows: self.relative_rows(), positions, keep_probabilities, fused }
    }

    /// # Shapes
    /// `embeddings` [B·L, E].
    pub(crate) fn forward(
        &self,
        embeddings: &Array2<T>,
        batch: &Batch<T>,
        positions: Option<&RelativePositions>,
        keep: Keep,
        fused: Option<&Plan>,
        trace: &mut Trace<'_, T>,
    ) -> Encoded<T> {
        trace.within("encoder", |trace| {
            if let Some((rows, _)) =
                self.relative_rows().zip(self.relative.as_ref().and_then(|r| r.layer_norm.as_ref()))
            {
                trace.emit("LayerNorm", rows.view());
            }
            let context = self.context(&batch.mask, positions, batch.size, keep.attentions, fused);
            if let Some(plan) = self.unseen_plan(embeddings.nrows(), fused) {
                return self.unseen(embeddings, batch, keep, &context, plan);
            }
            let mut encoded = Encoded {
                last: embeddings.clone(),
                before_last: Array2::zeros((0, 0)),
                hidden_states: Vec::new(),
                attentions: Vec::new(),
            };
            for (i, layer) in self.layers.iter().enumerate() {
                let states = encoded.last.view();
                let (mut out, probabilities) =
                    trace.within(&format!("layer.{i}"), |trace| layer.forward(states, states, &context, trace));
                if let Some(conv) = self.conv.as_ref().filter(|_| i == 0) {
                    out = conv.forward(embeddings.view(), out, batch, trace);
                }
                encoded.attentions.extend(probabilities);
                if keep.hidden_states {
                    encoded.hidden_states.push(out.clone());
                }
                recycle(std::mem::replace(&mut encoded.before_last, std::mem::replace(&mut encoded.last, out)));
            }
            batch.emit(trace, "", &encoded.last);
            encoded
        })
    }

    /// The plan, where every layer can be computed [unseen](Layer::unseen) over so many rows.
    pub(crate) fn unseen_plan<'p>(&self, rows: usize, plan: Option<&'p Plan>) -> Option<&'p Plan> {
        plan.filter(|_| self.layers.iter().all(|layer| layer.can_be_unseen(rows)))
    }

    /// The same where nobody looks inside: states stay in panels from layer to layer.
    fn unseen(
        &self,
        embeddings: &Array2<T>,
        batch: &Batch<T>,
        keep: Keep,
        context: &AttentionContext<'_, T>,
        plan: &Plan,
    ) -> Encoded<T> {
        let mut before_last = Panels::unwritten(0, 0);
        let mut last = Panels::of(embeddings.view());
        let mut hidden_states = Vec::new();
        for (i, layer) in self.layers.iter().enumerate() {
            let mut out = layer.unseen(&last, None, context, plan);
            if let Some(conv) = self.conv.as_ref().filter(|_| i == 0) {
                let convolved = conv.forward(embeddings.view(), out.to_rows(), batch, &mut Trace::off());
                std::mem::replace(&mut out, Panels::of(convolved.view())).give();
            }
            if keep.hidden_states {
                hidden_states.push(out.to_rows());
            }
            std::mem::replace(&mut before_last, std::mem::replace(&mut last, out)).give();
        }
        let encoded =
            Encoded { last: last.to_rows(), before_last: before_last.to_rows(), hidden_states, attentions: Vec::new() };
        last.give();
        before_last.give();
        encoded
    }
}
