//! The mistakes that are looked for: each a name, a few words, and a change to one formula.
//!
//! The list is of mistakes that published ports made or that issues report. [`all`] is the one table of it; what a change
//! does to a formula stands beside the formula (`attention.rs`, `layers.rs`).

mod table;

pub use table::all;

use super::node::Kind;
use super::setting::{Act, Setting};
use crate::Dtype;

/// One entry of the table.
#[derive(Clone, Debug)]
pub struct Hypothesis {
    /// Its name in reports; several entries share one where a mistake has variants.
    pub name: &'static str,
    /// "… as if {says}".
    pub says: String,
    pub mistake: Mistake,
}

impl Hypothesis {
    /// Whether, with these numbers, it is the same as another entry of the table.
    pub fn is_another(&self, setting: &Setting) -> bool {
        match self.mistake {
            Mistake::Embedding(Embedding::PositionsFromPadding) => setting.pad_token_id < 2,
            Mistake::Norm(Norming::Epsilon(eps), _) => eps == setting.eps,
            _ => false,
        }
    }
}

/// A change to one formula.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Mistake {
    /// Another row of the relative embeddings, in c2p, in p2c or in both.
    Column {
        c2p: bool,
        p2c: bool,
        column: Column,
    },
    C2p(Gather),
    P2c(Gather),
    /// Factors of c2c, c2p and p2c.
    Terms([f64; 3]),
    Scale(Scale),
    /// Every H-th feature a head; merged again in the same way, or as if they had been split rightly.
    SplitHeads {
        merged_alike: bool,
    },
    MergeHeads,
    ContextFromKeys,
    Mask(Masking),
    Norm(Norming, Option<Kind>),
    Residual(Residual, Kind),
    Act(Act, Kind),
    Dense(Weighing, Kind),
    /// Two projections, each with the weights of the other.
    Exchanged(Kind, Kind),
    /// Query, key and value as thirds of an interleaved matrix, with their own biases or those of it.
    Thirds {
        biases: bool,
    },
    /// Every weight that is square.
    AllTransposed,
    Embedding(Embedding),
    Relative(Rows),
    Convolution(Convolving),
    Pooled(Pooling),
    Decoder(Decoding),
}

/// Which row a distance has.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Column {
    NoOffsetClamped,
    NoOffsetWrapped,
    Negated,
    Shifted(i64),
    NoBuckets,
    IntegerRatio,
    FloorOfLogarithms,
    Floor,
    Round,
    LogarithmOfMaximum,
    MaximumIs(usize),
    MiddleIs(i64),
    /// At 2S + this.
    ClampAt(i64),
    ClampAtWrapped,
    Reversed,
    ClampDistance(bool),
    LogarithmInF64,
}

/// Whose products with which relative rows are gathered, and where.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Gather {
    /// On the other axis: row i for row j in p2c, row j for row i in c2p.
    AnotherAxis { negated: bool },
    /// Queries for keys in p2c, keys for queries in c2p; on their own axis or on the other.
    OtherStates { other_axis: bool },
    /// The other relative rows.
    RowsOfTheOther,
}

#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Scale {
    Factor(u8),
    NoRoot,
    Missing,
    HiddenSize,
    /// √D for the content, the right scale for the rest.
    ContentFactor1,
    PositionsNotScaled,
    PositionsNoRoot,
    PositionsFactor1,
    ExactRoot,
    RootInF32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Masking {
    None,
    KeysOnly,
    /// With this added, rounded to what was computed in or exact.
    Additive {
        fill: f64,
        rounded: bool,
    },
    Inverted,
    Infinite,
    Causal,
    ZeroRows,
    UniformRows,
    OverQueries,
    Transposed,
    /// Masked before the softmax with zero: the score 0.
    ScoreZero,
    /// Probabilities multiplied by the mask after the softmax over all keys.
    AfterSoftmax,
}

#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Norming {
    Epsilon(f64),
    /// Mean and variance rounded to this.
    StatisticsIn(Dtype),
    /// E\[x²\] − E\[x\]², in what was computed in.
    VarianceOfSquares,
    Unbiased,
    EpsilonOutside,
    NoMean,
    NoAffine,
    NoWeight,
    NoBias,
    Missing,
}

#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Residual {
    Missing,
    FromLayerInput,
    AfterNorm,
}

#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Weighing {
    NoBias,
    Transposed,
    /// Of layer ± n.
    OtherLayer(i64),
    /// The weights of another projection of the same layer.
    Instead(Kind),
    /// The relative rows through the other shared projection.
    OtherShared,
}

#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Embedding {
    NoTypes,
    TypeZero,
    TypesAdded,
    NoPositions,
    PositionsAdded,
    PositionsFrom(usize),
    PositionsFromPadding,
    Scaled,
    NotMasked,
}

#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Rows {
    NoNorm,
    NormAdded,
    NormTwice,
    NormEachLayer,
    Reversed,
}

#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Convolving {
    Missing,
    EveryLayer,
    AfterLayer(usize),
    FromLayerOutput,
    Unmasked,
    NoResidual,
    ResidualFromEmbeddings,
    KernelReversed,
    Transposed,
    OutputNotMasked,
}

#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Pooling {
    Mean,
    MeanOfValid,
    Last,
    Max,
}

#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Decoding {
    LastLayer,
    NormedStates,
    OnePass,
    ThreePasses,
    KeysFromQueries,
    NoPositions,
    NoDecoder,
}

impl Mistake {
    /// Whether the bucket of a distance changes in a way that depends on the maximum.
    pub fn depends_on_maximum(&self) -> bool {
        use Column::*;
        let Self::Column { column, .. } = self else { return false };
        matches!(
            column,
            IntegerRatio | FloorOfLogarithms | Floor | Round | LogarithmOfMaximum | MiddleIs(_) | LogarithmInF64
        )
    }

    /// Whether the formula of this kind of step changes.
    pub fn acts_at(&self, kind: Kind) -> bool {
        use Kind::*;
        match self {
            Self::Column { c2p, p2c, .. } => (*c2p && kind == C2p) || (*p2c && kind == P2c),
            Self::C2p(_) => kind == C2p,
            Self::P2c(_) => kind == P2c,
            // A term that is left out may have been dumped as zeros.
            Self::Terms(of) => {
                kind == Scores || [C2c, C2p, P2c].iter().zip(of).any(|(k, weight)| *k == kind && *weight == 0.0)
            }
            Self::Scale(_) => matches!(kind, C2c | C2p | P2c),
            Self::SplitHeads { .. } => matches!(kind, C2c | C2p | P2c | Context),
            Self::MergeHeads | Self::ContextFromKeys => kind == Context,
            Self::Mask(_) => kind == Probabilities,
            Self::Norm(_, place) => {
                matches!(
                    kind,
                    EmbeddingNorm
                        | RelativeNorm
                        | Attention
                        | Layer
                        | Hidden
                        | ConvolutionNorm
                        | WordNorm
                        | ReplacedNorm
                ) && place.is_none_or(|p| p == kind)
            }
            Self::Residual(_, place) | Self::Act(_, place) => *place == kind,
            // The relative rows may go through the same weights.
            Self::Dense(_, place) => *place == kind || place.of_relative_rows() == Some(kind),
            Self::Thirds { .. } => matches!(kind, Query | Key | Value | PositionKey | PositionQuery),
            Self::Exchanged(a, b) => [*a, *b].iter().any(|k| *k == kind || k.of_relative_rows() == Some(kind)),
            Self::AllTransposed => matches!(
                kind,
                Query
                    | Key
                    | Value
                    | PositionKey
                    | PositionQuery
                    | AttentionDense
                    | PoolerDense
                    | WordDense
                    | ReplacedDense
            ),
            Self::Embedding(Embedding::NotMasked) => kind == Embeddings,
            // A piece that is left out may have been dumped as zeros.
            Self::Embedding(Embedding::NoPositions) => matches!(kind, EmbeddingSum | Position),
            Self::Embedding(Embedding::NoTypes | Embedding::TypeZero) => matches!(kind, EmbeddingSum | TokenType),
            Self::Embedding(Embedding::PositionsFrom(_) | Embedding::PositionsFromPadding) => {
                matches!(kind, EmbeddingSum | Position)
            }
            Self::Embedding(_) => kind == EmbeddingSum,
            Self::Relative(Rows::NormEachLayer) => matches!(kind, PositionKey | PositionQuery),
            Self::Relative(_) => matches!(kind, RelativeNorm | PositionKey | PositionQuery),
            Self::Convolution(Convolving::FromLayerOutput | Convolving::KernelReversed | Convolving::Transposed) => {
                kind == Convolved
            }
            Self::Convolution(Convolving::Unmasked) => kind == ConvolvedMasked,
            Self::Convolution(Convolving::NoResidual | Convolving::ResidualFromEmbeddings) => kind == ConvolutionNorm,
            Self::Convolution(Convolving::AfterLayer(_)) => matches!(kind, Hidden | ConvolutionNorm),
            Self::Convolution(_) => kind == Hidden,
            Self::Pooled(_) => kind == PoolerDense,
            Self::Decoder(Decoding::NormedStates | Decoding::NoPositions) => kind == DecoderStates,
            Self::Decoder(Decoding::OnePass | Decoding::ThreePasses | Decoding::NoDecoder) => kind == WordDense,
            Self::Decoder(Decoding::LastLayer) => matches!(kind, DecoderStates | Key | Value),
            Self::Decoder(Decoding::KeysFromQueries) => matches!(kind, Key | Value),
        }
    }
}
