//! A tensor of a checkpoint: what it is, and how its bytes are read.

use std::fmt;

use safetensors::Dtype;

use crate::storage::StorageBytes;
use crate::view::View;

/// The format of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// safetensors.
    Safetensors,
    /// What `torch.save` writes since 1.6: a zip archive with a pickle and one entry a storage.
    TorchZip,
    /// What `torch.save` wrote from 0.4 to 1.5: pickles followed by the storages.
    TorchLegacy,
    /// HDF5 as Keras writes it.
    Hdf5,
    /// TensorFlow's `.index` and `.data-…` files.
    TensorBundle,
    /// NumPy's archives, `.npz`.
    Npz,
    /// NumPy's arrays, `.npy`: one, or a folder of them.
    Npy,
}

impl Format {
    /// The name used in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::TorchZip => "torch-zip",
            Self::TorchLegacy => "torch-legacy",
            Self::Hdf5 => "hdf5",
            Self::TensorBundle => "tensor-bundle",
            Self::Npz => "npz",
            Self::Npy => "npy",
        }
    }

    /// Whether TensorFlow's classes wrote it, whose kernels are the transposes of PyTorch's.
    pub fn is_tensorflow(self) -> bool {
        matches!(self, Self::Hdf5 | Self::TensorBundle)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A tensor of a checkpoint: what it is called, what it is, and where its bytes lie.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// Its name in the checkpoint.
    pub name: String,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
    /// How much of the name is the path of the containers it lies in, such as `optimizer.state.0.`.
    pub(crate) container: usize,
    pub(crate) storage: usize,
    pub(crate) view: View,
}

impl TensorInfo {
    /// The number of elements. It cannot overflow: it was checked when the checkpoint was opened.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The number of bytes of its elements, written one after the other.
    pub fn byte_len(&self) -> usize {
        (self.elements() * self.dtype.bitsize()).div_ceil(8)
    }

    /// Whether its elements lie one after the other in the file, so that nothing has to be copied to read it.
    pub fn is_contiguous(&self) -> bool {
        self.view.is_contiguous()
    }

    /// The containers it lies in, as far as the format nests them: empty, or a path that ends in a dot or a slash.
    pub fn container(&self) -> &str {
        self.name.get(..self.container).unwrap_or_default()
    }

    /// Bytes of one element; 1 for the types smaller than a byte, which are only ever read whole.
    pub(crate) fn element_size(&self) -> usize {
        (self.dtype.bitsize() / 8).max(1)
    }

    /// Elements of types smaller than a byte are counted in bytes.
    pub(crate) fn units(&self) -> usize {
        self.byte_len() / self.element_size()
    }
}

/// Something a checkpoint holds that is not a tensor this crate can hand out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    /// Its name, with the names of the containers it lies in, such as `optimizer.param_groups`.
    pub name: String,
    /// What it is, shortened, such as `int 7` or `a sparse tensor`.
    pub what: String,
    /// Whether it is a tensor, of a kind that safetensors has no place for.
    pub is_tensor: bool,
}

/// The bytes of a tensor, part by part.
pub(crate) struct TensorReader<'c, 't> {
    pub tensor: &'t TensorInfo,
    pub storage: StorageBytes<'c>,
    /// Whether its bytes must be reversed, number by number.
    pub swap: bool,
}

impl TensorReader<'_, '_> {
    /// The whole tensor, where no copy is needed.
    pub fn slice(&self) -> Option<&[u8]> {
        in_place(self.tensor, self.swap).map(|range| &self.storage[range])
    }

    /// Copies the bytes from `start` on until `out` is full. Both are multiples of the element's size.
    pub fn fill(&self, start: usize, out: &mut [u8]) {
        let size = self.tensor.element_size();
        if let Some(bytes) = self.slice() {
            out.copy_from_slice(&bytes[start..start + out.len()]);
            return;
        }
        let first = start / size;
        self.tensor.view.gather(&self.storage, size, first..first + out.len() / size, out);
        if self.swap {
            // A complex number is two.
            let number = if self.tensor.dtype == Dtype::C64 { 4 } else { size };
            out.chunks_exact_mut(number).for_each(<[u8]>::reverse);
        }
    }
}

/// The range of its storage that is the tensor, where no copy is needed; `swap` says that its bytes must be reversed.
pub(crate) fn in_place(tensor: &TensorInfo, swap: bool) -> Option<std::ops::Range<usize>> {
    let size = tensor.element_size();
    if !tensor.view.is_contiguous() || (swap && size > 1) {
        return None;
    }
    if tensor.units() == 0 {
        return Some(0..0);
    }
    let start = tensor.view.offset * size;
    Some(start..start + tensor.byte_len())
}
