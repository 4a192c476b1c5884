//! Reading what `torch.save` writes since 1.6: a zip archive.
//!
//! `ROOT/data.pkl` is a pickle in which each storage is a persistent id; `ROOT/data/KEY` are the bytes of the storage with
//! that key, `ROOT/byteorder` says `little` or `big`. Entries are stored, not compressed, so a tensor is a slice of the
//! mapped file. The central directory is what counts: local headers may leave sizes to a data descriptor.
//!
//! Reference: `torch/serialization.py` (`_save`, `_load`), `caffe2/serialize/inline_container.cc`.

use std::collections::HashMap;
use std::io::Cursor;
use std::ops::Range;

use zip::{CompressionMethod, ZipArchive};

use crate::checkpoint::Contents;
use crate::error::Error;
use crate::pickle;
use crate::storage::{Checksum, Kind, MappedFile, SLACK, Storage};
use crate::torch_tensors::{self, Keyed};

/// An entry of the archive.
pub(crate) struct Entry {
    pub name: String,
    pub range: Range<usize>,
    pub len: u64,
    pub crc32: u32,
    pub method: CompressionMethod,
    pub encrypted: bool,
}

/// What distinguishes the kinds of archive that end in `.pt` or `.bin`.
pub(crate) fn read(map: &MappedFile, file: usize) -> Result<Contents, Error> {
    let entries = entries(map)?;
    let root = root(map, &entries)?;
    let byteorder = find(&entries, &format!("{root}byteorder")).map(|e| content(map, e)).transpose()?;
    let big_endian = match byteorder.as_deref() {
        None | Some(b"little") => false,
        Some(b"big") => true,
        Some(_) => return Err(damaged(map, format!("{root}byteorder is neither little nor big"))),
    };
    let mut storages = Vec::new();
    let mut keys = HashMap::new();
    let prefix = format!("{root}data/");
    for entry in entries.iter().filter(|e| e.name.starts_with(&prefix)) {
        keys.insert(entry.name[prefix.len()..].to_owned(), storages.len());
        storages.push(storage(map, file, entry, big_endian)?);
    }
    let pickle_entry = find(&entries, &format!("{root}data.pkl")).ok_or_else(|| damaged(map, "it has no data.pkl"))?;
    let bytes = content(map, pickle_entry)?;
    let (pickle, outcome) = pickle::parse(&bytes);
    torch_tensors::refuse(map, &pickle_entry.name, &pickle, outcome)?;
    let keyed = Keyed { path: &map.path, storages: &storages, keys: &keys };
    let mut contents = torch_tensors::read(&pickle, &keyed)?;
    contents.storages = storages;
    Ok(contents)
}

/// Every pickle of the archive with its bytes, for inspection.
pub(crate) fn pickles(map: &MappedFile) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let entries = entries(map)?;
    let pickles = entries.iter().filter(|e| e.name.ends_with(".pkl"));
    pickles.map(|e| Ok((e.name.clone(), content(map, e)?.into_owned()))).collect()
}

/// The entries in the order of the central directory.
pub(crate) fn entries(map: &MappedFile) -> Result<Vec<Entry>, Error> {
    let mut archive = ZipArchive::new(Cursor::new(map.bytes())).map_err(|e| damaged(map, e.to_string()))?;
    let listed = count_central_entries(map.bytes(), archive.central_directory_start());
    if listed != archive.len() {
        let problem =
            format!("its directory lists {listed} entries, of which {} have names of their own", archive.len());
        return Err(damaged(map, problem));
    }
    let mut entries = Vec::with_capacity(archive.len());
    for i in 0..archive.len() {
        let entry = archive.by_index_raw(i).map_err(|e| damaged(map, format!("entry {i}: {e}")))?;
        let name = String::from_utf8_lossy(entry.name_raw()).into_owned();
        let start = entry.data_start().and_then(|s| usize::try_from(s).ok());
        let end = start.and_then(|s| s.checked_add(usize::try_from(entry.compressed_size()).ok()?));
        let range = match (start, end) {
            (Some(start), Some(end)) if end <= map.bytes().len() => start..end,
            _ => return Err(damaged(map, format!("the entry {name} reaches beyond the end of the file"))),
        };
        let method = entry.compression();
        if method == CompressionMethod::Stored && entry.size() != entry.compressed_size() {
            return Err(damaged(map, format!("the stored entry {name} has two sizes")));
        }
        let (len, crc32, encrypted) = (entry.size(), entry.crc32(), entry.encrypted());
        entries.push(Entry { name, range, len, crc32, method, encrypted });
    }
    Ok(entries)
}

/// How many records the central directory has. The zip crate keeps one of those that share a name.
fn count_central_entries(bytes: &[u8], start: u64) -> usize {
    const HEADER: usize = 46;
    let mut at = usize::try_from(start).unwrap_or(usize::MAX);
    let mut count = 0;
    while let Some(header) = at.checked_add(HEADER).and_then(|end| bytes.get(at..end)) {
        if !header.starts_with(b"PK\x01\x02") {
            break;
        }
        let field = |i: usize| usize::from(u16::from_le_bytes([header[i], header[i + 1]]));
        at += HEADER + field(28) + field(30) + field(32);
        count += 1;
    }
    count
}

/// The folder inside the archive that everything lies in, with its slash.
fn root<'e>(map: &MappedFile, entries: &'e [Entry]) -> Result<&'e str, Error> {
    let refused = |format, advice| Err(Error::RefusedFormat { path: map.path.clone(), format, advice });
    let has = |end: &str| entries.iter().any(|e| e.name == end || e.name.ends_with(&format!("/{end}")));
    let mut roots = entries.iter().filter_map(|e| e.name.strip_suffix("data.pkl"));
    let mut roots = roots.by_ref().filter(|r| r.is_empty() || (r.ends_with('/') && r.matches('/').count() == 1));
    let torch_script = has("constants.pkl") || entries.iter().any(|e| e.name.contains("/code/"));
    match (roots.next(), roots.next()) {
        _ if torch_script => refused(
            "TorchScript, a program with weights",
            "load it with torch.jit.load and torch.save its state_dict()",
        ),
        (Some(root), None) => Ok(root),
        (Some(_), Some(_)) => Err(damaged(map, "it has data.pkl in two folders")),
        (None, _) if has("model.weights.h5") => {
            refused("a Keras 3 archive (.keras)", "unzip it and point at the model.weights.h5 inside")
        }
        (None, _) => refused(
            "a zip archive that torch.save did not write (it has no data.pkl)",
            "unpack it if it holds a checkpoint, or save the checkpoint again",
        ),
    }
}

fn find<'e>(entries: &'e [Entry], name: &str) -> Option<&'e Entry> {
    entries.iter().find(|e| e.name == name)
}

fn storage(map: &MappedFile, file: usize, entry: &Entry, big_endian: bool) -> Result<Storage, Error> {
    readable(map, entry)?;
    let range = entry.range.clone();
    let kind = if entry.method == CompressionMethod::Stored { Kind::Mapped(range) } else { Kind::Deflated(range) };
    // torch.serialization.set_crc32_options(False) leaves zero in place of the checksum.
    let checksum = (entry.crc32 != 0).then_some(Checksum::Crc32(entry.crc32));
    Ok(Storage { file, entry: entry.name.clone(), len: entry.len, big_endian, checksum, kind })
}

pub(crate) fn readable(map: &MappedFile, entry: &Entry) -> Result<(), Error> {
    if entry.encrypted {
        let what = format!("the encrypted entry {}", entry.name);
        return Err(Error::Unsupported { path: map.path.clone(), what, advice: "decrypt the archive first" });
    }
    match entry.method {
        CompressionMethod::Stored | CompressionMethod::Deflated => Ok(()),
        other => {
            let what = format!("{other} compression of the entry {}", entry.name);
            Err(Error::Unsupported { path: map.path.clone(), what, advice: "pack the archive again, uncompressed" })
        }
    }
}

/// The bytes of an entry that is read whole.
fn content<'m>(map: &'m MappedFile, entry: &Entry) -> Result<std::borrow::Cow<'m, [u8]>, Error> {
    readable(map, entry)?;
    let stored = &map.bytes()[entry.range.clone()];
    if entry.method == CompressionMethod::Stored {
        return Ok(stored.into());
    }
    if entry.len > map.len() + SLACK / 2 {
        let what = format!("the entry {}", entry.name);
        return Err(Error::OutOfProportion { path: map.path.clone(), what, bytes: entry.len, file_bytes: map.len() });
    }
    crate::storage::inflate(&entry.name, entry.len, map, stored).map(Into::into)
}

fn damaged(map: &MappedFile, problem: impl Into<String>) -> Error {
    Error::damaged(&map.path, "zip archive", problem)
}
