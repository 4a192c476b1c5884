//! The floating-point operations that a forward pass cannot do without: a multiplication and an addition for each term of
//! each matrix product, over the tokens that exist.
//!
//! For a sequence of l tokens and a layer of width E, inner width I and H·D for all heads together:
//!
//! | product | terms |
//! |---|---|
//! | query, key, value | 3 · l · E · H·D |
//! | scores and values | 2 · l² · H·D |
//! | c2p and p2c, each | H·D · Σᵢ (the relative rows that distances i − (l − 1) … i reach) |
//! | attention output | l · H·D · E |
//! | feed-forward | 2 · l · E · I |
//!
//! and once a model: the projection of the embeddings where it has one, the convolution (taps inside the sequence), the
//! head. Not counted: padding; the projections of the relative rows, which never change; relative rows out of reach;
//! softmax, layer norms, activations and sums, which are no products.

use deberta_model::relative_position::RelativePositions;
use deberta_model::{DebertaV2Config, Head, Profile};

/// The operations of a pass over sequences of these lengths.
pub fn required_operations(config: &DebertaV2Config, profile: &Profile, head: Head, lengths: &[usize]) -> f64 {
    let terms: f64 = lengths.iter().map(|&length| sequence(config, profile, head, length)).sum();
    2.0 * terms
}

/// The terms of one sequence.
fn sequence(config: &DebertaV2Config, profile: &Profile, head: Head, length: usize) -> f64 {
    let l = length as f64;
    let (hidden, inner) = (config.hidden_size as f64, config.intermediate_size as f64);
    let heads = (config.num_attention_heads * config.head_size()) as f64;
    let projection = l * hidden * heads;
    let attention = 2.0 * l * l * heads + positions(config, profile, length) * heads;
    let rest = l * heads * hidden + 2.0 * l * hidden * inner;
    let layer = 3.0 * projection + attention + rest;

    let mut terms = config.num_hidden_layers as f64 * layer;
    if config.embedding_width() != config.hidden_size {
        terms += l * config.embedding_width() as f64 * hidden;
    }
    if config.conv_kernel_size > 0 {
        let reach = config.conv_kernel_size / 2;
        let inside: usize = (0..config.conv_kernel_size).map(|tap| length.saturating_sub(tap.abs_diff(reach))).sum();
        terms += inside as f64 * hidden * hidden / config.conv_groups as f64;
    }
    if head == Head::EnhancedMaskedLm && !config.position_biased_input {
        // Two more passes through the last layer, over the keys and values that it already has.
        terms += 2.0 * (projection + attention + rest);
    }
    terms + of_head(config, head, l)
}

/// The terms of a head over `l` tokens, without labels.
fn of_head(config: &DebertaV2Config, head: Head, l: f64) -> f64 {
    let (hidden, width) = (config.hidden_size as f64, config.embedding_width() as f64);
    let classes = config.num_labels() as f64;
    match head {
        Head::Base => 0.0,
        Head::MaskedLm | Head::EnhancedMaskedLm => l * hidden * width + l * width * config.vocab_size as f64,
        Head::SequenceClassification => hidden * hidden + hidden * classes,
        Head::TokenClassification => l * hidden * classes,
        Head::QuestionAnswering => l * hidden * 2.0,
        Head::MultipleChoice => hidden * hidden + hidden,
        Head::ReplacedTokenDetection => l * hidden * hidden + l * hidden,
    }
}

/// The pairs of a query and a relative row that it reaches, and of a key and a relative row that reaches it.
fn positions(config: &DebertaV2Config, profile: &Profile, length: usize) -> f64 {
    let kinds = usize::from(config.pos_att_type.c2p) + usize::from(config.pos_att_type.p2c);
    if !config.relative_attention || kinds == 0 || length == 0 {
        return 0.0;
    }
    let table = RelativePositions::new(config, profile, length, length);
    let row = |at: usize| table.row(at.saturating_sub(length - 1), (length - 1).saturating_sub(at)); // of distance at − (l − 1)
    // Rows never decrease with the distance, so a window holds one more row than there are steps inside it. The windows
    // of the keys are those of the queries in reverse order.
    let step = |at: usize| usize::from(row(at) != row(at - 1));
    let mut reached = 1 + (1..length).map(step).sum::<usize>();
    let mut pairs = reached;
    for first in 1..length {
        reached = reached + step(first + length - 1) - step(first);
        pairs += reached;
    }
    (kinds * pairs) as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn config(fields: serde_json::Value) -> DebertaV2Config {
        DebertaV2Config::from_value(fields).expect("a valid configuration")
    }

    #[test]
    fn a_model_counted_by_hand() {
        let config = config(serde_json::json!({
            "vocab_size": 11, "hidden_size": 6, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 7,
        }));
        // Five tokens: projections 4·5·6·6, scores and values 2·5·5·6, feed-forward 2·5·6·7, of two layers.
        let terms = 2 * (720 + 300 + 420);
        assert_eq!(required_operations(&config, &Profile::HF_5, Head::Base, &[5]), f64::from(2 * terms));
        let twice = required_operations(&config, &Profile::HF_5, Head::Base, &[5, 5]);
        assert_eq!(twice, f64::from(4 * terms));
        let tokens = required_operations(&config, &Profile::HF_5, Head::TokenClassification, &[5]);
        assert_eq!(tokens, f64::from(2 * (terms + 5 * 6 * 2)));
    }

    #[test]
    fn relative_rows_are_those_that_a_query_reaches() {
        for (buckets, max, length) in [(-1, 3, 9), (6, 20, 31), (256, 512, 40), (8, 16, 1)] {
            let config = config(serde_json::json!({
                "relative_attention": true, "position_buckets": buckets, "max_relative_positions": max,
                "pos_att_type": ["c2p", "p2c"],
            }));
            let table = RelativePositions::new(&config, &Profile::HF_5, length, length).table();
            let reached = |rows: ndarray::ArrayView1<'_, usize>| rows.iter().collect::<BTreeSet<_>>().len();
            let of_queries: usize = table.rows().into_iter().map(reached).sum();
            let of_keys: usize = table.columns().into_iter().map(reached).sum();
            assert_eq!(positions(&config, &Profile::HF_5, length), (of_queries + of_keys) as f64, "{buckets} {max}");
        }
    }
}
