//! The one table of mistakes: the name of each, and what a port that makes it computes.

use super::*;

/// The table.
pub fn all() -> Vec<Hypothesis> {
    let mut table = Vec::new();
    scores(&mut table);
    masks(&mut table);
    norms(&mut table);
    dense(&mut table);
    embeddings(&mut table);
    convolution(&mut table);
    heads(&mut table);
    table
}

fn put(table: &mut Vec<Hypothesis>, name: &'static str, says: impl Into<String>, mistake: Mistake) {
    table.push(Hypothesis { name, says: says.into(), mistake });
}

fn scores(table: &mut Vec<Hypothesis>) {
    use Column::*;
    const BOTH: (bool, bool, &str) = (true, true, "c2p and p2c");
    const TERMS: [(bool, bool, &str); 3] = [BOTH, (true, false, "c2p"), (false, true, "p2c")];
    for (c2p, p2c, terms) in TERMS {
        let mut column = |name, says: &str, column| {
            put(table, name, format!("{terms} read {says}"), Mistake::Column { c2p, p2c, column });
        };
        let by_terms = |both, first, second| match (c2p, p2c) {
            (true, true) => both,
            (true, false) => first,
            _ => second,
        };
        let offset = by_terms("offset-missing", "c2p-offset-missing", "p2c-offset-missing");
        column(offset, "column δ without + S, clamped", NoOffsetClamped);
        column(offset, "column δ without + S, negative ones from the end", NoOffsetWrapped);
        let negated = by_terms("relative-position-negated", "c2p-index-negated", "p2c-index-negated");
        column(negated, "column δ(j, i) for δ(i, j)", Negated);
        for by in [1, -1] {
            column("relative-column-off-by-one", &format!("the column shifted by {by}"), Shifted(by));
        }
        column("bucket-missing", "the distance itself for its bucket", NoBuckets);
        column("bucket-integer-division", "the logarithm of an integer quotient |x| // mid", IntegerRatio);
        column("bucket-integer-division", "an integer quotient of logarithms", FloorOfLogarithms);
        column("bucket-rounded-down", "buckets rounded down, not up", Floor);
        column("bucket-rounded-down", "buckets rounded to the nearest, not up", Round);
        column("bucket-wrong-maximum", "ln(max / mid) for ln((max − 1) / mid)", LogarithmOfMaximum);
        for max in [128, 256, 512, 1024, 2048, 4096] {
            column("bucket-wrong-maximum", &format!("a maximum of {max}"), MaximumIs(max));
        }
        for by in [1, -1] {
            column("bucket-wrong-middle", &format!("mid {by:+}"), MiddleIs(by));
        }
        for at in [0, -2] {
            let says = format!("columns clamped at 2S{at:+}, not 2S − 1").replace("+0", "");
            column("column-clamp-wrong", &says, ClampAt(at));
        }
        column(
            "column-clamp-wrong",
            "columns clamped at 2S, not 2S − 1, and the first row for the last",
            ClampAtWrapped,
        );
        column("relative-rows-reversed", "the relative rows from the last to the first", Reversed);
    }
    let both = |column| Mistake::Column { c2p: true, p2c: true, column };
    put(table, "follows-profile-microsoft", "distances were held within ±(max − 1)", both(ClampDistance(true)));
    put(table, "follows-profile-microsoft-2021", "bucket logarithms were taken in f64", both(LogarithmInF64));
    put(
        table,
        "p2c-not-transposed",
        "p2c were left as [key, query], K_i · PosQ[col(δ(j, i))]",
        Mistake::P2c(Gather::AnotherAxis { negated: true }),
    );
    put(
        table,
        "p2c-not-transposed",
        "p2c were read on the query's axis, K_i · PosQ[col(δ(i, j))]",
        Mistake::P2c(Gather::AnotherAxis { negated: false }),
    );
    put(
        table,
        "c2p-transposed",
        "c2p were left as [key, query], Q_j · PosK[col(δ(j, i))]",
        Mistake::C2p(Gather::AnotherAxis { negated: true }),
    );
    put(
        table,
        "c2p-transposed",
        "c2p were read on the key's axis, Q_j · PosK[col(δ(i, j))]",
        Mistake::C2p(Gather::AnotherAxis { negated: false }),
    );
    for other_axis in [true, false] {
        let (p, c) = if other_axis { ("Q_i · PosQ", "K_j · PosK") } else { ("Q_j · PosQ", "K_i · PosK") };
        put(
            table,
            "p2c-on-queries",
            format!("p2c were gathered on queries, {p}"),
            Mistake::P2c(Gather::OtherStates { other_axis }),
        );
        put(
            table,
            "c2p-on-keys",
            format!("c2p were gathered on keys, {c}"),
            Mistake::C2p(Gather::OtherStates { other_axis }),
        );
    }
    put(
        table,
        "position-projections-swapped",
        "p2c read the position keys, K_j · PosK",
        Mistake::P2c(Gather::RowsOfTheOther),
    );
    put(
        table,
        "position-projections-swapped",
        "c2p read the position queries, Q_i · PosQ",
        Mistake::C2p(Gather::RowsOfTheOther),
    );
    put(table, "c2p-missing", "c2p were left out", Mistake::Terms([1.0, 0.0, 1.0]));
    put(table, "p2c-missing", "p2c were left out", Mistake::Terms([1.0, 1.0, 0.0]));
    put(table, "relative-attention-missing", "c2p and p2c were left out", Mistake::Terms([1.0, 0.0, 0.0]));
    put(table, "content-term-missing", "c2c were left out", Mistake::Terms([0.0, 1.0, 1.0]));
    put(table, "c2p-twice", "c2p were added twice", Mistake::Terms([1.0, 2.0, 1.0]));
    put(table, "p2c-twice", "p2c were added twice", Mistake::Terms([1.0, 1.0, 2.0]));
    let subtracted = "position-term-subtracted";
    put(table, subtracted, "c2p were subtracted", Mistake::Terms([1.0, -1.0, 1.0]));
    put(table, subtracted, "p2c were subtracted", Mistake::Terms([1.0, 1.0, -1.0]));
    for (name, f) in [("scale-factor-1", 1), ("scale-factor-2", 2), ("scale-factor-3", 3), ("scale-factor-4", 4)] {
        put(table, name, format!("the scale were √(D·{f})"), Mistake::Scale(Scale::Factor(f)));
    }
    for (name, says, scale) in [
        ("scale-without-root", "scores were divided by D·f without the root", Scale::NoRoot),
        ("scale-missing", "scores were not divided by the scale", Scale::Missing),
        ("scale-of-hidden-size", "the scale were √(hidden_size·f)", Scale::HiddenSize),
        ("scale-one-term", "c2c alone were divided by √D", Scale::ContentFactor1),
        ("scale-one-term", "c2p and p2c were not divided by the scale", Scale::PositionsNotScaled),
        ("scale-one-term", "c2p and p2c alone were divided by √D", Scale::PositionsFactor1),
        ("position-scale-without-root", "c2p and p2c were divided by D·f without the root", Scale::PositionsNoRoot),
        ("scale-precision", "the root of the scale were exact, not rounded to f32", Scale::ExactRoot),
        ("scale-precision", "the root of the scale were rounded to f32", Scale::RootInF32),
    ] {
        put(table, name, says, Mistake::Scale(scale));
    }
    for merged_alike in [true, false] {
        let and = if merged_alike { "" } else { ", and merged D in a row" };
        let says = format!("the features of a head were every H-th, not D in a row{and}");
        put(table, "heads-split-wrong", says, Mistake::SplitHeads { merged_alike });
    }
    put(table, "heads-merged-wrong", "[H, L, D] were read as [L, H·D] without a transposition", Mistake::MergeHeads);
    put(table, "context-from-keys", "probabilities weighed the keys, not the values", Mistake::ContextFromKeys);
}

fn masks(table: &mut Vec<Hypothesis>) {
    for (name, says, masking) in [
        ("padding-not-masked", "no key were masked", Masking::None),
        ("mask-of-keys-only", "padding were masked as a key and not as a query", Masking::KeysOnly),
        (
            "mask-additive",
            "the mask were added, −10000, and not filled in",
            Masking::Additive { fill: -1e4, rounded: true },
        ),
        (
            "mask-additive",
            "the mask were added, −10000, and not filled in, without rounding",
            Masking::Additive { fill: -1e4, rounded: false },
        ),
        ("mask-inverted", "padding were seen and the rest masked", Masking::Inverted),
        ("mask-fill-infinite", "masked scores were −∞, and rows of nothing else NaN", Masking::Infinite),
        ("causal-mask", "later keys were masked", Masking::Causal),
        ("follows-profile-hf-4", "rows of padding were set to zero (hf-4, Microsoft)", Masking::ZeroRows),
        ("follows-profile-hf-5", "rows of padding were uniform (hf-5)", Masking::UniformRows),
        ("softmax-over-queries", "the softmax ran over queries", Masking::OverQueries),
        ("probabilities-transposed", "queries and keys were exchanged in the probabilities", Masking::Transposed),
        ("mask-fill-zero", "masked scores were 0", Masking::ScoreZero),
        ("mask-after-softmax", "the mask were applied after the softmax", Masking::AfterSoftmax),
    ] {
        put(table, name, says, Mistake::Mask(masking));
    }
}

fn norms(table: &mut Vec<Hypothesis>) {
    const PLACES: [(Kind, &str); 8] = [
        (Kind::EmbeddingNorm, "the embeddings"),
        (Kind::RelativeNorm, "the relative embeddings"),
        (Kind::Attention, "the attention's output"),
        (Kind::Layer, "the layer's output"),
        (Kind::Hidden, "the layer's output"),
        (Kind::ConvolutionNorm, "the convolution"),
        (Kind::WordNorm, "the language-modelling head"),
        (Kind::ReplacedNorm, "the detection head"),
    ];
    let kinds: [(&'static str, String, Norming); 9] = [
        (
            "layer-norm-statistics-half",
            "mean and variance were rounded to bf16".into(),
            Norming::StatisticsIn(Dtype::Bf16),
        ),
        (
            "layer-norm-statistics-half",
            "mean and variance were rounded to f16".into(),
            Norming::StatisticsIn(Dtype::F16),
        ),
        (
            "layer-norm-variance-of-squares",
            "the variance were E[x²] − E[x]²: it is off by roundings of E[x²]".into(),
            Norming::VarianceOfSquares,
        ),
        ("layer-norm-unbiased-variance", "the variance were over n − 1".into(), Norming::Unbiased),
        (
            "layer-norm-std-plus-epsilon",
            "the epsilon were added to the standard deviation".into(),
            Norming::EpsilonOutside,
        ),
        ("layer-norm-without-mean", "the mean were not subtracted (RMS norm)".into(), Norming::NoMean),
        ("layer-norm-without-affine", "weight and bias were left out".into(), Norming::NoAffine),
        ("layer-norm-without-affine", "the weight were left out".into(), Norming::NoWeight),
        ("layer-norm-without-affine", "the bias were left out".into(), Norming::NoBias),
    ];
    let epsilons = [1e-12, 1e-8, 1e-6, 1e-5, 1e-3, 1e-7]
        .map(|e| ("layer-norm-epsilon", format!("the epsilon were {e:e}"), Norming::Epsilon(e)));
    let places = PLACES.map(|(k, of)| (Some(k), format!(" in the layer norm of {of}")));
    for (place, of) in std::iter::once((None, String::new())).chain(places) {
        for (name, says, norming) in epsilons.iter().chain(&kinds) {
            put(table, name, format!("{says}{of}"), Mistake::Norm(*norming, place));
        }
        if place == Some(Kind::RelativeNorm) {
            continue;
        }
        if let Some(kind) = place {
            let name = if kind == Kind::EmbeddingNorm { "embeddings-norm-missing" } else { "layer-norm-missing" };
            put(
                table,
                name,
                format!("there were no layer norm{}", of.replace(" in the layer norm", "")),
                Mistake::Norm(Norming::Missing, place),
            );
        }
    }
    for kind in [Kind::Attention, Kind::Layer, Kind::Hidden] {
        put(table, "residual-missing", "the residual were not added", Mistake::Residual(Residual::Missing, kind));
        put(
            table,
            "residual-after-norm",
            "the residual were added after the layer norm",
            Mistake::Residual(Residual::AfterNorm, kind),
        );
    }
    for kind in [Kind::Layer, Kind::Hidden] {
        put(
            table,
            "residual-from-layer-input",
            "the residual of the feed-forward were the layer's input",
            Mistake::Residual(Residual::FromLayerInput, kind),
        );
    }
}

fn dense(table: &mut Vec<Hypothesis>) {
    use Kind::*;
    const DENSE: [Kind; 15] = [
        Query,
        Key,
        Value,
        PositionKey,
        PositionQuery,
        AttentionDense,
        InnerDense,
        OutputDense,
        PoolerDense,
        WordDense,
        ReplacedDense,
        Logits,
        Spans,
        Convolved,
        EmbedProj,
    ];
    for kind in DENSE {
        let no_bias = match kind {
            PositionKey | PositionQuery => "relative-projection-bias-missing",
            Logits | Spans => "classifier-bias-missing",
            _ => "bias-missing",
        };
        if kind != EmbedProj {
            put(table, no_bias, "there were no bias", Mistake::Dense(Weighing::NoBias, kind));
        }
        if kind != Convolved {
            put(table, "weights-transposed", "the weight were transposed", Mistake::Dense(Weighing::Transposed, kind));
        }
        if matches!(kind, Query | Key | Value | PositionKey | PositionQuery | AttentionDense | InnerDense | OutputDense)
        {
            for by in [-2, -1, 1, 2] {
                let says = format!("the weights were those of layer {by:+}").replace('-', "−");
                put(table, "weights-of-another-layer", says, Mistake::Dense(Weighing::OtherLayer(by), kind));
            }
        }
        if matches!(kind, Query | Key | Value) {
            for other in [Query, Key, Value].into_iter().filter(|o| *o != kind) {
                let says = format!("the weights were those of the {}", format!("{other:?}").to_lowercase());
                put(table, "projection-swapped", says, Mistake::Dense(Weighing::Instead(other), kind));
            }
        }
        if matches!(kind, PositionKey | PositionQuery) {
            put(
                table,
                "position-projections-swapped",
                "the relative rows went through the other projection",
                Mistake::Dense(Weighing::OtherShared, kind),
            );
        }
    }
    for (a, b) in [(Query, Key), (Key, Value), (Query, Value)] {
        let says = format!("the weights of {a:?} and {b:?} were exchanged").to_lowercase();
        put(table, "projection-swapped", says, Mistake::Exchanged(a, b));
    }
    for biases in [true, false] {
        put(
            table,
            "in-proj-split-in-thirds",
            "an interleaved in_proj were split in thirds",
            Mistake::Thirds { biases },
        );
    }
    put(table, "weights-transposed", "every square weight were transposed", Mistake::AllTransposed);
    for (name, act) in [
        ("gelu-tanh", Act::GeluTanh),
        ("gelu-sigmoid", Act::GeluSigmoid),
        ("gelu-erf", Act::Gelu),
        ("activation-relu", Act::Relu),
        ("activation-silu", Act::Silu),
        ("activation-tanh", Act::Tanh),
        ("activation-missing", Act::Identity),
    ] {
        let says = format!("the activation were {act:?}");
        for kind in [Inner, WordActivation, ReplacedActivation] {
            put(table, name, says.clone(), Mistake::Act(act, kind));
        }
        let pooler = match act {
            Act::Tanh => "pooler-tanh",
            Act::Identity => "pooler-activation-missing",
            _ => name,
        };
        put(table, pooler, format!("{says} in the pooler"), Mistake::Act(act, Pooled));
        let convolution =
            if act == Act::Identity { "convolution-activation-missing" } else { "convolution-wrong-activation" };
        put(table, convolution, format!("{says} after the convolution"), Mistake::Act(act, ConvolutionNorm));
    }
    for (says, rows) in [
        ("relative-norm-missing", Rows::NoNorm),
        ("relative-norm-added", Rows::NormAdded),
        ("relative-norm-twice", Rows::NormTwice),
        ("relative-norm-each-layer", Rows::NormEachLayer),
        ("relative-rows-reversed", Rows::Reversed),
    ] {
        let words = match rows {
            Rows::NoNorm => "the relative embeddings were not layer-normed",
            Rows::NormAdded => "the relative embeddings were layer-normed",
            Rows::NormTwice => "the relative embeddings were layer-normed twice",
            Rows::NormEachLayer => "the relative embeddings were layer-normed anew in each layer",
            Rows::Reversed => "the relative rows stood from the last to the first",
        };
        put(table, says, words, Mistake::Relative(rows));
    }
}

fn embeddings(table: &mut Vec<Hypothesis>) {
    for (name, says, embedding) in [
        ("token-types-ignored", "token types were not added", Embedding::NoTypes),
        ("token-types-ignored", "every token were of type 0", Embedding::TypeZero),
        ("token-types-added", "token types were added", Embedding::TypesAdded),
        ("position-embeddings-missing", "absolute positions were not added", Embedding::NoPositions),
        ("position-embeddings-added", "absolute positions were added", Embedding::PositionsAdded),
        ("positions-off-by-one", "positions were counted from 1", Embedding::PositionsFrom(1)),
        ("positions-from-padding-index", "positions were counted from 2", Embedding::PositionsFrom(2)),
        (
            "positions-from-padding-index",
            "positions were counted from pad_token_id + 1",
            Embedding::PositionsFromPadding,
        ),
        ("embeddings-scaled", "word embeddings were multiplied by √hidden_size", Embedding::Scaled),
        ("embeddings-not-masked", "rows of padding were not set to zero", Embedding::NotMasked),
    ] {
        put(table, name, says, Mistake::Embedding(embedding));
    }
}

fn convolution(table: &mut Vec<Hypothesis>) {
    for (name, says, mistake) in [
        ("convolution-missing", "there were no convolution", Convolving::Missing),
        ("convolution-every-layer", "there were a convolution after every layer", Convolving::EveryLayer),
        ("convolution-after-wrong-layer", "the convolution came after layer 1", Convolving::AfterLayer(1)),
        ("convolution-from-layer-output", "the convolution read the output of layer 0", Convolving::FromLayerOutput),
        ("convolution-unmasked", "padding were not set to zero after the convolution", Convolving::Unmasked),
        (
            "convolution-residual-missing",
            "the layer's output were not added to the convolution",
            Convolving::NoResidual,
        ),
        (
            "convolution-residual-missing",
            "the embeddings were added in place of the layer's output",
            Convolving::ResidualFromEmbeddings,
        ),
        ("convolution-kernel-reversed", "the kernel were reversed", Convolving::KernelReversed),
        ("convolution-weights-transposed", "inputs and outputs of the kernel were exchanged", Convolving::Transposed),
        (
            "convolution-output-not-masked",
            "padding were not set to zero after the convolution's layer norm",
            Convolving::OutputNotMasked,
        ),
    ] {
        put(table, name, says, Mistake::Convolution(mistake));
    }
}

fn heads(table: &mut Vec<Hypothesis>) {
    for (name, says, pooling) in [
        ("pooler-mean", "the mean of all positions were pooled", Pooling::Mean),
        ("pooler-mean", "the mean of the valid positions were pooled", Pooling::MeanOfValid),
        ("pooler-last-token", "the last position were pooled", Pooling::Last),
        ("pooler-max", "the maximum over positions were pooled", Pooling::Max),
    ] {
        put(table, name, says, Mistake::Pooled(pooling));
    }
    for (name, says, decoding) in [
        ("emd-last-layer", "the enhanced mask decoder read the last layer's output", Decoding::LastLayer),
        ("emd-z-normed", "z were layer-normed", Decoding::NormedStates),
        ("emd-positions-missing", "z held no positions", Decoding::NoPositions),
        ("emd-one-pass", "there were one pass through the last layer", Decoding::OnePass),
        ("emd-three-passes", "there were three passes through the last layer", Decoding::ThreePasses),
        ("emd-missing", "words were predicted from the last hidden state", Decoding::NoDecoder),
        ("emd-keys-from-query-states", "keys and values came from the query states", Decoding::KeysFromQueries),
    ] {
        put(table, name, says, Mistake::Decoder(decoding));
    }
}
