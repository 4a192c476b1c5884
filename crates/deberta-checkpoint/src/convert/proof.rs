//! Reading the output back: every tensor compared to the bit with the source's, and everything hashed.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use sha2::{Digest, Sha256};

use super::plan::Plan;
use super::write::{Written, for_each_chunk};
use super::{CHUNK, Options, Run};
use crate::checkpoint::Checkpoint;
use crate::error::Error;
use crate::storage::MappedFile;

/// What the proof found.
pub(crate) struct Found {
    /// The hash of each tensor's bytes, in the order of the plan; empty where none were asked for.
    pub tensors: Vec<String>,
    /// The hash of each output file.
    pub files: Vec<String>,
    /// How many finite numbers of each tensor became infinite.
    pub overflowed: Vec<usize>,
    /// Whether the output was compared with the source.
    pub compared: bool,
}

/// Opens what was written anew, as a reader would, and compares it.
pub(crate) fn prove(
    checkpoint: &Checkpoint,
    plan: &Plan,
    written: &[Written],
    options: &Options,
    run: &Run<'_>,
) -> Result<Found, Error> {
    let passes = u64::from(options.proof || options.hashes) + u64::from(options.hashes);
    run.progress.begin("proving", plan.bytes() * passes);
    let mut found = Found {
        tensors: vec![String::new(); if options.hashes { plan.tensors.len() } else { 0 }],
        files: Vec::new(),
        overflowed: vec![0; plan.tensors.len()],
        compared: options.proof,
    };
    for (shard, written) in plan.shards.iter().zip(written) {
        for (&index, &count) in shard.tensors.iter().zip(&written.overflowed) {
            found.overflowed[index] = count;
        }
        let anew = written.partial.open_anew()?;
        let output = Checkpoint::open(anew.path()).map_err(|e| at_output(&shard.file_name, e))?;
        let jobs = Jobs {
            checkpoint,
            plan,
            output: &output,
            options,
            next: AtomicUsize::new(0),
            indices: &shard.tensors,
            run,
        };
        let hashes = Mutex::new(&mut found.tensors);
        std::thread::scope(|scope| -> Result<(), Error> {
            let file = options.hashes.then(|| scope.spawn(|| hash_file(anew.path(), run)));
            let workers: Vec<_> = (0..2).map(|_| scope.spawn(|| jobs.work(&hashes))).collect();
            let outcomes: Vec<_> = workers.into_iter().map(|w| w.join().unwrap_or(Err(Error::Interrupted))).collect();
            if let Some(file) = file {
                found.files.push(file.join().unwrap_or(Err(Error::Interrupted))?);
            }
            outcomes.into_iter().collect()
        })?;
    }
    Ok(found)
}

/// The comparisons of one file, taken one by one by two threads.
struct Jobs<'j> {
    checkpoint: &'j Checkpoint,
    plan: &'j Plan,
    output: &'j Checkpoint,
    options: &'j Options,
    indices: &'j [usize],
    next: AtomicUsize,
    run: &'j Run<'j>,
}

impl Jobs<'_> {
    fn work(&self, hashes: &Mutex<&mut Vec<String>>) -> Result<(), Error> {
        while let Some(&index) = self.indices.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let hash = self.compare(index)?;
            if let Some(hash) = hash {
                let mut hashes = hashes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if let Some(slot) = hashes.get_mut(index) {
                    *slot = hash;
                }
            }
        }
        Ok(())
    }

    fn compare(&self, index: usize) -> Result<Option<String>, Error> {
        let planned = &self.plan.tensors[index];
        let differs = |at: usize| Error::Proof { path: self.options.output.clone(), tensor: planned.name.clone(), at };
        let read = self.output.tensors().find(|t| t.name == planned.name).ok_or_else(|| differs(0))?;
        if read.shape != planned.tensor.shape || read.dtype != planned.dtype {
            return Err(differs(0));
        }
        let back = self.output.read(read)?;
        let mut hash = self.options.hashes.then(Sha256::new);
        if self.options.proof {
            if let Some(source) = &planned.source {
                self.checkpoint.verify_checksum(source)?;
            }
            let mut at = 0;
            for_each_chunk(self.checkpoint, planned, |expected| {
                let found = back.get(at..at + expected.len()).ok_or_else(|| differs(back.len()))?;
                if found != expected {
                    let first = found.iter().zip(expected).position(|(a, b)| a != b).unwrap_or(0);
                    return Err(differs(at + first));
                }
                if let Some(hash) = &mut hash {
                    hash.update(found);
                }
                at += expected.len();
                self.run.advance(expected.len())
            })?;
            if at != back.len() {
                return Err(differs(at));
            }
        } else if let Some(hash) = &mut hash {
            back.chunks(CHUNK).try_for_each(|part| {
                hash.update(part);
                self.run.advance(part.len())
            })?;
        }
        Ok(hash.map(finish))
    }
}

/// The hash of each file of the source.
pub(crate) fn hash_sources(checkpoint: &Checkpoint, run: &Run<'_>) -> Result<Vec<String>, Error> {
    let quiet = Run { progress: &(), stop: run.stop };
    checkpoint.files().map(|path| hash_file(path, &quiet)).collect()
}

fn hash_file(path: &Path, run: &Run<'_>) -> Result<String, Error> {
    let map = MappedFile::open(path)?;
    let mut hash = Sha256::new();
    for part in map.bytes().chunks(CHUNK) {
        hash.update(part);
        run.advance(part.len())?;
    }
    Ok(finish(hash))
}

fn finish(hash: Sha256) -> String {
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// Errors of reading the output name it as the user does.
fn at_output(name: &str, error: Error) -> Error {
    match error {
        Error::Damaged { format, problem, .. } => Error::Damaged { path: name.into(), format, problem },
        other => other,
    }
}
