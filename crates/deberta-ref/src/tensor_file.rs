//! Tensor files: the inputs of a forward pass, read from a dump, and its outputs, written to safetensors.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use deberta_model::{Inputs, Labels, Real};
use deberta_verify::{Dump, Tensor};
use ndarray::{ArrayD, IxDyn};
use safetensors::{Dtype, View};

use crate::dump::open_dump;
use crate::error::Error;

/// The names of the inputs. `input_mask` is Microsoft's name for the encoder's mask: where it is given,
/// `attention_mask` is the enhanced mask decoder's, as in `MaskedLanguageModel.forward`.
pub const INPUT_NAMES: [&str; 10] = [
    "input_ids",
    "inputs_embeds",
    "attention_mask",
    "decoder_attention_mask",
    "input_mask",
    "token_type_ids",
    "position_ids",
    "labels",
    "start_positions",
    "end_positions",
];

/// Reads the inputs that `path` holds, a dump of any form ([`open_dump`]). Other tensors, such as the outputs beside them in a
/// golden, are left alone; their names are returned.
///
/// # Errors
/// A file that cannot be read, an input of a type it cannot have, or no input at all.
pub fn read_inputs<T: Real>(path: &Path) -> Result<(Inputs<T>, Vec<String>), Error> {
    inputs_of(&open_dump(path)?, path)
}

/// The same for a dump that is open. `path` is for messages.
///
/// # Errors
/// An input of a type it cannot have, or no input at all.
pub fn inputs_of<T: Real>(dump: &Dump, path: &Path) -> Result<(Inputs<T>, Vec<String>), Error> {
    let reader = Reader { path, dump };
    let mut inputs = Inputs {
        input_ids: reader.int("input_ids")?,
        inputs_embeds: reader.float("inputs_embeds")?,
        attention_mask: reader.mask("attention_mask")?,
        decoder_attention_mask: reader.mask("decoder_attention_mask")?,
        token_type_ids: reader.int("token_type_ids")?,
        position_ids: reader.int("position_ids")?,
        labels: reader.labels("labels")?,
        start_positions: reader.int("start_positions")?,
        end_positions: reader.int("end_positions")?,
    };
    if let Some(mask) = reader.mask("input_mask")? {
        let decoder = inputs.attention_mask.replace(mask);
        inputs.decoder_attention_mask = inputs.decoder_attention_mask.or(decoder);
    }
    if inputs.input_ids.is_none() && inputs.inputs_embeds.is_none() {
        return Err(Error::NoInputs { path: path.to_owned(), expected: "`input_ids`, `inputs_embeds`".to_owned() });
    }
    let others = dump.iter().map(|(name, _)| name).filter(|n| !INPUT_NAMES.contains(n)).map(str::to_owned).collect();
    Ok((inputs, others))
}

struct Reader<'a> {
    path: &'a Path,
    dump: &'a Dump,
}

impl Reader<'_> {
    fn wrong(&self, name: &str, found: impl Into<String>, expected: &'static str) -> Error {
        Error::TensorType { path: self.path.to_owned(), tensor: name.to_owned(), found: found.into(), expected }
    }

    fn int(&self, name: &str) -> Result<Option<ArrayD<i64>>, Error> {
        let Some(tensor) = self.dump.get(name) else { return Ok(None) };
        let wrong = || self.wrong(name, tensor.dtype().to_string(), "whole numbers (I64, or another integer type)");
        integers(tensor).map(Some).ok_or_else(wrong)
    }

    fn float<T: Real>(&self, name: &str) -> Result<Option<ArrayD<T>>, Error> {
        let Some(tensor) = self.dump.get(name) else { return Ok(None) };
        if !tensor.dtype().is_float() {
            let expected = "floating-point numbers (F64, F32, F16 or BF16)";
            return Err(self.wrong(name, tensor.dtype().to_string(), expected));
        }
        Ok(Some(tensor.to_f64().mapv(T::of)))
    }

    /// Zeros and ones, in any type.
    fn mask(&self, name: &str) -> Result<Option<ArrayD<i64>>, Error> {
        let Some(tensor) = self.dump.get(name) else { return Ok(None) };
        if let Some(mask) = integers(tensor) {
            return Ok(Some(mask));
        }
        let mask = tensor.to_f64();
        match mask.iter().find(|&&v| v != 0.0 && v != 1.0) {
            Some(other) => {
                Err(self.wrong(name, format!("a mask that holds {other}"), "a mask of 0 (hidden) and 1 (visible)"))
            }
            None => Ok(Some(mask.mapv(|v| i64::from(v == 1.0)))),
        }
    }

    fn labels(&self, name: &str) -> Result<Option<Labels>, Error> {
        let Some(tensor) = self.dump.get(name) else { return Ok(None) };
        Ok(Some(match integers(tensor) {
            Some(labels) => Labels::Int(labels),
            None => Labels::Float {
                values: tensor.to_f64(),
                single_precision: tensor.dtype() == deberta_verify::Dtype::F32,
            },
        }))
    }
}

fn integers(tensor: &Tensor) -> Option<ArrayD<i64>> {
    ArrayD::from_shape_vec(IxDyn(tensor.shape()), tensor.integers()?).ok()
}

/// A tensor to be written: little-endian bytes of one of the two precisions.
#[derive(Clone, Debug)]
pub struct TensorData {
    /// F32 or F64.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its elements in row-major order.
    pub bytes: Vec<u8>,
}

impl TensorData {
    /// From an array of `f32` or `f64`.
    pub fn new<T: Real>(array: &ndarray::ArrayViewD<'_, T>) -> Self {
        let single = T::NAME == f32::NAME;
        let mut bytes = Vec::with_capacity(array.len() * if single { 4 } else { 8 });
        for &v in array {
            if single {
                bytes.extend_from_slice(&<f32 as Real>::of(v.wide()).to_le_bytes());
            } else {
                bytes.extend_from_slice(&v.wide().to_le_bytes());
            }
        }
        Self { dtype: if single { Dtype::F32 } else { Dtype::F64 }, shape: array.shape().to_vec(), bytes }
    }
}

impl View for &TensorData {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// Tensors by name, in the order in which they were computed.
#[derive(Clone, Debug, Default)]
pub struct NamedTensors {
    /// Names and tensors. A name stands once.
    pub entries: Vec<(String, TensorData)>,
}

impl NamedTensors {
    /// Writes the tensors to `path`, by way of a file beside it that is renamed once it is complete. `metadata` is kept in
    /// the file's header, together with the order of computation under `order`, which the file itself does not keep.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub fn write(&self, path: &Path, mut metadata: HashMap<String, String>) -> Result<(), Error> {
        let order: Vec<&str> = self.entries.iter().map(|(name, _)| name.as_str()).collect();
        metadata.insert("order".to_owned(), serde_json::Value::from(order).to_string());
        write_beside(path, |beside| {
            let tensors = self.entries.iter().map(|(name, tensor)| (name.as_str(), tensor));
            safetensors::serialize_to_file(tensors, Some(metadata), beside)
                .map_err(|source| Error::TensorFile { path: path.to_owned(), source })
        })
    }
}

/// Has a file written beside `path`, and renames it once it is complete.
pub(crate) fn write_beside(path: &Path, write: impl FnOnce(&Path) -> Result<(), Error>) -> Result<(), Error> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let beside = tempfile::Builder::new().prefix(".deberta-ref-").tempfile_in(folder).map_err(Error::io(path))?;
    write(beside.path())?;
    // The file is made for its owner alone, and should be as open as any other.
    set_readable(beside.path()).map_err(Error::io(path))?;
    beside.persist(path).map_err(|e| Error::Io { path: path.to_owned(), source: e.error })?;
    Ok(())
}

#[cfg(unix)]
fn set_readable(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn set_readable(_: &Path) -> std::io::Result<()> {
    Ok(())
}
