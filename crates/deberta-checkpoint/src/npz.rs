//! Reading NumPy's `.npz`: a zip archive in which each entry `NAME.npy` is an array.
//!
//! `numpy.savez` stores its entries, so that arrays are slices of the mapped file; `numpy.savez_compressed` deflates them,
//! and they are decoded one at a time.

use std::io::Read;
use std::ops::Range;

use zip::CompressionMethod;

use crate::checkpoint::Contents;
use crate::error::Error;
use crate::npy::{self, MAX_HEADER};
use crate::storage::{Checksum, Decode, Kind, MappedFile, inflate};
use crate::tensor::Other;
use crate::torch_zip::{self, Entry};

/// Whether an archive is one of NumPy's: torch keeps its tensors beside a `data.pkl`.
pub(crate) fn is_npz(map: &MappedFile) -> bool {
    let entries = torch_zip::entries(map).unwrap_or_default();
    entries.iter().any(|e| e.name.ends_with(".npy")) && !entries.iter().any(|e| e.name.ends_with("data.pkl"))
}

pub(crate) fn read(map: &MappedFile, file: usize) -> Result<Contents, Error> {
    let mut contents = Contents::default();
    for entry in torch_zip::entries(map)? {
        torch_zip::readable(map, &entry)?;
        match entry.name.strip_suffix(".npy") {
            Some(name) => array(map, file, &entry, name, &mut contents)?,
            None => {
                let what = format!("a file of {} bytes", entry.len);
                contents.others.push(Other { name: entry.name, what, is_tensor: false });
            }
        }
    }
    Ok(contents)
}

fn array(map: &MappedFile, file: usize, entry: &Entry, name: &str, contents: &mut Contents) -> Result<(), Error> {
    let damaged = |problem: String| Error::damaged(&map.path, "NumPy archive", format!("{}: {problem}", entry.name));
    let stored = &map.bytes()[entry.range.clone()];
    let is_stored = entry.method == CompressionMethod::Stored;
    let decoded;
    let start = if is_stored {
        stored
    } else {
        decoded = beginning(stored).map_err(|e| damaged(format!("it does not decompress: {e}")))?;
        &decoded
    };
    let header = npy::header(start).map_err(damaged)?;
    let len = entry.len.checked_sub(header.data as u64).ok_or_else(|| damaged("it ends within its header".into()))?;
    let checksum = checksum_of_data(entry.crc32, &start[..header.data], len);
    let kind = if is_stored {
        Kind::Mapped(entry.range.start + header.data..entry.range.end)
    } else {
        let (range, entry_len) = (entry.range.clone(), entry.len);
        Kind::Decoded(Box::new(Deflated { file, entry: entry.name.clone(), range, entry_len, skip: header.data }))
    };
    npy::add(contents, (file, name.to_owned()), &header, (kind, len, Some(checksum))).map_err(damaged)
}

/// As much of a deflated entry as a header may take.
fn beginning(compressed: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    flate2::read::DeflateDecoder::new(compressed).take(MAX_HEADER as u64 + 16).read_to_end(&mut out)?;
    Ok(out)
}

/// The checksum of the elements, from that of the whole entry: CRC32 is linear, so what the header contributes can be
/// taken out.
fn checksum_of_data(whole: u32, header: &[u8], len: u64) -> Checksum {
    let mut of_header = crc32fast::Hasher::new();
    of_header.update(header);
    of_header.combine(&crc32fast::Hasher::new_with_initial_len(0, len));
    Checksum::Crc32(whole ^ of_header.finalize())
}

/// An array that is deflated together with its header.
struct Deflated {
    file: usize,
    entry: String,
    range: Range<usize>,
    entry_len: u64,
    skip: usize,
}

impl Decode for Deflated {
    fn decode(&self, files: &[MappedFile]) -> Result<Vec<u8>, Error> {
        let map = &files[self.file];
        let mut bytes = inflate(&self.entry, self.entry_len, map, &map.bytes()[self.range.clone()])?;
        bytes.drain(..self.skip.min(bytes.len()));
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_a_part_follows_from_that_of_the_whole() {
        let text = b"a header and the elements that follow it";
        for at in [0, 1, 9, text.len()] {
            let (header, data) = text.split_at(at);
            let Checksum::Crc32(found) = checksum_of_data(crc32fast::hash(text), header, data.len() as u64) else {
                panic!("a zip's checksum is a CRC32");
            };
            assert_eq!(found, crc32fast::hash(data));
        }
    }
}
