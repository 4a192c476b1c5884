//! Named tensors as a file or a program gives them: values stay in their dtype, and in the file, until they are needed.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};
use ndarray::{ArrayD, IxDyn};

use crate::VerifyError;

/// The dtypes that a dump may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Dtype {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

impl Dtype {
    /// Bytes a value takes.
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::Bf16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// Whether values are floating-point numbers.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::Bf16)
    }

    /// The unit roundoff: the largest relative error of rounding to this dtype. 0 for integers.
    pub fn unit_roundoff(self) -> f64 {
        match self {
            Self::F64 => 2f64.powi(-53),
            Self::F32 => 2f64.powi(-24),
            Self::F16 => 2f64.powi(-11),
            Self::Bf16 => 2f64.powi(-8),
            _ => 0.0,
        }
    }

    /// The absolute error that underflow can make: the smallest normal number where processors may flush to zero, twice
    /// the spacing of the subnormal ones in f16, where they do not. 0 for integers.
    pub fn underflow(self) -> f64 {
        match self {
            Self::F64 => f64::MIN_POSITIVE,
            Self::F32 | Self::Bf16 => f32::MIN_POSITIVE.into(),
            Self::F16 => 2f64.powi(-23),
            _ => 0.0,
        }
    }

    /// The dtype of the two with the greater unit roundoff.
    pub fn coarser(self, other: Self) -> Self {
        if other.unit_roundoff() > self.unit_roundoff() { other } else { self }
    }

    /// `x` rounded to this dtype; integers leave it as it is.
    pub fn round(self, x: f64) -> f64 {
        match self {
            Self::F32 => f64::from(x as f32),
            Self::F16 => f16::from_f64(x).to_f64(),
            Self::Bf16 => bf16::from_f64(x).to_f64(),
            _ => x,
        }
    }

    /// The number of representable values between `a` and `b`, each rounded to this dtype first.
    pub fn ulps(self, a: f64, b: f64) -> u64 {
        fn ordered(bits: i64, sign: i64) -> i64 {
            if bits & sign != 0 { -(bits & !sign) } else { bits }
        }
        let order = |x: f64| match self {
            Self::F32 => ordered((x as f32).to_bits().into(), 1 << 31),
            Self::F16 => ordered(f16::from_f64(x).to_bits().into(), 1 << 15),
            Self::Bf16 => ordered(bf16::from_f64(x).to_bits().into(), 1 << 15),
            _ => ordered(x.to_bits().cast_signed(), i64::MIN),
        };
        order(a).abs_diff(order(b))
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::I64 => "i64",
            Self::I32 => "i32",
            Self::I16 => "i16",
            Self::I8 => "i8",
            Self::U8 => "u8",
            Self::Bool => "bool",
        })
    }
}

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
        Self::owned(
            Dtype::F64,
            array.shape(),
            array.iter().map(|x| x.to_le_bytes()).collect::<Vec<_>>().into_flattened(),
        )
    }

    /// A copy of an `f32` array.
    pub fn from_f32(array: &ArrayD<f32>) -> Self {
        Self::owned(
            Dtype::F32,
            array.shape(),
            array.iter().map(|x| x.to_le_bytes()).collect::<Vec<_>>().into_flattened(),
        )
    }

    /// A copy of an `i64` array.
    pub fn from_i64(array: &ArrayD<i64>) -> Self {
        Self::owned(
            Dtype::I64,
            array.shape(),
            array.iter().map(|x| x.to_le_bytes()).collect::<Vec<_>>().into_flattened(),
        )
    }

    fn owned(dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Self {
        Self { dtype, shape: shape.to_vec(), range: 0..bytes.len(), keeper: Arc::new(bytes) }
    }

    /// Says that the values are not needed for now.
    pub fn release(&self) {
        self.keeper.release();
    }

    /// Whether `other` has the same shape and the same bits.
    fn is(&self, other: &Self) -> bool {
        self.dtype == other.dtype && self.shape == other.shape && self.data() == other.data()
    }

    /// The same for tensors of the same bits, and hardly ever for others.
    fn fingerprint(&self) -> u64 {
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
        let values: Vec<f64> = self.values().collect();
        ArrayD::from_shape_vec(IxDyn(&self.shape), values).unwrap_or_else(|_| ArrayD::zeros(IxDyn(&self.shape)))
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

/// Named tensors, with what the file says about itself.
#[derive(Clone, Debug, Default)]
pub struct Dump {
    /// Where the tensors came from, for messages: a file name, or a few words.
    pub source: String,
    /// What its reader has to say, for the notes of a comparison.
    pub notes: Vec<String>,
    tensors: BTreeMap<String, Tensor>,
    metadata: BTreeMap<String, String>,
    origins: BTreeMap<String, Origin>,
    /// Tensors by their fingerprint.
    prints: HashMap<u64, Vec<Tensor>>,
}

/// Where a tensor that is compared under another name has it from.
#[derive(Clone, Debug, PartialEq)]
pub struct Origin {
    /// Its name in the file.
    pub name: String,
    /// Where the name was guessed: the cosine of the angle between its values and the expected ones.
    pub guess: Option<f64>,
}

impl Dump {
    /// An empty dump; `source` says in messages where its tensors came from.
    pub fn new(source: impl Into<String>) -> Self {
        Self { source: source.into(), ..Self::default() }
    }

    /// Adds a tensor, in the place of one of the same name.
    pub fn insert(&mut self, name: impl Into<String>, tensor: Tensor) {
        self.tensors.insert(name.into(), tensor);
    }

    /// Adds a tensor; of those that were added in this way, ones of the same bits are kept once, where `keep` puts them. A model
    /// hands out many under two names, such as a layer norm and the dropout behind it.
    pub fn insert_once(&mut self, name: impl Into<String>, tensor: Tensor, keep: impl FnOnce(Tensor) -> Tensor) {
        let alike = self.prints.entry(tensor.fingerprint()).or_default();
        let kept = alike.iter().find(|kept| kept.is(&tensor)).cloned();
        let kept = kept.unwrap_or_else(|| {
            let kept = keep(tensor);
            alike.push(kept.clone());
            kept
        });
        kept.release();
        self.insert(name, kept);
    }

    /// Takes a tensor out.
    pub fn remove(&mut self, name: &str) -> Option<Tensor> {
        self.tensors.remove(name)
    }

    /// Puts another tensor in the place of one, which keeps its name and where it has that from.
    pub(crate) fn replace(&mut self, name: &str, tensor: Tensor) {
        self.tensors.insert(name.to_owned(), tensor);
    }

    /// Gives a tensor another name, in the place of one that has it; what it was called is kept.
    pub fn rename(&mut self, from: &str, to: &str, guess: Option<f64>) {
        if let Some(tensor) = self.tensors.remove(from) {
            let name = self.origins.remove(from).map_or_else(|| from.to_owned(), |origin| origin.name);
            self.origins.insert(to.to_owned(), Origin { name, guess });
            self.tensors.insert(to.to_owned(), tensor);
        }
    }

    /// Gives many tensors new names at once, so that names may be exchanged.
    pub fn rename_all<'n>(&mut self, names: impl Iterator<Item = (&'n str, &'n str)>) {
        let taken: Vec<_> = names.filter_map(|(from, to)| Some((from, to, self.tensors.remove(from)?))).collect();
        for (from, to, tensor) in taken {
            self.origins.insert(to.to_owned(), Origin { name: from.to_owned(), guess: None });
            self.tensors.insert(to.to_owned(), tensor);
        }
    }

    /// What a tensor was called before it was renamed.
    pub fn origin(&self, name: &str) -> Option<&Origin> {
        self.origins.get(name)
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// Names and tensors, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// What the file says about itself: key and value. `config` holds the model's `config.json` where the dump's writer
    /// put it there.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Sets a metadata entry.
    pub fn set_metadata(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.metadata.insert(key.into(), value.into());
    }
}
