//! The bytes behind tensors: files mapped into memory, and what has to be decoded from them.
//!
//! A checkpoint is mapped, never read: a tensor that lies in one piece is a slice of the map. What is compressed, chunked
//! or split is decoded when asked for, one storage at a time, and never larger than the file justifies.

use std::fs::File;
use std::io::Read;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memmap2::Mmap;

use crate::error::Error;
use crate::tensor::TensorInfo;

/// What decoded data may take beyond the size of the file it comes from.
pub(crate) const SLACK: u64 = 16 << 20;

/// A file mapped read-only. While it is mapped nobody may shorten it; a writer that replaces it by renaming does no harm.
pub(crate) struct MappedFile {
    pub path: PathBuf,
    map: Option<Arc<Mmap>>,
}

/// A file's bytes, for libraries that want to own what they read.
#[derive(Clone)]
pub(crate) struct SharedBytes(Option<Arc<Mmap>>);

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        self.0.as_deref().map_or(&[], |map| map)
    }
}

impl MappedFile {
    /// Maps `path`. Folders, pipes and devices are refused.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::io(path, "open"))?;
        let metadata = file.metadata().map_err(Error::io(path, "read the size of"))?;
        if !metadata.is_file() {
            return Err(Error::UnknownFormat { path: path.into(), found: "not a regular file".into() });
        }
        if metadata.len() == 0 {
            return Ok(Self { path: path.into(), map: None });
        }
        // SAFETY: the map is only read. A file that another process truncates meanwhile ends this process by a signal,
        // as it would any program that maps files; it cannot corrupt its memory.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path, "map"))?;
        Ok(Self { path: path.into(), map: Some(Arc::new(map)) })
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        self.map.as_deref().map_or(&[], |map| map)
    }

    /// The whole file, kept mapped for as long as the result lives.
    pub fn shared(&self) -> SharedBytes {
        SharedBytes(self.map.clone())
    }

    /// Lets the system take back the memory that a part of the file was read into; whoever reads it again, reads it from the
    /// file.
    #[cfg(unix)]
    pub fn release(&self, range: Range<usize>) {
        let Some(map) = self.map.as_deref().filter(|_| range.end <= self.bytes().len() && !range.is_empty()) else {
            return;
        };
        // SAFETY: the map is of a file and only read, so no value is lost with its pages: they are filled from the file again.
        // That the system may refuse harms nothing.
        let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
    }

    /// Where pages cannot be given back, they stay.
    #[cfg(not(unix))]
    pub fn release(&self, _range: Range<usize>) {}

    /// Its size in bytes.
    pub fn len(&self) -> u64 {
        self.bytes().len() as u64
    }
}

/// A run of bytes that tensors are views of.
pub(crate) struct Storage {
    /// Which of the checkpoint's files it comes from.
    pub file: usize,
    /// The name of the entry, for error messages.
    pub entry: String,
    /// Its length in bytes, once decoded.
    pub len: u64,
    /// Whether numbers of more than one byte are stored most significant byte first.
    pub big_endian: bool,
    /// The checksum its format keeps, over the bytes as stored in the file.
    pub checksum: Option<Checksum>,
    /// How to get at it.
    pub kind: Kind,
}

/// How the bytes of a storage are kept.
pub(crate) enum Kind {
    /// As they are, at a place in the file.
    Mapped(Range<usize>),
    /// Compressed with deflate, at a place in the file.
    Deflated(Range<usize>),
    /// Made up, such as the single zero behind a bias that old checkpoints do not hold.
    Inline(Vec<u8>),
    /// The sum of two tensors of f32, element by element; see `Checkpoint::derived`.
    Sum(Box<[TensorInfo; 2]>),
    /// Decoded by the format's own reader.
    Decoded(Box<dyn Decode>),
}

/// A format's reader of one storage.
pub(crate) trait Decode: Send + Sync {
    /// All of its bytes. `files` are the files of the checkpoint.
    fn decode(&self, files: &[MappedFile]) -> Result<Vec<u8>, Error>;
}

/// A checksum over the stored bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Checksum {
    /// Of zip.
    Crc32(u32),
    /// Of TensorFlow, already unmasked.
    Crc32c(u32),
}

/// Bytes borrowed from the map, or decoded and shared.
pub(crate) enum StorageBytes<'a> {
    Mapped(&'a [u8]),
    Decoded(Arc<Vec<u8>>),
}

impl Deref for StorageBytes<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(bytes) => bytes,
            Self::Decoded(bytes) => bytes,
        }
    }
}

/// The storages of a checkpoint, and the one that was decoded last: tensors that share it come one after the other.
pub(crate) struct Storages {
    pub files: Vec<MappedFile>,
    pub list: Vec<Storage>,
    last: Mutex<Option<(usize, Arc<Vec<u8>>)>>,
}

impl Storages {
    pub fn new(files: Vec<MappedFile>, list: Vec<Storage>) -> Self {
        Self { files, list, last: Mutex::new(None) }
    }

    /// The file a storage comes from.
    pub fn file(&self, storage: usize) -> &MappedFile {
        &self.files[self.list[storage].file]
    }

    /// Lets the system take back the memory of a storage that is mapped.
    pub fn release(&self, index: usize) {
        if let Kind::Mapped(range) = &self.list[index].kind {
            self.file(index).release(range.clone());
        }
    }

    /// The bytes of a storage.
    pub fn bytes(&self, index: usize) -> Result<StorageBytes<'_>, Error> {
        let storage = &self.list[index];
        let file = self.file(index);
        if let Kind::Mapped(range) = &storage.kind {
            return Ok(StorageBytes::Mapped(&file.bytes()[range.clone()]));
        }
        if let Kind::Inline(bytes) = &storage.kind {
            return Ok(StorageBytes::Mapped(bytes));
        }
        if let Some((_, bytes)) = self.last().as_ref().filter(|(i, _)| *i == index) {
            return Ok(StorageBytes::Decoded(Arc::clone(bytes)));
        }
        // One at a time: what is there gives way before the next is decoded.
        *self.last() = None;
        if storage.len > file.len() + SLACK {
            return Err(Error::OutOfProportion {
                path: file.path.clone(),
                what: format!("decoding {}", storage.entry),
                bytes: storage.len,
                file_bytes: file.len(),
            });
        }
        let decoded = Arc::new(self.decode(storage, file)?);
        if decoded.len() as u64 != storage.len {
            let problem =
                format!("{} holds {} bytes where {} were promised", storage.entry, decoded.len(), storage.len);
            return Err(Error::damaged(&file.path, "checkpoint", problem));
        }
        *self.last() = Some((index, Arc::clone(&decoded)));
        Ok(StorageBytes::Decoded(decoded))
    }

    fn last(&self) -> MutexGuard<'_, Option<(usize, Arc<Vec<u8>>)>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn decode(&self, storage: &Storage, file: &MappedFile) -> Result<Vec<u8>, Error> {
        match &storage.kind {
            Kind::Mapped(range) => Ok(file.bytes()[range.clone()].to_vec()),
            Kind::Inline(bytes) => Ok(bytes.clone()),
            Kind::Deflated(range) => inflate(&storage.entry, storage.len, file, &file.bytes()[range.clone()]),
            Kind::Decoded(decoder) => decoder.decode(&self.files),
            Kind::Sum(tensors) => {
                let mut sum = self.gather(&tensors[0])?;
                let other = self.gather(&tensors[1])?;
                for (a, b) in sum.as_chunks_mut::<4>().0.iter_mut().zip(other.as_chunks::<4>().0) {
                    *a = (f32::from_le_bytes(*a) + f32::from_le_bytes(*b)).to_le_bytes();
                }
                Ok(sum)
            }
        }
    }

    /// The elements of a tensor of f32, one after the other.
    fn gather(&self, tensor: &TensorInfo) -> Result<Vec<u8>, Error> {
        let mut out = vec![0; tensor.byte_len()];
        tensor.view.gather(&self.bytes(tensor.storage)?, 4, 0..tensor.elements(), &mut out);
        if self.list[tensor.storage].big_endian {
            out.as_chunks_mut::<4>().0.iter_mut().for_each(|n| n.reverse());
        }
        Ok(out)
    }

    /// Checks the checksum that the format keeps of a storage. Storages without one pass.
    pub fn verify(&self, index: usize) -> Result<(), Error> {
        let storage = &self.list[index];
        let Some(checksum) = storage.checksum else { return Ok(()) };
        let bytes = self.bytes(index)?;
        let (expected, found) = match checksum {
            Checksum::Crc32(expected) => (expected, crc32fast::hash(&bytes)),
            Checksum::Crc32c(expected) => (expected, crc32c::crc32c(&bytes)),
        };
        if expected != found {
            let path = &self.file(index).path;
            let problem = format!("the checksum of {} is {found:08x} and should be {expected:08x}", storage.entry);
            return Err(Error::damaged(path, "data", problem));
        }
        Ok(())
    }
}

/// Undoes deflate, stopping as soon as there is more than was promised.
pub(crate) fn inflate(entry: &str, len: u64, file: &MappedFile, compressed: &[u8]) -> Result<Vec<u8>, Error> {
    let damaged = |problem: String| Error::damaged(&file.path, "zip archive", problem);
    // The callers have checked that the length is in proportion to the file.
    let mut out = Vec::with_capacity(usize::try_from(len).unwrap_or(0).saturating_add(1));
    let mut decoder = flate2::read::DeflateDecoder::new(compressed).take(len.saturating_add(1));
    decoder.read_to_end(&mut out).map_err(|e| damaged(format!("{entry} does not decompress: {e}")))?;
    if out.len() as u64 != len {
        return Err(damaged(format!("{entry} decompresses to other than the {len} bytes its directory promises")));
    }
    Ok(out)
}
