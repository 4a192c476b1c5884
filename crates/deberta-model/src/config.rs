//! The configuration of a model: `config.json` as Hugging Face writes it, and the variants Microsoft's files use.
//!
//! Field names are Hugging Face's. Defaults are those of `DebertaV2Config` in transformers, and, for the fields that
//! class does not declare, those with which its modelling code reads them (`getattr(config, name, default)`). What this
//! crate does not know is kept in [`DebertaV2Config::unknown`] and written back.

mod error;
mod fields;
mod validate;
mod write;

use deberta_ops::Activation;
use serde_json::{Map, Value};

pub use error::ConfigError;
use fields::Fields;

/// Which kinds of relative position a model scores (`pos_att_type`).
///
/// `c2p`: content to position, a query against the position keys; `p2c`: position to content, a key against the
/// position queries. Unknown entries are ignored, as the references do; `p2p` is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PosAttType {
    /// Content to position.
    pub c2p: bool,
    /// Position to content.
    pub p2c: bool,
    /// As the file spells it: a list, a string such as `"p2c|c2p"`, or null; `None` where the field is absent.
    spelling: Option<Value>,
}

impl PosAttType {
    /// From the two switches, spelled as a list.
    pub fn new(c2p: bool, p2c: bool) -> Self {
        let entries = [("p2c", p2c), ("c2p", c2p)].into_iter().filter(|e| e.1).map(|e| e.0.into()).collect();
        Self { c2p, p2c, spelling: Some(Value::Array(entries)) }
    }

    /// As the file spells it; where the field was absent, the list of what it stands for.
    pub(crate) fn to_value(&self) -> Value {
        self.spelling.clone().or_else(|| Self::new(self.c2p, self.p2c).spelling).unwrap_or_default()
    }

    /// 1 + \[c2p\] + \[p2c\]: the number of terms a score is the sum of, by which the head size is multiplied under the
    /// root of the scale (section 3.1 of the paper: 1/√(3d) where both are present).
    pub fn scale_factor(&self) -> usize {
        1 + usize::from(self.c2p) + usize::from(self.p2c)
    }
}

/// What the labels of a sequence classification are (`problem_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemType {
    /// Real numbers; squared error.
    Regression,
    /// One class each; cross-entropy.
    SingleLabelClassification,
    /// Any number of classes each; binary cross-entropy.
    MultiLabelClassification,
}

impl ProblemType {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Regression, Self::SingleLabelClassification, Self::MultiLabelClassification];

    /// The name in a configuration file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Regression => "regression",
            Self::SingleLabelClassification => "single_label_classification",
            Self::MultiLabelClassification => "multi_label_classification",
        }
    }
}

/// The configuration of a DeBERTa-v2 or v3 model.
#[derive(Clone, Debug, PartialEq)]
pub struct DebertaV2Config {
    /// V, the number of rows of the word embeddings.
    pub vocab_size: usize,
    /// E, the width of the hidden states.
    pub hidden_size: usize,
    /// N, the number of layers.
    pub num_hidden_layers: usize,
    /// H, the number of attention heads.
    pub num_attention_heads: usize,
    /// I, the width between the two products of the feed-forward network.
    pub intermediate_size: usize,
    /// The activation of the feed-forward network and of the language-modelling heads.
    pub hidden_act: Activation,
    /// The number of absolute positions.
    pub max_position_embeddings: usize,
    /// The number of token types; 0 means that token types are ignored.
    pub type_vocab_size: usize,
    /// ε of every layer norm.
    pub layer_norm_eps: f64,
    /// Whether relative positions enter the attention.
    pub relative_attention: bool,
    /// The largest relative distance told apart; below 1 it is `max_position_embeddings`.
    pub max_relative_positions: i64,
    /// The number of buckets on each side of distance zero; below 1 every distance has its own row.
    pub position_buckets: i64,
    /// Which relative terms a score has.
    pub pos_att_type: PosAttType,
    /// Whether relative rows are projected with the content's query and key projections.
    pub share_att_key: bool,
    /// What is done to the relative rows before use, such as `"layer_norm"`, as the file spells it.
    pub norm_rel_ebd: String,
    /// Whether absolute positions are added to the embeddings.
    pub position_biased_input: bool,
    /// The padding token; its embedding is an ordinary row.
    pub pad_token_id: Option<i64>,
    /// D, where the file states it; else E / H.
    pub attention_head_size: Option<usize>,
    /// E′, the width of the embeddings, where the file states it; else E.
    pub embedding_size: Option<usize>,
    /// The width of the convolution after the first layer; 0 means none.
    pub conv_kernel_size: usize,
    /// The groups of the convolution.
    pub conv_groups: usize,
    /// The activation of the convolution.
    pub conv_act: Activation,
    /// The width of the pooler, where the file states it; else E.
    pub pooler_hidden_size: Option<usize>,
    /// The activation of the pooler.
    pub pooler_hidden_act: Activation,
    /// Whether masked language modelling uses Hugging Face's first head (`cls.predictions`) rather than Microsoft's
    /// (`lm_predictions.lm_head`).
    pub legacy: bool,
    /// Whether `cls.predictions.decoder` shares the word embeddings.
    pub tie_word_embeddings: bool,
    /// The names of the classes by their ids in decimal; empty where the file does not name them. See [`Self::label`].
    pub id2label: Map<String, Value>,
    /// The number of classes, where the file states it without naming them. See [`Self::num_labels`].
    pub num_labels: Option<usize>,
    /// What the labels of a sequence classification are; `None`: told from the labels.
    pub problem_type: Option<ProblemType>,
    /// Everything else in the file, in its order.
    pub unknown: Map<String, Value>,
}

impl DebertaV2Config {
    /// Reads the text of a configuration file and checks that a model can be built from it.
    ///
    /// # Errors
    /// See [`ConfigError`]: each names the field.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let value = serde_json::from_str(text).map_err(|source| ConfigError::Syntax { source })?;
        Self::from_value(value)
    }

    /// Reads a parsed configuration and checks that a model can be built from it.
    ///
    /// # Errors
    /// See [`ConfigError`]: each names the field.
    pub fn from_value(value: Value) -> Result<Self, ConfigError> {
        let Value::Object(map) = value else {
            return Err(ConfigError::NotAnObject);
        };
        let config = Self::from_fields(Fields::new(map))?;
        config.validate()?;
        Ok(config)
    }

    fn from_fields(mut f: Fields) -> Result<Self, ConfigError> {
        // Microsoft's files say `padding_idx`, and nest the pooler's settings under `pooling`; without it the pooler has
        // the model's own (`PoolConfig`).
        let microsoft = f.has("padding_idx");
        let pad_token_id = match f.integer_or_null("pad_token_id")? {
            Some(id) => id,
            None if microsoft => f.peek_integer("padding_idx")?,
            None => Some(0),
        };
        let hidden_act = f.activation("hidden_act", Activation::Gelu)?;
        let pooling = f.nested("pooling")?;
        let pooler_default = match (&pooling, microsoft) {
            (Some(pooling), _) => pooling.clone().activation("hidden_act", Activation::Gelu)?,
            (None, true) => hidden_act,
            (None, false) => Activation::Gelu,
        };
        let hidden_size = f.size("hidden_size", 1536)?;
        let id2label = f.id2label()?;
        Ok(Self {
            vocab_size: f.size("vocab_size", 128_100)?,
            hidden_size,
            num_hidden_layers: f.size("num_hidden_layers", 24)?,
            num_attention_heads: f.size("num_attention_heads", 24)?,
            intermediate_size: f.size("intermediate_size", 6144)?,
            hidden_act,
            max_position_embeddings: f.size("max_position_embeddings", 512)?,
            type_vocab_size: f.size("type_vocab_size", 0)?,
            layer_norm_eps: f.number("layer_norm_eps", 1e-7)?,
            relative_attention: f.switch("relative_attention", false)?,
            max_relative_positions: f.integer("max_relative_positions", -1)?,
            position_buckets: f.integer("position_buckets", -1)?,
            pos_att_type: f.pos_att_type(microsoft)?,
            share_att_key: f.switch("share_att_key", false)?,
            norm_rel_ebd: f.text("norm_rel_ebd", "none")?,
            position_biased_input: f.switch("position_biased_input", true)?,
            pad_token_id,
            attention_head_size: f.optional_size("attention_head_size")?,
            embedding_size: f.optional_size("embedding_size")?,
            conv_kernel_size: f.size("conv_kernel_size", 0)?,
            conv_groups: f.size("conv_groups", 1)?,
            conv_act: f.activation("conv_act", Activation::Tanh)?,
            pooler_hidden_size: match f.optional_size("pooler_hidden_size")? {
                None => pooling.unwrap_or_default().optional_size("hidden_size")?.filter(|&s| s > 0),
                stated => stated,
            },
            pooler_hidden_act: f.activation("pooler_hidden_act", pooler_default)?,
            legacy: f.switch("legacy", true)?,
            tie_word_embeddings: f.switch("tie_word_embeddings", true)?,
            num_labels: f.optional_size("num_labels")?,
            id2label,
            problem_type: f.problem_type()?,
            unknown: f.rest(),
        })
    }

    /// D, the width of one head.
    pub fn head_size(&self) -> usize {
        self.attention_head_size.unwrap_or(self.hidden_size / self.num_attention_heads)
    }

    /// E′, the width of the embeddings before `embed_proj`.
    pub fn embedding_width(&self) -> usize {
        self.embedding_size.unwrap_or(self.hidden_size)
    }

    /// The number of classes: as many as are named, else as stated, else 2.
    pub fn num_labels(&self) -> usize {
        if self.id2label.is_empty() { self.num_labels.unwrap_or(2) } else { self.id2label.len() }
    }

    /// Gives the model `count` classes, unless the file says how many it has. Microsoft's files do not: its programs are
    /// told on the command line.
    pub fn assume_num_labels(&mut self, count: usize) {
        if self.id2label.is_empty() {
            self.num_labels.get_or_insert(count);
        }
    }

    /// The name of a class: as the file has it, else `LABEL_` and its id.
    pub fn label(&self, id: usize) -> String {
        match self.id2label.get(&id.to_string()) {
            Some(Value::String(name)) => name.clone(),
            Some(other) => other.to_string(),
            None => format!("LABEL_{id}"),
        }
    }

    /// The largest relative distance told apart: `max_relative_positions`, or `max_position_embeddings` where that is
    /// below 1.
    pub fn max_distance(&self) -> usize {
        match usize::try_from(self.max_relative_positions) {
            Ok(max) if max >= 1 => max,
            _ => self.max_position_embeddings,
        }
    }

    /// The number of buckets on each side of zero, where distances are bucketed.
    pub fn buckets(&self) -> Option<usize> {
        usize::try_from(self.position_buckets).ok().filter(|&b| b > 0)
    }

    /// S, `att_span`: half the number of relative rows.
    pub fn att_span(&self) -> usize {
        self.buckets().unwrap_or_else(|| self.max_distance())
    }

    /// Whether the relative rows are layer-normed before use.
    pub fn normalizes_relative(&self) -> bool {
        self.norm_rel_ebd.to_lowercase().split('|').any(|entry| entry.trim() == "layer_norm")
    }
}

#[cfg(test)]
mod tests;
