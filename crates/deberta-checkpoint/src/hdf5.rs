//! Reading HDF5 as Keras writes it: `tf_model.h5`, `.weights.h5`, and any other file of numbers.
//!
//! The format itself is read by the crate `hdf5-reader`. A dataset becomes a tensor named by its path, such as
//! `deberta/tf_deberta_v2_model/deberta/encoder/layer_._0/output/dense/kernel:0`. A contiguous dataset, which is what Keras
//! writes, is a slice of the mapped file; a chunked or compressed one is decoded when it is asked for. Links to other files
//! are not followed.

use std::collections::HashSet;
use std::sync::Arc;

use hdf5_reader::group::Group;
use hdf5_reader::messages::HdfMessage;
use hdf5_reader::messages::layout::DataLayout;
use hdf5_reader::{ByteOrder, Dataset, Datatype, Hdf5File, OpenOptions};
use safetensors::Dtype;

use crate::checkpoint::{Contents, MAX_TENSORS};
use crate::error::Error;
use crate::storage::{Decode, Kind, MappedFile, SLACK, Storage};
use crate::tensor::{Other, TensorInfo};
use crate::view::View;

/// How deep groups may lie in each other.
const MAX_DEPTH: usize = 32;

pub(crate) fn read(map: &MappedFile, file: usize) -> Result<Contents, Error> {
    let damaged = |e: hdf5_reader::error::Error| damaged(map, &e.to_string());
    let limit = usize::try_from(map.len() + SLACK).unwrap_or(usize::MAX);
    let options = OpenOptions::default()
        .with_chunk_cache_bytes(0)
        .with_max_chunk_bytes(limit)
        .with_max_read_bytes(limit)
        .with_max_object_header_bytes(limit.min(16 << 20));
    let reader = Arc::new(Hdf5File::from_owner(map.shared(), options).map_err(damaged)?);
    let root = reader.root_group().map_err(damaged)?;
    let mut walk =
        Walk { map, file, reader: &reader, contents: Contents::default(), groups: HashSet::from([root.address()]) };
    walk.group(&root, "", 0)?;
    Ok(walk.contents)
}

fn damaged(map: &MappedFile, problem: &str) -> Error {
    Error::damaged(&map.path, "HDF5 file", problem)
}

struct Walk<'w> {
    map: &'w MappedFile,
    file: usize,
    reader: &'w Arc<Hdf5File>,
    contents: Contents,
    /// The groups seen, by address: links may lead in circles.
    groups: HashSet<u64>,
}

impl Walk<'_> {
    fn group(&mut self, group: &Group, path: &str, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(damaged(self.map, &format!("groups lie more than {MAX_DEPTH} deep in each other at {path}")));
        }
        let (groups, datasets) = group.members().map_err(|e| damaged(self.map, &format!("{path}: {e}")))?;
        for dataset in datasets {
            let leaf = dataset.name().rsplit('/').next().unwrap_or_default().to_owned();
            self.dataset(dataset, path, &leaf)?;
        }
        for inner in groups {
            if self.groups.insert(inner.address()) {
                let leaf = inner.name().rsplit('/').next().unwrap_or_default().to_owned();
                self.group(&inner, &format!("{path}{leaf}/"), depth + 1)?;
            }
        }
        Ok(())
    }

    fn dataset(&mut self, dataset: Dataset, path: &str, leaf: &str) -> Result<(), Error> {
        let name = format!("{path}{leaf}");
        if self.contents.tensors.len() + self.contents.others.len() >= MAX_TENSORS {
            return Err(damaged(self.map, &format!("it holds more than {MAX_TENSORS} datasets")));
        }
        let Some((dtype, big_endian)) = number_type(&dataset) else {
            let what = describe(dataset.dtype());
            self.contents.others.push(Other { name, what, is_tensor: false });
            return Ok(());
        };
        let shape: Option<Vec<usize>> = dataset.shape().iter().map(|&d| usize::try_from(d).ok()).collect();
        let shape = shape.ok_or_else(|| damaged(self.map, &format!("the shape of {name} overflows")))?;
        let bytes = shape.iter().try_fold(dtype.bitsize() / 8, |n, &d| n.checked_mul(d));
        let view = View::row_major(&shape, 0);
        let (Some(bytes), Some(view)) = (bytes, view) else {
            return Err(damaged(self.map, &format!("the shape of {name} overflows")));
        };
        let kind = match self.in_place(&dataset, bytes) {
            Some(range) => Kind::Mapped(range),
            None => Kind::Decoded(Box::new(Decoder { dataset, name: name.clone(), file: self.file })),
        };
        let storage = self.contents.storages.len();
        let entry = name.clone();
        self.contents.storages.push(Storage {
            file: self.file,
            entry,
            len: bytes as u64,
            big_endian,
            checksum: None,
            kind,
        });
        self.contents.tensors.push(TensorInfo { name, dtype, shape, container: path.len(), storage, view });
        Ok(())
    }

    /// Where a contiguous dataset lies in the file.
    fn in_place(&self, dataset: &Dataset, bytes: usize) -> Option<std::ops::Range<usize>> {
        let header = self.reader.get_or_parse_header(dataset.address()).ok()?;
        if header.messages.iter().any(|m| matches!(m, HdfMessage::ExternalFiles(_) | HdfMessage::FilterPipeline(_))) {
            return None;
        }
        let layout = header.messages.iter().find_map(|m| match m {
            HdfMessage::DataLayout(message) => Some(&message.layout),
            _ => None,
        })?;
        let DataLayout::Contiguous { address, size } = layout else { return None };
        let base = self.reader.superblock().base_address;
        let start = usize::try_from(address.checked_add(base)?).ok()?;
        let end = start.checked_add(bytes)?;
        (*size == bytes as u64 && bytes > 0 && end <= self.map.bytes().len()).then_some(start..end)
    }
}

struct Decoder {
    dataset: Dataset,
    name: String,
    file: usize,
}

impl Decode for Decoder {
    fn decode(&self, files: &[MappedFile]) -> Result<Vec<u8>, Error> {
        let raw = self.dataset.read_raw_bytes();
        raw.map_err(|e| damaged(&files[self.file], &format!("{}: {e}", self.name)))
    }
}

/// The type of a dataset of numbers, and whether they are big-endian.
fn number_type(dataset: &Dataset) -> Option<(Dtype, bool)> {
    let big = |order: &ByteOrder| *order == ByteOrder::BigEndian;
    match dataset.dtype() {
        Datatype::FixedPoint { size, signed, byte_order } => {
            let dtype = match (size, signed) {
                (1, true) => Dtype::I8,
                (1, false) => Dtype::U8,
                (2, true) => Dtype::I16,
                (2, false) => Dtype::U16,
                (4, true) => Dtype::I32,
                (4, false) => Dtype::U32,
                (8, true) => Dtype::I64,
                (8, false) => Dtype::U64,
                _ => return None,
            };
            Some((dtype, big(byte_order)))
        }
        Datatype::FloatingPoint { size, byte_order } => {
            // Eight bytes of header, then bit offset, precision, and where and how long the exponent is.
            let exponent_bits = dataset.raw_datatype().ok().and_then(|raw| raw.get(13).copied());
            let dtype = match (size, exponent_bits) {
                (2, Some(5)) => Dtype::F16,
                (2, Some(8)) => Dtype::BF16,
                (4, Some(8)) => Dtype::F32,
                (8, Some(11)) => Dtype::F64,
                _ => return None,
            };
            Some((dtype, big(byte_order)))
        }
        // h5py's booleans.
        Datatype::Enum { base, members } if is_boolean(base, members) => Some((Dtype::BOOL, false)),
        _ => None,
    }
}

fn is_boolean(base: &Datatype, members: &[hdf5_reader::messages::datatype::EnumMember]) -> bool {
    let byte = matches!(base, Datatype::FixedPoint { size: 1, .. });
    let named = |name: &str, value: u8| members.iter().any(|m| m.name == name && m.value == [value]);
    byte && members.len() == 2 && named("FALSE", 0) && named("TRUE", 1)
}

fn describe(datatype: &Datatype) -> String {
    let what = match datatype {
        Datatype::String { .. } | Datatype::VarLen { .. } => "text or lists of varying length",
        Datatype::Compound { .. } => "records",
        Datatype::Array { .. } => "arrays in arrays",
        Datatype::Enum { .. } => "an enumeration",
        Datatype::Reference { .. } => "references",
        Datatype::Opaque { .. } | Datatype::Bitfield { .. } => "raw bits",
        Datatype::FixedPoint { size, .. } => return format!("integers of {size} bytes"),
        Datatype::FloatingPoint { size, .. } => {
            return format!("floating-point numbers of {size} bytes in an unusual layout");
        }
    };
    what.to_owned()
}
