//! Reading safetensors: eight bytes with the length of a JSON header, the header, the tensors.
//!
//! The header is parsed and validated by the format's own crate: offsets are in order, without gaps or overlaps, and each
//! range fits its shape and type. Bytes may lie at any alignment.

use safetensors::SafeTensors;

use crate::checkpoint::Contents;
use crate::error::Error;
use crate::storage::{Kind, MappedFile, Storage};
use crate::tensor::TensorInfo;
use crate::view::View;

/// The largest header that is read. A model of 1.5 billion parameters has one of 0.1 MB.
const MAX_HEADER: u64 = 16 << 20;

pub(crate) fn read(map: &MappedFile, file: usize) -> Result<Contents, Error> {
    let bytes = map.bytes();
    let damaged = |problem: String| Error::damaged(&map.path, "safetensors file", problem);
    let header = bytes.first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b));
    if header > MAX_HEADER && header <= bytes.len() as u64 {
        let what = "parsing its header".to_owned();
        return Err(Error::OutOfProportion { path: map.path.clone(), what, bytes: header, file_bytes: MAX_HEADER });
    }
    let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| damaged(e.to_string()))?;
    let start = header.checked_add(8).ok_or_else(|| damaged("the header's length overflows".into()))?;
    let mut contents = Contents::default();
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name) else { continue };
        let (from, to) = info.data_offsets;
        let range = start + from..start + to;
        if range.end > bytes.len() || range.start > range.end {
            return Err(damaged(format!("{name} lies beyond the end of the file")));
        }
        let storage = contents.storages.len();
        contents.storages.push(Storage {
            file,
            entry: name.clone(),
            len: range.len() as u64,
            big_endian: false,
            checksum: None,
            kind: Kind::Mapped(range.clone()),
        });
        let unit = (info.dtype.bitsize() / 8).max(1);
        let view = if info.dtype.bitsize() < 8 {
            View::row_major(&[range.len() / unit], 0)
        } else {
            View::row_major(&info.shape, 0)
        };
        let view = view.ok_or_else(|| damaged(format!("the shape of {name} overflows")))?;
        contents.tensors.push(TensorInfo {
            name,
            dtype: info.dtype,
            shape: info.shape.clone(),
            container: 0,
            storage,
            view,
        });
    }
    contents.metadata = metadata.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
    Ok(contents)
}
