//! The rules, one table a family. Data, not code: [`super::canonical`] applies them.
//!
//! In a pattern `{i}` stands for the number of a layer.

/// Whose names a checkpoint uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// Hugging Face's PyTorch classes, and Microsoft's programs since they use the same names.
    HuggingFace,
    /// Microsoft's first programs: `in_proj`, `pos_proj`.
    Microsoft,
    /// Hugging Face's TensorFlow classes.
    TensorFlow,
}

impl Family {
    /// The name used in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::HuggingFace => "huggingface",
            Self::Microsoft => "microsoft",
            Self::TensorFlow => "tensorflow",
        }
    }
}

/// How the elements of a source become those of a parameter. Each is a change of strides, never of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transform {
    /// As they are.
    Same,
    /// A TensorFlow kernel: axes swapped where the parameter is a matrix, (2, 1, 0) where it is a convolution's.
    Kernel,
    /// One third of Microsoft's `in_proj`, in which query, key and value alternate head by head.
    InProj {
        /// 0 query, 1 key, 2 value.
        part: usize,
    },
    /// Zeros: the parameter did not exist yet.
    Zero,
}

impl Transform {
    /// The name used in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Kernel => "transposed",
            Self::InProj { part: 0 } => "in_proj, query part",
            Self::InProj { part: 1 } => "in_proj, key part",
            Self::InProj { .. } => "in_proj, value part",
            Self::Zero => "zero",
        }
    }
}

/// One name, and what it becomes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    pub from: &'static str,
    pub to: &'static [(&'static str, Transform)],
    /// Where the checkpoint has no bias for what this rule gives, the bias was not there and is zero.
    pub without_bias: bool,
}

const fn rename(from: &'static str, to: &'static [(&'static str, Transform)]) -> Rule {
    Rule { from, to, without_bias: false }
}

const fn without_bias(from: &'static str, to: &'static [(&'static str, Transform)]) -> Rule {
    Rule { from, to, without_bias: true }
}

use Transform::{InProj, Kernel, Same};

/// Wrappers that training programs put around a model's names.
pub(crate) const PREFIXES: &[&str] = &[
    "state_dict.",
    "model_state_dict.",
    "module.",
    "model.",
    "_orig_mod.",
    "net.",
    "student.",
    "_fsdp_wrapped_module.",
];

/// The models that one file may hold side by side (Microsoft's replaced token detection); the first is what people use.
pub(crate) const PARTS: &[&str] = &["discriminator.", "generator."];

/// Beginnings that stand for another.
pub(crate) const BEGINNINGS: &[(&str, &str)] = &[("bert.", "deberta."), ("deberta_v2.", "deberta.")];

/// Last parts of a name, from before PyTorch 0.4 and from TensorFlow.
pub(crate) const ENDINGS: &[(&str, &str)] =
    &[("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")];

/// `DeBERTa/deberta/disentangled_attention.py` as first published: one product for query, key and value, no key bias, and
/// position projections of which that of the keys has no bias.
pub(crate) const MICROSOFT: &[Rule] = &[
    without_bias(
        "deberta.encoder.layer.{i}.attention.self.in_proj.weight",
        &[
            ("deberta.encoder.layer.{i}.attention.self.query_proj.weight", InProj { part: 0 }),
            ("deberta.encoder.layer.{i}.attention.self.key_proj.weight", InProj { part: 1 }),
            ("deberta.encoder.layer.{i}.attention.self.value_proj.weight", InProj { part: 2 }),
        ],
    ),
    rename(
        "deberta.encoder.layer.{i}.attention.self.in_proj.bias",
        &[
            ("deberta.encoder.layer.{i}.attention.self.query_proj.bias", InProj { part: 0 }),
            ("deberta.encoder.layer.{i}.attention.self.key_proj.bias", InProj { part: 1 }),
            ("deberta.encoder.layer.{i}.attention.self.value_proj.bias", InProj { part: 2 }),
        ],
    ),
    rename(
        "deberta.encoder.layer.{i}.attention.self.q_bias",
        &[("deberta.encoder.layer.{i}.attention.self.query_proj.bias", Same)],
    ),
    rename(
        "deberta.encoder.layer.{i}.attention.self.v_bias",
        &[("deberta.encoder.layer.{i}.attention.self.value_proj.bias", Same)],
    ),
    without_bias(
        "deberta.encoder.layer.{i}.attention.self.pos_proj.weight",
        &[("deberta.encoder.layer.{i}.attention.self.pos_key_proj.weight", Same)],
    ),
    rename(
        "deberta.encoder.layer.{i}.attention.self.pos_proj.bias",
        &[("deberta.encoder.layer.{i}.attention.self.pos_key_proj.bias", Same)],
    ),
    rename(
        "deberta.encoder.layer.{i}.attention.self.pos_q_proj.weight",
        &[("deberta.encoder.layer.{i}.attention.self.pos_query_proj.weight", Same)],
    ),
    rename(
        "deberta.encoder.layer.{i}.attention.self.pos_q_proj.bias",
        &[("deberta.encoder.layer.{i}.attention.self.pos_query_proj.bias", Same)],
    ),
];

/// `modeling_tf_deberta_v2.py` of transformers 4: what differs once scopes are dots. Kernels are found by their last part,
/// whatever they belong to; see [`TENSORFLOW_ENDINGS`].
pub(crate) const TENSORFLOW: &[Rule] = &[
    rename(
        "deberta.encoder.layer.{i}.attention.self.pos_proj.weight",
        &[("deberta.encoder.layer.{i}.attention.self.pos_key_proj.weight", Kernel)],
    ),
    rename(
        "deberta.encoder.layer.{i}.attention.self.pos_proj.bias",
        &[("deberta.encoder.layer.{i}.attention.self.pos_key_proj.bias", Same)],
    ),
    rename(
        "deberta.encoder.layer.{i}.attention.self.pos_q_proj.weight",
        &[("deberta.encoder.layer.{i}.attention.self.pos_query_proj.weight", Kernel)],
    ),
    rename(
        "deberta.encoder.layer.{i}.attention.self.pos_q_proj.bias",
        &[("deberta.encoder.layer.{i}.attention.self.pos_query_proj.bias", Same)],
    ),
];

/// Last parts of TensorFlow's names, and whether what they end is a kernel.
pub(crate) const TENSORFLOW_ENDINGS: &[(&str, &str, Transform)] = &[
    (".kernel", ".weight", Kernel),
    (".gamma", ".weight", Same),
    (".beta", ".bias", Same),
    (".embeddings", ".weight", Same),
    (".rel_embeddings..weight", ".rel_embeddings.weight", Same),
];

/// The scopes that a model's variables begin with, below whatever the model is called.
pub(crate) const TENSORFLOW_ROOTS: &[&str] =
    &["deberta", "cls", "lm_predictions", "mask_predictions", "pooler", "qa_outputs", "classifier"];

/// The language-modelling head has two names in Hugging Face's classes, by `legacy`; Microsoft's programs know the second.
/// The operations are the same: dense, activation, layer norm, product with the word embeddings, bias.
pub(crate) const LM_HEAD: &[(&str, &str)] = &[
    ("cls.predictions.bias", "lm_predictions.lm_head.bias"),
    ("cls.predictions.transform.dense.weight", "lm_predictions.lm_head.dense.weight"),
    ("cls.predictions.transform.dense.bias", "lm_predictions.lm_head.dense.bias"),
    ("cls.predictions.transform.LayerNorm.weight", "lm_predictions.lm_head.LayerNorm.weight"),
    ("cls.predictions.transform.LayerNorm.bias", "lm_predictions.lm_head.LayerNorm.bias"),
];

/// Names that are known, hold nothing a model needs, and are left out with this reason.
pub(crate) const NOT_NEEDED: &[(&str, &str)] = &[
    ("embeddings.position_ids", "a buffer 0, 1, 2, …, made anew by every program"),
    (
        "embeddings.word_embeddings._weight",
        "the discriminator's difference to the generator's embeddings; what counts is the sum, word_embeddings.weight",
    ),
    (
        "embeddings.position_embeddings._weight",
        "the discriminator's difference to the generator's embeddings; what counts is the sum, position_embeddings.weight",
    ),
];

/// A parameter's name in Microsoft's programs: as Hugging Face's, but for the language-modelling head.
pub(crate) fn to_microsoft(name: &str) -> &str {
    LM_HEAD.iter().find(|(hf, _)| *hf == name).map_or(name, |(_, microsoft)| microsoft)
}

/// The other name of a parameter of the language-modelling head.
pub(crate) fn other_lm_head(name: &str) -> Option<&'static str> {
    LM_HEAD.iter().find_map(|(a, b)| if *a == name { Some(*b) } else { (*b == name).then_some(*a) })
}
