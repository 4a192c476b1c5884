//! Reading TensorFlow's checkpoints, "TensorBundles": `PREFIX.index` and `PREFIX.data-00000-of-00001` ….
//!
//! The index is a sorted table ([`table`]) from names to descriptions of tensors ([`proto`]): type, shape, which data file,
//! where in it, and a checksum. Under the empty name stands a header. What wrote a bundle decides its names:
//!
//! - TF1's `Saver` uses the variables' own names;
//! - `tf.train.Checkpoint` and Keras' `save_weights` use paths through objects, `…/.ATTRIBUTES/VARIABLE_VALUE`, and keep under
//!   `_CHECKPOINTABLE_OBJECT_GRAPH` which variable each is ([`object_graph`]): its own name is then used here;
//! - a SavedModel's `variables/variables` is one of the latter.
//!
//! A variable that was split over several machines has slices, each an entry of its own.
//!
//! Reference: `tensorflow/core/util/tensor_bundle/tensor_bundle.cc`.

mod object_graph;
mod proto;
mod slices;
mod table;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use prost::Message;
use safetensors::Dtype;

use crate::checkpoint::{Contents, MAX_TENSORS};
use crate::error::Error;
use crate::storage::{Checksum, Kind, MappedFile, Storage};
use crate::tensor::{Other, TensorInfo};
use crate::view::View;
use proto::{BundleEntry, BundleHeader};

pub(crate) use table::MAGIC;

/// The entry that holds the object graph.
const OBJECT_GRAPH: &str = "_CHECKPOINTABLE_OBJECT_GRAPH";
/// How the name of a variable's value ends in an object path.
const VALUE: &str = "/.ATTRIBUTES/VARIABLE_VALUE";

/// Reads the index at `index` and maps the data files beside it.
pub(crate) fn read(index: &Path) -> Result<(Vec<MappedFile>, Contents), Error> {
    let index = MappedFile::open(index)?;
    let table = table::read(&index)?;
    let prefix = index.path.to_string_lossy().strip_suffix(".index").map(PathBuf::from);
    let prefix = prefix.ok_or_else(|| damaged(&index, "its name does not end in .index"))?;
    let header = table.get(&b""[..]).ok_or_else(|| refuse_v1(&index))?;
    let header = BundleHeader::decode(header.as_slice()).map_err(|e| damaged(&index, format!("its header: {e}")))?;
    if header.version.is_none() && header.num_shards == 0 {
        return Err(refuse_v1(&index));
    }
    let mut bundle = Bundle::open(index, &prefix, &header, table)?;
    bundle.tensors()?;
    Ok((bundle.files, bundle.contents))
}

fn damaged(index: &MappedFile, problem: impl Into<String>) -> Error {
    Error::damaged(&index.path, "TensorBundle index", problem)
}

/// A table without a bundle's header is what TensorFlow wrote before 2016 (`SavedTensorSlices`).
fn refuse_v1(index: &MappedFile) -> Error {
    Error::RefusedFormat {
        path: index.path.clone(),
        format: "a TensorFlow checkpoint of the form of before 2016 (V1)",
        advice: "load it with TensorFlow and save it again with tf.compat.v1.train.Saver",
    }
}

struct Bundle {
    /// The index, then the data files.
    files: Vec<MappedFile>,
    big_endian: bool,
    entries: BTreeMap<String, BundleEntry>,
    /// Slices of split variables, by the key in the table.
    raw: BTreeMap<Vec<u8>, Vec<u8>>,
    contents: Contents,
}

impl Bundle {
    fn open(
        index: MappedFile,
        prefix: &Path,
        header: &BundleHeader,
        mut raw: BTreeMap<Vec<u8>, Vec<u8>>,
    ) -> Result<Self, Error> {
        let shards = usize::try_from(header.num_shards).ok().filter(|&n| (1..=10_000).contains(&n));
        let shards = shards.ok_or_else(|| damaged(&index, format!("it claims {} data files", header.num_shards)))?;
        raw.remove(&b""[..]);
        let mut entries = BTreeMap::new();
        for (key, value) in &raw {
            // Keys of slices begin with a zero byte.
            if key.first() == Some(&0) {
                continue;
            }
            let name = String::from_utf8(key.clone()).map_err(|_| damaged(&index, "a name is not UTF-8"))?;
            let entry = BundleEntry::decode(value.as_slice()).map_err(|e| damaged(&index, format!("{name}: {e}")))?;
            entries.insert(name, entry);
        }
        raw.retain(|key, _| key.first() == Some(&0));
        if entries.len() > MAX_TENSORS {
            return Err(damaged(&index, format!("it holds more than {MAX_TENSORS} tensors")));
        }
        let mut files = vec![index];
        for shard in 0..shards {
            let data = crate::locate::with_suffix(prefix, &format!(".data-{shard:05}-of-{shards:05}"));
            files.push(MappedFile::open(&data)?);
        }
        let big_endian = header.endianness == proto::BIG;
        Ok(Self { files, big_endian, entries, raw, contents: Contents::default() })
    }

    fn index(&self) -> &MappedFile {
        &self.files[0]
    }

    fn tensors(&mut self) -> Result<(), Error> {
        let names = self.variable_names()?;
        let mut taken = HashSet::new();
        for (key, entry) in std::mem::take(&mut self.entries) {
            if key == OBJECT_GRAPH {
                continue;
            }
            let own = names.get(&key).cloned().unwrap_or_else(|| key.strip_suffix(VALUE).unwrap_or(&key).to_owned());
            // Two variables may have one name; their paths differ.
            let name = if taken.insert(own.clone()) { own } else { key.clone() };
            let Some(dtype) = dtype(entry.dtype) else {
                let what = if entry.dtype == proto::STRING {
                    "text".into()
                } else {
                    format!("a tensor of TensorFlow's type {}", entry.dtype)
                };
                self.contents.others.push(Other { name, what, is_tensor: entry.dtype != proto::STRING });
                continue;
            };
            let shape = self.shape(&key, &entry)?;
            if entry.slices.is_empty() {
                self.whole(name, dtype, shape, &entry)?;
            } else {
                self.sliced(name, &key, dtype, shape, &entry)?;
            }
        }
        Ok(())
    }

    fn shape(&self, key: &str, entry: &BundleEntry) -> Result<Vec<usize>, Error> {
        let sizes = entry.shape.iter().flat_map(|s| &s.dim).map(|d| usize::try_from(d.size));
        sizes.collect::<Result<_, _>>().map_err(|_| damaged(self.index(), format!("{key} has a negative size")))
    }

    /// Where an entry's bytes lie: the number of the file and the range in it.
    fn place(&self, key: &str, entry: &BundleEntry, bytes: usize) -> Result<(usize, std::ops::Range<usize>), Error> {
        let file =
            usize::try_from(entry.shard_id).ok().and_then(|s| s.checked_add(1)).filter(|&f| f < self.files.len());
        let start = usize::try_from(entry.offset).ok();
        let size = usize::try_from(entry.size).ok();
        let (Some(file), Some(start), Some(size)) = (file, start, size) else {
            return Err(damaged(self.index(), format!("{key} lies in no data file")));
        };
        if size != bytes {
            return Err(damaged(self.index(), format!("{key} takes {size} bytes where its shape asks for {bytes}")));
        }
        match start.checked_add(size).filter(|&end| end <= self.files[file].bytes().len()) {
            Some(end) => Ok((file, start..end)),
            None => Err(damaged(&self.files[file], format!("{key} reaches beyond the end of the file"))),
        }
    }

    fn byte_len(&self, key: &str, dtype: Dtype, shape: &[usize]) -> Result<usize, Error> {
        let bytes = shape.iter().try_fold(dtype.bitsize() / 8, |n, &d| n.checked_mul(d));
        bytes.ok_or_else(|| damaged(self.index(), format!("the shape of {key} overflows")))
    }

    fn whole(&mut self, name: String, dtype: Dtype, shape: Vec<usize>, entry: &BundleEntry) -> Result<(), Error> {
        let (file, range) = self.place(&name, entry, self.byte_len(&name, dtype, &shape)?)?;
        let checksum = Some(Checksum::Crc32c(table::unmask(entry.crc32c)));
        let kind = Kind::Mapped(range.clone());
        self.push(name, dtype, shape, file, range.len(), checksum, kind)
    }

    fn sliced(
        &mut self,
        name: String,
        key: &str,
        dtype: Dtype,
        shape: Vec<usize>,
        entry: &BundleEntry,
    ) -> Result<(), Error> {
        let total = self.byte_len(&name, dtype, &shape)?;
        let mut pieces = Vec::with_capacity(entry.slices.len());
        for slice in &entry.slices {
            let extent = slices::extent(slice, &shape)
                .ok_or_else(|| damaged(self.index(), format!("a slice of {name} does not fit its shape")))?;
            let found = self.raw.get(&slices::key(key, slice, shape.len()));
            let found = found.ok_or_else(|| damaged(self.index(), format!("a slice of {name} is missing")))?;
            let part =
                BundleEntry::decode(found.as_slice()).map_err(|e| damaged(self.index(), format!("{name}: {e}")))?;
            let lens: Vec<usize> = extent.iter().map(|e| e.len).collect();
            let (file, range) = self.place(&name, &part, self.byte_len(&name, dtype, &lens)?)?;
            pieces.push(slices::Piece { extent, file, range, crc32c: table::unmask(part.crc32c) });
        }
        let assembly = slices::Assembly::new(&name, dtype.bitsize() / 8, shape.clone(), pieces)
            .ok_or_else(|| damaged(self.index(), format!("the slices of {name} overlap or leave gaps")))?;
        self.push(name, dtype, shape, 1, total, None, Kind::Decoded(Box::new(assembly)))
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of a storage and of a tensor, each named")]
    fn push(
        &mut self,
        name: String,
        dtype: Dtype,
        shape: Vec<usize>,
        file: usize,
        len: usize,
        checksum: Option<Checksum>,
        kind: Kind,
    ) -> Result<(), Error> {
        let view = View::row_major(&shape, 0);
        let view = view.ok_or_else(|| damaged(self.index(), format!("the shape of {name} overflows")))?;
        let storage = self.contents.storages.len();
        let (entry, len, big_endian) = (name.clone(), len as u64, self.big_endian);
        self.contents.storages.push(Storage { file, entry, len, big_endian, checksum, kind });
        let container = name.split('/').next().map_or(0, |top| if top.len() < name.len() { top.len() + 1 } else { 0 });
        self.contents.tensors.push(TensorInfo { name, dtype, shape, container, storage, view });
        Ok(())
    }

    /// The variables' own names by their keys, from the object graph.
    fn variable_names(&self) -> Result<HashMap<String, String>, Error> {
        let Some(entry) = self.entries.get(OBJECT_GRAPH) else { return Ok(HashMap::new()) };
        let file = usize::try_from(entry.shard_id).ok().and_then(|s| s.checked_add(1)).and_then(|f| self.files.get(f));
        let range = usize::try_from(entry.offset).ok().zip(usize::try_from(entry.size).ok());
        let bytes = file.zip(range).and_then(|(f, (start, size))| f.bytes().get(start..start.checked_add(size)?));
        let bytes = bytes.ok_or_else(|| damaged(self.index(), "its object graph lies in no data file"))?;
        object_graph::names(bytes, table::unmask(entry.crc32c)).map_err(|problem| damaged(self.index(), problem))
    }
}

/// A type by TensorFlow's number (`types.proto`).
fn dtype(number: i32) -> Option<Dtype> {
    Some(match number {
        1 => Dtype::F32,
        2 => Dtype::F64,
        3 => Dtype::I32,
        4 => Dtype::U8,
        5 => Dtype::I16,
        6 => Dtype::I8,
        8 => Dtype::C64,
        9 => Dtype::I64,
        10 => Dtype::BOOL,
        14 => Dtype::BF16,
        17 => Dtype::U16,
        19 => Dtype::F16,
        22 => Dtype::U32,
        23 => Dtype::U64,
        24 => Dtype::F8_E5M2,
        25 => Dtype::F8_E4M3,
        _ => return None,
    })
}
