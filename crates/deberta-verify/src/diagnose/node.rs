//! The steps of the computation, whatever they are called: `attention.output.LayerNorm`, `attention.output` and
//! `attention` are one step, and so are `attentions.2` and the probabilities of layer 2.

use crate::order::canonical;

/// What a step computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Kind {
    Word,
    Position,
    TokenType,
    /// The sum of the three, which bears no name.
    EmbeddingSum,
    EmbedProj,
    EmbeddingNorm,
    Embeddings,
    RelativeRows,
    RelativeNorm,
    Query,
    Key,
    Value,
    PositionKey,
    PositionQuery,
    C2c,
    C2p,
    P2c,
    Scores,
    Probabilities,
    Context,
    AttentionDense,
    Attention,
    InnerDense,
    Inner,
    OutputDense,
    /// A layer's own output.
    Layer,
    Convolved,
    ConvolvedMasked,
    ConvolutionNorm,
    /// What the next layer reads: the layer's output, or the convolution's after layer 0.
    Hidden,
    DecoderStates,
    PoolerDense,
    Pooled,
    WordDense,
    WordActivation,
    WordNorm,
    ReplacedNorm,
    ReplacedDense,
    ReplacedActivation,
    Spans,
    StartLogits,
    EndLogits,
    Logits,
}

impl Kind {
    /// What the relative rows become by the weights of this projection, where they share it.
    pub fn of_relative_rows(self) -> Option<Self> {
        match self {
            Self::Key => Some(Self::PositionKey),
            Self::Query => Some(Self::PositionQuery),
            _ => None,
        }
    }

    /// Every kind.
    pub const ALL: &[Self] = &[
        Self::Word,
        Self::Position,
        Self::TokenType,
        Self::EmbeddingSum,
        Self::EmbedProj,
        Self::EmbeddingNorm,
        Self::Embeddings,
        Self::RelativeRows,
        Self::RelativeNorm,
        Self::Query,
        Self::Key,
        Self::Value,
        Self::PositionKey,
        Self::PositionQuery,
        Self::C2c,
        Self::C2p,
        Self::P2c,
        Self::Scores,
        Self::Probabilities,
        Self::Context,
        Self::AttentionDense,
        Self::Attention,
        Self::InnerDense,
        Self::Inner,
        Self::OutputDense,
        Self::Layer,
        Self::Convolved,
        Self::ConvolvedMasked,
        Self::ConvolutionNorm,
        Self::Hidden,
        Self::DecoderStates,
        Self::PoolerDense,
        Self::Pooled,
        Self::WordDense,
        Self::WordActivation,
        Self::WordNorm,
        Self::ReplacedNorm,
        Self::ReplacedDense,
        Self::ReplacedActivation,
        Self::Spans,
        Self::StartLogits,
        Self::EndLogits,
        Self::Logits,
    ];
}

/// A step, and the layer it is in. The passes of the enhanced mask decoder count on from [`Node::DECODER`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Node {
    pub kind: Kind,
    pub at: usize,
}

/// What names mean depends on the depth of the model and on whether it has a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth {
    pub layers: usize,
    pub convolution: bool,
}

impl Node {
    /// The first pass of the enhanced mask decoder.
    pub const DECODER: usize = 1 << 20;

    pub fn new(kind: Kind, at: usize) -> Self {
        Self { kind, at }
    }

    /// The step of that name, in any spelling. `None` for names that are not known.
    pub fn of(name: &str, depth: Depth) -> Option<Self> {
        use Kind::*;
        let name = canonical(name);
        let segments: Vec<&str> = name.split('.').collect();
        let one = |kind| Some(Self::new(kind, 0));
        match *segments.as_slice() {
            ["deberta", "embeddings", "word_embeddings"] => one(Word),
            ["deberta", "embeddings", "position_embeddings"] | ["lm_predictions", "position_embeddings"] => {
                one(Position)
            }
            ["deberta", "embeddings", "token_type_embeddings"] => one(TokenType),
            ["deberta", "embeddings", "embed_proj"] => one(EmbedProj),
            ["deberta", "embeddings", "LayerNorm"] => one(EmbeddingNorm),
            ["deberta", "embeddings"] | ["deberta", "embeddings", "dropout"] => one(Embeddings),
            ["deberta", "encoder", "rel_embeddings"] => one(RelativeRows),
            ["deberta", "encoder", "LayerNorm"] => one(RelativeNorm),
            ["deberta", "encoder", "conv", "conv"] => one(Convolved),
            ["deberta", "encoder", "conv", "dropout"] => one(ConvolvedMasked),
            ["deberta", "encoder", "conv", "LayerNorm"] => one(ConvolutionNorm),
            ["deberta", "encoder", "conv"] => one(Hidden),
            ["deberta", "encoder", "layer", i, ref rest @ ..] => Self::in_layer(i.parse().ok()?, rest, depth),
            ["lm_predictions", "emd", pass, ref rest @ ..] => {
                Self::in_layer(Self::DECODER + pass.parse::<usize>().ok()?, rest, depth)
            }
            ["emd_outputs", pass] => Some(Self::new(Layer, Self::DECODER + pass.parse::<usize>().ok()?)),
            ["lm_predictions", "z_states"] => one(DecoderStates),
            ["hidden_states", i] => match i.parse::<usize>().ok()?.checked_sub(1) {
                None => one(Embeddings),
                Some(i) => Some(Self::hidden(i)),
            },
            ["attentions", i] => Some(Self::new(Probabilities, i.parse().ok()?)),
            ["last_hidden_state"] | ["deberta", "encoder"] | ["deberta"] => {
                Some(Self::hidden(depth.layers.checked_sub(1)?))
            }
            ["pooler", "dense"] => one(PoolerDense),
            ["pooler"] => one(Pooled),
            ["cls", "predictions", "transform", "dense"] | ["lm_predictions", "lm_head", "dense"] => one(WordDense),
            ["cls", "predictions", "transform", "transform_act_fn"]
            | ["lm_predictions", "lm_head", "transform_act_fn"] => one(WordActivation),
            ["cls", "predictions", "transform", "LayerNorm"]
            | ["cls", "predictions", "transform"]
            | ["lm_predictions", "lm_head", "LayerNorm"] => one(WordNorm),
            ["mask_predictions", "LayerNorm"] => one(ReplacedNorm),
            ["mask_predictions", "dense"] => one(ReplacedDense),
            ["mask_predictions", "transform_act_fn"] => one(ReplacedActivation),
            ["qa_outputs"] => one(Spans),
            ["start_logits"] => one(StartLogits),
            ["end_logits"] => one(EndLogits),
            ["logits"]
            | ["classifier"]
            | ["cls"]
            | ["cls", "predictions"]
            | ["cls", "predictions", "decoder"]
            | ["lm_predictions"]
            | ["lm_predictions", "lm_head"]
            | ["mask_predictions", "classifier"] => one(Logits),
            _ => None,
        }
    }

    fn in_layer(at: usize, rest: &[&str], depth: Depth) -> Option<Self> {
        use Kind::*;
        let kind = match *rest {
            ["attention", "self", "query_proj"] => Query,
            ["attention", "self", "key_proj"] => Key,
            ["attention", "self", "value_proj"] => Value,
            ["attention", "self", "pos_key_proj"] => PositionKey,
            ["attention", "self", "pos_query_proj"] => PositionQuery,
            ["attention", "self", "c2c"] => C2c,
            ["attention", "self", "c2p"] => C2p,
            ["attention", "self", "p2c"] => P2c,
            ["attention", "self", "scores"] => Scores,
            ["attention", "self", "probs" | "dropout"] => Probabilities,
            ["attention", "self"] => Context,
            ["attention", "output", "dense" | "dropout"] => AttentionDense,
            ["attention"] | ["attention", "output"] | ["attention", "output", "LayerNorm"] => Attention,
            ["intermediate", "dense"] => InnerDense,
            ["intermediate"] | ["intermediate", "intermediate_act_fn"] => Inner,
            ["output", "dense" | "dropout"] => OutputDense,
            [] | ["output"] | ["output", "LayerNorm"] => return Some(Self::layer(at, depth)),
            _ => return None,
        };
        Some(Self::new(kind, at))
    }

    /// The output of layer `i`, which is also what the next reads unless a convolution comes between.
    pub fn layer(i: usize, depth: Depth) -> Self {
        let kind = if i >= Self::DECODER || (i == 0 && depth.convolution) { Kind::Layer } else { Kind::Hidden };
        Self::new(kind, i)
    }

    /// What is handed on after layer `i`.
    pub fn hidden(i: usize) -> Self {
        Self::new(Kind::Hidden, i)
    }
}
