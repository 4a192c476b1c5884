//! What the references make of nasty texts with the small model of `fixtures/tokenizer` (`tools/goldens/tokenizer.py`).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use deberta_testkit::fixtures;
use deberta_tokenizer::{
    EncodeOptions, Encoding, Input, PadTo, Padding, Profile, Side, Tokenizer, Truncation, TruncationStrategy,
};
use serde_json::{Value, json};

const CASES: [&str; 4] = ["plain", "flags", "lower", "punct"];

fn load(case: &str, profile: Profile) -> Tokenizer {
    let directory = tempfile::tempdir().unwrap();
    let copy = |from: &Path| std::fs::copy(from, directory.path().join(from.file_name().unwrap())).unwrap();
    copy(&fixtures("tokenizer/spm.model"));
    if case != "plain" {
        for file in std::fs::read_dir(fixtures(&format!("tokenizer/{case}"))).unwrap() {
            copy(&file.unwrap().path());
        }
    }
    Tokenizer::from_directory(directory.path(), Some(profile)).unwrap()
}

fn for_each_case(check: impl Fn(&Tokenizer, &Value)) {
    for profile in Profile::ALL {
        let golden = std::fs::read(fixtures(&format!("tokenizer/{profile}.json"))).unwrap();
        let golden: Value = serde_json::from_slice(&golden).unwrap();
        for case in CASES {
            check(&load(case, profile), &golden[case]);
        }
    }
}

fn side(value: &Value) -> Side {
    if value == "left" { Side::Left } else { Side::Right }
}

fn options(golden: &Value) -> EncodeOptions {
    let max_length = golden["max_length"].as_u64().map(|n| n as usize);
    EncodeOptions {
        add_special_tokens: golden["add_special_tokens"] != false,
        truncation: golden["truncation"].as_str().map(|strategy| {
            assert_eq!(strategy, "longest_first");
            Truncation {
                max_length: max_length.unwrap(),
                strategy: TruncationStrategy::LongestFirst,
                stride: golden["stride"].as_u64().unwrap_or(0) as usize,
                side: side(&golden["truncation_side"]),
            }
        }),
        padding: golden["padding"].as_str().map(|_| Padding {
            to: PadTo::Length(max_length.unwrap()),
            multiple_of: golden["pad_to_multiple_of"].as_u64().map(|n| n as usize),
            side: side(&golden["padding_side"]),
        }),
        add_prefix_space: false,
    }
}

fn rows<'a>(golden: &'a Value, key: &str) -> &'a Vec<Value> {
    golden[key].as_array().unwrap()
}

fn assert_row(encoding: &Encoding, row: &Value, what: &str) {
    let fields = [
        ("input_ids", json!(encoding.ids)),
        ("token_type_ids", json!(encoding.type_ids)),
        ("attention_mask", json!(encoding.attention_mask)),
        ("special_tokens_mask", json!(encoding.special_tokens_mask)),
        ("offsets", json!(encoding.offsets)),
        ("word_ids", json!(encoding.word_ids)),
    ];
    for (field, ours) in fields {
        // The slow reference has neither offsets nor words; only single texts have the latter.
        if let Some(theirs) = row.get(field) {
            assert_eq!(&ours, theirs, "{field} of {what}");
        }
    }
}

#[test]
fn texts() {
    for_each_case(|tokenizer, golden| {
        assert_eq!(tokenizer.len(), golden["len"].as_u64().unwrap() as usize);
        assert_eq!(tokenizer.vocab_size(), golden["vocab_size"].as_u64().unwrap() as usize);
        assert!(rows(golden, "singles").len() > 80);
        for row in rows(golden, "singles") {
            let text = row["texts"][0].as_str().unwrap();
            let what = format!("{text:?} under {}", tokenizer.profile());
            let encoding = tokenizer.encode(text, &EncodeOptions::default()).unwrap();
            assert_row(&encoding, row, &what);
            assert_eq!(json!(tokenizer.tokenize(text).unwrap()), row["tokens"], "tokens of {what}");
            assert_eq!(tokenizer.decode(&encoding.ids, false).unwrap(), row["decoded"], "decoded {what}");
            assert_eq!(tokenizer.decode(&encoding.ids, true).unwrap(), row["skipped"], "decoded {what}");
        }
    });
}

#[test]
fn pairs_truncated_and_padded() {
    for_each_case(|tokenizer, golden| {
        for set in rows(golden, "pairs") {
            let options = options(&set["options"]);
            for row in rows(set, "rows") {
                let (a, b) = (row["texts"][0].as_str().unwrap(), row["texts"][1].as_str().unwrap());
                let what = format!("{a:?}, {b:?} under {} with {}", tokenizer.profile(), set["options"]);
                assert_row(&tokenizer.encode((a, b), &options).unwrap(), row, &what);
            }
        }
    });
}

#[test]
fn windows() {
    for_each_case(|tokenizer, golden| {
        let sets = rows(golden, "overflow");
        assert_eq!(sets.is_empty(), tokenizer.profile() == Profile::Slow);
        for set in sets {
            for row in rows(set, "rows") {
                let (a, b) = (row["texts"][0].as_str().unwrap(), row["texts"][1].as_str().unwrap());
                let encoding = tokenizer.encode((a, b), &options(&set["options"])).unwrap();
                let windows: Vec<&Encoding> = [&encoding].into_iter().chain(&encoding.overflowing).collect();
                let what = format!("{a:?}, {b:?} under {}", tokenizer.profile());
                assert_eq!(json!(windows.iter().map(|w| &w.ids).collect::<Vec<_>>()), row["input_ids"], "{what}");
                assert_eq!(json!(windows.iter().map(|w| &w.offsets).collect::<Vec<_>>()), row["offsets"], "{what}");
            }
        }
    });
}

/// A batch is its texts, each encoded alone, whatever thread took it.
#[test]
fn batches() {
    for_each_case(|tokenizer, golden| {
        let texts: Vec<&str> = rows(golden, "singles").iter().map(|r| r["texts"][0].as_str().unwrap()).collect();
        let inputs: Vec<Input<'_>> = texts.iter().map(|t| Input::from(*t)).collect();
        let batch = tokenizer.encode_batch(&inputs, &EncodeOptions::default()).unwrap();
        for (text, encoding) in texts.iter().zip(&batch) {
            assert_eq!(encoding, &tokenizer.encode(*text, &EncodeOptions::default()).unwrap(), "{text:?}");
        }
        let padding = Padding { multiple_of: Some(8), ..Padding::default() };
        let options = EncodeOptions { padding: Some(padding), ..EncodeOptions::default() };
        let longest = batch.iter().map(Encoding::len).max().unwrap().next_multiple_of(8);
        for (padded, plain) in tokenizer.encode_batch(&inputs, &options).unwrap().iter().zip(&batch) {
            assert_eq!(padded.len(), longest);
            assert_eq!(padded.ids[..plain.len()], plain.ids);
            assert!(padded.ids[plain.len()..].iter().all(|id| *id == tokenizer.pad_token_id()));
            assert_eq!(padded.attention_mask.iter().sum::<u32>() as usize, plain.len());
        }
    });
}

/// Every token's characters and bytes are the same stretch of its text, in order, and within it.
#[test]
fn offsets_in_bytes_and_characters() {
    for_each_case(|tokenizer, golden| {
        for row in rows(golden, "singles") {
            let text = row["texts"][0].as_str().unwrap();
            let encoding = tokenizer.encode(text, &EncodeOptions::default()).unwrap();
            for (i, ((from, to), bytes)) in encoding.offsets.iter().zip(&encoding.byte_offsets).enumerate() {
                let stretch: String = text.chars().skip(*from).take(to - from).collect();
                assert_eq!(text.get(bytes.0..bytes.1), Some(stretch.as_str()), "token {i} of {text:?}");
            }
        }
    });
}
