//! Variables that were split when they were saved.

use std::ops::Range;

use super::proto::Slice;
use crate::error::Error;
use crate::storage::{Decode, MappedFile};

/// The part of a dimension that a slice covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub start: usize,
    pub len: usize,
}

/// A slice, and where its bytes lie.
pub(super) struct Piece {
    pub extent: Vec<Extent>,
    pub file: usize,
    pub range: Range<usize>,
    pub crc32c: u32,
}

/// What a slice covers of a tensor of that shape; `None` where it reaches beyond.
pub(super) fn extent(slice: &Slice, shape: &[usize]) -> Option<Vec<Extent>> {
    if slice.extent.len() != shape.len() {
        return None;
    }
    let each = slice.extent.iter().zip(shape).map(|(e, &size)| {
        let start = usize::try_from(e.start).ok()?;
        let len = match e.length {
            Some(len) => usize::try_from(len).ok()?,
            None if start == 0 => size,
            None => return None,
        };
        (start.checked_add(len)? <= size).then_some(Extent { start, len })
    });
    each.collect()
}

/// The key of a slice: a zero, the name, and its extents, in the encoding that keeps numbers in order as bytes.
///
/// Reference: `EncodeTensorNameSlice` in `tensorflow/core/util/saved_tensor_slice_util.cc`.
pub(super) fn key(name: &str, slice: &Slice, dims: usize) -> Vec<u8> {
    let mut key = Vec::new();
    number_increasing(&mut key, 0);
    string(&mut key, name);
    number_increasing(&mut key, dims as u64);
    for extent in &slice.extent {
        // A whole dimension is written as start 0, length −1.
        signed_increasing(&mut key, extent.start);
        signed_increasing(&mut key, extent.length.unwrap_or(-1));
    }
    key
}

/// How many bytes, then the number's bytes, the highest first, without leading zeros.
fn number_increasing(key: &mut Vec<u8>, value: u64) {
    let bytes = value.to_be_bytes();
    let skip = (value.leading_zeros() / 8) as usize;
    key.push((8 - skip) as u8);
    key.extend_from_slice(&bytes[skip..]);
}

/// Bytes 0 and 255 are escaped; 0 1 ends the string.
fn string(key: &mut Vec<u8>, text: &str) {
    for &byte in text.as_bytes() {
        match byte {
            0 => key.extend([0, 0xff]),
            0xff => key.extend([0xff, 0]),
            other => key.push(other),
        }
    }
    key.extend([0, 1]);
}

/// One byte holds −64 … 63; each further byte adds seven bits, counted by the leading ones. The sign bit is inverted.
fn signed_increasing(key: &mut Vec<u8>, value: i64) {
    let magnitude = if value < 0 { !value } else { value } as u64;
    let bits = 64 - magnitude.leading_zeros() as usize + 1;
    let len = bits.div_ceil(7).clamp(1, 10);
    // Sign-extended to ten bytes, of which the last `len` are kept.
    let mut wide = [if value < 0 { 0xff } else { 0 }; 10];
    wide[2..].copy_from_slice(&value.to_be_bytes());
    let start = 10 - len;
    // The header: as many ones as bytes, then a zero, laid over the first bytes; for a positive number the sign shows as one.
    let mut header = [0u8; 2];
    let ones = len.min(16);
    let mask = (u32::from(u16::MAX) << (16 - ones)) as u16;
    header.copy_from_slice(&mask.to_be_bytes());
    wide[start] ^= header[0];
    if start + 1 < 10 {
        wide[start + 1] ^= header[1];
    }
    key.extend_from_slice(&wide[start..]);
}

/// A tensor put together of its slices.
pub(super) struct Assembly {
    name: String,
    size: usize,
    shape: Vec<usize>,
    pieces: Vec<Piece>,
}

impl Assembly {
    /// `None` where the slices do not cover the tensor exactly once.
    pub fn new(name: &str, size: usize, shape: Vec<usize>, pieces: Vec<Piece>) -> Option<Self> {
        let total: usize = shape.iter().product();
        let covered = pieces.iter().try_fold(0usize, |n, p| n.checked_add(count(&p.extent)?))?;
        let overlap = |a: &Piece, b: &Piece| {
            a.extent.iter().zip(&b.extent).all(|(a, b)| a.start < b.start + b.len && b.start < a.start + a.len)
        };
        let disjoint =
            pieces.len() <= 4096 && pieces.iter().enumerate().all(|(i, a)| pieces[..i].iter().all(|b| !overlap(a, b)));
        (covered == total && disjoint).then(|| Self { name: name.to_owned(), size, shape, pieces })
    }
}

fn count(extent: &[Extent]) -> Option<usize> {
    extent.iter().try_fold(1usize, |n, e| n.checked_mul(e.len))
}

impl Decode for Assembly {
    fn decode(&self, files: &[MappedFile]) -> Result<Vec<u8>, Error> {
        let mut out = vec![0; self.shape.iter().product::<usize>() * self.size];
        for piece in &self.pieces {
            let bytes = &files[piece.file].bytes()[piece.range.clone()];
            if crc32c::crc32c(bytes) != piece.crc32c {
                let problem = format!("the checksum of a slice of {} does not agree", self.name);
                return Err(Error::damaged(&files[piece.file].path, "data", problem));
            }
            self.copy(piece, bytes, &mut out);
        }
        Ok(out)
    }
}

impl Assembly {
    /// Copies a slice to its place, run by run along the last dimension.
    fn copy(&self, piece: &Piece, bytes: &[u8], out: &mut [u8]) {
        let Some((last, outer)) = piece.extent.split_last() else {
            out.copy_from_slice(bytes);
            return;
        };
        let run = last.len * self.size;
        if run == 0 {
            return;
        }
        for (row, source) in bytes.chunks_exact(run).enumerate() {
            let mut rest = row;
            let mut at = last.start;
            let mut stride = self.shape.last().copied().unwrap_or(1);
            for (extent, &len) in outer.iter().zip(&self.shape).rev() {
                at += (extent.start + rest % extent.len) * stride;
                rest /= extent.len;
                stride *= len;
            }
            out[at * self.size..][..run].copy_from_slice(source);
        }
    }
}
