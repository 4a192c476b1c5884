//! Tensors as arrays of `f32` or `f64`.

use std::borrow::Cow;

use half::{bf16, f16};
use ndarray::{ArrayD, ArrayViewD, CowArray, IxDyn};
use safetensors::Dtype;

use crate::checkpoint::Checkpoint;
use crate::error::Error;
use crate::tensor::TensorInfo;

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// The number types that models compute in.
pub trait Element: bytemuck::Pod + sealed::Sealed {
    /// Its type in a file.
    const DTYPE: Dtype;
    /// Its name, for error messages.
    const NAME: &'static str;
    /// From `f32`, without loss.
    fn from_f32(value: f32) -> Self;
    /// From `f64`, rounded to nearest, ties to even.
    fn from_f64(value: f64) -> Self;
}

impl Element for f32 {
    const DTYPE: Dtype = Dtype::F32;
    const NAME: &'static str = "f32";
    fn from_f32(value: f32) -> Self {
        value
    }
    fn from_f64(value: f64) -> Self {
        value as f32
    }
}

impl Element for f64 {
    const DTYPE: Dtype = Dtype::F64;
    const NAME: &'static str = "f64";
    fn from_f32(value: f32) -> Self {
        value.into()
    }
    fn from_f64(value: f64) -> Self {
        value
    }
}

impl Checkpoint {
    /// A tensor as an array: a view of the mapped file where it is of type `T`, contiguous and aligned, else a converted
    /// copy. F16, BF16 and F32 widen exactly; F64 read as `f32` rounds to nearest, ties to even.
    ///
    /// # Errors
    /// [`Error::WrongDtype`] where the tensor holds integers, booleans, complex or 8-bit numbers; and what decoding finds.
    pub fn array<T: Element>(&self, tensor: &TensorInfo) -> Result<CowArray<'_, T, IxDyn>, Error> {
        let bytes = self.read(tensor)?;
        let shape = IxDyn(&tensor.shape);
        let bad = |_| Error::WrongDtype { name: tensor.name.clone(), dtype: tensor.dtype, wanted: T::NAME };
        if tensor.dtype == T::DTYPE {
            match bytes {
                Cow::Borrowed(bytes) => {
                    if let Ok(values) = bytemuck::try_cast_slice(bytes) {
                        return ArrayViewD::from_shape(shape, values).map(Into::into).map_err(bad);
                    }
                    let values = bytemuck::pod_collect_to_vec(bytes);
                    return ArrayD::from_shape_vec(shape, values).map(Into::into).map_err(bad);
                }
                Cow::Owned(bytes) => {
                    let values = bytemuck::pod_collect_to_vec(&bytes);
                    return ArrayD::from_shape_vec(shape, values).map(Into::into).map_err(bad);
                }
            }
        }
        let values = convert(&bytes, tensor.dtype);
        let values = values.ok_or_else(|| Error::WrongDtype {
            name: tensor.name.clone(),
            dtype: tensor.dtype,
            wanted: T::NAME,
        })?;
        ArrayD::from_shape_vec(shape, values).map(Into::into).map_err(bad)
    }
}

/// Little-endian numbers of a floating type as `T`; `None` for other types.
fn convert<T: Element>(bytes: &[u8], dtype: Dtype) -> Option<Vec<T>> {
    fn each<const N: usize, T>(bytes: &[u8], f: impl Fn([u8; N]) -> T) -> Vec<T> {
        bytes.as_chunks::<N>().0.iter().map(|&b| f(b)).collect()
    }
    match dtype {
        Dtype::F16 => Some(each(bytes, |b| T::from_f32(f16::from_le_bytes(b).to_f32()))),
        Dtype::BF16 => Some(each(bytes, |b| T::from_f32(bf16::from_le_bytes(b).to_f32()))),
        Dtype::F32 => Some(each(bytes, |b| T::from_f32(f32::from_le_bytes(b)))),
        Dtype::F64 => Some(each(bytes, |b| T::from_f64(f64::from_le_bytes(b)))),
        _ => None,
    }
}
