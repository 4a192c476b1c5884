//! The sorted table of LevelDB, as TensorFlow writes it: blocks of keys and values, an index block, a footer.
//!
//! A block is entries, then restart points, then how many of those; an entry is the number of bytes its key shares with the
//! one before, the number it does not, the length of the value, and then those bytes. After a block stand a byte for its
//! compression (0 none, 1 snappy) and its masked checksum. The footer is the last 48 bytes: where the metaindex and the index
//! lie, and a magic number.
//!
//! Reference: `tensorflow/core/lib/io/format.cc`, `block.cc`; LevelDB's `table_format.md`.

use std::collections::BTreeMap;

use crate::error::Error;
use crate::storage::MappedFile;

/// The last eight bytes.
pub(crate) const MAGIC: [u8; 8] = 0xdb47_7524_8b80_fb57u64.to_le_bytes();
const FOOTER: usize = 48;
/// The largest index that is read, and the largest block it may hold once decompressed.
const LARGEST: u64 = 64 << 20;
const LARGEST_BLOCK: usize = 8 << 20;
/// How much memory the entries may take, names and descriptions together.
const LARGEST_CONTENT: usize = 32 << 20;

/// Every entry of the table.
pub(super) fn read(file: &MappedFile) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Error> {
    let damaged = |problem: &str| Error::damaged(&file.path, "TensorBundle index", problem);
    let bytes = file.bytes();
    if file.len() > LARGEST {
        let what = "its index".to_owned();
        return Err(Error::OutOfProportion { path: file.path.clone(), what, bytes: file.len(), file_bytes: LARGEST });
    }
    let footer = bytes.len().checked_sub(FOOTER).map(|at| &bytes[at..]);
    let mut footer =
        footer.filter(|f| f.ends_with(&MAGIC)).ok_or_else(|| damaged("it does not end as a table does"))?;
    let metaindex = Handle::read(&mut footer).ok_or_else(|| damaged("its footer is malformed"))?;
    let index = Handle::read(&mut footer).ok_or_else(|| damaged("its footer is malformed"))?;
    block(bytes, metaindex).map_err(damaged)?;
    let mut table = BTreeMap::new();
    let mut content = 0usize;
    let index = block(bytes, index).map_err(damaged)?;
    let mut handles = Vec::new();
    entries(&index, |_, mut value| {
        handles.push(Handle::read(&mut value).ok_or("its index block is malformed")?);
        Ok(())
    })
    .map_err(damaged)?;
    let mut last: Option<(u64, u64)> = None;
    for handle in handles {
        // Blocks follow each other; an index that points at one block many times would multiply it.
        if last.is_some_and(|(offset, size)| handle.offset < offset.saturating_add(size)) {
            return Err(damaged("its blocks overlap"));
        }
        last = Some((handle.offset, handle.size));
        let block = block(bytes, handle).map_err(damaged)?;
        entries(&block, |key, value| {
            content += key.len() + value.len() + 96;
            if content > LARGEST_CONTENT {
                return Err("it holds more than any checkpoint");
            }
            match table.insert(key.to_vec(), value.to_vec()) {
                Some(_) => Err("it holds an entry twice"),
                None => Ok(()),
            }
        })
        .map_err(damaged)?;
    }
    Ok(table)
}

/// TensorFlow masks checksums that are stored beside what they are of.
pub(super) fn unmask(masked: u32) -> u32 {
    masked.wrapping_sub(0xa282_ead8).rotate_left(15)
}

/// A number in groups of seven bits, the lowest first.
pub(super) fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        if bits.leading_zeros() < shift {
            return None;
        }
        value |= bits << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// Where a block lies.
#[derive(Clone, Copy)]
struct Handle {
    offset: u64,
    size: u64,
}

impl Handle {
    fn read(bytes: &mut &[u8]) -> Option<Self> {
        Some(Self { offset: varint(bytes)?, size: varint(bytes)? })
    }
}

/// A block, checked and decompressed.
fn block(bytes: &[u8], handle: Handle) -> Result<std::borrow::Cow<'_, [u8]>, &'static str> {
    let start = usize::try_from(handle.offset).map_err(|_| "a block lies beyond its end")?;
    let size = usize::try_from(handle.size).map_err(|_| "a block lies beyond its end")?;
    let end = start.checked_add(size).ok_or("a block lies beyond its end")?;
    let trailer = end.checked_add(5).and_then(|to| bytes.get(end..to)).ok_or("a block lies beyond its end")?;
    let content = &bytes[start..end];
    let stated = trailer.last_chunk::<4>().map_or(0, |b| u32::from_le_bytes(*b));
    if crc32c::crc32c_append(crc32c::crc32c(content), &trailer[..1]) != unmask(stated) {
        return Err("the checksum of a block does not agree");
    }
    match trailer[0] {
        0 => Ok(content.into()),
        1 => {
            let len = snap::raw::decompress_len(content).map_err(|_| "a compressed block is malformed")?;
            if len > LARGEST_BLOCK {
                return Err("a compressed block is larger than any index");
            }
            let mut out = vec![0; len];
            snap::raw::Decoder::new().decompress(content, &mut out).map_err(|_| "a compressed block is malformed")?;
            Ok(out.into())
        }
        _ => Err("a block is compressed in an unknown way"),
    }
}

/// Hands out the entries of a block.
fn entries(block: &[u8], mut each: impl FnMut(&[u8], &[u8]) -> Result<(), &'static str>) -> Result<(), &'static str> {
    const BAD: &str = "an entry is malformed";
    let restarts = block.last_chunk::<4>().map(|b| u32::from_le_bytes(*b)).ok_or(BAD)?;
    let tail = usize::try_from(restarts).ok().and_then(|n| n.checked_add(1)?.checked_mul(4)).ok_or(BAD)?;
    let mut rest = block.len().checked_sub(tail).map(|end| &block[..end]).ok_or(BAD)?;
    let mut key = Vec::new();
    while !rest.is_empty() {
        let mut number = || varint(&mut rest).and_then(|n| usize::try_from(n).ok());
        let (Some(shared), Some(unshared), Some(len)) = (number(), number(), number()) else { return Err(BAD) };
        let (own, after) = rest.split_at_checked(unshared).ok_or(BAD)?;
        let (value, after) = after.split_at_checked(len).ok_or(BAD)?;
        if shared > key.len() {
            return Err(BAD);
        }
        key.truncate(shared);
        key.extend_from_slice(own);
        each(&key, value)?;
        rest = after;
    }
    Ok(())
}
