//! What the pickles of a file contain and would call.

use std::path::Path;

use serde::Serialize;

use crate::error::Error;
use crate::pickle::globals::{self, Verdict};
use crate::pickle::{self, Pickle, PickleError};
use crate::storage::MappedFile;
use crate::{torch_legacy, torch_zip};

/// How many pickles of one file, and how many calls of one pickle, are described.
const MOST_PICKLES: usize = 64;
const MOST_CALLS: usize = 200;

/// A pickle.
#[derive(Clone, Debug, Serialize)]
pub struct PickleReport {
    /// Where it is: an entry of an archive, or its number within the file.
    pub entry: String,
    /// The protocol it announces.
    pub protocol: u8,
    /// How many opcodes were read.
    pub opcodes: u64,
    /// Its length.
    pub bytes: usize,
    /// Every Python name it mentions.
    pub globals: Vec<GlobalReport>,
    /// Every call of a name outside the closed list, as the pickle asks for it.
    pub calls: Vec<CallReport>,
    /// What stopped the reading, if anything did; what came before is described all the same.
    pub stopped_by: Option<String>,
}

/// A Python name in a pickle.
#[derive(Clone, Debug, Serialize)]
pub struct GlobalReport {
    /// Module and name.
    pub name: String,
    /// How often it is mentioned.
    pub count: usize,
    /// Whether it is outside the closed list.
    pub refused: bool,
    /// What using it would do.
    pub effect: String,
}

/// A call.
#[derive(Clone, Debug, Serialize)]
pub struct CallReport {
    /// As Python would write it, shortened.
    pub call: String,
}

/// Every pickle in a file: of an archive its `.pkl` entries, of another file those that stand at its start.
pub(super) fn of_file(path: &Path) -> Result<Vec<PickleReport>, Error> {
    let map = MappedFile::open(path)?;
    let bytes = map.bytes();
    if bytes.starts_with(b"PK\x03\x04") {
        // An archive that is damaged, encrypted or none of ours was reported when it was opened.
        let entries = torch_zip::pickles(&map).unwrap_or_default();
        return Ok(entries.iter().take(MOST_PICKLES).map(|(name, bytes)| describe(name, bytes).0).collect());
    }
    if !crate::locate::may_be_pickle(bytes) {
        return Ok(Vec::new());
    }
    let mut reports = Vec::new();
    let mut at = 0;
    let mut is_torch = false;
    while at < bytes.len() && reports.len() < MOST_PICKLES {
        let entry = format!("pickle {}", reports.len());
        let (report, len, magic) = describe(&entry, &bytes[at..]);
        is_torch |= at == 0 && magic;
        let stopped = report.stopped_by.is_some();
        // What is behind a pickle need not be one.
        if at == 0 || !stopped || !report.globals.is_empty() {
            reports.push(report);
        }
        if stopped || len == 0 || (is_torch && reports.len() == 5) {
            break;
        }
        at += len;
    }
    Ok(reports)
}

fn describe(entry: &str, bytes: &[u8]) -> (PickleReport, usize, bool) {
    let (pickle, outcome) = pickle::parse(bytes);
    let (len, magic) = (pickle.len(), torch_legacy::is_magic(&pickle));
    (report(entry, &pickle, outcome), len, magic)
}

fn report(entry: &str, pickle: &Pickle<'_>, outcome: Result<(), PickleError>) -> PickleReport {
    let refused = |module: &str, name: &str| globals::verdict(module, name) == Verdict::Refused;
    let globals = pickle.globals().iter().map(|g| GlobalReport {
        name: format!("{}.{}", g.module, g.name),
        count: g.count,
        refused: refused(&g.module, &g.name),
        effect: match globals::verdict(&g.module, &g.name) {
            Verdict::Tensor => "part of a tensor".into(),
            Verdict::Data => "plain data".into(),
            Verdict::Refused => globals::effect(&g.module, &g.name).into(),
        },
    });
    let calls = pickle.calls().filter(|((module, name), _)| refused(module, name));
    PickleReport {
        entry: entry.to_owned(),
        protocol: pickle.protocol(),
        opcodes: pickle.opcodes(),
        bytes: pickle.len(),
        globals: globals.collect(),
        calls: calls.take(MOST_CALLS).map(|(_, call)| CallReport { call: pickle.render_call(call) }).collect(),
        stopped_by: outcome.err().map(|e| e.to_string()),
    }
}
