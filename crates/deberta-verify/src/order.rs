//! The order of computation, and what each tensor is computed from, read off the names alone.
//!
//! Names are the module paths of Hugging Face's DeBERTa-v2 (`named_modules`), the names of the outputs
//! (`hidden_states.1`, `logits`), and the finer steps of the attention (`….attention.self.c2p`). A module's output
//! follows the outputs of its children. The relative rows come first in the encoder; the convolution follows layer 0;
//! `hidden_states.i` follows what it is a copy of. The passes of the enhanced mask decoder, `lm_predictions.emd.0` and
//! `.1`, are layers of their own. A child that is not known stands after its parent; a name that is not
//! known at all stands at the end, in natural order (`x.2` before `x.10`).

use std::cmp::Ordering;
use std::fmt::Write;

use crate::dump::Dump;
use crate::tensor::Tensor;

const LAST: u32 = u32::MAX;
const UNKNOWN: u32 = u32::MAX - 1;

/// What a name means for a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Given to the model: ids, masks, labels. Not compared.
    Input,
    /// Computed by it.
    Output,
}

const INPUTS: [&str; 10] = [
    "input_ids",
    "attention_mask",
    "token_type_ids",
    "position_ids",
    "inputs_embeds",
    "labels",
    "start_positions",
    "end_positions",
    "mask",
    "relative_pos",
];

/// Whether `name` is an input or an output.
pub fn role(name: &str) -> Role {
    if INPUTS.contains(&name) || name.starts_with("inputs.") { Role::Input } else { Role::Output }
}

/// Whether this is an entry of a list of states, which a port may fill as it likes.
pub(crate) fn is_list(name: &str) -> bool {
    name.starts_with("hidden_states.") || name.starts_with("attentions.")
}

/// Whether this is the sum of the embeddings behind its layer norm.
pub(crate) fn is_embeddings(name: &str) -> bool {
    matches!(
        name,
        "hidden_states.0" | "deberta.embeddings" | "deberta.embeddings.LayerNorm" | "deberta.embeddings.dropout"
    )
}

/// The scores that these probabilities are the softmax of.
pub(crate) fn scores_of(probabilities: &str) -> Option<String> {
    match probabilities.strip_prefix("attentions.") {
        Some(layer) => Some(format!("deberta.encoder.layer.{layer}.attention.self.scores")),
        None => Some(format!("{}.scores", probabilities.strip_suffix(".probs")?)),
    }
}

/// Whether this is what a module returned when it ran again, `path:2`, `path:3` …: our dumps call it so, and nothing that is
/// expected goes by such a name.
pub fn is_repeat(name: &str) -> bool {
    name.rsplit_once(':').and_then(|(_, call)| call.parse::<u32>().ok()).is_some_and(|call| call > 1)
}

/// The one spelling of a module path: with the prefix `deberta.`, and without the class name that some tools put in
/// front. `encoder.layer.0` and `DebertaV2Model.encoder.layer.0` are both `deberta.encoder.layer.0`.
pub fn canonical(name: &str) -> String {
    let path = match name.split_once('.') {
        Some((class, rest)) if class.starts_with("Deberta") => rest,
        _ => name,
    };
    let path = path.strip_prefix("model.").unwrap_or(path);
    let path = path.strip_suffix(".weight").filter(|p| p.ends_with("rel_embeddings")).unwrap_or(path);
    match path.split('.').next() {
        Some("embeddings" | "encoder") => format!("deberta.{path}"),
        _ => path.to_owned(),
    }
}

/// The canonical name of a tensor of `dump`, by what it holds. With shared projections (`share_att_key`), `key_proj` and
/// `query_proj` run twice, the second time over the relative rows; a hook that keeps the last output of each module has
/// these rows under the name of the first. They are told by their shape, which `value_proj` does not share.
pub fn spelling(dump: &Dump, name: &str) -> String {
    let path = canonical(name);
    let Some((head, leaf)) = path.rsplit_once('.').filter(|(_, l)| matches!(*l, "key_proj" | "query_proj")) else {
        return path;
    };
    let rows = format!("{head}.pos_{leaf}");
    let shape = |wanted: &str| dump.iter().find(|(n, _)| canonical(n) == wanted).map(|(_, t)| t.shape());
    let own = dump.get(name).map(Tensor::shape).unwrap_or_default();
    let tokens = shape(&format!("{head}.value_proj"))
        .map(|s| s[..s.len().saturating_sub(1)].to_vec())
        .or_else(|| dump.get("input_ids").map(|t| t.shape().to_vec()));
    let is_rows = match tokens.as_deref() {
        Some([size, length]) => own.len() == 2 || (own.len() == 3 && own[0] == 1 && own[..2] != [*size, *length]),
        _ => false,
    };
    if is_rows && shape(&rows).is_none() { rows } else { path }
}

/// Where a tensor stands in the computation; compares in that order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    stage: Vec<u32>,
    rest: String,
}

impl Position {
    /// The position of a name, in any of the spellings that [`canonical`] knows.
    pub fn of(name: &str) -> Self {
        let name = canonical(name);
        let segments: Vec<&str> = name.split('.').collect();
        let (stage, used) = stage(&segments);
        Self { stage, rest: segments[used..].join(".") }
    }
}

impl Position {
    /// Whether every part of the name is known.
    pub fn is_known(&self) -> bool {
        self.rest.is_empty() && self.stage != [LAST]
    }
}

impl Ord for Position {
    fn cmp(&self, other: &Self) -> Ordering {
        self.stage.cmp(&other.stage).then_with(|| natural(&self.rest, &other.rest))
    }
}

impl PartialOrd for Position {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Compares texts with runs of digits taken as numbers.
pub fn natural(a: &str, b: &str) -> Ordering {
    fn key(s: &str) -> Vec<(u64, &str)> {
        let mut parts = Vec::new();
        let mut rest = s;
        while let Some(first) = rest.chars().next() {
            let digits = first.is_ascii_digit();
            let end = rest.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(rest.len());
            let (part, tail) = rest.split_at(end);
            parts.push(if digits { (part.parse().unwrap_or(u64::MAX), "") } else { (0, part) });
            rest = tail;
        }
        parts
    }
    key(a).cmp(&key(b)).then_with(|| a.cmp(b))
}

const EMBEDDINGS: &[&str] =
    &["word_embeddings", "position_embeddings", "token_type_embeddings", "embed_proj", "LayerNorm", "dropout"];
const SELF: &[&str] = &[
    "pos_dropout",
    "query_proj",
    "key_proj",
    "value_proj",
    "pos_key_proj",
    "pos_query_proj",
    "c2c",
    "c2p",
    "p2c",
    "scores",
    "probs",
    "dropout",
];
const DENSE_NORM: &[&str] = &["dense", "dropout", "LayerNorm"];
const INTERMEDIATE: &[&str] = &["dense", "intermediate_act_fn"];
const CONV: &[&str] = &["conv", "dropout", "LayerNorm"];
const TRANSFORM: &[&str] = &["dense", "transform_act_fn", "LayerNorm"];
const MASK_PREDICTIONS: &[&str] = &["LayerNorm", "dense", "transform_act_fn", "classifier"];

/// The place of `segments[0]` among `children`, the number of segments that say so, and whether it is the parent itself.
fn child(segments: &[&str], children: &[&str]) -> (u32, usize) {
    match segments.first() {
        None => (UNKNOWN, 0),
        Some(s) => match children.iter().position(|c| c == s) {
            Some(i) => (i as u32, 1),
            None => (LAST, 0),
        },
    }
}

fn number(segment: Option<&&str>) -> Option<u32> {
    segment.and_then(|s| s.parse().ok()).filter(|&n| n < UNKNOWN)
}

/// Places within a layer; [`UNKNOWN`] is the layer's own output. The children of attention.self come first, then the
/// copies `attentions.i`, attention.self itself, attention.output, attention, intermediate, output.
fn layer_stage(s: &[&str]) -> (Vec<u32>, usize) {
    let within = |head: &[u32], used: usize, children: &[&str]| {
        let (place, more) = child(&s[used..], children);
        ([head, &[place]].concat(), used + more)
    };
    match *s {
        [] => (vec![UNKNOWN], 0),
        ["attention", "self"] => (vec![2], 2),
        ["attention", "self", ..] => {
            let (place, more) = child(&s[2..], SELF);
            if more == 0 { (vec![2, LAST], 2) } else { (vec![0, place], 2 + more) }
        }
        ["attention", "output", ..] => within(&[3], 2, DENSE_NORM),
        ["attention", ..] => (vec![4], 1),
        ["intermediate", ..] => within(&[5], 1, INTERMEDIATE),
        ["output", ..] => within(&[6], 1, DENSE_NORM),
        _ => (vec![LAST], 0),
    }
}

const ENCODER_LAYERS: u32 = 4;
const CONV_IN_LAYER: u32 = 8;

fn stage(s: &[&str]) -> (Vec<u32>, usize) {
    let under = |head: &[u32], used: usize, children: &[&str]| {
        let (place, more) = child(&s[used..], children);
        ([head, &[place]].concat(), used + more)
    };
    let layer_at =
        |i: u32, tail: (Vec<u32>, usize), used: usize| ([&[ENCODER_LAYERS, i][..], &tail.0].concat(), used + tail.1);
    match *s {
        [name, ..] if role(name) == Role::Input => (vec![0], 0),
        ["deberta", "embeddings", ..] => under(&[1], 2, EMBEDDINGS),
        ["deberta", "encoder", "rel_embeddings", ..] => (vec![3, 0], 3),
        ["deberta", "encoder", "LayerNorm", ..] => (vec![3, 1], 3),
        ["deberta", "encoder", "conv", ..] => {
            let (place, more) = child(&s[3..], CONV);
            (vec![ENCODER_LAYERS, 0, UNKNOWN, CONV_IN_LAYER, place], 3 + more)
        }
        ["deberta", "encoder", "layer", i, ..] => match number(Some(&i)) {
            Some(i) => layer_at(i, layer_stage(&s[4..]), 4),
            None => (vec![ENCODER_LAYERS, LAST], 3),
        },
        ["deberta", "encoder"] => (vec![5, 0], 2),
        ["deberta", "encoder", ..] => (vec![5, LAST], 2),
        ["deberta"] => (vec![5, 2], 1),
        ["deberta", ..] => (vec![5, LAST], 1),
        ["last_hidden_state"] => (vec![5, 1], 1),
        ["hidden_states", i] => match number(Some(&i)) {
            Some(0) => (vec![2], 2),
            Some(i) => (vec![ENCODER_LAYERS, i - 1, UNKNOWN, LAST], 2),
            None => (vec![5, LAST], 1),
        },
        ["attentions", i] => match number(Some(&i)) {
            Some(i) => (vec![ENCODER_LAYERS, i, 1], 2),
            None => (vec![5, LAST], 1),
        },
        ["lm_predictions", "position_embeddings"] => (vec![6, 0, 0], 2),
        ["lm_predictions", "z_states"] => (vec![6, 0, 1], 2),
        ["lm_predictions", "emd", i, ..] if number(Some(&i)).is_some() => {
            let (tail, used) = layer_stage(&s[3..]);
            let pass = number(Some(&i)).unwrap_or_default();
            ([&[6, 1, pass][..], &tail].concat(), 3 + used)
        }
        ["emd_outputs", i] => (vec![6, 1, number(Some(&i)).unwrap_or(LAST), LAST], 2),
        _ => head_stage(s, under),
    }
}

fn head_stage(s: &[&str], under: impl Fn(&[u32], usize, &[&str]) -> (Vec<u32>, usize)) -> (Vec<u32>, usize) {
    match *s {
        ["pooler", ..] => under(&[7, 0], 1, &["dropout", "dense", "act"]),
        ["dropout"] => (vec![7, 1], 1),
        ["classifier", ..] => (vec![7, 2], 1),
        ["qa_outputs", ..] => (vec![7, 3], 1),
        ["cls", "predictions", "transform", ..] => under(&[7, 4, 0], 3, TRANSFORM),
        ["cls", "predictions", "decoder", ..] => (vec![7, 4, 1], 3),
        ["cls", "predictions"] => (vec![7, 4, 2], 2),
        ["cls", ..] => (vec![7, 4, 3], 1),
        ["lm_predictions", "lm_head", ..] => under(&[7, 5, 0], 2, TRANSFORM),
        ["lm_predictions", ..] => (vec![7, 5, 1], 1),
        ["mask_predictions", ..] => under(&[7, 6], 1, MASK_PREDICTIONS),
        ["logits"] => (vec![8, 0], 1),
        ["start_logits"] => (vec![8, 1], 1),
        ["end_logits"] => (vec![8, 2], 1),
        ["loss"] => (vec![8, 3], 1),
        _ => (vec![LAST], 0),
    }
}

/// What a tensor is computed from, in canonical names: the direct inputs, the one on the main path first. Empty where
/// the name is not known, or is computed from the model's inputs alone.
///
/// `conv` says whether the model has a convolution after layer 0.
pub fn inputs(name: &str, conv: bool) -> Vec<String> {
    let name = canonical(name);
    let s: Vec<&str> = name.split('.').collect();
    let list = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect();
    match *s.as_slice() {
        ["deberta", "embeddings"] => list(&["deberta.embeddings.LayerNorm"]),
        ["deberta", "embeddings", "dropout"] => list(&["deberta.embeddings.LayerNorm"]),
        ["deberta", "embeddings", "LayerNorm"] => list(&["deberta.embeddings.embed_proj"]),
        ["deberta", "embeddings", "embed_proj"] => list(&[
            "deberta.embeddings.word_embeddings",
            "deberta.embeddings.position_embeddings",
            "deberta.embeddings.token_type_embeddings",
        ]),
        ["hidden_states", i] => match i.parse::<usize>() {
            Ok(0) => list(&["deberta.embeddings"]),
            Ok(1) if conv => list(&["deberta.encoder.conv"]),
            Ok(i) => vec![format!("deberta.encoder.layer.{}", i - 1)],
            Err(_) => Vec::new(),
        },
        ["attentions", i] => vec![format!("deberta.encoder.layer.{i}.attention.self.probs")],
        ["deberta", "encoder", "LayerNorm"] => list(&["deberta.encoder.rel_embeddings"]),
        ["deberta", "encoder", "conv"] => list(&["deberta.encoder.conv.LayerNorm"]),
        ["deberta", "encoder", "conv", "LayerNorm"] => {
            list(&["deberta.encoder.layer.0", "deberta.encoder.conv.dropout"])
        }
        ["deberta", "encoder", "conv", "dropout"] => list(&["deberta.encoder.conv.conv"]),
        ["deberta", "encoder", "conv", "conv"] => list(&["hidden_states.0"]),
        ["deberta", "encoder", "layer", i, ref rest @ ..] => layer_inputs(i, rest),
        ["cls", "predictions", "transform", "dense"]
        | ["lm_predictions", "lm_head", "dense"]
        | ["mask_predictions", "LayerNorm"]
        | ["pooler", ..]
        | ["qa_outputs"] => list(&["last_hidden_state"]),
        ["classifier"] => list(&["pooler"]),
        _ => Vec::new(),
    }
}

fn layer_inputs(i: &str, rest: &[&str]) -> Vec<String> {
    let layer = |tail: &str| format!("deberta.encoder.layer.{i}.{tail}");
    let input = || format!("hidden_states.{i}");
    match *rest {
        [] => vec![layer("output")],
        ["attention", "self", "query_proj" | "key_proj" | "value_proj"] => vec![input()],
        ["attention", "self", "pos_key_proj" | "pos_query_proj"] => vec!["deberta.encoder.LayerNorm".to_owned()],
        ["attention", "self", "c2c"] => vec![layer("attention.self.query_proj"), layer("attention.self.key_proj")],
        ["attention", "self", "c2p"] => vec![layer("attention.self.query_proj"), layer("attention.self.pos_key_proj")],
        ["attention", "self", "p2c"] => vec![layer("attention.self.key_proj"), layer("attention.self.pos_query_proj")],
        ["attention", "self", "scores"] => {
            vec![layer("attention.self.c2c"), layer("attention.self.c2p"), layer("attention.self.p2c")]
        }
        ["attention", "self", "probs"] => vec![layer("attention.self.scores")],
        ["attention", "self"] => vec![layer("attention.self.probs"), layer("attention.self.value_proj")],
        ["attention", "output", "dense"] => vec![layer("attention.self")],
        ["attention", "output", "dropout"] => vec![layer("attention.output.dense")],
        ["attention", "output", "LayerNorm"] => vec![layer("attention.output.dropout"), input()],
        ["attention", "output"] => vec![layer("attention.output.LayerNorm")],
        ["attention"] => vec![layer("attention.output")],
        ["intermediate", "dense"] => vec![layer("attention")],
        ["intermediate", "intermediate_act_fn"] => vec![layer("intermediate.dense")],
        ["intermediate"] => vec![layer("intermediate.intermediate_act_fn")],
        ["output", "dense"] => vec![layer("intermediate")],
        ["output", "dropout"] => vec![layer("output.dense")],
        ["output", "LayerNorm"] => vec![layer("output.dropout"), layer("attention")],
        ["output"] => vec![layer("output.LayerNorm")],
        _ => Vec::new(),
    }
}

/// A few names of a list, for a message.
pub(crate) fn some_names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut text = String::new();
    for (i, name) in names.enumerate() {
        if i == 4 {
            text.push_str(", …");
            return text;
        }
        let _ = write!(text, "{}{name}", if i == 0 { "" } else { ", " });
    }
    if text.is_empty() { "nothing".to_owned() } else { text }
}

#[cfg(test)]
mod tests;
