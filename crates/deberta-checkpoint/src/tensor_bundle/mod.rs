//! Reading TensorFlow's TensorBundle.

use std::path::Path;

use crate::checkpoint::Contents;
use crate::error::Error;
use crate::storage::MappedFile;

/// The last eight bytes of a table.
pub(crate) const MAGIC: [u8; 8] = 0xdb47_7524_8b80_fb57u64.to_le_bytes();

pub(crate) fn read(index: &Path) -> Result<(Vec<MappedFile>, Contents), Error> {
    Err(Error::Unsupported { path: index.into(), what: "a TensorBundle".into(), advice: "not read yet" })
}
