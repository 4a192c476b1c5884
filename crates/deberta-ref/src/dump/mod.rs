//! Dumps of any form: tensors of somebody's forward pass, in a file or a folder.
//!
//! | what | recognised by |
//! |---|---|
//! | safetensors, one file or an index of shards | its header |
//! | NumPy's `.npz` and `.npy` | the first bytes |
//! | a folder of `.npy`, at any depth | the names are the paths, joined by dots |
//! | the JSON of transformers' model-addition debugger, or the folder it lies in | its keys |
//! | what `torch.save` writes, HDF5 | as checkpoints are |
//!
//! All but the debugger's JSON is read by [`deberta_checkpoint`], which trusts nothing that a file says.

mod debugger;
mod printed;

use std::borrow::Cow;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use deberta_checkpoint::{Checkpoint, Format, TensorInfo};
use deberta_verify::{Dtype, Dump, Keep, Tensor};
use safetensors::Dtype as Stored;

use crate::error::Error;

/// Opens a dump. Values are read where they are needed, as far as they lie in one piece.
///
/// # Errors
/// Nothing there, or nothing that is a dump: one sentence that names the file.
pub fn open_dump(path: &Path) -> Result<Dump, Error> {
    if path.is_dir() {
        return open_folder(path);
    }
    if begins_as_json(path).map_err(Error::io(path))? && !path.to_string_lossy().ends_with(".index.json") {
        return debugger::open(path);
    }
    from_checkpoint(path)
}

/// A folder: of the debugger, or of whatever a checkpoint may be, arrays among it.
fn open_folder(folder: &Path) -> Result<Dump, Error> {
    let mut trees: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        if path.file_name().is_some_and(|n| n.to_string_lossy().ends_with(debugger::TREE)) {
            trees.push(path);
        }
    }
    match trees.as_slice() {
        [tree] => debugger::open(tree),
        [] => from_checkpoint(folder),
        [one, ..] => Err(Error::Dump {
            path: folder.to_owned(),
            problem: format!("it holds {} trees of the debugger, such as {}: name one", trees.len(), one.display()),
        }),
    }
}

/// Whether a file's first character, spaces apart, is that of a JSON object.
fn begins_as_json(path: &Path) -> std::io::Result<bool> {
    let mut start = Vec::new();
    std::fs::File::open(path)?.take(64).read_to_end(&mut start)?;
    Ok(start.trim_ascii_start().first() == Some(&b'{'))
}

fn from_checkpoint(path: &Path) -> Result<Dump, Error> {
    let checkpoint = Arc::new(Checkpoint::open(path)?);
    let mut dump = Dump::new(path.display().to_string());
    let (mut unread, mut opaque) = (Vec::new(), Vec::new());
    for (index, tensor) in checkpoint.tensors().enumerate() {
        match taken(&checkpoint, index, tensor)? {
            Some(taken) => dump.insert(tensor.name.clone(), taken),
            None => unread.push(format!("{} ({})", tensor.name, tensor.dtype)),
        }
        if tensor.dtype == Stored::BF16 && matches!(checkpoint.format(), Format::Npz | Format::Npy) {
            opaque.push(tensor.name.as_str());
        }
    }
    unread.extend(checkpoint.others().iter().map(|other| format!("{} ({})", other.name, other.what)));
    if let [first, ..] = opaque[..] {
        dump.notes.push(format!("{first} has NumPy's type V2, which is read as bfloat16 ({} so)", opaque.len()));
    }
    if let Some(some) = some(&unread) {
        dump.notes.push(format!("{} also holds what cannot be compared: {some}", path.display()));
    }
    if dump.is_empty() {
        let problem = format!(
            "it holds no tensor that can be compared{}",
            some(&unread).map_or(String::new(), |s| format!(", only {s}"))
        );
        return Err(Error::Dump { path: path.to_owned(), problem });
    }
    for (key, value) in checkpoint.metadata() {
        dump.set_metadata(key, value);
    }
    Ok(dump)
}

/// The first few of a list, and how many more; `None` where there are none.
fn some(list: &[String]) -> Option<String> {
    let shown = list.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
    let more = list.len().saturating_sub(3);
    (!list.is_empty()).then(|| if more == 0 { shown } else { format!("{shown} and {more} more") })
}

/// A tensor of a checkpoint, which stays where it is if it lies there in one piece; `None` for types that no computation
/// of a model yields.
fn taken(checkpoint: &Arc<Checkpoint>, index: usize, tensor: &TensorInfo) -> Result<Option<Tensor>, Error> {
    let Some(dtype) = dtype(tensor.dtype) else { return Ok(None) };
    let name = &tensor.name;
    let bytes = checkpoint.read(tensor)?;
    let widened = match tensor.dtype {
        Stored::U16 => Some(widen::<2, 4>(&bytes)),
        Stored::U32 => Some(widen::<4, 8>(&bytes)),
        _ => None,
    };
    let tensor = match (widened, bytes) {
        (Some(bytes), _) | (None, Cow::Owned(bytes)) => Tensor::from_bytes(name, dtype, tensor.shape.clone(), bytes)?,
        (None, Cow::Borrowed(bytes)) => {
            let range = 0..bytes.len();
            let keeper = Arc::new(InPlace { checkpoint: Arc::clone(checkpoint), index });
            Tensor::kept(name, dtype, tensor.shape.clone(), keeper, range)?
        }
    };
    Ok(Some(tensor))
}

/// Unsigned little-endian numbers of `N` bytes as numbers of `M`.
fn widen<const N: usize, const M: usize>(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0; bytes.len() / N * M];
    for (from, to) in bytes.as_chunks::<N>().0.iter().zip(out.as_chunks_mut::<M>().0) {
        to[..N].copy_from_slice(from);
    }
    out
}

/// The type that holds every value of a stored one.
fn dtype(stored: Stored) -> Option<Dtype> {
    Some(match stored {
        Stored::F64 => Dtype::F64,
        Stored::F32 => Dtype::F32,
        Stored::F16 => Dtype::F16,
        Stored::BF16 => Dtype::Bf16,
        Stored::I64 | Stored::U64 | Stored::U32 => Dtype::I64,
        Stored::I32 | Stored::U16 => Dtype::I32,
        Stored::I16 => Dtype::I16,
        Stored::I8 => Dtype::I8,
        Stored::U8 => Dtype::U8,
        Stored::BOOL => Dtype::Bool,
        _ => return None,
    })
}

/// A tensor of an open checkpoint that is borrowed from its mapped file.
struct InPlace {
    checkpoint: Arc<Checkpoint>,
    index: usize,
}

impl Keep for InPlace {
    fn bytes(&self) -> &[u8] {
        let tensor = self.checkpoint.tensors().nth(self.index);
        match tensor.map(|t| self.checkpoint.read(t)) {
            Some(Ok(Cow::Borrowed(bytes))) => bytes,
            _ => &[],
        }
    }

    fn release(&self) {
        if let Some(tensor) = self.checkpoint.tensors().nth(self.index) {
            self.checkpoint.release(tensor);
        }
    }
}
