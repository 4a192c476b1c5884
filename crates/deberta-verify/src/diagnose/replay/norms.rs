//! Layer norms, with the residuals before them.

use super::*;

impl Replay<'_, '_> {
    pub(super) fn normed(&mut self, node: Node) -> Option<ArrayD<f64>> {
        let sum = self.norm_input(node)?;
        let out = self.norm(node, &sum)?;
        if let Some(Mistake::Residual(Residual::AfterNorm, kind)) = self.mistake
            && *kind == node.kind
        {
            let residual = self.residual(node)?;
            return added(out, &residual);
        }
        Some(out)
    }

    pub(super) fn residual(&mut self, node: Node) -> Option<Shared> {
        match node.kind {
            Kind::Attention => self.query_states(node.at),
            Kind::Layer | Kind::Hidden => match self.mistake {
                Some(Mistake::Residual(Residual::FromLayerInput, kind)) if *kind == node.kind => {
                    self.query_states(node.at)
                }
                _ => self.at(Kind::Attention, node.at),
            },
            _ => None,
        }
    }

    pub(super) fn norm_input(&mut self, node: Node) -> Option<ArrayD<f64>> {
        use Kind::*;
        match node.kind {
            EmbeddingNorm => {
                let projects = self.world.expected.holds(Node::new(EmbedProj, 0))
                    || self.world.weight("deberta.embeddings.embed_proj.weight").is_some();
                Some((*self.at(if projects { EmbedProj } else { EmbeddingSum }, 0)?).clone())
            }
            RelativeNorm => Some((*self.at(RelativeRows, 0)?).clone()),
            Attention | Layer | Hidden => {
                let dense = self.at(if node.kind == Attention { AttentionDense } else { OutputDense }, node.at)?;
                match self.mistake {
                    Some(Mistake::Residual(Residual::Missing | Residual::AfterNorm, kind)) if *kind == node.kind => {
                        Some((*dense).clone())
                    }
                    _ => {
                        let residual = self.residual(node)?;
                        added((*dense).clone(), &residual)
                    }
                }
            }
            ConvolutionNorm => {
                let convolved = self.at(ConvolvedMasked, 0)?;
                let act = match self.mistake {
                    Some(Mistake::Act(wrong, ConvolutionNorm)) => *wrong,
                    _ => self.setting.convolution?.act,
                };
                let convolved = convolved.mapv(|x| act.apply(x));
                match self.mistake {
                    Some(Mistake::Convolution(Convolving::NoResidual)) => Some(convolved),
                    Some(Mistake::Convolution(Convolving::ResidualFromEmbeddings)) => {
                        let embeddings = self.at(Embeddings, 0)?;
                        added(convolved, &embeddings)
                    }
                    Some(Mistake::Convolution(Convolving::AfterLayer(i))) => {
                        let output = self.value(Node::layer(*i, self.world.depth))?;
                        added(convolved, &output)
                    }
                    _ => {
                        let layer = self.at(Layer, 0)?;
                        added(convolved, &layer)
                    }
                }
            }
            WordNorm => Some((*self.at(WordActivation, 0)?).clone()),
            ReplacedNorm => {
                let states = self.last_hidden()?;
                let first = states.slice_axis(Axis(1), (0..1).into()).to_owned();
                added((*states).clone(), &first)
            }
            _ => None,
        }
    }

    pub(super) fn norm(&self, node: Node, x: &ArrayD<f64>) -> Option<ArrayD<f64>> {
        let norming = match self.mistake {
            Some(Mistake::Norm(norming, place)) if place.is_none_or(|p| p == node.kind) => Some(*norming),
            _ => None,
        };
        if norming == Some(Norming::Missing) {
            return Some(x.clone());
        }
        let affine = self.affine(node)?;
        if norming == Some(Norming::VarianceOfSquares) {
            let (world, outside) = (self.world, Node::new(Kind::Embeddings, 0));
            let behind = || world.actual.get(outside, &world.batch).filter(|_| node.kind == Kind::EmbeddingNorm);
            let found = world.actual.get(node, &world.batch).or_else(behind)?;
            return layers::with_statistics_found(
                x,
                &affine,
                self.setting.eps,
                &found,
                world.actual_dtype.unit_roundoff(),
            );
        }
        layers::layer_norm(x, &affine, self.setting.eps, norming)
    }

    /// Weight and bias: the model's, or those that the expected dump shows.
    pub(super) fn affine(&self, node: Node) -> Option<Affine> {
        use Kind::*;
        let name = match node.kind {
            EmbeddingNorm => "deberta.embeddings.LayerNorm".to_owned(),
            RelativeNorm => "deberta.encoder.LayerNorm".to_owned(),
            Attention => format!("{}.attention.output.LayerNorm", self.world.layer(node.at)),
            Layer | Hidden => format!("{}.output.LayerNorm", self.world.layer(node.at)),
            ConvolutionNorm => "deberta.encoder.conv.LayerNorm".to_owned(),
            WordNorm => match self.word_head() {
                "cls.predictions.transform" => "cls.predictions.transform.LayerNorm".to_owned(),
                head => format!("{head}.LayerNorm"),
            },
            ReplacedNorm => "mask_predictions.LayerNorm".to_owned(),
            _ => return None,
        };
        let vector = |a: Shared| Array1::from_iter(a.iter().copied());
        if let Some(weight) = self.world.weight(&format!("{name}.weight")) {
            let bias = self.world.weight(&format!("{name}.bias"))?;
            return Some(Affine { weight: vector(weight), bias: vector(bias) });
        }
        let out = self.world.expected.get(node, &self.world.batch)?;
        let sum = Replay::new(self.world, Side::Expected, None).norm_input(node)?;
        layers::fitted_affine(&sum, &out, self.setting.eps, FITTED_AFFINE)
    }
}

/// How well weight and bias of a layer norm must reproduce it to be believed.
const FITTED_AFFINE: f64 = crate::budget::FITTED;
