//! The model's configuration: found beside the source or inside it, else told from the shapes; completed for the output.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use deberta_model::{DebertaV2Config, Head};
use serde_json::{Map, Value, json};

use super::Options;
use crate::checkpoint::Checkpoint;
use crate::error::Error;
use crate::name_map::Names;

/// Where configurations lie, in the order of preference: Hugging Face's name, then Microsoft's.
const FILES: &[&str] = &["config.json", "model_config.json"];

/// A configuration and where it is from.
pub(crate) struct Found {
    pub value: Map<String, Value>,
    pub from: String,
    /// The file, for error messages; the checkpoint where it is inside or told from shapes.
    pub path: PathBuf,
    /// Fields that were told from shapes.
    pub inferred: bool,
}

/// Finds the configuration of a checkpoint, or of its `part` where it holds two models.
/// `given` is used in place of any.
pub(crate) fn find(
    checkpoint: &Checkpoint,
    source: &Path,
    given: Option<&Path>,
    part: &str,
    names: &Names,
) -> Result<Found, Error> {
    if let Some(path) = given {
        return read(path, part);
    }
    let mut folder = super::companion_folder(source)?;
    if folder.ends_with("variables") {
        // A SavedModel's bundle; what belongs to the model lies one folder up.
        folder.pop();
    }
    for name in FILES {
        let path = folder.join(name);
        if path.is_file() {
            return read(&path, part);
        }
    }
    let path = checkpoint.path().to_owned();
    if let Some(Value::Object(map)) = checkpoint.embedded_config()
        && map.contains_key("hidden_size")
    {
        return Ok(Found { value: map.clone(), from: "the checkpoint's entry `config`".into(), path, inferred: false });
    }
    let value = infer(names).ok_or_else(|| Error::NotDeberta {
        path: path.clone(),
        why: "there is no config.json beside it, and no word embeddings to tell one from".into(),
    })?;
    Ok(Found { value, from: "the shapes of the tensors".into(), path, inferred: true })
}

fn read(path: &Path, part: &str) -> Result<Found, Error> {
    const LARGEST: u64 = 16 << 20;
    let len = std::fs::metadata(path).map_err(Error::io(path, "open"))?.len();
    if len > LARGEST {
        let what = "the configuration".to_owned();
        return Err(Error::OutOfProportion { path: path.into(), what, bytes: len, file_bytes: LARGEST });
    }
    let text = std::fs::read(path).map_err(Error::io(path, "read"))?;
    let bad = |source| Error::Config { path: path.into(), source: Box::new(source) };
    let value: Value =
        serde_json::from_slice(&text).map_err(|source| bad(deberta_model::ConfigError::Syntax { source }))?;
    let Value::Object(mut value) = value else { return Err(bad(deberta_model::ConfigError::NotAnObject)) };
    // Microsoft's experiments nest the model's configuration in that of the task, and those of two models in one file.
    for key in ["model_config", "model", "config", part.trim_end_matches('.')] {
        if let Some(Value::Object(inner)) = value.get(key)
            && inner.contains_key("hidden_size")
        {
            value = inner.clone();
        }
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Found { value, from: name, path: path.into(), inferred: false })
}

/// The configuration as the model reads it.
pub(crate) fn parse(found: &Found) -> Result<DebertaV2Config, Error> {
    DebertaV2Config::from_value(Value::Object(found.value.clone()))
        .map_err(|source| Error::Config { path: found.path.clone(), source: Box::new(source) })
}

/// Fields that follow from the checkpoint where the configuration is silent, each with its value.
/// One file of two models has one configuration: the number of layers is then each model's own.
pub(crate) fn complete(found: &mut Found, part: &str, names: &Names) -> BTreeMap<String, Value> {
    let mut set = BTreeMap::new();
    if !part.is_empty() {
        set.insert("num_hidden_layers".to_owned(), json!(layers(names)));
    }
    let has = |prefix: &str| names.any_starts(prefix);
    if !found.value.contains_key("legacy") {
        if has("lm_predictions.lm_head.") && !has("cls.predictions.") {
            set.insert("legacy".to_owned(), Value::Bool(false));
        } else if has("cls.predictions.") {
            set.insert("legacy".to_owned(), Value::Bool(true));
        }
    }
    let unnamed = !["id2label", "num_labels", "label2id"].iter().any(|f| found.value.contains_key(*f));
    if let Some([rows, ..]) = names.shape("classifier.weight").as_deref()
        && unnamed
        && *rows != 2
    {
        let labels: Map<_, _> = (0..*rows).map(|i| (i.to_string(), json!(format!("LABEL_{i}")))).collect();
        let ids: Map<_, _> = (0..*rows).map(|i| (format!("LABEL_{i}"), json!(i))).collect();
        set.insert("id2label".into(), Value::Object(labels));
        set.insert("label2id".into(), Value::Object(ids));
    }
    found.value.extend(set.clone());
    set
}

/// The head that a checkpoint holds: what the configuration says, where its parameters are there; else what is there.
pub(crate) fn head(config: &Map<String, Value>, names: &Names) -> Head {
    let has = |prefix: &str| names.any_starts(prefix);
    let serves = |head: Head| match head {
        Head::Base => {
            !["cls.", "lm_predictions.", "mask_predictions.", "classifier.", "qa_outputs."].iter().any(|p| has(p))
        }
        Head::MaskedLm | Head::EnhancedMaskedLm => has("cls.predictions.") || has("lm_predictions."),
        Head::SequenceClassification | Head::MultipleChoice => has("classifier.") && has("pooler."),
        Head::TokenClassification => has("classifier."),
        Head::QuestionAnswering => has("qa_outputs."),
        Head::ReplacedTokenDetection => has("mask_predictions."),
    };
    let architectures = config.get("architectures").and_then(Value::as_array).into_iter().flatten();
    let named = architectures
        .filter_map(Value::as_str)
        .map(|a| a.strip_prefix("TF").unwrap_or(a))
        .find_map(|a| Head::ALL.into_iter().find(|h| h.architecture() == Some(a)));
    if let Some(head) = named.filter(|h| serves(*h)) {
        return head;
    }
    let told = [
        Head::MaskedLm,
        Head::ReplacedTokenDetection,
        Head::QuestionAnswering,
        Head::SequenceClassification,
        Head::TokenClassification,
    ];
    told.into_iter().find(|h| serves(*h)).unwrap_or(Head::Base)
}

/// The configuration that goes into the output directory.
pub(crate) fn output(config: &DebertaV2Config, found: &Found, head: Head, options: &Options) -> Value {
    // Hugging Face's own file keeps its order and spelling; Microsoft's becomes one.
    let is_hugging_face = found.value.get("model_type").is_some_and(|t| t == "deberta-v2");
    let mut map = match config.to_value() {
        Value::Object(map) if !is_hugging_face => map,
        _ => found.value.clone(),
    };
    map.insert("model_type".into(), "deberta-v2".into());
    let architecture = head.architecture().unwrap_or(match head {
        Head::EnhancedMaskedLm => "DebertaV2ForMaskedLM",
        _ => "DebertaV2Model",
    });
    map.insert("architectures".into(), json!([architecture]));
    let dtype = match options.dtype {
        super::OutputDtype::Keep => None,
        super::OutputDtype::F32 => Some("float32"),
        super::OutputDtype::F16 => Some("float16"),
        super::OutputDtype::BF16 => Some("bfloat16"),
    };
    if let Some(dtype) = dtype {
        let key = if map.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        map.insert(key.into(), dtype.into());
    }
    Value::Object(map)
}

/// Tells a configuration from shapes. The number of heads does not show: every published DeBERTa has heads of 64.
fn infer(names: &Names) -> Option<Map<String, Value>> {
    let shape = |name: &str| names.shape(name);
    let at = |name: &str, axis: usize| shape(name).and_then(|s| s.get(axis).copied());
    let vocab = at("deberta.embeddings.word_embeddings.weight", 0)?;
    let width = at("deberta.embeddings.word_embeddings.weight", 1)?;
    let hidden = at("deberta.embeddings.LayerNorm.weight", 0)?;
    let layer = |rest: &str| format!("deberta.encoder.layer.0.{rest}");
    let has = |name: &str| shape(name).is_some();
    let relative = at("deberta.encoder.rel_embeddings.weight", 0);
    let (c2p, p2c) =
        (has(&layer("attention.self.pos_key_proj.weight")), has(&layer("attention.self.pos_query_proj.weight")));
    let share = relative.is_some() && !c2p && !p2c;
    let kinds: Vec<&str> =
        [("p2c", p2c || share), ("c2p", c2p || share)].into_iter().filter(|k| k.1).map(|k| k.0).collect();
    let mut map = Map::new();
    let mut set = |name: &str, value: Value| drop(map.insert(name.to_owned(), value));
    set("model_type", json!("deberta-v2"));
    set("vocab_size", json!(vocab));
    set("hidden_size", json!(hidden));
    if width != hidden {
        set("embedding_size", json!(width));
    }
    set("num_hidden_layers", json!(layers(names)));
    set("num_attention_heads", json!((hidden / 64).max(1)));
    if let Some(intermediate) = at(&layer("intermediate.dense.bias"), 0) {
        set("intermediate_size", json!(intermediate));
    }
    if let Some(positions) = at("deberta.embeddings.position_embeddings.weight", 0) {
        set("max_position_embeddings", json!(positions));
    }
    set("type_vocab_size", json!(at("deberta.embeddings.token_type_embeddings.weight", 0).unwrap_or(0)));
    set("position_biased_input", json!(false));
    set("relative_attention", json!(relative.is_some()));
    set("pos_att_type", json!(kinds));
    set("share_att_key", json!(share));
    if let Some(rows) = relative {
        set("position_buckets", json!(rows / 2));
        set("max_relative_positions", json!(-1));
    }
    if has("deberta.encoder.LayerNorm.weight") {
        set("norm_rel_ebd", json!("layer_norm"));
    }
    if let Some([_, per_group, taps]) = shape("deberta.encoder.conv.conv.weight").as_deref() {
        set("conv_kernel_size", json!(taps));
        set("conv_groups", json!(hidden.checked_div(*per_group).unwrap_or(1)));
    }
    Some(map)
}

/// How many layers there are.
fn layers(names: &Names) -> usize {
    (0..).take_while(|i| names.any_starts(&format!("deberta.encoder.layer.{i}."))).count()
}
