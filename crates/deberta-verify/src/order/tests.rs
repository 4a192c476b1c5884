use super::*;

/// In the order of computation; each name must stand strictly before the next.
const ORDER: &[&str] = &[
    "deberta.embeddings.word_embeddings",
    "deberta.embeddings.position_embeddings",
    "deberta.embeddings.token_type_embeddings",
    "deberta.embeddings.embed_proj",
    "deberta.embeddings.LayerNorm",
    "deberta.embeddings.dropout",
    "deberta.embeddings",
    "hidden_states.0",
    "deberta.encoder.rel_embeddings",
    "deberta.encoder.LayerNorm",
    "deberta.encoder.layer.0.attention.self.query_proj",
    "deberta.encoder.layer.0.attention.self.key_proj",
    "deberta.encoder.layer.0.attention.self.value_proj",
    "deberta.encoder.layer.0.attention.self.pos_key_proj",
    "deberta.encoder.layer.0.attention.self.pos_query_proj",
    "deberta.encoder.layer.0.attention.self.c2c",
    "deberta.encoder.layer.0.attention.self.c2p",
    "deberta.encoder.layer.0.attention.self.p2c",
    "deberta.encoder.layer.0.attention.self.scores",
    "deberta.encoder.layer.0.attention.self.probs",
    "attentions.0",
    "deberta.encoder.layer.0.attention.self",
    "deberta.encoder.layer.0.attention.self.something",
    "deberta.encoder.layer.0.attention.output.dense",
    "deberta.encoder.layer.0.attention.output.dropout",
    "deberta.encoder.layer.0.attention.output.LayerNorm",
    "deberta.encoder.layer.0.attention.output",
    "deberta.encoder.layer.0.attention",
    "deberta.encoder.layer.0.intermediate.dense",
    "deberta.encoder.layer.0.intermediate.intermediate_act_fn",
    "deberta.encoder.layer.0.intermediate",
    "deberta.encoder.layer.0.output.dense",
    "deberta.encoder.layer.0.output.dropout",
    "deberta.encoder.layer.0.output.LayerNorm",
    "deberta.encoder.layer.0.output",
    "deberta.encoder.layer.0",
    "deberta.encoder.conv.conv",
    "deberta.encoder.conv.dropout",
    "deberta.encoder.conv.LayerNorm",
    "deberta.encoder.conv",
    "hidden_states.1",
    "deberta.encoder.layer.1.attention.self.query_proj",
    "attentions.1",
    "deberta.encoder.layer.1",
    "hidden_states.2",
    "deberta.encoder.layer.9",
    "deberta.encoder.layer.10.attention.self.query_proj",
    "hidden_states.11",
    "deberta.encoder",
    "last_hidden_state",
    "deberta",
    "lm_predictions.position_embeddings",
    "lm_predictions.z_states",
    "lm_predictions.emd.0.attention.self.query_proj",
    "lm_predictions.emd.0",
    "emd_outputs.0",
    "lm_predictions.emd.1.attention.self.query_proj",
    "lm_predictions.emd.1",
    "pooler.dense",
    "pooler",
    "classifier",
    "cls.predictions.transform.dense",
    "cls.predictions.transform.transform_act_fn",
    "cls.predictions.transform.LayerNorm",
    "cls.predictions.transform",
    "cls.predictions.decoder",
    "cls.predictions",
    "cls",
    "lm_predictions.lm_head.dense",
    "lm_predictions.lm_head",
    "lm_predictions",
    "logits",
    "start_logits",
    "end_logits",
    "loss",
    "thing.2",
    "thing.10",
];

#[test]
fn names_stand_in_the_order_of_computation() {
    for pair in ORDER.windows(2) {
        assert!(Position::of(pair[0]) < Position::of(pair[1]), "{} must stand before {}", pair[0], pair[1]);
    }
}

#[test]
fn inputs_stand_before_what_is_computed_from_them() {
    for name in ORDER {
        for conv in [false, true] {
            for input in inputs(name, conv) {
                assert!(Position::of(&input) < Position::of(name), "{input} must stand before {name}");
            }
        }
    }
}

#[test]
fn spellings_of_one_module_are_one() {
    let name = "deberta.encoder.layer.3.attention.self.query_proj";
    assert_eq!(canonical("encoder.layer.3.attention.self.query_proj"), name);
    assert_eq!(canonical("DebertaV2Model.encoder.layer.3.attention.self.query_proj"), name);
    assert_eq!(canonical("DebertaV2ForMaskedLM.deberta.encoder.layer.3.attention.self.query_proj"), name);
    assert_eq!(canonical("logits"), "logits");
}

#[test]
fn a_second_call_is_no_foreign_name() {
    assert!(is_repeat("deberta.encoder.LayerNorm:2") && is_repeat("encoder.conv:13"));
    assert!(!is_repeat("layer_._3/query_proj/BiasAdd:0") && !is_repeat("a:b") && !is_repeat("logits"));
}

#[test]
fn inputs_are_not_outputs() {
    assert_eq!(role("attention_mask"), Role::Input);
    assert_eq!(role("logits"), Role::Output);
}
