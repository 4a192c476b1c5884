//! Tensors as a file or a program gives them: values stay in their dtype, and in the file, until they are needed.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};
use ndarray::{ArrayD, ArrayView, Dimension, IxDyn};

use crate::VerifyError;
use crate::dtype::Dtype;

/// Whoever keeps the bytes of a tensor: a mapped file, a vector, a reader of some other format.
pub trait Keep: Send + Sync {
    /// The bytes, the same every time.
    fn bytes(&self) -> &[u8];

    /// Says that they are not needed for now: what is mapped may leave the memory.
    fn release(&self) {}
}

impl Keep for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// A tensor: its shape, its dtype, and its values in little-endian bytes, mapped or owned. Cheap to clone.
#[derive(Clone)]
pub struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    keeper: Arc<dyn Keep>,
    /// Where in the keeper's bytes its own are.
    range: Range<usize>,
}

impl Tensor {
    /// A tensor of `dtype` over bytes that are little-endian and in row-major order. `name` is for the error, which says
    /// that shape and number of bytes disagree.
    pub fn from_bytes(name: &str, dtype: Dtype, shape: Vec<usize>, bytes: Vec<u8>) -> Result<Self, VerifyError> {
        let range = 0..bytes.len();
        Self::kept(name, dtype, shape, Arc::new(bytes), range)
    }

    /// The same over a part of somebody else's bytes, which stay where they are.
    ///
    /// # Errors
    /// Shape and number of bytes disagree, or the range lies outside.
    pub fn kept(
        name: &str,
        dtype: Dtype,
        shape: Vec<usize>,
        keeper: Arc<dyn Keep>,
        range: Range<usize>,
    ) -> Result<Self, VerifyError> {
        let within = keeper.bytes().get(range.clone()).map_or(0, <[u8]>::len);
        check_length(name, dtype, &shape, within)?;
        Ok(Self { dtype, shape, keeper, range })
    }

    /// A copy of an `f64` array.
    pub fn from_f64(array: &ArrayD<f64>) -> Self {
        Self::map_f64(&array.view(), |x| *x)
    }

    /// A copy of an `f32` array.
    pub fn from_f32(array: &ArrayD<f32>) -> Self {
        Self::map_f32(&array.view(), |x| *x)
    }

    /// A copy of an `i64` array.
    pub fn from_i64(array: &ArrayD<i64>) -> Self {
        Self::owned(Dtype::I64, &array.view(), |x| x.to_le_bytes())
    }

    /// What `of` makes of each number of an array, in `f64`.
    pub fn map_f64<T, D: Dimension>(array: &ArrayView<'_, T, D>, of: impl Fn(&T) -> f64) -> Self {
        Self::owned(Dtype::F64, array, |x| of(x).to_le_bytes())
    }

    /// The same in `f32`.
    pub fn map_f32<T, D: Dimension>(array: &ArrayView<'_, T, D>, of: impl Fn(&T) -> f32) -> Self {
        Self::owned(Dtype::F32, array, |x| of(x).to_le_bytes())
    }

    fn owned<T, D: Dimension, const N: usize>(
        dtype: Dtype,
        array: &ArrayView<'_, T, D>,
        bytes: impl Fn(&T) -> [u8; N],
    ) -> Self {
        let data: Vec<[u8; N]> = match array.as_slice() {
            Some(values) => values.iter().map(bytes).collect(),
            None => array.iter().map(bytes).collect(),
        };
        let data = data.into_flattened();
        Self { dtype, shape: array.shape().to_vec(), range: 0..data.len(), keeper: Arc::new(data) }
    }

    /// Says that the values are not needed for now.
    pub fn release(&self) {
        self.keeper.release();
    }

    /// Whether `other` has the same shape and the same bits.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.dtype == other.dtype && self.shape == other.shape && self.data() == other.data()
    }

    /// The same for tensors of the same bits, and hardly ever for others.
    pub(crate) fn fingerprint(&self) -> u64 {
        let data = self.data();
        let step = (data.len() / SAMPLES).max(1);
        let mut hasher = DefaultHasher::new();
        (&self.shape, data.len()).hash(&mut hasher);
        data.iter().step_by(step | 1).for_each(|byte| byte.hash(&mut hasher));
        hasher.finish()
    }

    /// The dtype that the values are stored in.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The sizes of the axes.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn data(&self) -> &[u8] {
        self.keeper.bytes().get(self.range.clone()).unwrap_or_default()
    }

    /// The values in row-major order, widened to `f64`. Exact for every float dtype and for integers below 2^53.
    pub fn values(&self) -> impl Iterator<Item = f64> + '_ {
        let data = self.data();
        let dtype = self.dtype;
        data.chunks_exact(dtype.size()).map(move |c| widen(dtype, c))
    }

    /// The same, all at once.
    pub(crate) fn widened(&self) -> Vec<f64> {
        // What most tensors are, without a look at the dtype for each number.
        match self.dtype {
            Dtype::F32 => self.data().as_chunks().0.iter().map(|&c| f32::from_le_bytes(c).into()).collect(),
            Dtype::F64 => self.data().as_chunks().0.iter().map(|&c| f64::from_le_bytes(c)).collect(),
            _ => self.values().collect(),
        }
    }

    /// The value at place `k` of the row-major order, widened to `f64`; NaN beyond the end.
    pub fn value(&self, k: usize) -> f64 {
        let size = self.dtype.size();
        let bytes = k.checked_mul(size).and_then(|start| self.data().get(start..start.checked_add(size)?));
        bytes.map_or(f64::NAN, |bytes| widen(self.dtype, bytes))
    }

    /// The values of an integer or boolean tensor; `None` for one of floating-point numbers.
    pub fn integers(&self) -> Option<Vec<i64>> {
        let each = |c: &[u8]| match (self.dtype, c) {
            (Dtype::I64, &[a, b, c, d, e, f, g, h]) => i64::from_le_bytes([a, b, c, d, e, f, g, h]),
            // The others fit in an f64.
            _ => widen(self.dtype, c) as i64,
        };
        (!self.dtype.is_float()).then(|| self.data().chunks_exact(self.dtype.size()).map(each).collect())
    }

    /// The same values in another order: place `k` of the result is place `from(k)` of this one.
    pub(crate) fn reordered(&self, shape: Vec<usize>, from: impl Iterator<Item = usize>) -> Self {
        let size = self.dtype.size();
        let data = self.data();
        let bytes: Vec<u8> = from.flat_map(|k| data[k * size..(k + 1) * size].iter().copied()).collect();
        Self { dtype: self.dtype, shape, range: 0..bytes.len(), keeper: Arc::new(bytes) }
    }

    /// The values as an `f64` array.
    pub fn to_f64(&self) -> ArrayD<f64> {
        ArrayD::from_shape_vec(IxDyn(&self.shape), self.widened()).unwrap_or_else(|_| ArrayD::zeros(IxDyn(&self.shape)))
    }

    /// The values of some entries of the first axis, as an `f64` array.
    pub(crate) fn items(&self, items: &[usize]) -> ArrayD<f64> {
        let each = self.len() / self.shape.first().copied().unwrap_or(1).max(1);
        let size = self.dtype.size();
        let data = self.data();
        let one = |&at: &usize| data[at * each * size..(at + 1) * each * size].chunks_exact(size);
        let values: Vec<f64> = items.iter().flat_map(one).map(|c| widen(self.dtype, c)).collect();
        let shape = [&[items.len()], &self.shape[1..]].concat();
        ArrayD::from_shape_vec(IxDyn(&shape), values).unwrap_or_else(|_| ArrayD::zeros(IxDyn(&shape)))
    }

    /// The values as little-endian bytes in row-major order.
    pub fn to_bytes(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.data())
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({} {:?})", self.dtype, self.shape)
    }
}

/// How many bytes a fingerprint is made of.
const SAMPLES: usize = 4096;

fn widen(dtype: Dtype, c: &[u8]) -> f64 {
    match (dtype, c) {
        (Dtype::F64, &[a, b, c, d, e, f, g, h]) => f64::from_le_bytes([a, b, c, d, e, f, g, h]),
        (Dtype::I64, &[a, b, c, d, e, f, g, h]) => i64::from_le_bytes([a, b, c, d, e, f, g, h]) as f64,
        (Dtype::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]).into(),
        (Dtype::I32, &[a, b, c, d]) => i32::from_le_bytes([a, b, c, d]).into(),
        (Dtype::F16, &[a, b]) => f16::from_le_bytes([a, b]).to_f64(),
        (Dtype::Bf16, &[a, b]) => bf16::from_le_bytes([a, b]).to_f64(),
        (Dtype::I16, &[a, b]) => i16::from_le_bytes([a, b]).into(),
        (Dtype::I8, &[a]) => i8::from_le_bytes([a]).into(),
        (Dtype::U8 | Dtype::Bool, &[a]) => a.into(),
        _ => f64::NAN,
    }
}

fn check_length(name: &str, dtype: Dtype, shape: &[usize], bytes: usize) -> Result<(), VerifyError> {
    let wanted = shape.iter().try_fold(dtype.size(), |n, &s| n.checked_mul(s));
    if wanted != Some(bytes) {
        return Err(VerifyError::Length {
            tensor: name.to_owned(),
            shape: shape.to_vec(),
            found: bytes / dtype.size(),
        });
    }
    Ok(())
}
