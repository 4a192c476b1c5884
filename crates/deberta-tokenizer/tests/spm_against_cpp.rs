//! SentencePiece in Rust against SentencePiece in C++ (0.2.1, by the crate `sentencepiece`).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use deberta_testkit::{fixtures, third_party};
use deberta_tokenizer::spm::SentencePiece;
use proptest::prelude::*;
use sentencepiece::SentencePieceProcessor;

struct Both {
    ours: SentencePiece,
    theirs: SentencePieceProcessor,
}

impl Both {
    fn read(bytes: &[u8]) -> Self {
        let theirs = SentencePieceProcessor::from_serialized_proto(bytes).unwrap();
        Self { ours: SentencePiece::read(bytes).unwrap(), theirs }
    }

    fn assert_same(&self, text: &str) {
        let ours = self.ours.encode(text);
        let theirs = self.theirs.encode(text).unwrap();
        let ours_ids: Vec<u32> = ours.iter().map(|p| p.id).collect();
        let their_ids: Vec<u32> = theirs.iter().map(|p| p.id).collect();
        assert_eq!(ours_ids, their_ids, "ids of {text:?}");
        assert!(ours.iter().zip(&theirs).all(|(a, b)| a.piece == b.piece), "pieces of {text:?}");
        assert_eq!(self.ours.normalize(text), self.theirs.normalize(text).unwrap(), "normalized {text:?}");
        assert_eq!(self.ours.decode(&ours_ids), self.theirs.decode_piece_ids(&ours_ids).unwrap(), "decoded {text:?}");
        // A lone `▁` in front is of the white space in front here, and of what follows that there.
        let lone = usize::from(ours.first().is_some_and(|p| p.piece == "▁"));
        for (a, b) in ours.iter().zip(&theirs).skip(lone) {
            // Theirs give each character to the last piece that came from it alone; ours cover it.
            let (start, end) = (b.span.0 as usize, b.span.1 as usize);
            let within = a.start <= start && (end <= a.end || start == end);
            assert!(within, "{:?} of {text:?}: {}..{} and {start}..{end}", a.piece, a.start, a.end);
        }
    }
}

fn models() -> Vec<Both> {
    let mut models = vec![Both::read(&std::fs::read(fixtures("tokenizer/spm.model")).unwrap())];
    let third_party_models = [
        "spm/deberta-v3.spm.model",
        "hf-fixtures/spiece.model",
        "hf-fixtures/test_sentencepiece.model",
        "hf-fixtures/test_sentencepiece_no_bos.model",
        "hf-fixtures/test_sentencepiece_with_bytefallback.model",
        "keras-hub/deberta_v3_test_vocab.spm",
        "keras-hub/tokenizer_test_vocab.spm",
        "keras-hub/no_special_token_vocab.spm",
        "keras-hub/albert_test_vocab.spm",
    ];
    for model in third_party_models {
        if let Some(path) = third_party("spm_against_cpp", model) {
            models.push(Both::read(&std::fs::read(path).unwrap()));
        }
    }
    models
}

/// Text with what normalizers, tries and byte fallback stumble over.
fn nasty() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        3 => "[a-zA-Z]{1,8}",
        2 => " {1,3}",
        1 => "[\u{0}-\u{7f}]",
        1 => "[\u{80}-\u{24f}]",
        1 => "[\u{300}-\u{36f}]{1,3}",
        1 => "[\u{1100}-\u{11ff}\u{ac00}-\u{ad00}]{1,3}",
        1 => "[\u{2000}-\u{206f}\u{3000}\u{feff}]",
        1 => "[\u{fb00}-\u{fdff}\u{ff00}-\u{ffef}]",
        1 => "\\PC",
        1 => any::<char>().prop_map(String::from),
        1 => prop_oneof!["▁", "<0xE4>", "\\[CLS\\]", "…", "½", "👨\u{200d}👩"].prop_map(|s| s.replace('\\', "")),
    ];
    prop::collection::vec(part, 0..24).prop_map(|parts| parts.concat())
}

#[test]
fn random_texts() {
    let models = models();
    let mut runner =
        proptest::test_runner::TestRunner::new(ProptestConfig { cases: 4000, ..ProptestConfig::default() });
    let outcome = runner.run(&nasty(), |text| {
        models.iter().for_each(|m| m.assert_same(&text));
        Ok(())
    });
    outcome.unwrap();
}

#[test]
fn every_character() {
    let models = models();
    for c in (0..=u32::from(char::MAX)).filter_map(char::from_u32).filter(|c| u32::from(*c) % 3 == 0 || *c < '\u{3100}')
    {
        // The two largest models suffice here.
        models[..models.len().min(2)].iter().for_each(|m| m.assert_same(&format!("a{c}b {c}")));
    }
}

#[test]
fn edges() {
    for model in models() {
        for text in [
            "",
            " ",
            "\n",
            "\0",
            "\u{301}",
            "a\0b\0",
            "  a  b  ",
            "\u{3000}\u{a0}",
            "▁",
            "▁▁ ▁",
            "각",
            "e\u{301}\u{302}",
        ] {
            model.assert_same(text);
        }
        for unit in ["a", "語", "\0", " ", "a b ", "\u{301}", "👍🏽"] {
            model.assert_same(&unit.repeat(20_000));
        }
    }
}

#[test]
fn declarations_of_human_rights() {
    let Some(folder) = third_party("declarations_of_human_rights", "text/udhr") else { return };
    let Some(model) = third_party("declarations_of_human_rights", "spm/deberta-v3.spm.model") else { return };
    let model = Both::read(&std::fs::read(model).unwrap());
    let mut all = String::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        text.split('\n').for_each(|line| model.assert_same(line));
        all.push_str(&text);
    }
    assert!(all.len() > 3_000_000);
    model.assert_same(&all);
}
