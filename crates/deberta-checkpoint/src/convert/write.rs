//! Writing safetensors as a stream: the header is known before the first tensor is touched.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use safetensors::Dtype;
use serde_json::{Map, Value, json};

use super::output::{Partial, Staging};
use super::plan::{Plan, Planned, Shard};
use super::{CHUNK, Run, dtype};
use crate::checkpoint::Checkpoint;
use crate::error::Error;

/// A file that is written and has no name yet.
pub(crate) struct Written {
    pub partial: Partial,
    /// For each tensor of the shard, how many of its finite numbers became infinite.
    pub overflowed: Vec<usize>,
}

/// Writes every shard of the plan.
pub(crate) fn write_all(
    checkpoint: &Checkpoint,
    plan: &Plan,
    staging: &Staging,
    run: &Run<'_>,
) -> Result<Vec<Written>, Error> {
    run.progress.begin("writing", plan.bytes());
    plan.shards.iter().map(|shard| write_shard(checkpoint, plan, shard, staging, run)).collect()
}

fn write_shard(
    checkpoint: &Checkpoint,
    plan: &Plan,
    shard: &Shard,
    staging: &Staging,
    run: &Run<'_>,
) -> Result<Written, Error> {
    let header = header(plan, shard);
    let total = header.len() as u64 + shard.tensors.iter().map(|&t| plan.tensors[t].byte_len() as u64).sum::<u64>();
    let mut partial = staging.create(total)?;
    let path = staging.path().to_owned();
    let failed = |e: std::io::Error| full_or_io(&path, total, e);
    let file = partial.file_mut();
    file.write_all(&header).map_err(failed)?;
    let mut overflowed = Vec::with_capacity(shard.tensors.len());
    for &index in &shard.tensors {
        let mut sink = Sink { file, failed: &failed };
        overflowed.push(for_each_chunk(checkpoint, &plan.tensors[index], |bytes| {
            sink.put(bytes)?;
            run.advance(bytes.len())
        })?);
    }
    Ok(Written { partial, overflowed })
}

struct Sink<'s, F: Fn(std::io::Error) -> Error> {
    file: &'s mut File,
    failed: &'s F,
}

impl<F: Fn(std::io::Error) -> Error> Sink<'_, F> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(self.failed)
    }
}

/// An error of the disk; a full one has its own sentence.
pub(crate) fn full_or_io(folder: &std::path::Path, bytes: u64, error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded | std::io::ErrorKind::FileTooLarge => {
            Error::DiskFull { path: PathBuf::from(folder), bytes }
        }
        _ => Error::io(folder, "write in")(error),
    }
}

/// Hands out the bytes that a planned tensor consists of, in order, some megabytes at a time: slices of the mapped source
/// where nothing changes. Returns how many finite numbers became infinite by a change of type.
pub(crate) fn for_each_chunk(
    checkpoint: &Checkpoint,
    planned: &Planned,
    mut each: impl FnMut(&[u8]) -> Result<(), Error>,
) -> Result<usize, Error> {
    let reader = checkpoint.reader(&planned.tensor)?;
    let same_type = planned.dtype == planned.tensor.dtype;
    if let (true, Some(bytes)) = (same_type, reader.slice()) {
        bytes.chunks(CHUNK).try_for_each(each)?;
        return Ok(0);
    }
    let size = planned.tensor.element_size();
    let step = CHUNK / size * size;
    let total = planned.tensor.byte_len();
    let mut gathered = vec![0; step.min(total)];
    let mut converted = Vec::new();
    let mut overflowed = 0;
    let mut at = 0;
    while at < total {
        let part = &mut gathered[..step.min(total - at)];
        reader.fill(at, part);
        if same_type {
            each(part)?;
        } else {
            converted.clear();
            overflowed += dtype::convert(part, planned.tensor.dtype, planned.dtype, &mut converted);
            each(&converted)?;
        }
        at += part.len();
    }
    Ok(overflowed)
}

/// Eight bytes of length and the JSON header, padded with blanks so that the tensors begin at a multiple of 8.
fn header(plan: &Plan, shard: &Shard) -> Vec<u8> {
    let mut entries = Map::new();
    entries.insert("__metadata__".into(), Value::Object(plan.metadata(shard)));
    let mut at = 0usize;
    for &index in &shard.tensors {
        let tensor = &plan.tensors[index];
        let end = at + tensor.byte_len();
        let entry = json!({"dtype": tensor.dtype, "shape": tensor.tensor.shape, "data_offsets": [at, end]});
        entries.insert(tensor.name.clone(), entry);
        at = end;
    }
    let mut json = Value::Object(entries).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    header
}

/// The size of so many elements.
pub(crate) fn byte_len(dtype: Dtype, elements: usize) -> usize {
    (elements * dtype.bitsize()).div_ceil(8)
}
