//! The numbers of the model that a diagnosis needs, from its `config.json`.

use serde_json::Value;

use super::node::Depth;

/// An activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Act {
    Gelu,
    GeluTanh,
    GeluSigmoid,
    Relu,
    Silu,
    Tanh,
    Sigmoid,
    Identity,
}

impl Act {
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "gelu" | "gelu_python" => Self::Gelu,
            "gelu_new" | "gelu_accurate" | "gelu_fast" | "gelu_python_tanh" | "gelu_pytorch_tanh" => Self::GeluTanh,
            "quick_gelu" => Self::GeluSigmoid,
            "relu" => Self::Relu,
            "silu" | "swish" => Self::Silu,
            "tanh" => Self::Tanh,
            "sigmoid" => Self::Sigmoid,
            "linear" => Self::Identity,
            _ => return None,
        })
    }

    pub fn apply(self, x: f64) -> f64 {
        match self {
            Self::Gelu => x / 2.0 * (1.0 + libm::erf(x / std::f64::consts::SQRT_2)),
            Self::GeluTanh => {
                let root = (2.0 / std::f64::consts::PI).sqrt();
                x / 2.0 * (1.0 + (root * (x + 0.044715 * x * x * x)).tanh())
            }
            Self::GeluSigmoid => x / (1.0 + (-1.702 * x).exp()),
            Self::Relu => x.max(0.0),
            Self::Silu => x / (1.0 + (-x).exp()),
            Self::Tanh => x.tanh(),
            Self::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Self::Identity => x,
        }
    }
}

/// In which precision the logarithm of a bucket is taken: it decides the bucket where the quotient is nearly whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Logarithm {
    F32,
    F64,
}

/// Which row of the relative embeddings a distance has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Relative {
    /// S: half the number of rows.
    pub span: usize,
    /// The number of buckets, if distances are put into buckets.
    pub buckets: Option<usize>,
    /// The largest distance told apart.
    pub max: usize,
    /// See [`Logarithm`].
    pub log: Logarithm,
    /// Whether distances are held within ±(max − 1) first (Microsoft's newest code).
    pub clamps_distance: bool,
}

/// The convolution after layer 0.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Convolution {
    pub groups: usize,
    pub act: Act,
}

/// What a query that is padding attends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padded {
    /// Every key, alike: the fill is finite (hf-5).
    Uniform,
    /// None: its probabilities are zero (hf-4, Microsoft).
    Zero,
}

/// The model.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Setting {
    pub layers: usize,
    pub heads: usize,
    pub relative: Option<Relative>,
    pub c2p: bool,
    pub p2c: bool,
    /// 1 + \[c2p\] + \[p2c\], also where relative attention is off.
    pub factor: f64,
    pub share: bool,
    pub norm_rel: bool,
    pub eps: f64,
    pub act: Act,
    pub convolution: Option<Convolution>,
    pub position_biased: bool,
    pub token_types: bool,
    pub pad_token_id: usize,
    pub pooler_act: Act,
    /// Whether the scale is rounded to f32 (Hugging Face).
    pub scale_f32: bool,
    pub padded: Padded,
    /// Whether words are predicted through the enhanced mask decoder.
    pub enhanced: bool,
    /// Where the maximum was fitted: the others that put the distances at hand into the same buckets.
    pub maxima: Vec<usize>,
}

impl Setting {
    pub fn depth(&self) -> Depth {
        Depth { layers: self.layers, convolution: self.convolution.is_some() }
    }

    /// Reads a `config.json`; `None` where it lacks what no default stands for.
    pub fn from_config(config: &Value) -> Option<Self> {
        let config = config.get("model_config").unwrap_or(config);
        let number = |key: &str| config.get(key).and_then(Value::as_i64);
        let size = |key: &str| number(key).and_then(|n| usize::try_from(n).ok()).filter(|&n| n <= LARGEST);
        let text = |key: &str| config.get(key).and_then(Value::as_str);
        let flag = |key: &str, or: bool| config.get(key).and_then(Value::as_bool).unwrap_or(or);
        let act = |key: &str, or: Act| text(key).map_or(Some(or), Act::from_name);
        let heads = size("num_attention_heads").filter(|&h| h > 0)?;
        let types = position_terms(config.get("pos_att_type"));
        let max = size("max_relative_positions").filter(|&m| m > 0).or_else(|| size("max_position_embeddings"));
        let buckets = size("position_buckets").filter(|&b| b > 0);
        let relative = flag("relative_attention", false).then_some(());
        let relative = match (relative, max) {
            (None, _) => None,
            (Some(()), Some(max)) => Some(Relative {
                span: buckets.unwrap_or(max),
                buckets,
                max,
                log: Logarithm::F32,
                clamps_distance: false,
            }),
            (Some(()), None) => return None,
        };
        let kernel = size("conv_kernel_size").unwrap_or(0);
        let convolution = match kernel {
            0 => None,
            _ => {
                Some(Convolution { groups: size("conv_groups").unwrap_or(1).max(1), act: act("conv_act", Act::Tanh)? })
            }
        };
        Some(Self {
            layers: size("num_hidden_layers")?,
            heads,
            c2p: types.0 && relative.is_some(),
            p2c: types.1 && relative.is_some(),
            factor: 1.0 + f64::from(u8::from(types.0) + u8::from(types.1)),
            relative,
            share: flag("share_att_key", false),
            norm_rel: text("norm_rel_ebd").is_some_and(|n| n.to_lowercase().contains("layer_norm")),
            eps: config.get("layer_norm_eps").and_then(Value::as_f64).unwrap_or(1e-7),
            act: act("hidden_act", Act::Gelu)?,
            convolution,
            position_biased: flag("position_biased_input", true),
            token_types: size("type_vocab_size").unwrap_or(0) > 0,
            pad_token_id: size("pad_token_id").or_else(|| size("padding_idx")).unwrap_or(0),
            pooler_act: act("pooler_hidden_act", Act::Gelu)?,
            scale_f32: true,
            padded: Padded::Uniform,
            enhanced: flag("enhanced_mask_decoder", false),
            maxima: Vec::new(),
        })
    }
}

/// Numbers above this are no model's.
const LARGEST: usize = 1 << 32;

/// Whether c2p and p2c are in `pos_att_type`: a list, or names between bars; "c2p" where it is absent.
fn position_terms(value: Option<&Value>) -> (bool, bool) {
    let names: Vec<String> = match value {
        None => vec!["c2p".to_owned()],
        Some(Value::String(s)) => s.split('|').map(|t| t.trim().to_lowercase()).collect(),
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).map(|t| t.trim().to_lowercase()).collect(),
        Some(_) => Vec::new(),
    };
    let has = |name: &str| names.iter().any(|n| n == name);
    (has("c2p"), has("p2c"))
}
