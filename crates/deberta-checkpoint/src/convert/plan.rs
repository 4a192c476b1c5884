//! What is written, under which names, in which files, and what becomes of the rest.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use deberta_model::{DebertaV2Config, Head, Parameter, Presence, schema};
use safetensors::Dtype;
use serde_json::{Map, Value, json};

use super::output::Target;
use super::report::{ConfigReport, Dropped};
use super::{Names, Options, Unknown, companion_folder, config, dtype, write};
use crate::checkpoint::Checkpoint;
use crate::error::Error;
use crate::name_map::{self, Family, Leftover, Mapping, MappingProblems, Reason};
use crate::tensor::TensorInfo;

/// The rule of embeddings that are nowhere in the source as such.
const SUM: &str = "the generator's embeddings plus the discriminator's difference";

/// The largest file in a model directory, as Hugging Face has it.
const SHARD: u64 = 5_000_000_000;

/// What goes with a model and is copied as it is.
const COMPANIONS: &[&str] = &[
    "spm.model",
    "spiece.model",
    "bpe_encoder.bin",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "generation_config.json",
    "chat_template.jinja",
    "README.md",
    "LICENSE",
];

/// A tensor of the output.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    /// Its name in the output.
    pub name: String,
    /// The tensor of the source in the order of the output's elements.
    pub tensor: TensorInfo,
    /// The tensor of the source as it is there; `None` where the source has none.
    pub source: Option<TensorInfo>,
    /// Which rule made the one of the other.
    pub rule: String,
    /// Its type in the output.
    pub dtype: Dtype,
}

impl Planned {
    pub fn byte_len(&self) -> usize {
        write::byte_len(self.dtype, self.tensor.elements())
    }
}

/// A file of the output.
#[derive(Debug)]
pub(crate) struct Shard {
    pub file_name: String,
    /// Indices into [`Plan::tensors`], in the order of the file.
    pub tensors: Vec<usize>,
}

/// The whole output.
#[derive(Debug)]
pub(crate) struct Plan {
    pub tensors: Vec<Planned>,
    pub shards: Vec<Shard>,
    /// Where there are several shards.
    pub index: Option<Value>,
    pub index_name: String,
    /// Names that are left out because they are the same array as another.
    pub ties: BTreeMap<String, String>,
    pub dropped: Vec<Dropped>,
    /// Names that the schema does not know and that are written all the same.
    pub unknown: Vec<String>,
    pub family: Family,
    /// Configuration and head, where names are not kept.
    pub model: Option<(DebertaV2Config, Head)>,
    /// What the names of the model in the source begin with.
    pub part: &'static str,
    pub config: Option<(Value, ConfigReport)>,
    pub warnings: Vec<String>,
    folder: PathBuf,
}

/// Plans a conversion.
pub(crate) fn plan(checkpoint: &Checkpoint, options: &Options, target: &Target) -> Result<Plan, Error> {
    let part = part(checkpoint, options)?;
    let names = name_map::Names::of(checkpoint, part);
    let mut plan = Plan {
        tensors: Vec::new(),
        shards: Vec::new(),
        index: None,
        index_name: String::new(),
        ties: BTreeMap::new(),
        dropped: Vec::new(),
        unknown: Vec::new(),
        family: names.family,
        model: None,
        part,
        config: None,
        warnings: Vec::new(),
        folder: companion_folder(&options.source)?,
    };
    match options.names {
        Names::Keep => plan.keep_all(checkpoint, options)?,
        Names::Hf | Names::Microsoft => plan.rename(checkpoint, options, part, &names)?,
    }
    for other in checkpoint.others() {
        let why = if other.is_tensor {
            format!("{}, which safetensors cannot hold", other.what)
        } else {
            format!("not a tensor: {}", other.what)
        };
        plan.dropped.push(Dropped { name: other.name.clone(), why });
    }
    if plan.tensors.is_empty() {
        return Err(Error::NotDeberta { path: checkpoint.path().into(), why: "it holds no tensor to write".into() });
    }
    plan.cut_into_shards(options, target)?;
    Ok(plan)
}

impl Plan {
    /// The bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(|t| t.byte_len() as u64).sum()
    }

    /// The metadata of a shard: who it is for, and which absent names stand for which of its tensors.
    pub fn metadata(&self, shard: &Shard) -> Map<String, Value> {
        let mut map = Map::new();
        map.insert("format".into(), "pt".into());
        for (name, kept) in &self.ties {
            if shard.tensors.iter().any(|&t| self.tensors[t].name == *kept) {
                map.insert(name.clone(), kept.clone().into());
            }
        }
        map
    }

    /// The files that go with the weights in a model directory.
    pub fn companions(&self) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let mut files = Vec::new();
        if let Some((config, _)) = &self.config {
            files.push(("config.json".to_owned(), format!("{config:#}\n").into_bytes()));
        }
        for name in COMPANIONS {
            let path = self.folder.join(name);
            if path.is_file() {
                files.push(((*name).to_owned(), std::fs::read(&path).map_err(Error::io(&path, "read"))?));
            }
        }
        Ok(files)
    }

    /// Everything under its own name. An array under several names is written once.
    fn keep_all(&mut self, checkpoint: &Checkpoint, options: &Options) -> Result<(), Error> {
        self.ties = checkpoint.aliases().into_iter().map(|(a, b)| (a.to_owned(), b.to_owned())).collect();
        self.ties.extend(checkpoint.links().clone());
        for tensor in checkpoint.tensors().filter(|t| !self.ties.contains_key(&t.name)) {
            self.tensors.push(unchanged(tensor, tensor.name.clone(), options, "same"));
        }
        let names = name_map::Names::of(checkpoint, "");
        if let Ok(found) = config::find(checkpoint, &options.source, options.config.as_deref(), "", &names)
            && !found.inferred
        {
            let report = ConfigReport { from: found.from, set: BTreeMap::new() };
            self.config = Some((Value::Object(found.value), report));
        }
        Ok(())
    }

    /// Everything under Hugging Face's or Microsoft's names.
    fn rename(
        &mut self,
        checkpoint: &Checkpoint,
        options: &Options,
        part: &str,
        names: &name_map::Names,
    ) -> Result<(), Error> {
        let mut found = config::find(checkpoint, &options.source, options.config.as_deref(), part, names)?;
        let set = config::complete(&mut found, part, names);
        let model = config::parse(&found)?;
        let head = config::head(&found.value, names);
        let parameters = parameters(&model, head, names);
        let (resolved, unmet) = name_map::map_part(checkpoint, part, &model, parameters)?;
        if !unmet.is_empty() {
            let mut leftover = resolved.leftover;
            leftover.retain(|l| l.name.starts_with(part));
            let problems = Box::new(MappingProblems { unmet, leftover });
            return Err(Error::Mapping { path: checkpoint.path().into(), problems });
        }
        if found.inferred {
            self.warnings.push(format!(
                "there is no config.json: it was told from the shapes, with {} attention heads of 64; give --config if that is wrong",
                model.num_attention_heads
            ));
        }
        self.place(checkpoint, options, resolved.mapped)?;
        self.leave(checkpoint, options, part, resolved.leftover);
        let value = config::output(&model, &found, head, options);
        self.config = Some((value, ConfigReport { from: found.from, set }));
        self.model = Some((model, head));
        Ok(())
    }

    /// Plans the parameters; tied ones that are equal to their partners are noted instead of written.
    fn place(&mut self, checkpoint: &Checkpoint, options: &Options, mapped: Vec<Mapping>) -> Result<(), Error> {
        let microsoft = options.names == Names::Microsoft;
        let output_name =
            |name: &str| if microsoft { name_map::to_microsoft(name).to_owned() } else { name.to_owned() };
        for mapping in &mapped {
            let name = output_name(&mapping.parameter.name);
            if let Presence::TiedTo(partner) = &mapping.parameter.presence
                && let Some(partner) = mapped.iter().find(|m| m.parameter.name == *partner)
            {
                if equal(checkpoint, &mapping.tensor, &partner.tensor)? {
                    self.ties.insert(name, output_name(&partner.parameter.name));
                    continue;
                }
                let partner = &partner.parameter.name;
                self.warnings.push(format!(
                    "{name} differs from {partner}, with which the configuration ties it; both are kept"
                ));
            }
            let source = mapping.source.as_deref().and_then(|s| checkpoint.get(s)).cloned();
            let dtype = dtype::output_dtype(mapping.tensor.dtype, options.dtype);
            let derived = mapping.source.is_some() && source.is_none();
            let rule = if derived { SUM } else { mapping.transform.name() }.to_owned();
            self.tensors.push(Planned { name, tensor: mapping.tensor.clone(), source, rule, dtype });
        }
        Ok(())
    }

    /// Keeps or drops what became no parameter.
    fn leave(&mut self, checkpoint: &Checkpoint, options: &Options, part: &str, leftover: Vec<Leftover>) {
        let containers: HashSet<String> =
            self.tensors.iter().filter_map(|t| t.source.as_ref()).map(|s| s.container().to_owned()).collect();
        let taken: HashSet<String> = self.tensors.iter().map(|t| t.name.clone()).collect();
        for Leftover { name, reason } in leftover {
            let Some(tensor) = checkpoint.get(&name) else { continue };
            let beside = name.starts_with(part) && containers.contains(tensor.container());
            let keep = reason == Reason::Unknown
                && match options.unknown {
                    Unknown::Auto => beside,
                    Unknown::Keep => true,
                    Unknown::Drop => false,
                };
            let own = name_map::own_name(&name, self.family);
            let own = if taken.contains(&own) { name.clone() } else { own };
            if keep && !taken.contains(&own) {
                self.tensors.push(unchanged(tensor, own.clone(), options, "kept, unknown to the schema"));
                self.unknown.push(own);
            } else {
                let why = match reason {
                    Reason::Unknown if !name.starts_with(part) => "of another model in the file; see --part".into(),
                    Reason::Unknown if options.unknown == Unknown::Drop => {
                        "unknown to the schema, and --unknown drop".into()
                    }
                    Reason::Unknown => {
                        "unknown to the schema, and not among the model's tensors; --unknown keep keeps it".into()
                    }
                    reason => reason.to_string(),
                };
                self.dropped.push(Dropped { name, why });
            }
        }
    }

    /// Sorts the tensors so that each lies at a multiple of its element's size, and cuts them into files.
    fn cut_into_shards(&mut self, options: &Options, target: &Target) -> Result<(), Error> {
        self.tensors.sort_by_key(|t| std::cmp::Reverse(t.dtype.bitsize()));
        let (stem, default) = match target {
            Target::File(path) => (path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), u64::MAX),
            Target::Directory(_) => ("model".to_owned(), SHARD),
        };
        let largest = options.max_shard_size.unwrap_or(default);
        let mut groups: Vec<Vec<usize>> = vec![Vec::new()];
        let mut size = 0u64;
        for (i, tensor) in self.tensors.iter().enumerate() {
            let bytes = tensor.byte_len() as u64;
            if size > 0 && size.saturating_add(bytes) > largest {
                groups.push(Vec::new());
                size = 0;
            }
            size += bytes;
            if let Some(group) = groups.last_mut() {
                group.push(i);
            }
        }
        let count = groups.len();
        let file_name = |i: usize| match (count, target) {
            (1, Target::File(path)) => path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            (1, Target::Directory(_)) => "model.safetensors".to_owned(),
            _ => format!("{stem}-{:05}-of-{count:05}.safetensors", i + 1),
        };
        self.shards =
            groups.into_iter().enumerate().map(|(i, tensors)| Shard { file_name: file_name(i), tensors }).collect();
        if count > 1 {
            self.index_name = format!("{stem}.safetensors.index.json");
            let shards = &self.shards;
            let entries = shards.iter().flat_map(|s| s.tensors.iter().map(move |&t| (t, &s.file_name)));
            let map: BTreeMap<&str, &String> = entries.map(|(t, file)| (self.tensors[t].name.as_str(), file)).collect();
            self.index = Some(json!({"metadata": {"total_size": self.bytes()}, "weight_map": map}));
        }
        Ok(())
    }
}

/// Which of several models is converted, as the beginning of its names.
fn part(checkpoint: &Checkpoint, options: &Options) -> Result<&'static str, Error> {
    let parts = name_map::parts(checkpoint);
    let Some(wanted) = &options.part else { return Ok(parts.first().copied().unwrap_or_default()) };
    let found = parts.iter().copied().find(|p| p.trim_end_matches('.') == wanted);
    found.ok_or_else(|| Error::NotDeberta {
        path: checkpoint.path().into(),
        why: format!(
            "it holds no part called {wanted}; its parts: {}",
            if parts.is_empty() { "none".into() } else { parts.join(", ") }
        ),
    })
}

fn unchanged(tensor: &TensorInfo, name: String, options: &Options, rule: &str) -> Planned {
    let dtype = dtype::output_dtype(tensor.dtype, options.dtype);
    Planned { name, tensor: tensor.clone(), source: Some(tensor.clone()), rule: rule.to_owned(), dtype }
}

/// The schema of the head, and of every other head of which the checkpoint holds anything: those parameters are optional.
fn parameters(config: &DebertaV2Config, head: Head, names: &name_map::Names) -> Vec<Parameter> {
    let mut all = schema(config, head);
    let mut taken: HashSet<String> = all.iter().map(|p| p.name.clone()).collect();
    let mut other_legacy = config.clone();
    other_legacy.legacy = !config.legacy;
    for config in [config, &other_legacy] {
        for head in Head::ALL {
            for mut parameter in schema(config, head) {
                // The head's other name claims what the checkpoint has under this one, unless it has both.
                let renamed = name_map::other_lm_head(&parameter.name)
                    .is_some_and(|other| taken.contains(other) && names.shape(other).is_none());
                if names.shape(&parameter.name).is_some() && !renamed && taken.insert(parameter.name.clone()) {
                    if parameter.presence == Presence::Required {
                        parameter.presence = Presence::Optional;
                    }
                    all.push(parameter);
                }
            }
        }
    }
    all
}

fn equal(checkpoint: &Checkpoint, a: &TensorInfo, b: &TensorInfo) -> Result<bool, Error> {
    if a.dtype != b.dtype || a.shape != b.shape {
        return Ok(false);
    }
    if a.storage == b.storage && a.view.simplified() == b.view.simplified() {
        return Ok(true);
    }
    Ok(checkpoint.read(a)? == checkpoint.read(b)?)
}
