//! Tensor files as tests want them: every float widened to `f64`, every integer to `i64`.

use std::collections::BTreeMap;
use std::path::Path;

use ndarray::{ArrayD, IxDyn};
use safetensors::{Dtype, SafeTensors};

/// A tensor of a safetensors file.
#[derive(Clone, Debug)]
pub enum Tensor {
    /// F64, F32, F16 and BF16, widened without loss.
    Float(ArrayD<f64>),
    /// Integers and booleans.
    Int(ArrayD<i64>),
}

/// A safetensors file, read whole.
pub struct TensorFile {
    tensors: BTreeMap<String, Tensor>,
    dtypes: BTreeMap<String, Dtype>,
}

impl TensorFile {
    /// Reads `path`; panics with the path on any error, as a test should.
    pub fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let file = SafeTensors::deserialize(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let tensors = file.iter().map(|(name, view)| (name.to_owned(), widen(name, &view))).collect();
        let dtypes = file.iter().map(|(name, view)| (name.to_owned(), view.dtype())).collect();
        Self { tensors, dtypes }
    }

    /// Every tensor of every weights file in a model directory (`model*.safetensors`).
    pub fn read_model(directory: &Path) -> Self {
        let mut all = Self { tensors: BTreeMap::new(), dtypes: BTreeMap::new() };
        let entries = std::fs::read_dir(directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
        for entry in entries {
            let path = entry.expect("a readable directory").path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if name.starts_with("model") && name.ends_with(".safetensors") {
                let file = Self::read(&path);
                all.tensors.extend(file.tensors);
                all.dtypes.extend(file.dtypes);
            }
        }
        assert!(!all.tensors.is_empty(), "{} holds no model*.safetensors", directory.display());
        all
    }

    /// A tensor by name, if the file holds it.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// Whether the file holds `name` in single precision.
    pub fn is_f32(&self, name: &str) -> bool {
        self.dtypes.get(name) == Some(&Dtype::F32)
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether the file holds `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A float tensor, widened to `f64`.
    pub fn float(&self, name: &str) -> &ArrayD<f64> {
        match self.tensors.get(name) {
            Some(Tensor::Float(a)) => a,
            other => panic!("{name}: expected a float tensor, found {other:?}"),
        }
    }

    /// An integer tensor, widened to `i64`.
    pub fn int(&self, name: &str) -> &ArrayD<i64> {
        match self.tensors.get(name) {
            Some(Tensor::Int(a)) => a,
            other => panic!("{name}: expected an integer tensor, found {other:?}"),
        }
    }
}

fn widen(name: &str, view: &safetensors::tensor::TensorView<'_>) -> Tensor {
    let shape = IxDyn(view.shape());
    let data = view.data();
    fn each<const N: usize, T>(data: &[u8], f: impl Fn([u8; N]) -> T) -> Vec<T> {
        data.chunks_exact(N).map(|c| f(c.try_into().expect("exact chunk"))).collect()
    }
    let float = |v: Vec<f64>| Tensor::Float(ArrayD::from_shape_vec(shape.clone(), v).expect("the file's own shape"));
    let int = |v: Vec<i64>| Tensor::Int(ArrayD::from_shape_vec(shape.clone(), v).expect("the file's own shape"));
    match view.dtype() {
        Dtype::F64 => float(each(data, f64::from_le_bytes)),
        Dtype::F32 => float(each(data, |b| f32::from_le_bytes(b).into())),
        Dtype::F16 => float(each(data, |b| half::f16::from_le_bytes(b).into())),
        Dtype::BF16 => float(each(data, |b| half::bf16::from_le_bytes(b).into())),
        Dtype::I64 => int(each(data, i64::from_le_bytes)),
        Dtype::I32 => int(each(data, |b| i32::from_le_bytes(b).into())),
        Dtype::I16 => int(each(data, |b| i16::from_le_bytes(b).into())),
        Dtype::I8 => int(each(data, |b| i8::from_le_bytes(b).into())),
        Dtype::U8 | Dtype::BOOL => int(each(data, |b: [u8; 1]| b[0].into())),
        other => panic!("{name}: the testkit does not widen {other:?}"),
    }
}
