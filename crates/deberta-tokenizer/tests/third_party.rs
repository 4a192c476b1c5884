//! The real 128K model and other people's goldens; see `deberta_testkit::third_party`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use deberta_testkit::third_party;
use deberta_tokenizer::spm::SentencePiece;
use deberta_tokenizer::{EncodeOptions, Input, PadTo, Padding, Profile, Tokenizer, TokenizerError, TokenizerFiles};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn v3(test: &str) -> Option<Tokenizer> {
    let model = std::fs::read(third_party(test, "spm/deberta-v3.spm.model")?).unwrap();
    Some(Tokenizer::from_files(TokenizerFiles::from_spm(model), Some(Profile::Slow)).unwrap())
}

fn with_config(model: &Path, config: &Value, profile: Profile) -> Tokenizer {
    let directory = tempfile::tempdir().unwrap();
    std::fs::copy(model, directory.path().join("spm.model")).unwrap();
    std::fs::write(directory.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    Tokenizer::from_directory(directory.path(), Some(profile)).unwrap()
}

/// `oracle/`: the ids of all the texts, line by line and taken as one, as hashes.
#[test]
fn hashes_of_sentencepiece() {
    let Some(oracle) = third_party("hashes_of_sentencepiece", "oracle/sentencepiece_deberta_v3_ids.json") else {
        return;
    };
    let Some(model) = third_party("hashes_of_sentencepiece", "spm/deberta-v3.spm.model") else { return };
    let model = SentencePiece::read(&std::fs::read(model).unwrap()).unwrap();
    let hash = |texts: &[&str]| {
        let mut hasher = Sha256::new();
        for text in texts {
            model.encode(text).iter().for_each(|p| hasher.update(p.id.to_le_bytes()));
        }
        format!("{:x}", hasher.finalize())
    };
    let oracle = read_json(&oracle);
    let files = oracle["files"].as_object().unwrap();
    assert!(files.len() > 200);
    for (name, expected) in files {
        let Some(path) = third_party("hashes_of_sentencepiece", name) else { continue };
        let text = std::fs::read_to_string(path).unwrap();
        let lines: Vec<&str> = text.split('\n').collect();
        assert_eq!(hash(&lines), expected["per_line_sha256"], "{name} by line");
        assert_eq!(hash(&[&text]), expected["whole_sha256"], "{name} as one");
    }
}

#[test]
fn goldens_of_rust_tokenizers() {
    let Some(golden) = third_party("goldens_of_rust_tokenizers", "golden/rust-tokenizers/deberta_v3_base.json") else {
        return;
    };
    let Some(tokenizer) = v3("goldens_of_rust_tokenizers") else { return };
    for case in read_json(&golden)["cases"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let encoding = tokenizer.encode(text, &EncodeOptions::default()).unwrap();
        assert_eq!(json!(encoding.ids), case["ids"], "{text}");
        assert_eq!(json!(encoding.type_ids), case["segment_ids"], "{text}");
        assert_eq!(json!(encoding.special_tokens_mask), case["special_tokens_mask"], "{text}");
        let offsets: Vec<Value> = encoding
            .offsets
            .iter()
            .zip(&encoding.sequence_ids)
            .map(|(offsets, sequence)| sequence.map_or(Value::Null, |_| json!(offsets)))
            .collect();
        assert_eq!(json!(offsets), case["char_offsets"], "{text}");
    }
}

/// Texts, pairs, batches and padding of three published models, made with transformers' slow tokenizer.
#[test]
fn goldens_of_fib_tokenizers() {
    let Some(tokenizer) = v3("goldens_of_fib_tokenizers") else { return };
    for model in ["microsoft--deberta-v3-base", "microsoft--deberta-v3-small", "deepset--deberta-v3-large-squad2"] {
        let file = format!("golden/fib-tokenizers/models--{model}.json");
        let Some(golden) = third_party("goldens_of_fib_tokenizers", &file) else { return };
        let golden = read_json(&golden);
        for (token, id) in golden["special_tokens"].as_object().unwrap() {
            assert_eq!(tokenizer.token_to_id(token).map(u64::from), id.as_u64(), "{token}");
        }
        let cases = golden["datasets"].as_array().unwrap();
        assert!(cases.len() > 20);
        for case in cases {
            let text = case["input"].as_str().unwrap();
            let encoding = tokenizer.encode(text, &EncodeOptions::default()).unwrap();
            assert_eq!(encoding.ids, ids(&case["ids"]), "{text:?}");
            assert_eq!(json!(tokenizer.tokenize(text).unwrap()), case["tokens"], "{text:?}");
            assert_eq!(tokenizer.decode(&encoding.ids, true).unwrap(), case["decoded"], "{text:?}");
        }
    }
}

/// `tests/models/deberta_v2/test_tokenization_deberta_v2.py` of transformers, whose model has `<unk>`.
#[test]
fn expectations_of_transformers() {
    let test = "expectations_of_transformers";
    let Some(golden) = third_party(test, "golden/hf-transformers/deberta_v2_tokenizer_expectations.json") else {
        return;
    };
    let Some(model) = third_party(test, "hf-fixtures/spiece.model") else { return };
    let cases = &read_json(&golden)["fixture_spiece_model"]["cases"];
    for case in cases.as_array().unwrap() {
        let config = json!({
            "do_lower_case": case["do_lower_case"], "split_by_punct": case["split_by_punct"], "unk_token": "<unk>",
        });
        let tokenizer = with_config(&model, &config, Profile::Slow);
        let text = case["text"].as_str().unwrap();
        let options = EncodeOptions { add_special_tokens: false, ..EncodeOptions::default() };
        let encoding = tokenizer.encode(text, &options).unwrap();
        let tokens = tokenizer.convert_ids_to_tokens(&encoding.ids);
        assert_eq!(json!(tokens), case["tokens_from_ids"], "{text:?} with {config}");
        if let Some(expected) = case.get("ids") {
            assert_eq!(&json!(encoding.ids), expected, "{text:?}");
        }
        if let Some(expected) = case.get("tokenize") {
            assert_eq!(&json!(encoding.tokens), expected, "{text:?}");
        }
    }
}

#[test]
fn expectations_of_keras_hub() {
    let Some(golden) = third_party("expectations_of_keras_hub", "golden/keras-hub/expectations.json") else { return };
    let golden = read_json(&golden);
    let plain = EncodeOptions { add_special_tokens: false, ..EncodeOptions::default() };
    for model in golden["tokenizers"].as_array().unwrap() {
        let file = model["file"].as_str().unwrap();
        let Some(path) = third_party("expectations_of_keras_hub", file) else { return };
        let files = TokenizerFiles::from_spm(std::fs::read(path).unwrap());
        let tokenizer = Tokenizer::from_files(files, Some(Profile::Slow)).unwrap();
        for case in model["cases"].as_array().into_iter().flatten() {
            let text = case["text"].as_str().unwrap();
            assert_eq!(tokenizer.encode(text, &plain).unwrap().ids, ids(&case["ids"]), "{text:?} with {file}");
        }
        if let Some(padded) = model.get("classifier_padded_8") {
            let padding = Some(Padding { to: PadTo::Length(8), ..Padding::default() });
            let options = EncodeOptions { padding, ..EncodeOptions::default() };
            let encoding = tokenizer.encode(padded["text"].as_str().unwrap(), &options).unwrap();
            assert_eq!(encoding.ids, ids(&padded["ids"]));
            assert_eq!(encoding.attention_mask, ids(&padded["mask"]));
        }
        if file.contains("no_special_token") {
            // Keras refuses this model. transformers, to which this is identical, adds what is missing behind the pieces.
            assert_eq!(tokenizer.vocab_size(), 5);
            assert_eq!(tokenizer.build_inputs_with_special_tokens(&[2], None), [5, 2, 6]);
            assert_eq!(tokenizer.len(), 10);
        }
    }
    let Some(tokenizer) = v3("expectations_of_keras_hub") else { return };
    for case in golden["real_vocab_deberta_v3"].as_array().unwrap() {
        let encoding = tokenizer.encode(case["text"].as_str().unwrap(), &plain).unwrap();
        assert_eq!(encoding.ids, ids(&case["ids_without_special"]));
    }
}

#[test]
fn refuses_byte_pair_encoding() {
    let Some(model) = third_party("refuses_byte_pair_encoding", "hf-fixtures/test_sentencepiece_bpe.model") else {
        return;
    };
    for profile in Profile::ALL {
        let files = TokenizerFiles::from_spm(std::fs::read(&model).unwrap());
        let error = Tokenizer::from_files(files, Some(profile)).err().unwrap();
        assert!(matches!(error, TokenizerError::Model { .. }), "{error}");
        assert!(error.to_string().contains("type BPE"), "{error}");
    }
}

/// Ten megabytes on one line, and text that is hard for a normalizer, under all profiles.
#[test]
fn ten_megabytes_on_one_line() {
    let Some(model) = third_party("ten_megabytes_on_one_line", "spm/deberta-v3.spm.model") else { return };
    let model = std::fs::read(model).unwrap();
    let line = "The quick brown fox, 世界 and a 🤔 ".repeat(10 * 1024 * 1024 / 42);
    for profile in Profile::ALL {
        let tokenizer = Tokenizer::from_files(TokenizerFiles::from_spm(model.clone()), Some(profile)).unwrap();
        let encodings = tokenizer.encode_batch(&[Input::Single(&line)], &EncodeOptions::default()).unwrap();
        let encoding = &encodings[0];
        assert!(encoding.len() > 1_000_000);
        let last = encoding.byte_offsets[encoding.len() - 2].1;
        assert_eq!(last, line.trim_end().len(), "{profile}");
    }
}
