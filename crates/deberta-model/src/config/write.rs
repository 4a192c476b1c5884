//! Writing a configuration back.

use serde_json::{Value, json};

use super::{DebertaV2Config, ProblemType};

impl DebertaV2Config {
    /// The configuration as `config.json` holds it: every field this crate knows, then the unknown ones as they were
    /// read. A field that was absent and has no default of its own (such as `embedding_size`) stays absent.
    pub fn to_value(&self) -> Value {
        let known = json!({
            "model_type": "deberta-v2",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "intermediate_size": self.intermediate_size,
            "hidden_act": self.hidden_act.name(),
            "max_position_embeddings": self.max_position_embeddings,
            "type_vocab_size": self.type_vocab_size,
            "layer_norm_eps": self.layer_norm_eps,
            "relative_attention": self.relative_attention,
            "max_relative_positions": self.max_relative_positions,
            "position_buckets": self.position_buckets,
            "pos_att_type": self.pos_att_type.to_value(),
            "share_att_key": self.share_att_key,
            "norm_rel_ebd": self.norm_rel_ebd,
            "position_biased_input": self.position_biased_input,
            "pad_token_id": self.pad_token_id,
            "conv_kernel_size": self.conv_kernel_size,
            "conv_groups": self.conv_groups,
            "conv_act": self.conv_act.name(),
            "pooler_hidden_act": self.pooler_hidden_act.name(),
            "legacy": self.legacy,
            "tie_word_embeddings": self.tie_word_embeddings,
            "problem_type": self.problem_type.map(ProblemType::name),
        });
        let Value::Object(mut map) = known else { unreachable!("`known` is written as an object above") };
        let optional = [
            ("attention_head_size", self.attention_head_size),
            ("embedding_size", self.embedding_size),
            ("pooler_hidden_size", self.pooler_hidden_size),
            ("num_labels", self.num_labels),
        ];
        map.extend(optional.into_iter().filter_map(|(name, size)| Some((name.to_owned(), size?.into()))));
        if !self.id2label.is_empty() {
            map.insert("id2label".to_owned(), self.id2label.clone().into());
        }
        for (name, value) in &self.unknown {
            map.entry(name.clone()).or_insert_with(|| value.clone());
        }
        Value::Object(map)
    }
}
