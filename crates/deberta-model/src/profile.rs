//! What a reference implementation does in the places where the references disagree.
//!
//! A [`Profile`] is data: the architecture is written once and asks the profile at these places alone. Everywhere else
//! the references compute the same function, and differ by rounding only.

use std::fmt;

pub use deberta_ops::Hidden;

/// The precision in which the logarithm of a bucket is taken. It decides on which side of a whole number the quotient
/// of two logarithms falls, and so, for some pairs of buckets and maximum, the bucket of a distance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BucketLog {
    /// Both logarithms and the quotient in `f32`, whatever the model's type (`make_log_bucket_position` in
    /// transformers).
    F32,
    /// The numerator in `f32`, the denominator taken in `f64` and then rounded (Microsoft's code since 2023).
    F32OverF64,
    /// All in `f64` (numpy, in Microsoft's code until 2023).
    F64,
}

/// How s = √(D·f), by which scores are divided, is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleRounding {
    /// To `f32`, also in an `f64` model (`scaled_size_sqrt` in transformers).
    F32,
    /// To the model's own type (`math.sqrt`).
    Model,
}

/// Which tokens a language-modelling loss counts, and how it is reduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LanguageModelLoss {
    /// Labels other than −100; the mean (transformers).
    MeanOverLabelled,
    /// Labels above 0; one number a token (Microsoft).
    EachPositiveLabel,
}

/// One reference implementation, as far as it differs from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// The name on the command line.
    pub name: &'static str,
    /// Which programs it describes.
    pub describes: &'static str,
    /// What a score becomes that may not be seen, and so what a query without a visible key attends to.
    pub hidden_scores: Hidden,
    /// Whether the row's maximum is subtracted before the mask is applied, over hidden scores too. The same function,
    /// rounded differently.
    pub centers_before_masking: bool,
    /// The precision of the buckets' logarithms.
    pub bucket_log: BucketLog,
    /// Whether distances are held to ±(`max_relative_positions` − 1) before they are put into buckets, so that the
    /// lowest row (column 0) is never used.
    pub clamps_distance: bool,
    /// The rounding of the scores' scale.
    pub scale_rounding: ScaleRounding,
    /// Whether position embeddings are added before token types.
    pub adds_positions_first: bool,
    /// Whether the list of hidden states begins with the embeddings.
    pub hidden_states_begin_with_embeddings: bool,
    /// The loss of masked language modelling.
    pub language_model_loss: LanguageModelLoss,
    /// Whether a choice is pooled by attention from its first token, without parameters, rather than by the pooler.
    pub pools_choices_by_attention: bool,
    /// Which labels of a token a loss leaves out: all below 0, or −100 alone.
    pub ignores_negative_labels: bool,
    /// Whether the cross-entropy of sequence classification is taken in `f32`, also in an `f64` model, where
    /// `problem_type` is not stated.
    pub classifies_in_f32: bool,
}

impl Profile {
    /// transformers 4.47 and later, 5 included.
    pub const HF_5: Self = Self {
        name: "hf-5",
        describes: "transformers 4.47 to 5.x",
        hidden_scores: Hidden::LowestFinite,
        centers_before_masking: false,
        bucket_log: BucketLog::F32,
        clamps_distance: false,
        scale_rounding: ScaleRounding::F32,
        adds_positions_first: true,
        hidden_states_begin_with_embeddings: true,
        language_model_loss: LanguageModelLoss::MeanOverLabelled,
        pools_choices_by_attention: false,
        ignores_negative_labels: false,
        classifies_in_f32: true,
    };

    /// transformers up to 4.46, the TensorFlow classes included.
    pub const HF_4: Self =
        Self { name: "hf-4", describes: "transformers up to 4.46", hidden_scores: Hidden::Zeroed, ..Self::HF_5 };

    /// Microsoft's code as it stands since 2023.
    pub const MICROSOFT: Self = Self {
        name: "microsoft",
        describes: "github microsoft/DeBERTa since 2023",
        hidden_scores: Hidden::Zeroed,
        centers_before_masking: true,
        bucket_log: BucketLog::F32OverF64,
        clamps_distance: true,
        scale_rounding: ScaleRounding::Model,
        adds_positions_first: false,
        hidden_states_begin_with_embeddings: false,
        language_model_loss: LanguageModelLoss::EachPositiveLabel,
        pools_choices_by_attention: false,
        ignores_negative_labels: true,
        classifies_in_f32: false,
    };

    /// Microsoft's code of February 2021, the package `deberta` 0.1.12: the arithmetic of the time of v2 and v3. It has
    /// no pre-training models, so what is said here of the enhanced mask decoder and its loss is held to no golden.
    pub const MICROSOFT_2021: Self = Self {
        name: "microsoft-2021",
        describes: "the package deberta 0.1.12",
        centers_before_masking: false,
        bucket_log: BucketLog::F64,
        clamps_distance: false,
        adds_positions_first: true,
        pools_choices_by_attention: true,
        ..Self::MICROSOFT
    };

    /// Every profile, the default first.
    pub const ALL: [Self; 4] = [Self::HF_5, Self::HF_4, Self::MICROSOFT, Self::MICROSOFT_2021];

    /// The profile of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.name == name)
    }
}

impl Default for Profile {
    fn default() -> Self {
        Self::HF_5
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
