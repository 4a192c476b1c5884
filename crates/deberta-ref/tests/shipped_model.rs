//! The model that ships in `fixtures/shipped` is as good as its card says: PyTorch's measurement, repeated here.

#[path = "../examples/masked_accuracy.rs"]
mod masked_accuracy;

use std::path::Path;

use serde_json::Value;

/// PyTorch and this crate round logits differently, so that near ties may fall either way: of 10,000 tokens, so many.
const TIES: usize = 5;
/// Mean cross-entropies over 10,000 tokens agree far better than one token's.
const LOSS: f64 = 1e-4;

#[test]
fn the_accuracy_on_held_out_verses_is_what_the_card_says() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/shipped");
    let text = std::fs::read_to_string(directory.join("held-out.txt")).expect("the verses are there");
    let card: Value =
        serde_json::from_slice(&std::fs::read(directory.join("measured.json")).expect("a card")).expect("JSON");
    let said = &card["held-out.txt"];
    let lines: Vec<&str> = text.lines().collect();
    let measured = masked_accuracy::measure(&directory, &lines).expect("the model runs");
    assert_eq!(Some(measured.tokens as u64), said["tokens"].as_u64(), "the tokenizers agree");
    let right = said["accuracy"].as_f64().expect("an accuracy") * measured.tokens as f64;
    assert!((measured.right as f64 - right).abs() <= TIES as f64 + 0.5, "{} right, {right} said", measured.right);
    let loss = measured.loss / measured.tokens as f64;
    assert!((loss - said["loss"].as_f64().expect("a loss")).abs() <= LOSS, "{loss} against {}", said["loss"]);
    let unigram = said["unigram_accuracy"].as_f64().expect("a baseline");
    assert!(right / measured.tokens as f64 > 2.0 * unigram, "the model has learnt more than which token is frequent");
}
