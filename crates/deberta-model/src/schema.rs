//! The one list of parameters of a model: name, shape, role, and whether a checkpoint must hold it.
//!
//! Names are those of Hugging Face's state dict. Loading, converting, inspecting, name maps and fixtures all ask
//! [`schema()`]; no second list exists.

use std::fmt;
use std::str::FromStr;

use crate::config::DebertaV2Config;
use crate::profile::Profile;

/// What stands on top of the encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Head {
    /// Nothing: the last hidden state (`DebertaV2Model`).
    Base,
    /// Hugging Face's masked language model (`DebertaV2ForMaskedLM`), in its two forms (`legacy`).
    MaskedLm,
    /// Microsoft's masked language model through the enhanced mask decoder.
    EnhancedMaskedLm,
    /// One class a sequence (`DebertaV2ForSequenceClassification`).
    SequenceClassification,
    /// One class a token (`DebertaV2ForTokenClassification`).
    TokenClassification,
    /// The start and the end of an answer (`DebertaV2ForQuestionAnswering`).
    QuestionAnswering,
    /// One of several continuations (`DebertaV2ForMultipleChoice`).
    MultipleChoice,
    /// Whether a token was replaced (the discriminator of DeBERTa-v3).
    ReplacedTokenDetection,
}

impl Head {
    /// Every head.
    pub const ALL: [Self; 8] = [
        Self::Base,
        Self::MaskedLm,
        Self::EnhancedMaskedLm,
        Self::SequenceClassification,
        Self::TokenClassification,
        Self::QuestionAnswering,
        Self::MultipleChoice,
        Self::ReplacedTokenDetection,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::MaskedLm => "masked-lm",
            Self::EnhancedMaskedLm => "enhanced-masked-lm",
            Self::SequenceClassification => "sequence-classification",
            Self::TokenClassification => "token-classification",
            Self::QuestionAnswering => "question-answering",
            Self::MultipleChoice => "multiple-choice",
            Self::ReplacedTokenDetection => "replaced-token-detection",
        }
    }

    /// Hugging Face's class, as `architectures` in config.json names it; `None` for the heads transformers lacks.
    pub fn architecture(self) -> Option<&'static str> {
        match self {
            Self::Base => Some("DebertaV2Model"),
            Self::MaskedLm => Some("DebertaV2ForMaskedLM"),
            Self::SequenceClassification => Some("DebertaV2ForSequenceClassification"),
            Self::TokenClassification => Some("DebertaV2ForTokenClassification"),
            Self::QuestionAnswering => Some("DebertaV2ForQuestionAnswering"),
            Self::MultipleChoice => Some("DebertaV2ForMultipleChoice"),
            Self::EnhancedMaskedLm | Self::ReplacedTokenDetection => None,
        }
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Head {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|h| h.name() == name)
            .ok_or_else(|| format!("`{name}` is no head; heads are {}", known()))
    }
}

/// What a parameter is to the operation that uses it. Tells, for one, which axes a TensorFlow checkpoint swaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A table of rows, [count, width].
    Embedding,
    /// The matrix of an affine map, [out, in].
    LinearWeight,
    /// The kernel of a convolution, [out, in / groups, taps].
    ConvWeight,
    /// An additive vector.
    Bias,
    /// γ of a layer norm.
    NormWeight,
    /// β of a layer norm.
    NormBias,
}

/// Whether a checkpoint must hold a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Without it there is no model.
    Required,
    /// Used where present; its absence changes what the model can do, not whether it runs.
    Optional,
    /// The same array as the parameter of this name, which may stand in its place; at least one of the two is required.
    TiedTo(String),
}

/// A parameter of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Hugging Face's name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// What it is to its operation.
    pub role: Role,
    /// Whether a checkpoint must hold it.
    pub presence: Presence,
}

/// The parameters of `config` under `head`, in the order in which Hugging Face's modules declare them.
pub fn schema(config: &DebertaV2Config, head: Head) -> Vec<Parameter> {
    let mut list = List { parameters: Vec::new() };
    embeddings(&mut list, config, head);
    encoder(&mut list, config);
    head_parameters(&mut list, config, head);
    list.parameters
}

/// The same list for a model that follows `profile`, which may do without a parameter: choices that are pooled by
/// attention need no pooler.
pub fn schema_under(config: &DebertaV2Config, head: Head, profile: &Profile) -> Vec<Parameter> {
    let mut parameters = schema(config, head);
    if head == Head::MultipleChoice && profile.pools_choices_by_attention {
        parameters.retain(|p| !p.name.starts_with("pooler."));
    }
    parameters
}

fn embeddings(list: &mut List, config: &DebertaV2Config, head: Head) {
    let (hidden, width) = (config.hidden_size, config.embedding_width());
    let at = "deberta.embeddings";
    list.embedding(&format!("{at}.word_embeddings"), config.vocab_size, width);
    list.embedding(&format!("{at}.position_embeddings"), config.max_position_embeddings, width);
    if !config.position_biased_input && head != Head::EnhancedMaskedLm {
        // Microsoft's checkpoints hold the table for the enhanced mask decoder; nothing else reads it.
        list.last_is(Presence::Optional);
    }
    if config.type_vocab_size > 0 {
        list.embedding(&format!("{at}.token_type_embeddings"), config.type_vocab_size, width);
    }
    if width != hidden {
        list.push(format!("{at}.embed_proj.weight"), vec![hidden, width], Role::LinearWeight);
    }
    list.layer_norm(&format!("{at}.LayerNorm"), hidden);
}

fn encoder(list: &mut List, config: &DebertaV2Config) {
    let hidden = config.hidden_size;
    for i in 0..config.num_hidden_layers {
        let layer = format!("deberta.encoder.layer.{i}");
        let attention = format!("{layer}.attention.self");
        for projection in ["query_proj", "key_proj", "value_proj"] {
            list.linear(&format!("{attention}.{projection}"), hidden, hidden);
        }
        if config.relative_attention && !config.share_att_key {
            if config.pos_att_type.c2p {
                list.linear(&format!("{attention}.pos_key_proj"), hidden, hidden);
            }
            if config.pos_att_type.p2c {
                list.linear(&format!("{attention}.pos_query_proj"), hidden, hidden);
            }
        }
        list.linear(&format!("{layer}.attention.output.dense"), hidden, hidden);
        list.layer_norm(&format!("{layer}.attention.output.LayerNorm"), hidden);
        list.linear(&format!("{layer}.intermediate.dense"), config.intermediate_size, hidden);
        list.linear(&format!("{layer}.output.dense"), hidden, config.intermediate_size);
        list.layer_norm(&format!("{layer}.output.LayerNorm"), hidden);
    }
    if config.relative_attention {
        list.embedding("deberta.encoder.rel_embeddings", 2 * config.att_span(), hidden);
    }
    if config.normalizes_relative() {
        list.layer_norm("deberta.encoder.LayerNorm", hidden);
    }
    if config.conv_kernel_size > 0 {
        let kernel = vec![hidden, hidden / config.conv_groups, config.conv_kernel_size];
        list.push("deberta.encoder.conv.conv.weight".to_owned(), kernel, Role::ConvWeight);
        list.push("deberta.encoder.conv.conv.bias".to_owned(), vec![hidden], Role::Bias);
        list.layer_norm("deberta.encoder.conv.LayerNorm", hidden);
    }
}

fn head_parameters(list: &mut List, config: &DebertaV2Config, head: Head) {
    let (hidden, width, vocab) = (config.hidden_size, config.embedding_width(), config.vocab_size);
    match head {
        Head::Base => {}
        Head::MaskedLm if config.legacy => {
            let at = "cls.predictions";
            list.push(format!("{at}.bias"), vec![vocab], Role::Bias);
            list.linear(&format!("{at}.transform.dense"), width, hidden);
            list.layer_norm(&format!("{at}.transform.LayerNorm"), width);
            list.push(format!("{at}.decoder.weight"), vec![vocab, width], Role::Embedding);
            if config.tie_word_embeddings {
                list.last_is(Presence::TiedTo("deberta.embeddings.word_embeddings.weight".to_owned()));
            }
            // Where the file holds both, this one is added: transformers 5 tells them apart in an untied decoder, and
            // transformers 4 saves the other alone.
            list.push(format!("{at}.decoder.bias"), vec![vocab], Role::Bias);
            list.last_is(Presence::TiedTo(format!("{at}.bias")));
        }
        Head::MaskedLm | Head::EnhancedMaskedLm => {
            let at = "lm_predictions.lm_head";
            list.push(format!("{at}.bias"), vec![vocab], Role::Bias);
            list.linear(&format!("{at}.dense"), width, hidden);
            list.layer_norm(&format!("{at}.LayerNorm"), width);
        }
        Head::SequenceClassification => {
            list.linear("pooler.dense", hidden, hidden);
            list.linear("classifier", config.num_labels(), hidden);
        }
        Head::TokenClassification => {
            // Microsoft's NER model has a projection before the classifier; Hugging Face's has none.
            list.linear("proj", hidden, hidden);
            list.last_are(2, Presence::Optional);
            list.linear("classifier", config.num_labels(), hidden);
        }
        Head::QuestionAnswering => list.linear("qa_outputs", 2, hidden),
        Head::MultipleChoice => {
            list.linear("pooler.dense", hidden, hidden);
            list.linear("classifier", 1, hidden);
        }
        Head::ReplacedTokenDetection => {
            let at = "mask_predictions";
            list.linear(&format!("{at}.dense"), hidden, hidden);
            list.layer_norm(&format!("{at}.LayerNorm"), hidden);
            list.linear(&format!("{at}.classifier"), 1, hidden);
        }
    }
}

struct List {
    parameters: Vec<Parameter>,
}

impl List {
    fn push(&mut self, name: String, shape: Vec<usize>, role: Role) {
        self.parameters.push(Parameter { name, shape, role, presence: Presence::Required });
    }

    fn last_is(&mut self, presence: Presence) {
        self.last_are(1, presence);
    }

    fn last_are(&mut self, count: usize, presence: Presence) {
        for parameter in self.parameters.iter_mut().rev().take(count) {
            parameter.presence = presence.clone();
        }
    }

    fn embedding(&mut self, module: &str, count: usize, width: usize) {
        self.push(format!("{module}.weight"), vec![count, width], Role::Embedding);
    }

    fn linear(&mut self, module: &str, out: usize, input: usize) {
        self.push(format!("{module}.weight"), vec![out, input], Role::LinearWeight);
        self.push(format!("{module}.bias"), vec![out], Role::Bias);
    }

    fn layer_norm(&mut self, module: &str, width: usize) {
        self.push(format!("{module}.weight"), vec![width], Role::NormWeight);
        self.push(format!("{module}.bias"), vec![width], Role::NormBias);
    }
}
