//! What the forward pass asks of a device: memory, kernels, matrix products.
//!
//! There are two: a GPU, and, in the tests, an emulation that runs the same kernels on the CPU. Device memory is reached
//! through [`Matrix`] and [`Array`], which know their extent and cannot outlive the memory they lie in.

use std::marker::PhantomData;
use std::ops::Range;

use crate::error::CudaError;
use crate::source::Module;

/// The arithmetic of a model. Sums, softmax and norms are in `f32` in all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Products in `f32`, to the last digit.
    F32,
    /// Stored as `f32`, multiplied with 10 bits of mantissa by the tensor cores.
    Tf32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
}

impl Precision {
    /// Every precision, the most exact first.
    pub const ALL: [Self; 4] = [Self::F32, Self::Tf32, Self::F16, Self::Bf16];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    /// The size of an element in memory.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 | Self::Tf32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// A type that kernels take arrays of.
pub trait Element: Copy {}
impl Element for f32 {}
impl Element for i32 {}
impl Element for i64 {}
impl Element for u8 {}

/// A device that runs kernels in the order in which they are launched.
pub trait Device {
    /// Memory that is freed when dropped.
    type Memory: Memory;

    /// Kernels and products in their order, with the memory that they use besides what was there before.
    type Recording;

    /// Memory with undefined contents, aligned to 16 bytes at least.
    ///
    /// # Errors
    /// [`CudaError::Memory`].
    fn allocate(&self, bytes: usize) -> Result<Self::Memory, CudaError>;

    /// Copies to the beginning of `to`.
    ///
    /// # Errors
    /// [`CudaError::Memory`].
    fn upload(&self, to: &Self::Memory, bytes: &[u8]) -> Result<(), CudaError>;

    /// Waits for everything launched before, and copies from the beginning of `from`.
    ///
    /// # Errors
    /// [`CudaError::Memory`].
    fn download(&self, from: &Self::Memory, bytes: &mut [u8]) -> Result<(), CudaError>;

    /// Runs a kernel.
    ///
    /// # Errors
    /// [`CudaError::Compile`], [`CudaError::Launch`].
    fn launch(&self, launch: &Launch<'_>) -> Result<(), CudaError>;

    /// Multiplies matrices.
    ///
    /// # Errors
    /// [`CudaError::Launch`].
    fn gemm(&self, gemm: &Gemm<'_>) -> Result<(), CudaError>;

    /// Runs what `body` launches, then records it and returns what `body` made the second time, which replays compute anew.
    /// `body` launches the same both times, and moves nothing between host and device.
    ///
    /// # Errors
    /// What `body` could not do, and [`CudaError::Call`].
    fn record<T>(&self, body: impl FnMut() -> Result<T, CudaError>) -> Result<(Self::Recording, T), CudaError>;

    /// Runs what was recorded.
    ///
    /// # Errors
    /// As [`Self::launch`].
    fn replay(&self, recording: &Self::Recording) -> Result<(), CudaError>;

    /// How many bytes of shared memory a block may ask for.
    fn shared_memory_limit(&self) -> usize;

    /// Bytes of its memory that were taken: weights, and all that passes needed at once since [`Self::trim`].
    fn taken(&self) -> usize;

    /// Gives memory back that nothing lies in.
    fn trim(&self);
}

/// A device that several models share.
impl<D: Device> Device for &D {
    type Memory = D::Memory;
    type Recording = D::Recording;

    fn allocate(&self, bytes: usize) -> Result<Self::Memory, CudaError> {
        D::allocate(self, bytes)
    }

    fn upload(&self, to: &Self::Memory, bytes: &[u8]) -> Result<(), CudaError> {
        D::upload(self, to, bytes)
    }

    fn download(&self, from: &Self::Memory, bytes: &mut [u8]) -> Result<(), CudaError> {
        D::download(self, from, bytes)
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<(), CudaError> {
        D::launch(self, launch)
    }

    fn gemm(&self, gemm: &Gemm<'_>) -> Result<(), CudaError> {
        D::gemm(self, gemm)
    }

    fn record<T>(&self, body: impl FnMut() -> Result<T, CudaError>) -> Result<(Self::Recording, T), CudaError> {
        D::record(self, body)
    }

    fn replay(&self, recording: &Self::Recording) -> Result<(), CudaError> {
        D::replay(self, recording)
    }

    fn shared_memory_limit(&self) -> usize {
        D::shared_memory_limit(self)
    }

    fn taken(&self) -> usize {
        D::taken(self)
    }

    fn trim(&self) {
        D::trim(self);
    }
}

/// Memory on a device.
pub trait Memory {
    /// Where it begins.
    fn address(&self) -> u64;

    /// Its size.
    fn bytes(&self) -> usize;

    /// Its first `len` elements as an array.
    ///
    /// # Panics
    /// If it is too small.
    fn array<T: Element>(&self, len: usize) -> Array<'_, T> {
        assert!(len * size_of::<T>() <= self.bytes(), "{len} elements do not fit into {} bytes", self.bytes());
        Array { address: self.address(), len, memory: PhantomData }
    }

    /// Its first elements as a matrix.
    ///
    /// # Panics
    /// If it is too small.
    fn matrix(&self, precision: Precision, rows: usize, columns: usize) -> Matrix<'_> {
        let bytes = rows * columns * precision.bytes();
        assert!(bytes <= self.bytes(), "[{rows}, {columns}] does not fit into {} bytes", self.bytes());
        let address = self.address();
        Matrix { address, rows, columns, stride: columns, element: precision.bytes(), memory: PhantomData }
    }
}

/// An array in device memory.
#[derive(Clone, Copy, Debug)]
pub struct Array<'m, T> {
    address: u64,
    len: usize,
    memory: PhantomData<&'m T>,
}

impl<T: Element> Array<'_, T> {
    /// Where it begins.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// A matrix in device memory, of the model's precision: row i begins at element i·stride.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'m> {
    address: u64,
    rows: usize,
    columns: usize,
    stride: usize,
    element: usize,
    memory: PhantomData<&'m ()>,
}

impl Matrix<'_> {
    /// Where it begins.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The number of elements from one row to the next.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Some of the rows.
    ///
    /// # Panics
    /// If they are not there.
    pub fn row_range(&self, rows: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        let address = self.address + (rows.start * self.stride * self.element) as u64;
        Self { address, rows: rows.len(), ..*self }
    }

    /// Some of the columns.
    ///
    /// # Panics
    /// If they are not there.
    pub fn column_range(&self, columns: Range<usize>) -> Self {
        assert!(columns.start <= columns.end && columns.end <= self.columns, "columns {columns:?} of {}", self.columns);
        let address = self.address + (columns.start * self.element) as u64;
        Self { address, columns: columns.len(), ..*self }
    }
}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg {
    /// An address in device memory, or 0.
    Pointer(u64),
    /// `int`
    Int(i32),
    /// `float`
    Float(f32),
}

/// One run of a kernel.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// The file it stands in, and what it is compiled for.
    pub module: Module,
    /// Its name.
    pub kernel: &'static str,
    /// The number of blocks.
    pub grid: [u32; 3],
    /// The number of threads a block.
    pub block: [u32; 3],
    /// Dynamic shared memory a block.
    pub shared_bytes: usize,
    /// In the order of the kernel's parameters.
    pub arguments: &'a [Arg],
}

/// out = x·weightᵀ + bias, summed in `f32`.
///
/// # Shapes
/// `x` [M, K], `weight` [N, K] as checkpoints have it, `bias` [1, N], `out` [M, N].
#[derive(Clone, Copy, Debug)]
pub struct Gemm<'m> {
    /// Of all operands.
    pub precision: Precision,
    /// Where the product goes.
    pub out: Matrix<'m>,
    /// The rows.
    pub x: Matrix<'m>,
    /// The weight.
    pub weight: Matrix<'m>,
    /// A row that is added to every row.
    pub bias: Option<Matrix<'m>>,
}
