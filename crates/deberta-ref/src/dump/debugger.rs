//! What transformers' `model_addition_debugger_context` writes: a tree of the modules that were called, with their inputs and
//! outputs.
//!
//! ```text
//! {"module_path": "DebertaV2Model", "inputs": {"args": [], "kwargs": {"input_ids": T, …}}, "children": [
//!   {"module_path": "DebertaV2Model.embeddings", "inputs": …, "children": [
//!     {"module_path": "DebertaV2Model.embeddings.LayerNorm", "inputs": {"args": [T]}, "outputs": T}]}, …]}
//! T = {"shape": "torch.Size([2, 7])", "dtype": "torch.float32", "value": V, "mean": …, "std": …, "min": …, "max": …}
//! ```
//!
//! With `use_repr=False` V is the name of a safetensors file beside the tree. With `use_repr=True` (the default) it is what
//! Python prints: every value of up to 1000, to five digits, otherwise corners and dots. In the `_SUMMARY.json` there is no V.
//!
//! Modules that have children have no outputs here. But what they return is mostly what the next module is given, so some
//! inputs stand for it ([`FROM_INPUTS`]); and the outputs of the whole model lie in files that the tree does not name.
//!
//! A module that is called twice (`key_proj` and `query_proj` under `share_att_key`, first for the tokens, then for the relative
//! positions) has two nodes and one file, which the later call overwrites: the earlier output is lost, and is told by
//! that. The later one is what Hugging Face calls `pos_key_proj` where nothing is shared, and so does our trace.
//!
//! Reference: `transformers/model_debugging_utils.py`, 5.23.0.

use std::collections::HashMap;
use std::path::{Component, Path};

use deberta_verify::{Dump, Tensor};
use serde_json::{Map, Value};

use super::{from_checkpoint, printed, some};
use crate::error::Error;

/// What the file with values is called, after the model's class.
pub(super) const TREE: &str = "_debug_tree_FULL_TENSORS.json";

/// The largest tree that is read.
const LARGEST: u64 = 256 << 20;

/// Inputs that are another module's output: the end of the path of the module that is given it, the argument, and the path
/// of the module it comes from, in the place of that end.
const FROM_INPUTS: &[(&str, &str, &str)] = &[
    ("encoder", "args.0", "embeddings"),
    ("attention.output", "args.0", "attention.self"),
    ("intermediate", "args.0", "attention"),
    ("encoder.conv", "args.1", "encoder.layer.0"),
];

/// The arguments of a model, in their order.
const ARGUMENTS: [&str; 5] = ["input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds"];

/// Opens a tree.
pub(super) fn open(path: &Path) -> Result<Dump, Error> {
    let wrong = |problem: String| Error::Dump { path: path.to_owned(), problem };
    if std::fs::metadata(path).map_err(Error::io(path))?.len() > LARGEST {
        let advice = "run the debugger with use_repr=False, which keeps values in files of their own";
        return Err(wrong(format!("a JSON of more than 256 MiB; {advice}")));
    }
    let text = std::fs::read(path).map_err(Error::io(path))?;
    let root: Value = serde_json::from_slice(&text).map_err(|e| wrong(format!("not JSON: {e}")))?;
    drop(text);
    let Some(class) = root.get("module_path").and_then(Value::as_str) else {
        return Err(wrong("JSON without module_path, so not a tree of transformers' model-addition debugger".into()));
    };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut reader = Reader { path, folder, dump: Dump::new(path.display().to_string()), skipped: Skipped::default() };
    for mention in mentions(&root) {
        match mention {
            Mention { survives: true, .. } => reader.take(&mention)?,
            Mention { name, .. } => reader.skipped.lost.extend(name),
        }
    }
    reader.outputs_of(class)?;
    reader.finish()
}

/// A tensor that the tree mentions.
struct Mention<'t> {
    /// What it is to be called; `None` where it is of no use.
    name: Option<String>,
    tensor: &'t Map<String, Value>,
    /// Whether its value is there: no later call has overwritten its file.
    survives: bool,
}

/// Every tensor of the tree, in the order of the calls.
fn mentions(root: &Value) -> Vec<Mention<'_>> {
    let mut all = Vec::new();
    let mut mention = |name, tensor| all.push(Mention { name, tensor, survives: true });
    for (at, tensor) in tensors(root.get("inputs")) {
        let positional = at.strip_prefix("args.").and_then(|i| ARGUMENTS.get(i.parse::<usize>().ok()?));
        mention(positional.copied().or_else(|| at.strip_prefix("kwargs.")).map(str::to_owned), tensor);
    }
    let children = |node| Value::get(node, "children").and_then(Value::as_array).into_iter().flatten().rev();
    let mut calls: HashMap<&str, usize> = HashMap::new();
    let mut waiting: Vec<&Value> = children(root).collect();
    while let Some(node) = waiting.pop() {
        waiting.extend(children(node));
        let Some(path) = node.get("module_path").and_then(Value::as_str) else { continue };
        let call = calls.entry(path).or_default();
        *call += 1;
        for (at, tensor) in tensors(node.get("inputs")) {
            mention(source_of(path, &at), tensor);
        }
        for (at, tensor) in tensors(node.get("outputs")) {
            let name = called(path, *call);
            mention(Some(if at.is_empty() { name } else { format!("{name}.{at}") }), tensor);
        }
    }
    // Of those that name one file the last wrote it.
    let mut last: HashMap<&str, usize> = HashMap::new();
    let files: Vec<Option<&str>> = all.iter().map(|m| m.tensor.get("value").and_then(Value::as_str)).collect();
    last.extend(files.iter().enumerate().filter_map(|(i, file)| Some(((*file)?, i))));
    for (i, mention) in all.iter_mut().enumerate() {
        mention.survives = files[i].is_none_or(|f| last[f] == i);
    }
    all
}

/// The tensors in a value of the tree, each with its path in it, such as `args.0`. Depth is bounded by the JSON parser.
fn tensors(value: Option<&Value>) -> Vec<(String, &Map<String, Value>)> {
    let mut found = Vec::new();
    let mut waiting: Vec<(String, &Value)> = value.map(|v| (String::new(), v)).into_iter().collect();
    let below = |at: &str, key: &str| if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") };
    while let Some((at, value)) = waiting.pop() {
        match value {
            Value::Array(list) => {
                waiting.extend(list.iter().enumerate().map(|(i, v)| (below(&at, &i.to_string()), v)));
            }
            Value::Object(tensor) if tensor.contains_key("shape") && tensor.contains_key("dtype") => {
                found.push((at, tensor));
            }
            Value::Object(map) => waiting.extend(map.iter().map(|(key, v)| (below(&at, key), v))),
            _ => {}
        }
    }
    found
}

/// What a call of a module is called.
fn called(path: &str, call: usize) -> String {
    let shared = |end: &str| path.strip_suffix(end).filter(|_| call == 2);
    if let Some(attention) = shared(".attention.self.key_proj") {
        return format!("{attention}.attention.self.pos_key_proj");
    }
    if let Some(attention) = shared(".attention.self.query_proj") {
        return format!("{attention}.attention.self.pos_query_proj");
    }
    if call == 1 { path.to_owned() } else { format!("{path}#{call}") }
}

/// The module that an input of another comes from.
fn source_of(path: &str, at: &str) -> Option<String> {
    if let Some((_, layer)) = path.rsplit_once("encoder.layer.")
        && layer.parse::<usize>().is_ok()
        && matches!(at, "args.0" | "kwargs.hidden_states")
    {
        return Some(format!("hidden_states.{layer}"));
    }
    let (end, _, from) = FROM_INPUTS.iter().find(|(end, argument, _)| path.ends_with(end) && at == *argument)?;
    let before = path.strip_suffix(end).filter(|p| p.ends_with('.'))?;
    Some(format!("{before}{from}"))
}

/// What could not be taken over.
#[derive(Default)]
struct Skipped {
    /// Of these there are summaries alone.
    summaries: Vec<String>,
    /// These were overwritten by a later call of the same module.
    lost: Vec<String>,
    /// The files of these are not there.
    absent: Vec<String>,
    /// These were printed, to five digits.
    printed: usize,
}

struct Reader<'t> {
    path: &'t Path,
    folder: &'t Path,
    dump: Dump,
    skipped: Skipped,
}

impl Reader<'_> {
    fn wrong(&self, problem: String) -> Error {
        Error::Dump { path: self.path.to_owned(), problem }
    }

    /// Takes over a tensor, if its value is there and none of its name is.
    fn take(&mut self, mention: &Mention<'_>) -> Result<(), Error> {
        let Some(name) = mention.name.as_ref().filter(|n| self.dump.get(n).is_none()) else { return Ok(()) };
        let text = |key: &str| mention.tensor.get(key).and_then(Value::as_str).unwrap_or_default();
        let shape = printed::shape(text("shape"))
            .ok_or_else(|| self.wrong(format!("the shape of {name} cannot be read: {}", text("shape"))))?;
        match mention.tensor.get("value") {
            Some(Value::String(file)) => self.take_file(name, file, &shape)?,
            Some(Value::Array(lines)) => {
                let lines: Vec<&str> = lines.iter().filter_map(Value::as_str).collect();
                let tensor = printed::tensor(name, &lines.join(" "), shape, text("dtype"));
                match tensor.map_err(|reason| self.wrong(format!("{name}: {reason}")))? {
                    Some(tensor) => {
                        self.skipped.printed += usize::from(tensor.dtype().is_float());
                        self.dump.insert(name.clone(), tensor);
                    }
                    None => self.skipped.summaries.push(name.clone()),
                }
            }
            _ => self.skipped.summaries.push(name.clone()),
        }
        Ok(())
    }

    fn take_file(&mut self, name: &str, file: &str, shape: &[usize]) -> Result<(), Error> {
        let plain = Path::new(file.strip_prefix("./").unwrap_or(file));
        let mut parts = plain.components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            return Err(self.wrong(format!("the file of {name} is {file:?}, which is not a name beside the tree")));
        }
        let path = self.folder.join(plain);
        if !path.is_file() {
            self.skipped.absent.push(name.to_owned());
            return Ok(());
        }
        let tensor = data(&path)?;
        if tensor.shape() != shape {
            let found = tensor.shape();
            return Err(
                self.wrong(format!("{} holds {found:?} where the tree says {shape:?} of {name}", path.display()))
            );
        }
        self.dump.insert(name, tensor);
        Ok(())
    }

    /// The outputs of the whole model, in `CLASS_outputs_NAME.safetensors`. The files of modules have a dot after the class.
    fn outputs_of(&mut self, class: &str) -> Result<(), Error> {
        let start = format!("{class}_outputs_");
        for entry in std::fs::read_dir(self.folder).map_err(Error::io(self.folder))? {
            let path = entry.map_err(Error::io(self.folder))?.path();
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            if let Some(output) = file.strip_prefix(&start).and_then(|n| n.strip_suffix(".safetensors")) {
                let listed = output.rsplit_once('_').filter(|(list, i)| is_list(list) && i.parse::<usize>().is_ok());
                let name = listed.map_or_else(|| output.to_owned(), |(list, i)| format!("{list}.{i}"));
                self.dump.insert(name, data(&path)?);
            }
        }
        Ok(())
    }

    /// The dump, with notes on what is not in it.
    fn finish(mut self) -> Result<Dump, Error> {
        let Skipped { summaries, lost, absent, printed } = &self.skipped;
        let mut notes = Vec::new();
        if *printed > 0 {
            notes.push(format!(
                "{printed} tensors of {} were printed, to five digits, and are compared as f16: with use_repr=False the debugger keeps them whole",
                self.dump.source
            ));
        }
        if let Some(some) = some(summaries) {
            notes.push(format!(
                "{} tensors are not compared, because the tree only sums them up (mean, std, min, max): {some}; with use_repr=False the debugger keeps them whole",
                summaries.len()
            ));
        }
        if let Some(some) = some(lost) {
            notes.push(format!(
                "{} tensors are lost, because the module was called again and overwrote them: {some}",
                lost.len()
            ));
        }
        if let Some(some) = some(absent) {
            notes.push(format!("the files of {} tensors are not beside the tree: {some}", absent.len()));
        }
        if self.dump.is_empty() {
            let why = if summaries.is_empty() {
                "it mentions no tensor whose value is there"
            } else {
                "it only sums tensors up (mean, std, min, max)"
            };
            return Err(self
                .wrong(format!("{why}; point at the {TREE} of a run with use_repr=False, with the files beside it")));
        }
        self.dump.notes = notes;
        Ok(self.dump)
    }
}

/// Outputs that are lists.
fn is_list(name: &str) -> bool {
    matches!(name, "hidden_states" | "attentions")
}

/// The tensor of a file that the debugger keeps one in.
fn data(path: &Path) -> Result<Tensor, Error> {
    let dump = from_checkpoint(path)?;
    let missing =
        || Error::Dump { path: path.to_owned(), problem: "it does not hold `data`, as the debugger's files do".into() };
    dump.get("data").cloned().ok_or_else(missing)
}
