//! The stack of layers over one set of relative rows.

use deberta_model::{DebertaV2Config, Profile, Trace};

use crate::conv_layer::ConvLayer;
use crate::device::{Device, Memory};
use crate::error::CudaError;
use crate::layer::Layer;
use crate::pass::Pass;
use crate::tensors::Rows;
use crate::weights::Loader;

pub(crate) struct Encoder<M> {
    pub(crate) layers: Vec<Layer<M>>,
    conv: Option<ConvLayer<M>>,
}

/// What an encoder leaves behind.
pub(crate) struct Encoded<M> {
    /// The embeddings and the output of each layer, as far as they are kept; always the last two, [N, E] each.
    states: Vec<Rows<M>>,
    /// The probabilities of all layers, [B·H·L, L] each, if kept.
    pub(crate) attentions: Vec<Rows<M>>,
}

impl<M> Encoded<M> {
    /// The output of the last layer.
    pub(crate) fn last(&self) -> &Rows<M> {
        &self.states[self.states.len() - 1]
    }

    /// The output of the layer before it: the embeddings, where there is one layer.
    pub(crate) fn before_last(&self) -> &Rows<M> {
        &self.states[self.states.len() - 2]
    }

    /// All that were kept, the embeddings first.
    pub(crate) fn states(&self) -> &[Rows<M>] {
        &self.states
    }
}

impl<M: Memory> Encoder<M> {
    pub(crate) fn new<D: Device<Memory = M>>(
        config: &DebertaV2Config,
        profile: &Profile,
        loader: &mut Loader<'_, '_, D>,
    ) -> Result<Self, CudaError> {
        let relative = relative_rows(config, loader)?;
        let layers = (0..config.num_hidden_layers)
            .map(|i| Layer::new(config, profile, loader, relative.as_ref(), i))
            .collect::<Result<_, _>>()?;
        Ok(Self { layers, conv: ConvLayer::new(config, loader)? })
    }

    /// # Shapes
    /// `embeddings` [N, E].
    pub(crate) fn forward<D: Device<Memory = M>>(
        &self,
        embeddings: Rows<M>,
        pass: &Pass<'_, D>,
        trace: &mut Trace<'_, f32>,
    ) -> Result<Encoded<M>, CudaError> {
        trace.within("encoder", |trace| {
            let mut encoded = Encoded { states: vec![embeddings], attentions: Vec::new() };
            for (i, layer) in self.layers.iter().enumerate() {
                let states = encoded.last().view();
                let (mut out, probabilities) =
                    trace.within(&format!("layer.{i}"), |trace| layer.forward(states, None, pass, trace))?;
                if let Some(conv) = self.conv.as_ref().filter(|_| i == 0) {
                    out = conv.forward(states, out.view(), pass, trace)?;
                }
                encoded.attentions.extend(probabilities);
                if !pass.keep.hidden_states && encoded.states.len() == 2 {
                    encoded.states.remove(0);
                }
                encoded.states.push(out);
            }
            pass.emit(trace, "", encoded.last())?;
            Ok(encoded)
        })
    }
}

/// The relative rows as every layer sees them, [R, E].
fn relative_rows<D: Device>(
    config: &DebertaV2Config,
    loader: &mut Loader<'_, '_, D>,
) -> Result<Option<Rows<D::Memory>>, CudaError> {
    let at = "deberta.encoder";
    let layer_norm = config.normalizes_relative().then(|| loader.layer_norm(&format!("{at}.LayerNorm"))).transpose()?;
    if !config.relative_attention {
        return Ok(None);
    }
    let rows = loader.table(&format!("{at}.rel_embeddings.weight"))?;
    let Some(norm) = layer_norm else {
        return Ok(Some(rows));
    };
    let normed = Rows::new(loader.ops, rows.count(), rows.width())?;
    loader.ops.layer_norm(&normed.view(), &rows.view(), None, None, &norm.view(), None)?;
    Ok(Some(normed))
}
