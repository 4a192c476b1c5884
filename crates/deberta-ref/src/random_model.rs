//! Models of the published sizes with random weights: for benchmarks, and for trying a size before its weights are here.
//!
//! | name | hidden_size | layers | heads | intermediate_size | parameters |
//! |---|---|---|---|---|---|
//! | `v3-xsmall` | 384 | 12 | 6 | 1536 | 71 M |
//! | `v3-small` | 768 | 6 | 12 | 3072 | 141 M |
//! | `v3-base` | 768 | 12 | 12 | 3072 | 184 M |
//! | `v3-large` | 1024 | 24 | 16 | 4096 | 434 M |
//! | `v2-xlarge` | 1536 | 24 | 24 | 6144 | 885 M |
//! | `v2-xxlarge` | 1536 | 48 | 24 | 6144 | 1.6 G |
//!
//! All have 128,100 words, 256 buckets, both kinds of relative position through shared projections, and normalized
//! relative rows; the v2 models have the convolution. Weights are drawn so that states keep their size from layer to
//! layer and scores differ by about one: matrices with the variance 1/inputs, embeddings 1, biases 0.02², γ around 1.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use deberta_model::{DebertaV2Config, Head, Parameter, Presence, Role, schema};
use safetensors::{Dtype, View};
use serde_json::{Value, json};

use crate::error::Error;
use crate::random::Random;
use crate::tensor_file::write_beside;

/// A published size: its name and the fields in which the published configurations differ.
struct Size {
    name: &'static str,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    convolution: bool,
}

const fn size(name: &'static str, sizes: [usize; 4], convolution: bool) -> Size {
    let [hidden_size, num_hidden_layers, num_attention_heads, intermediate_size] = sizes;
    Size { name, hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, convolution }
}

const SIZES: [Size; 6] = [
    size("v3-xsmall", [384, 12, 6, 1536], false),
    size("v3-small", [768, 6, 12, 3072], false),
    size("v3-base", [768, 12, 12, 3072], false),
    size("v3-large", [1024, 24, 16, 4096], false),
    size("v2-xlarge", [1536, 24, 24, 6144], true),
    size("v2-xxlarge", [1536, 48, 24, 6144], true),
];

/// The names of the published sizes.
pub fn published_names() -> impl Iterator<Item = &'static str> {
    SIZES.iter().map(|size| size.name)
}

/// The configuration that was published under a name.
pub fn published_config(name: &str) -> Option<DebertaV2Config> {
    let size = SIZES.iter().find(|size| size.name == name)?;
    let mut fields = json!({
        "model_type": "deberta-v2",
        "vocab_size": 128_100,
        "hidden_size": size.hidden_size,
        "num_hidden_layers": size.num_hidden_layers,
        "num_attention_heads": size.num_attention_heads,
        "intermediate_size": size.intermediate_size,
        "hidden_act": "gelu",
        "max_position_embeddings": 512,
        "type_vocab_size": 0,
        "layer_norm_eps": 1e-7,
        "relative_attention": true,
        "max_relative_positions": -1,
        "position_buckets": 256,
        "pos_att_type": "p2c|c2p",
        "share_att_key": true,
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": false,
        "pad_token_id": 0,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "initializer_range": 0.02,
    });
    if size.convolution {
        fields["conv_kernel_size"] = json!(3);
        fields["conv_act"] = json!("gelu");
    }
    Some(DebertaV2Config::from_value(fields).expect("the published configurations are valid"))
}

/// Writes a model directory with random weights: `model.safetensors`, then `config.json`, each complete or absent.
///
/// # Errors
/// A folder that cannot be written to.
pub fn write_random_model(config: &DebertaV2Config, head: Head, seed: u64, folder: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let parameters = schema(config, head);
    let drawn: Vec<Drawn<'_>> = parameters
        .iter()
        .filter(|parameter| parameter.presence == Presence::Required)
        .zip(0..)
        .map(|(parameter, at)| Drawn { parameter, seed: Random::new(seed ^ at).bits() })
        .collect();
    let weights = folder.join("model.safetensors");
    write_beside(&weights, |beside| {
        let tensors = drawn.iter().map(|tensor| (tensor.parameter.name.as_str(), tensor));
        // One entry: a map of several would be written in another order each time.
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        safetensors::serialize_to_file(tensors, Some(metadata), beside)
            .map_err(|source| Error::TensorFile { path: weights.clone(), source })
    })?;
    let mut fields = config.to_value();
    if let (Some(architecture), Value::Object(fields)) = (head.architecture(), &mut fields) {
        fields.insert("architectures".to_owned(), json!([architecture]));
    }
    let file = folder.join("config.json");
    write_beside(&file, |beside| std::fs::write(beside, format!("{fields:#}\n")).map_err(Error::io(&file)))
}

/// A parameter whose numbers are drawn when they are written, so that one tensor at a time is in memory.
struct Drawn<'a> {
    parameter: &'a Parameter,
    seed: u64,
}

impl Drawn<'_> {
    fn numbers(&self) -> impl Iterator<Item = f32> {
        let mut random = Random::new(self.seed);
        let inputs: usize = self.parameter.shape.iter().skip(1).product();
        let (centre, deviation) = match self.parameter.role {
            Role::Embedding => (0.0, 1.0),
            Role::LinearWeight | Role::ConvWeight => (0.0, 1.0 / (inputs as f32).sqrt()),
            Role::Bias | Role::NormBias => (0.0, 0.02),
            Role::NormWeight => (1.0, 0.1),
        };
        let count = self.parameter.shape.iter().product();
        (0..count).map(move |_: usize| centre + deviation * random.normal())
    }
}

impl View for &Drawn<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.parameter.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut bytes = Vec::with_capacity(self.data_len());
        self.numbers().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
        Cow::Owned(bytes)
    }

    fn data_len(&self) -> usize {
        self.parameter.shape.iter().product::<usize>() * size_of::<f32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_sizes_have_the_published_number_of_parameters() {
        // Millions of parameters beside the embeddings and with them, as Microsoft's model cards state them.
        let cards = [("v3-xsmall", 22, 49), ("v3-small", 44, 98), ("v3-base", 86, 98), ("v3-large", 304, 131)];
        for (name, backbone, embedding) in cards {
            let config = published_config(name).expect("a published name");
            let count = |starts: &str| -> usize {
                let parameters = schema(&config, Head::Base);
                let required =
                    parameters.iter().filter(|p| p.presence == Presence::Required && p.name.starts_with(starts));
                required.map(|p| p.shape.iter().product::<usize>()).sum()
            };
            let millions = |count: usize| (count as f64 / 1e6).round() as i64;
            assert!((millions(count("deberta.encoder")) - backbone).abs() <= 1, "{name}");
            assert!((millions(count("deberta.embeddings")) - embedding).abs() <= 1, "{name}");
        }
        assert!(published_config("v4-base").is_none());
        assert_eq!(published_names().count(), SIZES.len());
    }

    #[test]
    fn a_random_model_loads_and_is_the_same_again() {
        let config = DebertaV2Config::from_value(json!({
            "vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20,
            "relative_attention": true, "position_buckets": 6, "max_relative_positions": 20, "pos_att_type": "c2p|p2c",
            "conv_kernel_size": 3,
        }))
        .expect("a valid configuration");
        let folder = tempfile::TempDir::new().expect("a temporary folder");
        let written = |name: &str, seed: u64| {
            let to = folder.path().join(name);
            write_random_model(&config, Head::QuestionAnswering, seed, &to).expect("it can be written");
            std::fs::read(to.join("model.safetensors")).expect("it was written")
        };
        let first = written("a", 5);
        assert!(first == written("b", 5), "the same seed");
        assert!(first != written("c", 6), "another seed");
        let directory = crate::ModelDirectory::open(&folder.path().join("a")).expect("a model directory");
        assert_eq!(directory.default_head(), Head::QuestionAnswering);
        let model = directory.load::<f32>(Head::QuestionAnswering, deberta_model::Profile::HF_5);
        assert_eq!(model.expect("every parameter is there").config().hidden_size, 24);
    }
}
