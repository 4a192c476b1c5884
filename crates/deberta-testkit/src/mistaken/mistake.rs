//! The mistakes, as switches: each was made in a published port or reported in an issue.

/// A mistake. The name says what is computed instead.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Mistake {
    // The scores
    C2pWithoutSpan,
    P2cWithoutSpan,
    BothWithoutSpan,
    NegatedDelta,
    ColumnOffByOne,
    P2cDeltaTransposed,
    P2cNotTransposed,
    P2cOnQueries,
    C2pOnKeys,
    PositionRowsSwapped,
    C2pLeftOut,
    P2cLeftOut,
    BothLeftOut,
    ScaleFactor1,
    ScaleFactor2,
    ScaleWithoutRoot,
    ScaleLeftOut,
    ScaleOfContentOnly,
    NoBuckets,
    BucketIntegerDivision,
    BucketFloor,
    BucketLogOfMaximum,
    // Relative rows
    RelativeNormLeftOut,
    RelativeNormTwice,
    RelativeNormEachLayer,
    RelativeBiasLeftOut,
    // Mask and softmax
    PaddingSeen,
    MaskOfKeys,
    MaskAdditive,
    MaskInfinite,
    PaddedRowsZero,
    SoftmaxOverQueries,
    // Heads of the attention
    HeadsInterleaved,
    HeadsMergedUntransposed,
    ContextOfKeys,
    // Projections
    QueryTransposed,
    KeyValueExchanged,
    InProjInThirds,
    ValueBiasLeftOut,
    OutputBiasLeftOut,
    // Layers
    GeluTanh,
    Relu,
    Epsilon1e5,
    Epsilon1e12,
    UnbiasedVariance,
    AttentionResidualLeftOut,
    ResidualFromLayerInput,
    OutputNormLeftOut,
    // Embeddings
    TypesIgnored,
    PositionsLeftOut,
    PositionsFrom1,
    EmbeddingsNotMasked,
    // Convolution
    ConvolutionLeftOut,
    ConvolutionEveryLayer,
    ConvolutionOfLayerOutput,
    ConvolutionUnmasked,
    ConvolutionAfterLayer1,
    ConvolutionGelu,
    // Heads
    PoolerTanh,
    PoolerMean,
    ClassifierBiasLeftOut,
    DecoderOfLastLayer,
    DecoderStatesNormed,
    DecoderOnePass,
    DecoderKeysFromQueries,
    // Lists and modes
    HiddenStatesWithoutEmbeddings,
    Dropout,
}
