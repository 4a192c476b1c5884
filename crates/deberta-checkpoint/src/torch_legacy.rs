//! Reading what `torch.save` wrote before 1.6 (and writes with `_use_new_zipfile_serialization=False`).
//!
//! Five pickles one after the other: a magic number, the protocol 1001, facts about the machine that wrote it, the object,
//! and the list of storage keys. Then, for each key in that order, the number of elements as a 64-bit integer and the
//! elements themselves.
//!
//! Reference: `torch/serialization.py` (`_legacy_save`, `_legacy_load`).

use std::collections::HashMap;

use crate::checkpoint::Contents;
use crate::error::Error;
use crate::pickle::{self, Id, Node, Pickle};
use crate::storage::{Kind, MappedFile, Storage};
use crate::torch_tensors::{self, Keyed};

/// 0x1950a86a20f9469cfc6c, as a pickle writes it: two's complement, least significant byte first.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const PROTOCOL: i64 = 1001;

/// The pickles at the head of the file, and where the data after them begins.
pub(crate) struct Head<'m> {
    pub little_endian: bool,
    pub object: Pickle<'m>,
    pub keys: Vec<String>,
    pub data: usize,
}

pub(crate) fn read(map: &MappedFile, file: usize) -> Result<Contents, Error> {
    let head = head(map)?;
    let sizes: HashMap<String, usize> =
        torch_tensors::storages(&head.object, &map.path)?.into_iter().map(|s| (s.key, s.kind.size())).collect();
    let mut storages = Vec::with_capacity(head.keys.len());
    let mut keys = HashMap::new();
    let mut at = head.data;
    for key in &head.keys {
        let Some(&size) = sizes.get(key) else {
            return Err(damaged(map, format!("it lists a storage {key:?} that its object does not use")));
        };
        let (start, end) = extent(map.bytes(), at, size)
            .ok_or_else(|| damaged(map, format!("the storage {key:?} reaches beyond the end of the file")))?;
        if keys.insert(key.clone(), storages.len()).is_some() {
            return Err(damaged(map, format!("it lists the storage {key:?} twice")));
        }
        storages.push(Storage {
            file,
            entry: format!("storage {key}"),
            len: (end - start) as u64,
            big_endian: !head.little_endian,
            checksum: None,
            kind: Kind::Mapped(start..end),
        });
        at = end;
    }
    let keyed = Keyed { path: &map.path, storages: &storages, keys: &keys };
    let mut contents = torch_tensors::read(&head.object, &keyed)?;
    contents.storages = storages;
    Ok(contents)
}

/// The first and one past the last byte of the storage whose count stands at `at`.
fn extent(bytes: &[u8], at: usize, size: usize) -> Option<(usize, usize)> {
    let count = bytes.get(at..)?.first_chunk::<8>().map(|b| u64::from_le_bytes(*b))?;
    let start = at + 8;
    let end = start.checked_add(usize::try_from(count).ok()?.checked_mul(size)?)?;
    (end <= bytes.len()).then_some((start, end))
}

/// Reads the five pickles. Anything else that is a pickle is refused, by what it would call if it would call anything.
fn head(map: &MappedFile) -> Result<Head<'_>, Error> {
    let bytes = map.bytes();
    let (magic, at) = pickle_at(map, 0, "its first pickle")?;
    if !is_magic(&magic) {
        return Err(Error::RefusedFormat {
            path: map.path.clone(),
            format: "a pickle that torch.save did not write",
            advice: "load it where it was made and save its tensors with torch.save or safetensors",
        });
    }
    let (protocol, at) = pickle_at(map, at, "its protocol")?;
    if protocol.root().and_then(|r| protocol.int(r)) != Some(PROTOCOL) {
        return Err(damaged(map, "its protocol is not 1001"));
    }
    let (system, at) = pickle_at(map, at, "its system information")?;
    let (object, at) = pickle_at(map, at, "its object")?;
    let (keys, data) = pickle_at(map, at, "its list of storages")?;
    let little_endian = system_says_little(&system);
    let listed = keys.root().map(|r| keys.node(r));
    let Some(Node::List(list)) = listed else {
        return Err(damaged(map, "its list of storages is not a list"));
    };
    let name = |id: &Id| keys.str(*id).map(str::to_owned).or_else(|| keys.int(*id).map(|k| k.to_string()));
    let keys = list.iter().map(name).collect::<Option<Vec<_>>>();
    let keys = keys.ok_or_else(|| damaged(map, "its list of storages holds something that is not a key"))?;
    debug_assert!(data <= bytes.len());
    Ok(Head { little_endian, object, keys, data })
}

fn pickle_at<'m>(map: &'m MappedFile, at: usize, what: &str) -> Result<(Pickle<'m>, usize), Error> {
    let (pickle, outcome) = pickle::parse(&map.bytes()[at..]);
    torch_tensors::refuse(map, what, &pickle, outcome)?;
    let end = at + pickle.len();
    Ok((pickle, end))
}

/// Whether a pickle is the magic number of this format.
pub(crate) fn is_magic(pickle: &Pickle<'_>) -> bool {
    match pickle.root().map(|r| pickle.node(r)) {
        Some(Node::Long(text)) => pickle.text(text) == MAGIC || pickle.text(text) == b"119547037146038801333356L",
        _ => false,
    }
}

fn system_says_little(system: &Pickle<'_>) -> bool {
    let items = system.root().and_then(|r| system.items(r)).unwrap_or_default();
    let entry = items.iter().find(|(k, _)| system.str(*k) == Some("little_endian"));
    entry.is_none_or(|(_, v)| *system.node(*v) != Node::Bool(false))
}

fn damaged(map: &MappedFile, problem: impl Into<String>) -> Error {
    Error::damaged(&map.path, "torch file (legacy)", problem)
}
