//! The object graph of `tf.train.Checkpoint`: which variable stands under which key.
//!
//! It is kept as a tensor of one string: the length as a varint, a masked checksum of the length, the string. The bundle's
//! checksum of a string tensor covers the length as a fixed 32-bit (or, where that is too small, 64-bit) number, the checksum
//! of the length, and the string.

use std::collections::HashMap;

use prost::Message;

use super::proto::ObjectGraph;
use super::table::{unmask, varint};

/// The variables' own names by their keys.
pub(super) fn names(stored: &[u8], crc32c: u32) -> Result<HashMap<String, String>, String> {
    let mut rest = stored;
    let len = varint(&mut rest).ok_or("its object graph has no length")?;
    let (length_crc, text) = rest.split_at_checked(4).ok_or("its object graph is truncated")?;
    if usize::try_from(len).ok() != Some(text.len()) {
        return Err("its object graph has another length than it says".into());
    }
    let fixed = u32::try_from(len).map_or_else(|_| len.to_le_bytes().to_vec(), |len| len.to_le_bytes().to_vec());
    let of_length = crc32c::crc32c(&fixed);
    let stated = length_crc.first_chunk::<4>().map_or(0, |b| unmask(u32::from_le_bytes(*b)));
    let of_all = crc32c::crc32c_append(crc32c::crc32c_append(of_length, length_crc), text);
    if stated != of_length || of_all != crc32c {
        return Err("the checksum of its object graph does not agree".into());
    }
    let graph = ObjectGraph::decode(text).map_err(|e| format!("its object graph: {e}"))?;
    let attributes = graph.nodes.into_iter().flat_map(|n| n.attributes);
    let named = attributes.filter(|a| !a.full_name.is_empty() && !a.checkpoint_key.is_empty());
    Ok(named.map(|a| (a.checkpoint_key, a.full_name)).collect())
}
