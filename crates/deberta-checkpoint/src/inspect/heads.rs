//! Which heads a checkpoint holds.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use deberta_model::{Head, Presence as Needed, schema};
use serde::Serialize;

use crate::checkpoint::Checkpoint;
use crate::convert;
use crate::error::Error;
use crate::name_map::{self, Names, Unmet};

/// Whether a head's parameters are there.
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

/// A head.
#[derive(Clone, Debug, Serialize)]
pub struct HeadReport {
    /// Its name on the command line.
    pub head: String,
    /// Whether its own parameters are there.
    pub presence: Presence,
    /// What is missing or wrong, where some are.
    pub problems: Vec<String>,
}

/// What was told of the model.
pub(super) struct Told {
    pub family: String,
    pub config: String,
    pub heads: Vec<HeadReport>,
    pub unused: BTreeMap<String, String>,
}

/// Tells the heads of a checkpoint with the configuration beside it, or one told from its shapes.
pub(super) fn of(checkpoint: &Checkpoint, path: &Path) -> Result<Told, Error> {
    let part = name_map::parts(checkpoint).first().copied().unwrap_or_default();
    let names = Names::of(checkpoint, part);
    let (config, from) = convert::config_of(checkpoint, path, part, &names)?;
    let base: HashSet<String> = schema(&config, Head::Base).into_iter().map(|p| p.name).collect();
    let mut heads = Vec::new();
    let mut unused: Option<BTreeMap<String, String>> = None;
    for head in Head::ALL {
        // The masked language model is told by whichever of its two forms is there.
        let mut config = config.clone();
        if head == Head::MaskedLm {
            config.legacy = names.any_starts("cls.predictions.") || !names.any_starts("lm_predictions.");
        }
        let all = schema(&config, head);
        let own: HashSet<String> = all
            .iter()
            .filter(|p| p.presence == Needed::Required && (head == Head::Base || !base.contains(&p.name)))
            .map(|p| p.name.clone())
            .collect();
        let (resolved, unmet) = name_map::map_part(checkpoint, part, &config, all)?;
        let of_head = |u: &&Unmet| own.contains(u.parameter());
        let problems: Vec<String> = unmet.iter().filter(of_head).map(ToString::to_string).collect();
        let missing = unmet.iter().filter(of_head).filter(|u| matches!(u, Unmet::Missing { .. })).count();
        let presence = match problems.len() {
            0 => Presence::Present,
            _ if missing == own.len() => Presence::Absent,
            _ => Presence::Partial,
        };
        let problems = if presence == Presence::Absent { Vec::new() } else { problems };
        heads.push(HeadReport { head: head.name().to_owned(), presence, problems });
        let left: BTreeMap<String, String> =
            resolved.leftover.into_iter().map(|l| (l.name, l.reason.to_string())).collect();
        unused = Some(match unused {
            Some(mut unused) => {
                unused.retain(|name, _| left.contains_key(name));
                unused
            }
            None => left,
        });
    }
    let unused = unused.unwrap_or_default();
    Ok(Told { family: names.family.name().to_owned(), config: from, heads, unused })
}
