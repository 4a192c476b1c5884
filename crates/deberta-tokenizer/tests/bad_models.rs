//! Model files and options that must be refused, in a sentence, and never panic.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use deberta_testkit::fixtures;
use deberta_tokenizer::spm::{ModelError, SentencePiece};
use deberta_tokenizer::{EncodeOptions, Profile, Tokenizer, TokenizerError, TokenizerFiles, Truncation};
use proptest::prelude::*;

fn model() -> Vec<u8> {
    std::fs::read(fixtures("tokenizer/spm.model")).unwrap()
}

/// One message of a model file, by hand.
fn piece(text: &str, kind: u8) -> Vec<u8> {
    let body = [&[0x0a, text.len() as u8][..], text.as_bytes(), &[0x15, 0, 0, 0, 0xc0, 0x18, kind]].concat();
    [&[0x0a, body.len() as u8][..], &body].concat()
}

/// `trainer_spec { model_type, byte_fallback }`.
fn trainer(model_type: u8, byte_fallback: u8) -> Vec<u8> {
    vec![0x12, 5, 0x18, model_type, 0x98, 0x02, byte_fallback]
}

fn error(parts: &[Vec<u8>]) -> ModelError {
    SentencePiece::read(&parts.concat()).err().expect("a bad model")
}

#[test]
fn says_what_is_wrong() {
    let (unk, a) = (piece("<unk>", 2), piece("a", 1));
    assert!(SentencePiece::read(&[unk.clone(), a.clone()].concat()).is_ok());
    assert_eq!(error(std::slice::from_ref(&a)), ModelError::NoUnknown);
    assert_eq!(error(std::slice::from_ref(&unk)), ModelError::Empty);
    assert_eq!(error(&[unk.clone(), a.clone(), trainer(2, 0)]), ModelError::WrongType { found: "BPE".to_owned() });
    assert_eq!(error(&[unk.clone(), a.clone(), trainer(4, 0)]), ModelError::WrongType { found: "CHAR".to_owned() });
    assert_eq!(error(&[unk.clone(), a.clone(), trainer(9, 0)]), ModelError::WrongType { found: "9".to_owned() });
    assert_eq!(error(&[unk.clone(), a.clone(), trainer(1, 1)]), ModelError::MissingByte { byte: 0 });
    for (bad, why) in [
        (piece("", 1), "it is empty"),
        (piece("a", 1), "it stands in the file twice"),
        (piece("b", 2), "it is a second piece of type UNKNOWN"),
        (piece("<0x00>", 6), "it is a byte, but the model does not fall back on bytes"),
        (piece("b\0", 1), "it holds a NUL"),
        (piece("b", 7), "its type is not one of SentencePiece's"),
    ] {
        let found = error(&[unk.clone(), a.clone(), bad]);
        assert!(matches!(&found, ModelError::BadPiece { id: 2, reason, .. } if *reason == why), "{found}");
    }
    assert!(matches!(error(&[b"not a model".to_vec()]), ModelError::NotAModel { .. }));
    assert!(matches!(error(&[Vec::new()]), ModelError::NoUnknown));
}

#[test]
fn cut_short_anywhere() {
    let model = model();
    for length in (0..model.len()).step_by(997) {
        // A cut between two messages leaves a message; it has to be a model to be taken.
        let read = SentencePiece::read(&model[..length]);
        assert!(read.is_err() || length > 20_000, "{length} bytes are taken for a model");
    }
}

#[test]
fn a_directory_without_a_vocabulary() {
    let directory = tempfile::tempdir().unwrap();
    let load = || Tokenizer::from_directory(directory.path(), None).err().unwrap();
    assert!(matches!(load(), TokenizerError::NoVocabulary { .. }));
    let missing = directory.path().join("missing");
    assert!(matches!(Tokenizer::from_directory(&missing, None), Err(TokenizerError::NotADirectory { .. })));
    std::fs::write(directory.path().join("tokenizer.json"), "{}").unwrap();
    assert!(matches!(load(), TokenizerError::Fast { .. }));
    let slow = Tokenizer::from_directory(directory.path(), Some(Profile::Slow)).err().unwrap();
    assert!(matches!(slow, TokenizerError::NeedsSpm { .. }));
    std::fs::write(directory.path().join("spm.model"), &model()[..5000]).unwrap();
    assert!(matches!(load(), TokenizerError::Model { .. }));
    std::fs::write(directory.path().join("spm.model"), model()).unwrap();
    for config in ["[]", "{", "{\"do_lower_case\": 1}", "{\"cls_token\": 5}", "{\"added_tokens_decoder\": {\"x\": {}}}"]
    {
        std::fs::write(directory.path().join("tokenizer_config.json"), config).unwrap();
        let error = load();
        assert!(matches!(error, TokenizerError::Json { .. }), "{config}: {error}");
        assert!(error.to_string().contains("tokenizer_config.json"), "{error}");
    }
    std::fs::write(directory.path().join("tokenizer_config.json"), "{\"cls_token\": null}").unwrap();
    assert!(matches!(load(), TokenizerError::NoSpecialToken { token: "cls_token", .. }));
}

#[test]
fn options_that_cannot_be_met() {
    let tokenizer = Tokenizer::from_files(TokenizerFiles::from_spm(model()), None).unwrap();
    let encode = |truncation| {
        let options = EncodeOptions { truncation: Some(truncation), ..EncodeOptions::default() };
        tokenizer.encode("the house and the water", &options)
    };
    assert!(matches!(encode(Truncation::to(1)), Err(TokenizerError::MaxLengthTooShort { needed: 2, .. })));
    let stride = Truncation { stride: 2, ..Truncation::to(4) };
    assert!(matches!(encode(stride), Err(TokenizerError::StrideTooLong { stride: 2, window: 2 })));
    assert_eq!(encode(Truncation::to(2)).unwrap().ids, [1, 2]);
}

proptest! {
    /// Bytes flipped anywhere give an error or a model that encodes without a panic, under every profile.
    #[test]
    fn flipped_bytes(flips in prop::collection::vec((0.0..1.0f64, any::<u8>()), 1..8), end in any::<bool>()) {
        let mut model = model();
        for (at, byte) in flips {
            // Half of the time in the settings behind the pieces and the character map's head.
            let from = if end { model.len() - 237_700 } else { 0 };
            let at = from + (at * (model.len() - from) as f64) as usize;
            model[at] ^= byte;
        }
        for profile in Profile::ALL {
            if let Ok(tokenizer) = Tokenizer::from_files(TokenizerFiles::from_spm(model.clone()), Some(profile)) {
                let ids = tokenizer.encode("a été … 世界 🤔 [MASK] ½", &EncodeOptions::default()).unwrap().ids;
                tokenizer.decode(&ids, false).unwrap();
            }
        }
    }

    /// Noise is no model.
    #[test]
    fn noise(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(SentencePiece::read(&bytes).is_err());
    }
}
