//! Tensor files: the inputs of a forward pass, read from safetensors, and its outputs, written to it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use deberta_model::{Inputs, Labels, Real};
use half::{bf16, f16};
use ndarray::{ArrayD, IxDyn};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors, View};

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

/// Reads the inputs that `path` holds. Other tensors, such as the outputs beside them in a golden, are left alone; their
/// names are returned.
///
/// # Errors
/// A file that cannot be read, an input of a type it cannot have, or no input at all.
pub fn read_inputs<T: Real>(path: &Path) -> Result<(Inputs<T>, Vec<String>), Error> {
    let file = std::fs::File::open(path).map_err(Error::io(path))?;
    // SAFETY: the file is only read; if another process shortens it meanwhile, the system ends this one.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io(path))?;
    let tensors =
        SafeTensors::deserialize(&map).map_err(|source| Error::TensorFile { path: path.to_owned(), source })?;
    let reader = Reader { path, tensors: &tensors };
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
    let others = tensors.names().into_iter().filter(|n| !INPUT_NAMES.contains(n)).map(str::to_owned).collect();
    Ok((inputs, others))
}

struct Reader<'a> {
    path: &'a Path,
    tensors: &'a SafeTensors<'a>,
}

impl Reader<'_> {
    fn view(&self, name: &str) -> Option<TensorView<'_>> {
        self.tensors.tensor(name).ok()
    }

    fn wrong(&self, name: &str, found: impl Into<String>, expected: &'static str) -> Error {
        Error::TensorType { path: self.path.to_owned(), tensor: name.to_owned(), found: found.into(), expected }
    }

    fn int(&self, name: &str) -> Result<Option<ArrayD<i64>>, Error> {
        let Some(view) = self.view(name) else { return Ok(None) };
        let wrong = || self.wrong(name, view.dtype().to_string(), "whole numbers (I64, or another integer type)");
        integers(&view).map(Some).ok_or_else(wrong)
    }

    fn float<T: Real>(&self, name: &str) -> Result<Option<ArrayD<T>>, Error> {
        let Some(view) = self.view(name) else { return Ok(None) };
        let wrong = || self.wrong(name, view.dtype().to_string(), "floating-point numbers (F64, F32, F16 or BF16)");
        floats(&view).map(|a| Some(a.mapv(T::of))).ok_or_else(wrong)
    }

    /// Zeros and ones, in any type.
    fn mask(&self, name: &str) -> Result<Option<ArrayD<i64>>, Error> {
        let Some(view) = self.view(name) else { return Ok(None) };
        if let Some(mask) = integers(&view) {
            return Ok(Some(mask));
        }
        let expected = "a mask of 0 (hidden) and 1 (visible)";
        let mask = floats(&view).ok_or_else(|| self.wrong(name, view.dtype().to_string(), expected))?;
        match mask.iter().find(|&&v| v != 0.0 && v != 1.0) {
            Some(other) => Err(self.wrong(name, format!("a mask that holds {other}"), expected)),
            None => Ok(Some(mask.mapv(|v| i64::from(v == 1.0)))),
        }
    }

    fn labels(&self, name: &str) -> Result<Option<Labels>, Error> {
        let Some(view) = self.view(name) else { return Ok(None) };
        if let Some(labels) = integers(&view) {
            return Ok(Some(Labels::Int(labels)));
        }
        let expected = "whole or floating-point numbers";
        let values = floats(&view).ok_or_else(|| self.wrong(name, view.dtype().to_string(), expected))?;
        Ok(Some(Labels::Float { values, single_precision: view.dtype() == Dtype::F32 }))
    }
}

fn each<const N: usize, T>(view: &TensorView<'_>, f: impl Fn([u8; N]) -> T) -> ArrayD<T> {
    let values = view.data().as_chunks::<N>().0.iter().map(|&bytes| f(bytes)).collect();
    ArrayD::from_shape_vec(IxDyn(view.shape()), values).expect("safetensors checks the length against the shape")
}

fn integers(view: &TensorView<'_>) -> Option<ArrayD<i64>> {
    Some(match view.dtype() {
        Dtype::I64 => each(view, i64::from_le_bytes),
        Dtype::I32 => each(view, |b| i32::from_le_bytes(b).into()),
        Dtype::U32 => each(view, |b| u32::from_le_bytes(b).into()),
        Dtype::I16 => each(view, |b| i16::from_le_bytes(b).into()),
        Dtype::U16 => each(view, |b| u16::from_le_bytes(b).into()),
        Dtype::I8 => each(view, |b| i8::from_le_bytes(b).into()),
        Dtype::U8 | Dtype::BOOL => each(view, |[b]| b.into()),
        _ => return None,
    })
}

fn floats(view: &TensorView<'_>) -> Option<ArrayD<f64>> {
    Some(match view.dtype() {
        Dtype::F64 => each(view, f64::from_le_bytes),
        Dtype::F32 => each(view, |b| f32::from_le_bytes(b).into()),
        Dtype::F16 => each(view, |b| f16::from_le_bytes(b).into()),
        Dtype::BF16 => each(view, |b| bf16::from_le_bytes(b).into()),
        _ => return None,
    })
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
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let beside = tempfile::Builder::new().prefix(".deberta-ref-").tempfile_in(folder).map_err(Error::io(path))?;
        let tensors = self.entries.iter().map(|(name, tensor)| (name.as_str(), tensor));
        safetensors::serialize_to_file(tensors, Some(metadata), beside.path())
            .map_err(|source| Error::TensorFile { path: path.to_owned(), source })?;
        // The file is made for its owner alone, and should be as open as any other.
        set_readable(beside.path()).map_err(Error::io(path))?;
        beside.persist(path).map_err(|e| Error::Io { path: path.to_owned(), source: e.error })?;
        Ok(())
    }
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
