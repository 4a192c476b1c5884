use serde_json::json;

use super::*;

fn read(value: Value) -> Result<DebertaV2Config, ConfigError> {
    DebertaV2Config::from_value(value)
}

fn refused(value: Value) -> String {
    read(value).expect_err("this configuration cannot be run").to_string()
}

#[test]
fn an_empty_object_is_the_class_of_hugging_face() {
    let c = read(json!({})).unwrap();
    assert_eq!((c.vocab_size, c.hidden_size, c.num_hidden_layers), (128_100, 1536, 24));
    assert_eq!((c.num_attention_heads, c.intermediate_size, c.max_position_embeddings), (24, 6144, 512));
    assert_eq!(
        (c.relative_attention, c.position_biased_input, c.legacy, c.tie_word_embeddings),
        (false, true, true, true)
    );
    assert_eq!((c.position_buckets, c.max_relative_positions, c.max_distance(), c.att_span()), (-1, -1, 512, 512));
    assert_eq!((c.conv_kernel_size, c.conv_groups, c.conv_act), (0, 1, Activation::Tanh));
    assert_eq!((c.pos_att_type.c2p, c.pos_att_type.p2c, c.num_labels(), c.layer_norm_eps), (false, false, 2, 1e-7));
}

#[test]
fn pos_att_type_in_every_spelling() {
    let flags =
        |v: Value| read(json!({ "pos_att_type": v })).map(|c| (c.pos_att_type.c2p, c.pos_att_type.p2c)).unwrap();
    assert_eq!(flags(json!("P2C | c2p")), (true, true));
    assert_eq!(flags(json!("p2c")), (false, true));
    assert_eq!(flags(json!(["c2p", "p2c"])), (true, true));
    assert_eq!(flags(json!(["C2P", "unheard"])), (false, false), "a list counts to the letter");
    assert_eq!(flags(json!("none")), (false, false));
    assert_eq!(flags(Value::Null), (false, false));
    assert!(refused(json!({ "pos_att_type": "c2p|p2p" })).contains("pos_att_type"));
    assert!(refused(json!({ "pos_att_type": 3 })).contains("pos_att_type"));
    let microsoft = read(json!({ "padding_idx": 5 })).unwrap();
    assert_eq!((microsoft.pos_att_type.c2p, microsoft.pad_token_id), (true, Some(5)));
}

#[test]
fn what_cannot_be_run_is_refused_by_the_name_of_the_field() {
    for (config, field) in [
        (json!({ "model_type": "bert" }), "`model_type`"),
        (json!({ "hidden_size": 1537 }), "`hidden_size`"),
        (json!({ "hidden_size": "big" }), "`hidden_size`"),
        (json!({ "num_attention_heads": 0 }), "`num_attention_heads`"),
        (json!({ "hidden_act": "swoosh" }), "`hidden_act`"),
        (json!({ "attention_head_size": 63 }), "`attention_head_size`"),
        (json!({ "conv_kernel_size": 4 }), "`conv_kernel_size`"),
        (json!({ "conv_kernel_size": 3, "conv_groups": 7 }), "`conv_groups`"),
        (json!({ "conv_act": "prelu" }), "`conv_act`"),
        (json!({ "relative_attention": true, "position_buckets": 1 }), "`position_buckets`"),
        (
            json!({ "relative_attention": true, "position_buckets": 8, "max_relative_positions": 5 }),
            "`max_relative_positions`",
        ),
        (json!({ "pooler_hidden_size": 3 }), "`pooler_hidden_size`"),
        (json!({ "problem_type": "poetry" }), "`problem_type`"),
        (json!({ "layer_norm_eps": -1 }), "`layer_norm_eps`"),
        (json!({ "num_hidden_layers": 1_000_000_000 }), "`num_hidden_layers`"),
        (json!({ "vocab_size": -3 }), "`vocab_size`"),
    ] {
        let message = refused(config);
        assert!(message.starts_with(field), "{message}");
    }
    assert!(matches!(DebertaV2Config::from_json("{"), Err(ConfigError::Syntax { .. })));
    assert!(matches!(DebertaV2Config::from_json("[1]"), Err(ConfigError::NotAnObject)));
}

#[test]
fn nothing_is_lost_in_a_round_trip() {
    let source = json!({
        "_name_or_path": "somewhere", "pos_att_type": "p2c|c2p", "id2label": { "0": "no", "1": "yes", "2": "perhaps" },
        "embedding_size": 96, "hidden_size": 192, "num_attention_heads": 4, "problem_type": "regression",
        "torch_dtype": "float16", "pooling": { "dropout": 0.1, "hidden_act": "tanh" }, "hidden_dropout_prob": 0.1,
    });
    let config = read(source.clone()).unwrap();
    assert_eq!((config.num_labels(), config.label(2)), (3, "perhaps".to_owned()));
    assert_eq!(config.pooler_hidden_act, Activation::Tanh);
    let written = config.to_value();
    for (name, value) in source.as_object().unwrap() {
        assert_eq!(written.get(name), Some(value), "{name}");
    }
    assert_eq!(read(written).unwrap().to_value(), config.to_value());
}
