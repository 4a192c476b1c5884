//! Computes any step of the model from the dumps, with one mistake or none.
//!
//! The value of a step is what the actual dump holds of it. What it does not hold is computed from the steps before, with
//! the mistake, so that a mistake between two dumped tensors is carried to the second. What cannot be computed, because
//! its weights are not known, is taken from the expected dump: before the first divergence that is the same, but for
//! rounding.

use std::collections::BTreeMap;
use std::rc::Rc;

use ndarray::{Array1, ArrayD, Axis, IxDyn, s};

use super::attention::{self, Sides};
use super::layers::{self, Affine};
use super::mistake::{Convolving, Decoding, Embedding, Gather, Mistake, Norming, Pooling, Residual, Rows, Weighing};
use super::node::{Kind, Node};
use super::setting::{Act, Setting};
use super::world::{Shared, World, flat};

/// Whose values steps have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The expected dump's: to see whether the formulas are those of the model.
    Expected,
    /// The actual dump's.
    Actual,
}

/// One run through the formulas.
pub struct Replay<'w, 'a> {
    world: &'w World<'a>,
    side: Side,
    setting: &'w Setting,
    mistake: Option<&'w Mistake>,
    computed: BTreeMap<Node, Computed>,
    /// Steps computed without a mistake.
    right: Option<&'w Replay<'w, 'a>>,
    /// What the step that is being computed rests on.
    rests_on: Foundation,
    depth: usize,
}

/// A computed step.
#[derive(Clone)]
struct Computed {
    value: Option<Shared>,
    rests_on: Foundation,
}

/// What a step rests on.
#[derive(Clone, Copy, Default)]
struct Foundation {
    /// The kinds of steps that were computed on the way to it, a bit each.
    kinds: u64,
    /// Whether something that only the expected dump holds was used.
    borrowed: bool,
}

impl Foundation {
    fn of(kind: Kind) -> Self {
        Self { kinds: 1 << kind as u32, borrowed: false }
    }

    fn add(&mut self, other: Self) {
        self.kinds |= other.kinds;
        self.borrowed |= other.borrowed;
    }

    fn is_touched_by(self, mistake: &Mistake) -> bool {
        Kind::ALL.iter().any(|&kind| self.kinds & (1 << kind as u32) != 0 && mistake.acts_at(kind))
    }
}

/// Word embeddings of more elements than this are not widened to predict words.
const LARGEST_TABLE: usize = 1 << 25;

/// A model of a thousand layers of which nothing was dumped is not followed further than this.
const DEEPEST: usize = 400;

impl<'w, 'a> Replay<'w, 'a> {
    pub fn new(world: &'w World<'a>, side: Side, mistake: Option<&'w Mistake>) -> Self {
        Self {
            world,
            side,
            setting: &world.setting,
            mistake,
            computed: BTreeMap::new(),
            right: None,
            rests_on: Foundation::default(),
            depth: 0,
        }
    }

    /// With other numbers of the model.
    pub fn under(self, setting: &'w Setting) -> Self {
        Self { setting, ..self }
    }

    /// Takes steps that the mistake does not touch from a run without one.
    pub fn after(self, right: &'w Self) -> Self {
        Self { right: Some(right), ..self }
    }

    /// Whether what was predicted rests on a formula that the mistake changes.
    pub fn is_touched_by(&self, mistake: &Mistake) -> bool {
        self.rests_on.is_touched_by(mistake)
    }

    /// Whether something that only the expected dump holds was used.
    pub fn borrowed(&self) -> bool {
        self.rests_on.borrowed
    }

    /// A step computed, whatever the dump holds of it.
    pub fn predict(&mut self, node: Node) -> Option<Shared> {
        self.rests_on = Foundation::of(node.kind);
        self.derive(node).map(Rc::new)
    }

    /// The value of a step as the steps after it see it.
    fn value(&mut self, node: Node) -> Option<Shared> {
        let world = self.world;
        let own = match self.side {
            Side::Actual => &world.actual,
            Side::Expected => &world.expected,
        };
        if let Some(found) = own.get(node, &world.batch) {
            return Some(found);
        }
        if let Some(known) = self.known(node) {
            self.rests_on.add(known.rests_on);
            return known.value;
        }
        if self.depth > DEEPEST {
            return None;
        }
        self.depth += 1;
        let before = std::mem::replace(&mut self.rests_on, Foundation::of(node.kind));
        let mut value = self.derive(node).map(Rc::new);
        self.depth -= 1;
        if value.is_none() && self.side == Side::Actual {
            value = world.expected.get(node, &world.batch);
            self.rests_on = Foundation { kinds: 0, borrowed: value.is_some() };
        }
        let rests_on = std::mem::replace(&mut self.rests_on, before);
        self.rests_on.add(rests_on);
        self.computed.insert(node, Computed { value: value.clone(), rests_on });
        value
    }

    /// A step computed before, here or without the mistake.
    fn known(&self, node: Node) -> Option<Computed> {
        if let Some(computed) = self.computed.get(&node) {
            return Some(computed.clone());
        }
        let right = self.right?.computed.get(&node)?;
        let untouched = self.mistake.is_none_or(|m| !right.rests_on.is_touched_by(m));
        untouched.then(|| right.clone())
    }

    fn at(&mut self, kind: Kind, at: usize) -> Option<Shared> {
        self.value(Node::new(kind, at))
    }

    fn derive(&mut self, node: Node) -> Option<ArrayD<f64>> {
        use Kind::*;
        let Node { kind, at } = node;
        match kind {
            Word | Position | TokenType | EmbeddingSum | Embeddings => self.embedding(kind),
            EmbedProj | Query | Key | Value | PositionKey | PositionQuery | AttentionDense | InnerDense
            | OutputDense | PoolerDense | WordDense | ReplacedDense | Spans => {
                let x = self.read_by(node)?;
                self.dense(node, &x)
            }
            RelativeRows => self.relative_rows(),
            RelativeNorm => self.relative_norm(at),
            C2c | C2p | P2c => self.term(kind, at),
            Scores => self.scores(at),
            Probabilities => {
                let scores = self.at(Scores, at)?;
                let dtype = self.world.actual_dtype;
                let round = |x| dtype.round(x);
                attention::probabilities(self.setting, &self.world.batch, &scores, round, self.mistake)
            }
            Context => {
                let probabilities = self.at(Probabilities, at)?;
                let from = if self.mistake == Some(&Mistake::ContextFromKeys) { Key } else { Value };
                let values = self.at(from, at)?;
                attention::context(self.setting, &probabilities, &values, self.mistake)
            }
            Inner => self.activated(InnerDense, kind, at, self.setting.act),
            Attention | EmbeddingNorm | ConvolutionNorm | WordNorm | ReplacedNorm => self.normed(node),
            Layer => self.normed(node),
            Hidden => self.hidden(at),
            Convolved | ConvolvedMasked => self.convolution(kind, 0),
            DecoderStates => self.decoder_states(),
            Pooled => self.activated(PoolerDense, kind, 0, self.setting.pooler_act),
            WordActivation => self.activated(WordDense, kind, 0, self.setting.act),
            ReplacedActivation => self.activated(ReplacedDense, kind, 0, self.setting.act),
            StartLogits | EndLogits => {
                let spans = self.at(Spans, 0)?;
                let column = usize::from(kind == EndLogits);
                (spans.ndim() == 3 && spans.shape()[2] == 2).then(|| spans.index_axis(Axis(2), column).to_owned())
            }
            Logits => self.logits(),
        }
    }

    // Embeddings

    fn embedding(&mut self, kind: Kind) -> Option<ArrayD<f64>> {
        use Kind::*;
        let world = self.world;
        let (size, length) = (world.batch.size(), world.batch.length);
        let wrong = if let Some(Mistake::Embedding(e)) = self.mistake { Some(*e) } else { None };
        let rows = |table: &str, ids: &[usize]| {
            let rows = world.rows(&format!("deberta.embeddings.{table}.weight"), ids)?;
            let width = rows.ncols();
            rows.into_shape_with_order(IxDyn(&[size, length, width])).ok()
        };
        let zeros = |kind| {
            let mut shape = world.expected.shape(Node::new(kind, 0))?.to_vec();
            if shape.first() == Some(&world.batch.whole) {
                shape[0] = size;
            }
            Some(ArrayD::zeros(IxDyn(&shape)))
        };
        match kind {
            Word => rows("word_embeddings", world.batch.ids.as_ref()?),
            TokenType if wrong == Some(Embedding::NoTypes) => zeros(kind),
            Position if wrong == Some(Embedding::NoPositions) => zeros(kind),
            TokenType => {
                let zero = vec![0; size * length];
                let given = world.batch.types.as_ref().filter(|_| wrong != Some(Embedding::TypeZero));
                rows("token_type_embeddings", given.unwrap_or(&zero))
            }
            Position => {
                let start = match wrong {
                    Some(Embedding::PositionsFrom(start)) => start,
                    Some(Embedding::PositionsFromPadding) => self.setting.pad_token_id + 1,
                    _ => 0,
                };
                if let Some(given) = world.batch.positions.as_ref().filter(|_| start == 0) {
                    return rows("position_embeddings", given);
                }
                // The same for every sequence: [1, L, E′].
                let counted: Vec<usize> = (start..start + length).collect();
                let rows = world.rows("deberta.embeddings.position_embeddings.weight", &counted)?;
                Some(rows.insert_axis(Axis(0)).into_dyn())
            }
            EmbeddingSum => self.embedding_sum(wrong),
            _ => {
                let mut out = (*self.at(EmbeddingNorm, 0)?).clone();
                if wrong != Some(Embedding::NotMasked) {
                    self.mask(&mut out)?;
                }
                Some(out)
            }
        }
    }

    fn embedding_sum(&mut self, wrong: Option<Embedding>) -> Option<ArrayD<f64>> {
        use Kind::*;
        let world = self.world;
        let mut sum = (*self.at(Word, 0)?).clone();
        if wrong == Some(Embedding::Scaled) {
            sum *= (*sum.shape().last()? as f64).sqrt();
        }
        let positions = match wrong {
            Some(Embedding::NoPositions) => false,
            Some(Embedding::PositionsAdded) => true,
            _ => self.setting.position_biased,
        };
        if positions {
            let moved = matches!(wrong, Some(Embedding::PositionsFrom(_) | Embedding::PositionsFromPadding));
            let rows = if moved { self.embedding(Position).map(Rc::new) } else { self.at(Position, 0) }?;
            sum = added(sum, &rows)?;
        }
        let types = match wrong {
            Some(Embedding::NoTypes) => false,
            Some(Embedding::TypesAdded) => true,
            _ => self.setting.token_types,
        };
        if types && wrong == Some(Embedding::TypeZero) {
            let row = world.rows("deberta.embeddings.token_type_embeddings.weight", &[0])?;
            sum = added(sum, &row.into_dyn())?;
        } else if types {
            let rows = self.at(TokenType, 0)?;
            sum = added(sum, &rows)?;
        }
        Some(sum)
    }

    fn mask(&self, states: &mut ArrayD<f64>) -> Option<()> {
        let exists = &self.world.batch.exists;
        if states.ndim() != 3 || states.shape()[..2] != *exists.shape() {
            return None;
        }
        for ((b, i), &exists) in exists.indexed_iter() {
            if !exists {
                states.slice_mut(s![b, i, ..]).fill(0.0);
            }
        }
        Some(())
    }

    // Relative rows

    fn relative_rows(&self) -> Option<ArrayD<f64>> {
        let rows = self.world.weight("deberta.encoder.rel_embeddings.weight")?;
        let span = self.setting.relative.as_ref()?.span;
        (rows.ndim() == 2 && rows.shape()[0] >= 2 * span).then(|| rows.slice(s![..2 * span, ..]).to_owned().into_dyn())
    }

    /// `at` counts the layers that have normed them before, where a mistake does it in each.
    fn relative_norm(&mut self, at: usize) -> Option<ArrayD<f64>> {
        let rows = self.at(Kind::RelativeRows, 0)?;
        let wrong = if let Some(Mistake::Relative(r)) = self.mistake { Some(*r) } else { None };
        let right = usize::from(self.setting.norm_rel);
        let times = match wrong {
            Some(Rows::NoNorm) => 0,
            Some(Rows::NormAdded) => 1,
            Some(Rows::NormTwice) => 2 * right,
            Some(Rows::NormEachLayer) => right * (at + 1),
            _ => right,
        };
        let mut out = (*rows).clone();
        for _ in 0..times {
            out = self.norm(Node::new(Kind::RelativeNorm, 0), &out)?;
        }
        if wrong == Some(Rows::Reversed) {
            out.invert_axis(Axis(0));
            out = out.as_standard_layout().into_owned();
        }
        Some(out)
    }

    // Attention

    fn states_into(&mut self, at: usize) -> Option<Shared> {
        match at.checked_sub(1) {
            None => self.at(Kind::Embeddings, 0),
            Some(before) => self.at(Kind::Hidden, before),
        }
    }

    fn query_states(&mut self, at: usize) -> Option<Shared> {
        match at.checked_sub(Node::DECODER) {
            None => self.states_into(at),
            Some(0) => self.at(Kind::DecoderStates, 0),
            Some(pass) => self.at(Kind::Layer, Node::DECODER + pass - 1),
        }
    }

    fn key_states(&mut self, at: usize) -> Option<Shared> {
        if at < Node::DECODER {
            return self.states_into(at);
        }
        match self.mistake {
            Some(Mistake::Decoder(Decoding::KeysFromQueries)) => self.query_states(at),
            _ => self.before_decoder(),
        }
    }

    /// What the enhanced mask decoder reads: the states before the last layer.
    fn before_decoder(&mut self) -> Option<Shared> {
        let last = self.setting.layers.checked_sub(1)?;
        match self.mistake {
            Some(Mistake::Decoder(Decoding::LastLayer)) => self.at(Kind::Hidden, last),
            _ => self.states_into(last),
        }
    }

    fn decoder_states(&mut self) -> Option<ArrayD<f64>> {
        let mut states = (*self.before_decoder()?).clone();
        if self.mistake != Some(&Mistake::Decoder(Decoding::NoPositions)) {
            let rows = self.at(Kind::Position, 0)?;
            states = added(states, &rows)?;
        }
        if self.mistake == Some(&Mistake::Decoder(Decoding::NormedStates)) {
            return self.norm(Node::new(Kind::EmbeddingNorm, 0), &states);
        }
        Some(states)
    }

    fn term(&mut self, kind: Kind, at: usize) -> Option<ArrayD<f64>> {
        let (queries, keys) = (self.at(Kind::Query, at)?, self.at(Kind::Key, at)?);
        let other = matches!(
            (kind, self.mistake),
            (Kind::C2p, Some(Mistake::C2p(Gather::RowsOfTheOther)))
                | (Kind::P2c, Some(Mistake::P2c(Gather::RowsOfTheOther)))
        );
        let rows = match (kind, other) {
            (Kind::C2c, _) => None,
            (Kind::C2p, false) | (Kind::P2c, true) => Some(self.at(Kind::PositionKey, at)?),
            _ => Some(self.at(Kind::PositionQuery, at)?),
        };
        let sides = Sides { queries: &queries, keys: &keys, rows: rows.as_deref() };
        let mut term = attention::term(self.setting, kind, &sides, self.mistake)?;
        if let Some(Mistake::Terms(of)) = self.mistake
            && [Kind::C2c, Kind::C2p, Kind::P2c].iter().zip(of).any(|(k, weight)| *k == kind && *weight == 0.0)
        {
            term.fill(0.0);
        }
        Some(term)
    }

    fn scores(&mut self, at: usize) -> Option<ArrayD<f64>> {
        let weights = if let Some(Mistake::Terms(weights)) = self.mistake { *weights } else { [1.0; 3] };
        let setting = self.setting;
        let terms = [(Kind::C2c, true), (Kind::C2p, setting.c2p), (Kind::P2c, setting.p2c)];
        let mut sum: Option<ArrayD<f64>> = None;
        for ((kind, _), weight) in terms.into_iter().zip(weights).filter(|((_, on), _)| *on) {
            let term = self.at(kind, at)?;
            let weighed = &*term * weight;
            sum = Some(match sum {
                None => weighed,
                Some(sum) => added(sum, &weighed)?,
            });
        }
        sum
    }

    // Layers

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

    fn dense(&self, node: Node, x: &ArrayD<f64>) -> Option<ArrayD<f64>> {
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

    fn is_square(&self, node: Node) -> bool {
        let name = self.parameter(node, None).map(|n| format!("{n}.weight"));
        let weight = name.and_then(|n| self.world.weight(&n));
        weight.is_some_and(|w| w.ndim() == 2 && w.shape()[0] == w.shape()[1])
    }

    fn dense_with(&self, node: Node, x: &ArrayD<f64>, wrong: Option<Weighing>) -> Option<ArrayD<f64>> {
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
    fn parameter(&self, node: Node, wrong: Option<Weighing>) -> Option<String> {
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
    fn thirds(&self, node: Node, x: &ArrayD<f64>) -> Option<ArrayD<f64>> {
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

    fn activated(&mut self, from: Kind, kind: Kind, at: usize, act: Act) -> Option<ArrayD<f64>> {
        let act = match self.mistake {
            Some(Mistake::Act(wrong, place)) if *place == kind => *wrong,
            _ => act,
        };
        Some(self.at(from, at)?.mapv(|x| act.apply(x)))
    }

    fn hidden(&mut self, at: usize) -> Option<ArrayD<f64>> {
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
    fn convolution(&mut self, kind: Kind, again: usize) -> Option<ArrayD<f64>> {
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

    // Layer norms

    fn normed(&mut self, node: Node) -> Option<ArrayD<f64>> {
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

    fn residual(&mut self, node: Node) -> Option<Shared> {
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

    fn norm_input(&mut self, node: Node) -> Option<ArrayD<f64>> {
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

    fn norm(&self, node: Node, x: &ArrayD<f64>) -> Option<ArrayD<f64>> {
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
    fn affine(&self, node: Node) -> Option<Affine> {
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

    // Heads

    fn last_hidden(&mut self) -> Option<Shared> {
        let last = self.setting.layers.checked_sub(1)?;
        self.at(Kind::Hidden, last)
    }

    fn pooled_states(&mut self) -> Option<ArrayD<f64>> {
        let states = self.last_hidden()?;
        if states.ndim() != 3 {
            return None;
        }
        let wrong = if let Some(Mistake::Pooled(p)) = self.mistake { Some(*p) } else { None };
        Some(match wrong {
            None => states.index_axis(Axis(1), 0).to_owned(),
            Some(Pooling::Mean) => states.mean_axis(Axis(1))?,
            Some(Pooling::Last) => states.index_axis(Axis(1), states.shape()[1] - 1).to_owned(),
            Some(Pooling::Max) => states.fold_axis(Axis(1), f64::NEG_INFINITY, |m, x| m.max(*x)),
            Some(Pooling::MeanOfValid) => {
                let mut valid = (*states).clone();
                self.mask(&mut valid)?;
                let mut sums = valid.sum_axis(Axis(1));
                for (mut row, exists) in sums.axis_iter_mut(Axis(0)).zip(self.world.batch.exists.rows()) {
                    row /= exists.iter().filter(|e| **e).count().max(1) as f64;
                }
                sums
            }
        })
    }

    /// The parameters' prefix of the language-modelling head.
    fn word_head(&self) -> &'static str {
        let legacy = "cls.predictions.transform";
        if self.world.weight(&format!("{legacy}.dense.weight")).is_some() { legacy } else { "lm_predictions.lm_head" }
    }

    fn has_decoder(&self) -> bool {
        if self.setting.enhanced {
            return true;
        }
        let world = self.world;
        let passes = |store: &super::world::Store<'_>| {
            store.nodes().any(|n| n.at >= Node::DECODER || n.kind == Kind::DecoderStates)
        };
        passes(&world.expected) || passes(&world.actual)
    }

    fn word_states(&mut self) -> Option<Shared> {
        let wrong = if let Some(Mistake::Decoder(d)) = self.mistake { Some(*d) } else { None };
        let passes = match wrong {
            _ if !self.has_decoder() => 0,
            Some(Decoding::NoDecoder) => 0,
            Some(Decoding::OnePass) => 1,
            Some(Decoding::ThreePasses) => 3,
            _ => 2,
        };
        let states = match passes {
            0 => self.last_hidden(),
            passes => self.at(Kind::Layer, Node::DECODER + passes - 1),
        }?;
        // Microsoft predicts the labelled words alone.
        match self.world.batch.labelled.as_ref().filter(|_| self.has_decoder() && states.ndim() == 3) {
            Some(labelled) => {
                let rows = flat(&states)?.select(Axis(0), labelled);
                Some(Rc::new(rows.insert_axis(Axis(0)).into_dyn()))
            }
            None => Some(states),
        }
    }

    fn logits(&mut self) -> Option<ArrayD<f64>> {
        let world = self.world;
        let wrong = match self.mistake {
            Some(Mistake::Dense(wrong, Kind::Logits)) => Some(*wrong),
            _ => None,
        };
        let read = |name: &str| world.weight(name);
        let (states, weight, bias) = if let Some(weight) = read("mask_predictions.classifier.weight") {
            (self.at(Kind::ReplacedActivation, 0)?, weight, read("mask_predictions.classifier.bias"))
        } else if let Some(weight) = read("classifier.weight") {
            let pools = read("pooler.dense.weight").is_some();
            let states = if pools { self.at(Kind::Pooled, 0)? } else { self.last_hidden()? };
            (states, weight, read("classifier.bias"))
        } else {
            let states = self.at(Kind::WordNorm, 0)?;
            let width = *states.shape().last()?;
            let words = world.expected.shape(Node::new(Kind::Logits, 0)).and_then(|s| s.last().copied())?;
            if words.saturating_mul(width) > LARGEST_TABLE {
                return None;
            }
            let own = read("cls.predictions.decoder.weight");
            let bias = ["cls.predictions.bias", "lm_predictions.lm_head.bias"].into_iter().find_map(read);
            (states, own.or_else(|| read("deberta.embeddings.word_embeddings.weight"))?, bias)
        };
        let bias = bias.filter(|_| wrong != Some(Weighing::NoBias));
        if wrong == Some(Weighing::Transposed) {
            return None;
        }
        layers::linear(&states, &weight, bias.as_deref())
    }
}

/// How well weight and bias of a layer norm must reproduce it to be believed.
const FITTED_AFFINE: f64 = crate::budget::FITTED;

/// a + b, b repeated along axes where it has one row.
fn added(mut a: ArrayD<f64>, b: &ArrayD<f64>) -> Option<ArrayD<f64>> {
    let b = b.broadcast(a.raw_dim())?;
    a += &b;
    Some(a)
}
