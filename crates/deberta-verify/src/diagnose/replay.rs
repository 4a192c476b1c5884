//! Computes any step of the model from the dumps, with one mistake or none.
//!
//! The value of a step is what the actual dump holds of it. What it does not hold is computed from the steps before, with
//! the mistake, so that a mistake between two dumped tensors is carried to the second. What cannot be computed, because
//! its weights are not known, is taken from the expected dump: before the first divergence that is the same, but for
//! rounding.

mod dense;
mod embeddings;
mod heads;
mod norms;
mod scores;

use std::collections::BTreeMap;
use std::rc::Rc;

use ndarray::{Array1, ArrayD, Axis, IxDyn, s};

use super::attention::{self, Product, Sides};
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
    deepest: usize,
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
            deepest: DEEPEST,
        }
    }

    /// With other numbers of the model.
    pub fn under(self, setting: &'w Setting) -> Self {
        Self { setting, ..self }
    }

    /// Follows what the dump does not hold through this many steps at most.
    pub fn no_deeper_than(self, deepest: usize) -> Self {
        Self { deepest, ..self }
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

    /// How large the sums of a product are while they are added up, without its bias; the root of their mean square. `None`
    /// for steps that are none.
    pub fn partial_sums(&mut self, node: Node, order: Product) -> Option<ArrayD<f64>> {
        if let Kind::C2c | Kind::C2p | Kind::P2c = node.kind {
            return self.term(node.kind, node.at, order);
        }
        let x = self.read_by(node)?;
        let weight = self.world.weight(&format!("{}.weight", self.parameter(node, None)?))?;
        layers::times(&x, &weight, order)
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
        if self.depth >= self.deepest {
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
            C2c | C2p | P2c => self.term(kind, at, layers::product),
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
}

/// a + b, b repeated along axes where it has one row.
fn added(mut a: ArrayD<f64>, b: &ArrayD<f64>) -> Option<ArrayD<f64>> {
    let b = b.broadcast(a.raw_dim())?;
    a += &b;
    Some(a)
}
