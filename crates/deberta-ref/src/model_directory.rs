//! A model directory: its configuration, its weights, and which heads they serve.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use deberta_checkpoint::name_map::{MappingProblems, map_part};
use deberta_checkpoint::{Checkpoint, Element, model_directory};
use deberta_model::{ConfigError, DebertaV2Config, Head, Model, Presence, Profile, Real, schema_under};
use ndarray::{CowArray, IxDyn};
use serde_json::Value;

use crate::error::Error;

/// The names under which directories keep their configuration.
const CONFIG_FILES: [&str; 2] = ["config.json", "model_config.json"];

/// A directory as `from_pretrained` reads it, or a hub cache folder `models--ORG--NAME`. Weights of any format that
/// `deberta-convert` reads are read in place.
///
/// Microsoft's pre-training of v3 keeps two models in one file, a generator and a discriminator. The discriminator is
/// what replaced token detection asks for, and the generator what every other head does. The discriminator holds its
/// word and position embeddings as differences from the generator's (gradient-disentangled embedding sharing, section
/// 3.2 of the v3 paper): E_D = E_G + E_Δ, with E_Δ under the name `_weight`.
pub struct ModelDirectory {
    path: PathBuf,
    configs: Configs,
    checkpoint: Checkpoint,
}

/// The configurations of a directory.
enum Configs {
    One(Box<DebertaV2Config>),
    Pair { generator: Box<DebertaV2Config>, discriminator: Box<DebertaV2Config> },
}

const GENERATOR: &str = "generator.";
const DISCRIMINATOR: &str = "discriminator.";

/// The embeddings that a discriminator shares.
const SHARED: [&str; 2] = ["deberta.embeddings.word_embeddings.", "deberta.embeddings.position_embeddings."];

impl ModelDirectory {
    /// Opens the directory. Weights are mapped, not read.
    ///
    /// # Errors
    /// A missing or unusable configuration, and missing or unreadable weights.
    pub fn open(path: &Path) -> Result<Self, Error> {
        if !path.is_dir() {
            let missing = std::io::Error::from(if path.exists() {
                std::io::ErrorKind::NotADirectory
            } else {
                std::io::ErrorKind::NotFound
            });
            return Err(Error::io(path)(missing));
        }
        let folder = model_directory(path)?;
        let file = CONFIG_FILES.iter().map(|name| folder.join(name)).find(|file| file.is_file());
        let stated = file.as_ref().map(|file| read_configs(file)).transpose()?;
        let checkpoint = match Checkpoint::open(&folder) {
            // Without a configuration the directory is no model, whatever else it lacks.
            Err(_) if stated.is_none() => return Err(Error::NoConfig { path: folder }),
            opened => opened?,
        };
        let mut configs = match (stated, checkpoint.embedded_config()) {
            (Some(configs), _) => configs,
            (None, Some(value)) => parse_configs(checkpoint.path(), value.clone())?,
            (None, None) => return Err(Error::NoConfig { path: folder }),
        };
        if let Configs::One(config) = &configs
            && [GENERATOR, DISCRIMINATOR].iter().all(|part| checkpoint.tensors().any(|t| t.name.starts_with(part)))
        {
            let of =
                |part| Box::new(DebertaV2Config { num_hidden_layers: layers(&checkpoint, part), ..(**config).clone() });
            configs = Configs::Pair { generator: of(GENERATOR), discriminator: of(DISCRIMINATOR) };
        }
        // The classifier of a task; `mask_predictions.classifier` is another thing.
        let classifier = checkpoint.tensors().find(|t| t.name == "classifier.bias");
        if let (Configs::One(config), Some(&[classes])) = (&mut configs, classifier.map(|t| t.shape.as_slice())) {
            config.assume_num_labels(classes.max(1));
        }
        Ok(Self { path: folder, configs, checkpoint })
    }

    /// Where the model's files lie.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The configuration of the model that serves `head`.
    pub fn config(&self, head: Head) -> &DebertaV2Config {
        match &self.configs {
            Configs::One(config) => config,
            Configs::Pair { discriminator, .. } if head == Head::ReplacedTokenDetection => discriminator,
            Configs::Pair { generator, .. } => generator,
        }
    }

    /// What the names of the tensors that serve `head` begin with.
    pub(crate) fn part(&self, head: Head) -> &'static str {
        match &self.configs {
            Configs::One(_) => "",
            Configs::Pair { .. } if head == Head::ReplacedTokenDetection => DISCRIMINATOR,
            Configs::Pair { .. } => GENERATOR,
        }
    }

    /// The weights.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Whether the weights hold every parameter that `head` has beyond the encoder.
    ///
    /// # Errors
    /// Tensors that have to be compared and cannot be read.
    pub fn serves(&self, head: Head, profile: &Profile) -> Result<bool, Error> {
        let config = self.config(head);
        let base = schema_under(config, Head::Base, profile);
        let own: Vec<_> = schema_under(config, head, profile)
            .into_iter()
            .filter(|p| p.presence == Presence::Required && !base.iter().any(|b| b.name == p.name && b == p))
            .collect();
        if own.is_empty() {
            return Ok(true);
        }
        let (_, unmet) = map_part(&self.checkpoint, self.part(head), config, own)?;
        Ok(unmet.is_empty())
    }

    /// The head that configuration and weights call for: that of the first entry of `architectures` whose weights are
    /// there; else the only head whose weights are there; else none, the base model.
    pub fn default_head(&self) -> Head {
        let serves = |head: Head| self.serves(head, &Profile::default()).unwrap_or(false);
        let Configs::One(config) = &self.configs else {
            return Head::ReplacedTokenDetection;
        };
        let named = config.unknown.get("architectures").and_then(Value::as_array);
        for name in named.into_iter().flatten().filter_map(Value::as_str) {
            let head = Head::ALL.into_iter().find(|h| h.architecture() == Some(name));
            if let Some(head) = head.filter(|&h| h == Head::Base || serves(h)) {
                return head;
            }
        }
        // One pooler and classifier serve a sequence as well as its choices; the former is meant far more often.
        let candidates = [
            Head::MaskedLm,
            Head::EnhancedMaskedLm,
            Head::SequenceClassification,
            Head::QuestionAnswering,
            Head::ReplacedTokenDetection,
        ];
        let mut served = candidates.into_iter().filter(|&head| serves(head));
        match (served.next(), served.next()) {
            (Some(head), None) => head,
            // Both language-modelling heads are served by the same weights.
            (Some(Head::MaskedLm), Some(Head::EnhancedMaskedLm)) if served.next().is_none() => Head::MaskedLm,
            (None, _) if serves(Head::TokenClassification) => Head::TokenClassification,
            _ => Head::Base,
        }
    }

    /// The model in `T`. Weights of that type are used where they are mapped; others are converted.
    ///
    /// # Errors
    /// Parameters that are missing, misshapen or ambiguous, all of them at once.
    pub fn load<T: Real + Element>(&self, head: Head, profile: Profile) -> Result<Model<'_, T>, Error> {
        let arrays = self.arrays(head, &profile)?;
        Model::new(self.config(head).clone(), head, profile, arrays)
            .map_err(|source| Error::Model { path: self.path.clone(), source })
    }

    /// The model on `device`, in one of its precisions.
    ///
    /// # Errors
    /// As [`Self::load`], and what the device cannot do.
    #[cfg(feature = "cuda")]
    pub fn load_on<D: deberta_cuda::Device>(
        &self,
        device: D,
        precision: deberta_cuda::Precision,
        head: Head,
        profile: Profile,
    ) -> Result<deberta_cuda::Model<D>, Error> {
        let arrays = self.arrays(head, &profile)?;
        Ok(deberta_cuda::Model::new(device, precision, self.config(head).clone(), head, profile, arrays)?)
    }

    /// The weights that `head` has, by their names in the schema.
    fn arrays<T: Real + Element>(
        &self,
        head: Head,
        profile: &Profile,
    ) -> Result<BTreeMap<String, CowArray<'_, T, IxDyn>>, Error> {
        let config = self.config(head);
        let mut arrays: BTreeMap<String, CowArray<'_, T, IxDyn>> = self.shared(head)?;
        let mut parameters = schema_under(config, head, profile);
        parameters.retain(|p| !arrays.contains_key(&p.name));
        let (resolved, unmet) = map_part(&self.checkpoint, self.part(head), config, parameters)?;
        if !unmet.is_empty() {
            let problems = MappingProblems { unmet, leftover: resolved.leftover };
            let path = self.checkpoint.path().to_owned();
            return Err(deberta_checkpoint::Error::Mapping { path, problems: Box::new(problems) }.into());
        }
        for mapping in &resolved.mapped {
            arrays.insert(mapping.parameter.name.clone(), self.checkpoint.array(&mapping.tensor)?);
        }
        Ok(arrays)
    }

    /// The embeddings that a discriminator shares with its generator, E_G + E_Δ, added in `T`.
    fn shared<T: Real + Element>(&self, head: Head) -> Result<BTreeMap<String, CowArray<'_, T, IxDyn>>, Error> {
        let mut arrays = BTreeMap::new();
        if self.part(head) != DISCRIMINATOR {
            return Ok(arrays);
        }
        for module in SHARED {
            let generator = self.checkpoint.get(&format!("{GENERATOR}{module}weight"));
            let difference = self.checkpoint.get(&format!("{DISCRIMINATOR}{module}_weight"));
            if let (Some(generator), Some(difference)) = (generator, difference)
                && generator.shape == difference.shape
            {
                let sum =
                    self.checkpoint.array::<T>(generator)?.into_owned() + &self.checkpoint.array::<T>(difference)?;
                arrays.insert(format!("{module}weight"), sum.into());
            }
        }
        Ok(arrays)
    }
}

/// The number of layers that a part of a checkpoint holds: one configuration cannot say it for a generator and a
/// discriminator of different depths.
fn layers(checkpoint: &Checkpoint, part: &str) -> usize {
    let start = format!("{part}deberta.encoder.layer.");
    let numbers = checkpoint.tensors().filter_map(|t| t.name.strip_prefix(&start)?.split('.').next()?.parse().ok());
    numbers.max().map_or(1, |last: usize| last.saturating_add(1))
}

fn read_configs(file: &Path) -> Result<Configs, Error> {
    let text = std::fs::read_to_string(file).map_err(Error::io(file))?;
    let value = serde_json::from_str(&text).map_err(|source| ConfigError::Syntax { source });
    parse_configs(file, value.map_err(|source| Error::Config { path: file.to_owned(), source })?)
}

fn parse_configs(file: &Path, value: Value) -> Result<Configs, Error> {
    let parse = |value: &Value| {
        DebertaV2Config::from_value(value.clone())
            .map(Box::new)
            .map_err(|source| Error::Config { path: file.to_owned(), source })
    };
    match (value.get("generator"), value.get("discriminator")) {
        (Some(generator), Some(discriminator)) => {
            Ok(Configs::Pair { generator: parse(generator)?, discriminator: parse(discriminator)? })
        }
        _ => parse(&value).map(Configs::One),
    }
}
