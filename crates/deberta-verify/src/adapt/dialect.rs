//! What other programs call the modules of DeBERTa.
//!
//! - Training programs wrap a model: `module.`, `_orig_mod.`, the class or the attribute that holds the encoder.
//! - Microsoft's programs say `bert.` for `deberta.`, and at first `pos_proj` and `pos_q_proj`.
//! - TensorFlow's classes nest scopes with slashes, count layers as `layer_._3`, and name attributes `dense_output` and
//!   `bert_output`; a tensor's name ends in the operation that made it and `:0`.
//! - KerasHub's backbone has names of its own for its layers.
//! - Lists become `hidden_states_3`, `hidden_states[3]`, `all_hidden_states.3`.

/// Where the names of a model begin, whatever stands before.
const ROOTS: &[&str] = &[
    "deberta",
    "bert",
    "embeddings",
    "encoder",
    "cls",
    "lm_predictions",
    "mask_predictions",
    "pooler",
    "classifier",
    "qa_outputs",
];

/// Segments that mean another; one that is empty falls away.
const SEGMENTS: &[(&str, &str)] = &[
    ("bert", "deberta"),
    ("pos_proj", "pos_key_proj"),
    ("pos_q_proj", "pos_query_proj"),
    ("dense_output", "output"),
    ("bert_output", "output"),
    ("all_hidden_states", "hidden_states"),
    ("all_attentions", "attentions"),
];

/// Operations of TensorFlow at the end of a name.
const OPERATIONS: &[&str] = &["BiasAdd", "MatMul", "add", "Identity", "batchnorm", "Tensordot", "Softmax", "Gelu"];

/// Layers of KerasHub's `DebertaV3Backbone`, from `deberta_v3_backbone.py`.
const KERAS_HUB: &[(&str, &str)] = &[
    ("token_embedding", "deberta.embeddings.word_embeddings"),
    ("embeddings_layer_norm", "deberta.embeddings.LayerNorm"),
    ("embeddings_dropout", "deberta.embeddings.dropout"),
    ("rel_embedding", "deberta.encoder.LayerNorm"),
];
const KERAS_HUB_LAYER: &str = "disentangled_attention_encoder_layer_";

/// A name in the spelling of Hugging Face's `named_modules`, as far as it is one of a known dialect; else much as it is.
pub(super) fn translate(name: &str) -> String {
    let name = name.strip_suffix(":0").unwrap_or(name).replace(['/', '['], ".").replace(']', "");
    let mut segments: Vec<&str> = name.split('.').filter(|s| !s.is_empty()).collect();
    if let Some(layer) = keras_hub(&segments) {
        return layer;
    }
    // `layer_._3`, split at its dot, is `layer_` and `_3`.
    for i in 1..segments.len() {
        if segments[i - 1] == "layer_" {
            segments[i - 1] = "layer";
            segments[i] = segments[i].trim_start_matches('_');
        }
    }
    while segments.len() > 1 && segments.last().is_some_and(|s| OPERATIONS.contains(s)) {
        segments.pop();
    }
    if let Some(root) = segments.iter().position(|s| ROOTS.contains(s)) {
        segments.drain(..root);
    }
    for segment in &mut segments {
        *segment = SEGMENTS.iter().find(|(from, _)| from == segment).map_or(*segment, |(_, to)| *to);
    }
    let name = segments.join(".");
    numbered(&name).unwrap_or(name)
}

fn keras_hub(segments: &[&str]) -> Option<String> {
    let last = segments.last()?;
    if let Some((_, ours)) = KERAS_HUB.iter().find(|(theirs, _)| theirs == last) {
        return Some((*ours).to_owned());
    }
    let layer: usize = last.strip_prefix(KERAS_HUB_LAYER)?.parse().ok()?;
    Some(format!("deberta.encoder.layer.{layer}"))
}

/// `hidden_states_3` and `hidden_state_3` for `hidden_states.3`; `attentions_3` and `attention_3` for `attentions.3`.
fn numbered(name: &str) -> Option<String> {
    let (list, number) = name.rsplit_once(['_', '.'])?;
    let number: usize = number.parse().ok()?;
    match list {
        "hidden_states" | "hidden_state" | "all_hidden_states" => Some(format!("hidden_states.{number}")),
        "attentions" | "attention" | "all_attentions" => Some(format!("attentions.{number}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::canonical;

    #[test]
    fn dialects_become_the_one_spelling() {
        let query = "deberta.encoder.layer.3.attention.self.query_proj";
        for name in [
            "encoder.layer.3.attention.self.query_proj",
            "module.deberta.encoder.layer.3.attention.self.query_proj",
            "_orig_mod.module.bert.encoder.layer.3.attention.self.query_proj",
            "DebertaV2ForMaskedLM.deberta.encoder.layer.3.attention.self.query_proj",
            "tf_deberta_v2_model/deberta/encoder/layer_._3/attention/self/query_proj/BiasAdd:0",
            "tf_deberta_v2_model.deberta.encoder.layer_._3.attention.self.query_proj",
        ] {
            assert_eq!(canonical(&translate(name)), query, "{name}");
        }
        for (name, ours) in [
            ("bert.encoder.layer.0.attention.self.pos_q_proj", "deberta.encoder.layer.0.attention.self.pos_query_proj"),
            ("deberta/encoder/layer_._0/attention/dense_output", "deberta.encoder.layer.0.attention.output"),
            ("deberta/encoder/layer_._11/bert_output/dense", "deberta.encoder.layer.11.output.dense"),
            ("hidden_states_12", "hidden_states.12"),
            ("all_hidden_states[2]", "hidden_states.2"),
            ("attention_4", "attentions.4"),
            ("backbone/disentangled_attention_encoder_layer_7", "deberta.encoder.layer.7"),
            ("token_embedding", "deberta.embeddings.word_embeddings"),
            ("logits", "logits"),
            ("model.classifier", "classifier"),
        ] {
            assert_eq!(canonical(&translate(name)), ours, "{name}");
        }
    }
}
