//! The interface under the names of transformers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use deberta_testkit::fixtures;
use deberta_tokenizer::{EncodeOptions, Profile, Tokenizer, TokenizerError, TokenizerFiles, explain};

fn load(profile: Profile) -> Tokenizer {
    let model = std::fs::read(fixtures("tokenizer/spm.model")).unwrap();
    Tokenizer::from_files(TokenizerFiles::from_spm(model), Some(profile)).unwrap()
}

#[test]
fn special_tokens() {
    for tokenizer in Profile::ALL.map(load) {
        assert_eq!(tokenizer.build_inputs_with_special_tokens(&[7, 8], None), [1, 7, 8, 2]);
        assert_eq!(tokenizer.build_inputs_with_special_tokens(&[7], Some(&[8, 9])), [1, 7, 2, 8, 9, 2]);
        assert_eq!(tokenizer.create_token_type_ids_from_sequences(&[7, 8], None), [0; 4]);
        assert_eq!(tokenizer.create_token_type_ids_from_sequences(&[7], Some(&[8, 9])), [0, 0, 0, 1, 1, 1]);
        let mask = |a: &[u32], b: Option<&[u32]>, already| tokenizer.get_special_tokens_mask(a, b, already);
        assert_eq!(mask(&[7, 8], None, false).unwrap(), [1, 0, 0, 1]);
        assert_eq!(mask(&[7], Some(&[8, 9]), false).unwrap(), [1, 0, 1, 0, 0, 1]);
        assert_eq!(mask(&[1, 300, 650, 0, 3], None, true).unwrap(), [1, 0, 1, 1, 1]);
        assert!(matches!(mask(&[1], Some(&[2]), true), Err(TokenizerError::AlreadyFormatted)));
        assert_eq!((tokenizer.num_special_tokens_to_add(false), tokenizer.num_special_tokens_to_add(true)), (2, 3));
        assert_eq!((tokenizer.vocab_size(), tokenizer.len()), (650, 651));
        assert_eq!(tokenizer.token_to_id("[MASK]"), Some(650));
        assert_eq!(
            tokenizer.convert_tokens_to_ids(&["[CLS]", "▁the", "no such token"]),
            [1, tokenizer.token_to_id("▁the").unwrap(), 3]
        );
        assert_eq!(tokenizer.convert_ids_to_tokens(&[1, 650]), [Some("[CLS]".to_owned()), Some("[MASK]".to_owned())]);
    }
}

#[test]
fn ids_beyond_the_vocabulary() {
    let beyond = [1, 660, u32::MAX];
    assert_eq!(load(Profile::Slow).decode(&beyond, false).unwrap(), "[CLS][UNK][UNK]");
    assert_eq!(load(Profile::Hf5).decode(&beyond, false).unwrap(), "[CLS]");
    assert_eq!(load(Profile::Hf5).convert_ids_to_tokens(&[660]), [None]);
}

#[test]
fn saves_the_vocabulary_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let tokenizer = load(Profile::Slow);
    let path = tokenizer.save_vocabulary(directory.path(), Some("small")).unwrap();
    assert_eq!(path, directory.path().join("small-spm.model"));
    assert_eq!(std::fs::read(path).unwrap(), std::fs::read(fixtures("tokenizer/spm.model")).unwrap());
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    let nowhere = directory.path().join("nowhere");
    assert!(matches!(tokenizer.save_vocabulary(&nowhere, None), Err(TokenizerError::Write { .. })));
}

#[test]
fn reads_the_layout_of_the_hub_cache() {
    let directory = tempfile::tempdir().unwrap();
    let model = directory.path().join("models--org--name");
    for revision in ["aaa", "bbb"] {
        let snapshot = model.join("snapshots").join(revision);
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::copy(fixtures("tokenizer/spm.model"), snapshot.join("spm.model")).unwrap();
    }
    let load = || Tokenizer::from_directory(&model, None);
    assert!(matches!(load(), Err(TokenizerError::ManySnapshots { count: 2, .. })));
    std::fs::create_dir(model.join("refs")).unwrap();
    std::fs::write(model.join("refs/main"), "bbb\n").unwrap();
    assert_eq!(load().unwrap().len(), 651);
}

#[test]
fn words() {
    let encoding = load(Profile::Slow).encode("the 世界 [MASK]x", &EncodeOptions::default()).unwrap();
    let words: Vec<Option<u32>> = encoding.word_ids.clone();
    assert_eq!((words.first(), words.last()), (Some(&None), Some(&None)));
    let mask = encoding.tokens.iter().position(|t| t == "[MASK]").unwrap();
    assert_eq!((words[1], words[mask], words[mask + 1]), (Some(0), Some(2), Some(3)));
    assert!(words[2..mask].iter().all(|w| *w == Some(1)));
}

#[test]
fn explains_where_the_profiles_part() {
    let tokenizers = Profile::ALL.map(load);
    assert!(explain(&tokenizers, "the house").unwrap().differences.is_empty());
    let explanation = explain(&tokenizers, "the house … the 䀀 house").unwrap();
    let parted: Vec<(&str, (usize, usize))> =
        explanation.differences.iter().map(|d| (d.text.trim(), d.chars)).collect();
    assert_eq!(parted.len(), 2);
    assert_eq!((parted[0].0, parted[1].0), ("…", "䀀"));
    for difference in &explanation.differences {
        let ids = explanation
            .views
            .iter()
            .zip(&difference.tokens)
            .map(|(view, (from, to))| view.tokens[*from..*to].iter().map(|t| t.id).collect::<Vec<u32>>());
        let ids: Vec<Vec<u32>> = ids.collect();
        assert!(ids.iter().any(|i| *i != ids[0]));
    }
}
