//! Dense layers, their activations, and the convolution.

use super::*;

impl Replay<'_, '_> {
    /// What a dense layer reads.
    pub fn read_by(&mut self, node: Node) -> Option<Shared> {
        use Kind::*;
        let at = node.at;
        match node.kind {
            EmbedProj => self.at(EmbeddingSum, 0),
            Query => self.query_states(at),
            Key | Value => self.key_states(at),
            PositionKey | PositionQuery => match self.mistake {
                // What the norm's module returned need not be what is projected.
                Some(Mistake::Relative(_)) => self.relative_norm(at).map(Rc::new),
                _ => self.at(RelativeNorm, 0),
            },
            AttentionDense => self.at(Context, at),
            InnerDense => self.at(Attention, at),
            OutputDense => self.at(Inner, at),
            PoolerDense => self.pooled_states().map(Rc::new),
            WordDense => self.word_states(),
            ReplacedDense => self.at(ReplacedNorm, 0),
            Spans => self.last_hidden(),
            _ => None,
        }
    }

    pub(super) fn dense(&self, node: Node, x: &ArrayD<f64>) -> Option<ArrayD<f64>> {
        // The projection whose weights this is computed with.
        let own = match node.kind {
            Kind::PositionKey if self.setting.share => Kind::Key,
            Kind::PositionQuery if self.setting.share => Kind::Query,
            kind => kind,
        };
        let wrong = match self.mistake {
            Some(Mistake::Dense(wrong, kind)) if [own, node.kind].contains(kind) => Some(*wrong),
            Some(Mistake::Exchanged(a, b)) if *a == own => Some(Weighing::Instead(*b)),
            Some(Mistake::Exchanged(a, b)) if *b == own => Some(Weighing::Instead(*a)),
            Some(Mistake::Thirds { .. }) if matches!(own, Kind::Query | Kind::Key | Kind::Value) => {
                return self.thirds(Node::new(own, node.at), x);
            }
            Some(Mistake::AllTransposed) if node.kind != Kind::EmbedProj => Some(Weighing::Transposed),
            _ => None,
        };
        if self.mistake == Some(&Mistake::AllTransposed) && !self.is_square(node) {
            return self.dense_with(node, x, None);
        }
        self.dense_with(node, x, wrong)
    }

    pub(super) fn is_square(&self, node: Node) -> bool {
        let name = self.parameter(node, None).map(|n| format!("{n}.weight"));
        let weight = name.and_then(|n| self.world.weight(&n));
        weight.is_some_and(|w| w.ndim() == 2 && w.shape()[0] == w.shape()[1])
    }

    pub(super) fn dense_with(&self, node: Node, x: &ArrayD<f64>, wrong: Option<Weighing>) -> Option<ArrayD<f64>> {
        let name = self.parameter(node, wrong)?;
        let (weight, bias) =
            (self.world.weight(&format!("{name}.weight"))?, self.world.weight(&format!("{name}.bias")));
        let bias = bias.filter(|_| wrong != Some(Weighing::NoBias));
        if wrong == Some(Weighing::Transposed) {
            let square = weight.ndim() == 2 && weight.shape()[0] == weight.shape()[1];
            return square.then(|| layers::linear(x, &weight.t().to_owned(), bias.as_deref())).flatten();
        }
        layers::linear(x, &weight, bias.as_deref())
    }

    /// The name of a dense layer's parameters.
    pub fn parameter(&self, node: Node, wrong: Option<Weighing>) -> Option<String> {
        use Kind::*;
        let world = self.world;
        let mut at = node.at;
        let mut kind = node.kind;
        match wrong {
            Some(Weighing::OtherLayer(by)) if at < Node::DECODER => at = usize::try_from(at as i64 + by).ok()?,
            Some(Weighing::Instead(other)) => kind = other,
            Some(Weighing::OtherShared) => kind = if kind == PositionKey { PositionQuery } else { PositionKey },
            _ => {}
        }
        let of_layer = |name: &str| Some(format!("{}.{name}", world.layer(at)));
        match kind {
            Query => of_layer("attention.self.query_proj"),
            Key => of_layer("attention.self.key_proj"),
            Value => of_layer("attention.self.value_proj"),
            PositionKey if self.setting.share => of_layer("attention.self.key_proj"),
            PositionQuery if self.setting.share => of_layer("attention.self.query_proj"),
            PositionKey => of_layer("attention.self.pos_key_proj"),
            PositionQuery => of_layer("attention.self.pos_query_proj"),
            AttentionDense => of_layer("attention.output.dense"),
            InnerDense => of_layer("intermediate.dense"),
            OutputDense => of_layer("output.dense"),
            EmbedProj => Some("deberta.embeddings.embed_proj".to_owned()),
            PoolerDense => Some("pooler.dense".to_owned()),
            WordDense => Some(format!("{}.dense", self.word_head())),
            ReplacedDense => Some("mask_predictions.dense".to_owned()),
            Spans => Some("qa_outputs".to_owned()),
            _ => None,
        }
    }

    /// Query, key and value weights interleaved by head, split in thirds.
    pub(super) fn thirds(&self, node: Node, x: &ArrayD<f64>) -> Option<ArrayD<f64>> {
        use Kind::*;
        let world = self.world;
        let weights = [Query, Key, Value]
            .map(|k| self.parameter(Node::new(k, node.at), None).and_then(|n| world.weight(&format!("{n}.weight"))));
        let [q, k, v] = weights;
        let weights = [q?, k?, v?];
        let width = weights[0].shape()[0];
        let heads = self.setting.heads;
        if weights.iter().any(|w| w.ndim() != 2 || w.shape()[0] != width) || width % heads != 0 {
            return None;
        }
        let d = width / heads;
        let third = [Query, Key, Value].iter().position(|k| *k == node.kind)?;
        let own = &weights[third];
        let source = |row: usize| {
            let row = third * width + row;
            (row % (3 * d) / d, row / (3 * d) * d + row % d)
        };
        let mixed = ArrayD::from_shape_fn(own.raw_dim(), |index| {
            let (part, row) = source(index[0]);
            weights[part][[row, index[1]]]
        });
        let bias = |kind| {
            let name = self.parameter(Node::new(kind, node.at), None)?;
            self.world.weight(&format!("{name}.bias")).filter(|b| b.len() == width)
        };
        let bias = if self.mistake == Some(&Mistake::Thirds { biases: true }) {
            let biases = [bias(Query)?, bias(Key)?, bias(Value)?];
            let mixed = ArrayD::from_shape_fn(IxDyn(&[width]), |index| {
                let (part, row) = source(index[0]);
                biases[part][[row]]
            });
            Some(Rc::new(mixed))
        } else {
            bias(node.kind)
        };
        layers::linear(x, &mixed, bias.as_deref())
    }

    pub(super) fn activated(&mut self, from: Kind, kind: Kind, at: usize, act: Act) -> Option<ArrayD<f64>> {
        let act = match self.mistake {
            Some(Mistake::Act(wrong, place)) if *place == kind => *wrong,
            _ => act,
        };
        Some(self.at(from, at)?.mapv(|x| act.apply(x)))
    }

    pub(super) fn hidden(&mut self, at: usize) -> Option<ArrayD<f64>> {
        let wrong = if let Some(Mistake::Convolution(c)) = self.mistake { Some(*c) } else { None };
        let convolves = self.setting.convolution.is_some();
        if at == 0 && convolves {
            if matches!(wrong, Some(Convolving::Missing | Convolving::AfterLayer(_))) {
                return Some((*self.at(Kind::Layer, 0)?).clone());
            }
            let mut out = (*self.at(Kind::ConvolutionNorm, 0)?).clone();
            if wrong != Some(Convolving::OutputNotMasked) {
                self.mask(&mut out)?;
            }
            return Some(out);
        }
        let layer = self.normed(Node::new(Kind::Hidden, at))?;
        let again = match wrong {
            Some(Convolving::EveryLayer) => at > 0,
            Some(Convolving::AfterLayer(i)) => at == i,
            _ => false,
        };
        if !(convolves && again) {
            return Some(layer);
        }
        let convolved = self.convolution(Kind::ConvolvedMasked, 1)?;
        let act = self.setting.convolution?.act;
        let sum = added(convolved.mapv(|x| act.apply(x)), &layer)?;
        let mut out = self.norm(Node::new(Kind::ConvolutionNorm, 0), &sum)?;
        self.mask(&mut out)?;
        Some(out)
    }

    /// `again` computes it anew, where a mistake has it in another place.
    pub(super) fn convolution(&mut self, kind: Kind, again: usize) -> Option<ArrayD<f64>> {
        let wrong = if let Some(Mistake::Convolution(c)) = self.mistake { Some(*c) } else { None };
        if kind == Kind::ConvolvedMasked {
            let mut out = match again {
                0 => (*self.at(Kind::Convolved, 0)?).clone(),
                _ => self.convolution(Kind::Convolved, again)?,
            };
            if wrong != Some(Convolving::Unmasked) {
                self.mask(&mut out)?;
            }
            return Some(out);
        }
        let from = if wrong == Some(Convolving::FromLayerOutput) { Kind::Layer } else { Kind::Embeddings };
        let states = self.at(from, 0)?;
        let weight = self.world.weight("deberta.encoder.conv.conv.weight")?;
        let no_bias = self.mistake == Some(&Mistake::Dense(Weighing::NoBias, Kind::Convolved));
        let bias = self.world.weight("deberta.encoder.conv.conv.bias").filter(|_| !no_bias);
        layers::convolve(&states, &weight, bias.as_deref(), self.setting.convolution?.groups, self.mistake)
    }
}
