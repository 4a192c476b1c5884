//! What `deberta-verify` may know of a model when it looks for the cause of a divergence: its configuration, and its
//! weights one at a time.

use std::collections::BTreeMap;

use deberta_checkpoint::name_map::map_part;
use deberta_checkpoint::{Checkpoint, Dtype, TensorInfo};
use deberta_model::config::PosAttType;
use deberta_model::{Head, Profile, schema_under};
use deberta_verify::{Knowledge, Weights};
use ndarray::{Array2, ArrayD, Axis, Ix2};
use serde_json::{Value, json};

use crate::error::Error;
use crate::model_directory::ModelDirectory;

/// The weights of one head of a model directory, converted where they are asked for.
pub struct KnownWeights<'d> {
    checkpoint: &'d Checkpoint,
    tensors: BTreeMap<String, TensorInfo>,
    config: Value,
}

impl<'d> KnownWeights<'d> {
    /// The parameters of `head` that the directory holds.
    ///
    /// # Errors
    /// Tensors that have to be compared and cannot be read.
    pub fn new(directory: &'d ModelDirectory, head: Head, profile: &Profile) -> Result<Self, Error> {
        let config = directory.config(head);
        let parameters = schema_under(config, head, profile);
        let (resolved, _) = map_part(directory.checkpoint(), directory.part(head), config, parameters)?;
        let tensors = resolved.mapped.into_iter().map(|m| (m.parameter.name, m.tensor)).collect();
        let PosAttType { c2p, p2c, .. } = config.pos_att_type;
        let terms: Vec<&str> = [("c2p", c2p), ("p2c", p2c)].into_iter().filter(|t| t.1).map(|t| t.0).collect();
        // The names under which every reader of `config.json` knows these numbers, whatever the file's spelling.
        let config = json!({
            "num_hidden_layers": config.num_hidden_layers,
            "num_attention_heads": config.num_attention_heads,
            "relative_attention": config.relative_attention,
            "position_buckets": config.position_buckets,
            "max_relative_positions": config.max_distance(),
            "pos_att_type": terms,
            "share_att_key": config.share_att_key,
            "norm_rel_ebd": config.norm_rel_ebd,
            "layer_norm_eps": config.layer_norm_eps,
            "hidden_act": config.hidden_act.name(),
            "conv_kernel_size": config.conv_kernel_size,
            "conv_groups": config.conv_groups,
            "conv_act": config.conv_act.name(),
            "position_biased_input": config.position_biased_input,
            "type_vocab_size": config.type_vocab_size,
            "pad_token_id": config.pad_token_id.unwrap_or(0),
            "pooler_hidden_act": config.pooler_hidden_act.name(),
            "enhanced_mask_decoder": head == Head::EnhancedMaskedLm && !config.position_biased_input,
        });
        Ok(Self { checkpoint: directory.checkpoint(), tensors, config })
    }

    /// For `deberta_verify::Options`.
    pub fn knowledge(&self) -> Knowledge<'_> {
        Knowledge { config: Some(self.config.clone()), weights: Some(self) }
    }

    /// By the parameter's name, or else by the file's: a table that the configuration does not use may still be there.
    fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name).or_else(|| self.checkpoint.get(name))
    }
}

impl Weights for KnownWeights<'_> {
    fn weight(&self, name: &str) -> Option<ArrayD<f64>> {
        self.checkpoint.array::<f64>(self.tensor(name)?).ok().map(|a| a.into_owned())
    }

    fn rows(&self, name: &str, ids: &[usize]) -> Option<Array2<f64>> {
        let tensor = self.tensor(name)?;
        if !matches!(tensor.shape[..], [rows, _] if ids.iter().all(|&i| i < rows)) {
            return None;
        }
        // A table of a hundred thousand words is not widened for a few of them.
        if tensor.dtype == Dtype::F64 {
            let table = self.checkpoint.array::<f64>(tensor).ok()?.into_dimensionality::<Ix2>().ok()?;
            return Some(table.select(Axis(0), ids));
        }
        let table = self.checkpoint.array::<f32>(tensor).ok()?.into_dimensionality::<Ix2>().ok()?;
        Some(table.select(Axis(0), ids).mapv(f64::from))
    }
}
