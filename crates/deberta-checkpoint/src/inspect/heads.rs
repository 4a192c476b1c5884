//! Under each head: which of its parameters a checkpoint holds, which would be random, and which tensors nothing would use.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use deberta_model::{DebertaV2Config, Head, Presence as Needed, schema};
use serde::Serialize;

use crate::checkpoint::Checkpoint;
use crate::convert;
use crate::error::Error;
use crate::name_map::{self, Names, Reason, Unmet};

/// Whether a head's own parameters are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Presence {
    /// All of them.
    Present,
    /// Some, or some with another shape than the configuration says.
    Partial,
    /// None.
    Absent,
}

/// A model with a head, as this checkpoint would make it.
#[derive(Clone, Debug, Serialize)]
pub struct HeadReport {
    /// Its name on the command line.
    pub head: String,
    /// Whether what the head has beyond the encoder is there.
    pub presence: Presence,
    /// The part of the checkpoint that serves it, where it holds two models: `generator` or `discriminator`.
    pub part: Option<String>,
    /// How many parameters the model has, tied and optional ones that are absent not counted.
    pub parameters: usize,
    /// Parameters that the checkpoint does not hold: a program that loads it all the same leaves them random.
    pub random: Vec<String>,
    /// Tensors that are no parameter of this model.
    pub unused: Vec<String>,
    /// Parameters that are there and cannot be used: of another shape or type, or twice.
    pub problems: Vec<String>,
    /// What loading it elsewhere would do otherwise.
    pub note: Option<String>,
}

/// What was told of the model.
pub(super) struct Told {
    pub family: String,
    pub config: String,
    pub heads: Vec<HeadReport>,
    pub unused: BTreeMap<String, String>,
}

/// One of the models of a checkpoint: the only one, a generator or a discriminator.
struct Part {
    prefix: &'static str,
    names: Names,
    config: DebertaV2Config,
    from: String,
    base: HashSet<String>,
}

/// Tells the heads of a checkpoint with the configuration beside it, or one told from its shapes.
pub(super) fn of(checkpoint: &Checkpoint, path: &Path) -> Result<Told, Error> {
    let mut prefixes = name_map::parts(checkpoint);
    if prefixes.is_empty() {
        prefixes.push("");
    }
    let parts = prefixes.into_iter().map(|prefix| part(checkpoint, path, prefix)).collect::<Result<Vec<_>, _>>()?;
    let mut heads = Vec::new();
    let mut unused: Option<BTreeMap<String, String>> = None;
    for head in Head::ALL {
        let part = serving(&parts, head);
        let (report, left) = report(checkpoint, part, head)?;
        heads.push(report);
        unused = Some(match unused {
            Some(mut unused) => {
                unused.retain(|name, _| left.contains_key(name));
                unused
            }
            None => left,
        });
    }
    let first = &parts[0];
    Ok(Told {
        family: first.names.family.name().to_owned(),
        config: first.from.clone(),
        heads,
        unused: unused.unwrap_or_default(),
    })
}

fn part(checkpoint: &Checkpoint, path: &Path, prefix: &'static str) -> Result<Part, Error> {
    let names = Names::of(checkpoint, prefix);
    let (config, from) = convert::config_of(checkpoint, path, prefix, &names)?;
    let base = schema(&config, Head::Base).into_iter().map(|p| p.name).collect();
    Ok(Part { prefix, names, config, from, base })
}

/// Replaced tokens are told by the discriminator, everything else by the generator, as the forward pass has it.
fn serving(parts: &[Part], head: Head) -> &Part {
    let wanted = if head == Head::ReplacedTokenDetection { "discriminator." } else { "generator." };
    parts.iter().find(|p| p.prefix == wanted).unwrap_or(&parts[0])
}

/// One head, and the tensors that it does not use, with the reason.
fn report(checkpoint: &Checkpoint, part: &Part, head: Head) -> Result<(HeadReport, BTreeMap<String, String>), Error> {
    // The masked language model is told by whichever of its two forms is there.
    let mut config = part.config.clone();
    let mut note = None;
    if head == Head::MaskedLm {
        let names = &part.names;
        config.legacy = names.any_starts("cls.predictions.") || !names.any_starts("lm_predictions.");
        note = (config.legacy != part.config.legacy).then(|| {
            let held = if config.legacy { "cls.predictions" } else { "lm_predictions.lm_head" };
            format!(
                "the file holds {held} and the configuration says legacy: {}, so transformers would leave this head random",
                part.config.legacy
            )
        });
    }
    let all = schema(&config, head);
    let is_own = |name: &str| head == Head::Base || !part.base.contains(name);
    let required: Vec<String> = all.iter().filter(|p| p.presence == Needed::Required).map(|p| p.name.clone()).collect();
    let own = required.iter().filter(|name| is_own(name)).count();
    let (resolved, unmet) = name_map::map_part(checkpoint, part.prefix, &config, all)?;
    let random: Vec<String> = unmet.iter().filter_map(missing).map(str::to_owned).collect();
    let problems: Vec<String> = unmet.iter().filter(|u| missing(u).is_none()).map(ToString::to_string).collect();
    let own_missing = random.iter().filter(|name| is_own(name)).count();
    let own_unmet = unmet.iter().filter(|u| is_own(u.parameter())).count();
    let presence = match own_unmet {
        0 => Presence::Present,
        _ if own_missing == own => Presence::Absent,
        _ => Presence::Partial,
    };
    // The tensors of the other model of a file are not this one's to use.
    let left: BTreeMap<String, String> =
        resolved.leftover.into_iter().map(|l| (l.name, reason(&l.reason, part.prefix))).collect();
    let unused = left.keys().filter(|name| name.starts_with(part.prefix)).cloned().collect();
    let report = HeadReport {
        head: head.name().to_owned(),
        presence,
        part: (!part.prefix.is_empty()).then(|| part.prefix.trim_end_matches('.').to_owned()),
        parameters: resolved.mapped.len() + unmet.len(),
        random,
        unused,
        problems,
        note: note.filter(|_| presence != Presence::Absent),
    };
    Ok((report, left))
}

fn missing(unmet: &Unmet) -> Option<&str> {
    matches!(unmet, Unmet::Missing { .. }).then(|| unmet.parameter())
}

fn reason(reason: &Reason, part: &str) -> String {
    match reason {
        Reason::Unknown if !part.is_empty() => "no parameter of either model has this name".to_owned(),
        other => other.to_string(),
    }
}
