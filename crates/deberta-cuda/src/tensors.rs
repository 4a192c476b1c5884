//! Matrices and lists that own their memory on a device, and the way there and back.

use std::marker::PhantomData;

use half::{bf16, f16};
use ndarray::{Array2, ArrayView2};

use crate::device::{Array, Device, Element, Matrix, Memory, Precision};
use crate::error::CudaError;
use crate::ops::Ops;

/// A matrix in the storage type of a precision.
pub(crate) struct Rows<M> {
    memory: M,
    precision: Precision,
    count: usize,
    width: usize,
}

impl<M: Memory> Rows<M> {
    /// Space for [count, width].
    pub(crate) fn new<D: Device<Memory = M>>(ops: Ops<'_, D>, count: usize, width: usize) -> Result<Self, CudaError> {
        let memory = ops.device.allocate(count * width * ops.precision.bytes())?;
        Ok(Self { memory, precision: ops.precision, count, width })
    }

    /// A copy of rows of the host, rounded to the storage type.
    pub(crate) fn upload<D: Device<Memory = M>>(ops: Ops<'_, D>, rows: ArrayView2<'_, f32>) -> Result<Self, CudaError> {
        let own = Self::new(ops, rows.nrows(), rows.ncols())?;
        own.write(ops, rows)?;
        Ok(own)
    }

    /// Overwrites all rows.
    pub(crate) fn write<D: Device<Memory = M>>(
        &self,
        ops: Ops<'_, D>,
        rows: ArrayView2<'_, f32>,
    ) -> Result<(), CudaError> {
        assert_eq!((rows.nrows(), rows.ncols()), (self.count, self.width), "a row for each row");
        ops.device.upload(&self.memory, &self.precision.encode(rows.iter().copied()))
    }

    /// The rows, widened.
    pub(crate) fn download<D: Device<Memory = M>>(&self, ops: Ops<'_, D>) -> Result<Array2<f32>, CudaError> {
        let mut bytes = vec![0; self.count * self.width * self.precision.bytes()];
        ops.device.download(&self.memory, &mut bytes)?;
        let values = self.precision.decode(&bytes);
        Ok(Array2::from_shape_vec((self.count, self.width), values).expect("as many values as were asked for"))
    }

    /// Waits until they are computed.
    pub(crate) fn wait<D: Device<Memory = M>>(&self, ops: Ops<'_, D>) -> Result<(), CudaError> {
        ops.device.download(&self.memory, &mut [0])
    }

    /// All of it.
    pub(crate) fn view(&self) -> Matrix<'_> {
        self.memory.matrix(self.precision, self.count, self.width)
    }

    /// The number of rows.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// The number of columns.
    pub(crate) fn width(&self) -> usize {
        self.width
    }
}

/// A list of numbers of one type.
pub(crate) struct List<M, T> {
    memory: M,
    len: usize,
    element: PhantomData<T>,
}

impl<M: Memory, T: Element + bytemuck::Pod> List<M, T> {
    /// Space for `len` numbers.
    pub(crate) fn new<D: Device<Memory = M>>(device: &D, len: usize) -> Result<Self, CudaError> {
        Ok(Self { memory: device.allocate(len * size_of::<T>())?, len, element: PhantomData })
    }

    /// A copy of a list of the host.
    pub(crate) fn upload<D: Device<Memory = M>>(device: &D, values: &[T]) -> Result<Self, CudaError> {
        let own = Self::new(device, values.len())?;
        device.upload(&own.memory, bytemuck::cast_slice(values))?;
        Ok(own)
    }

    /// Overwrites all numbers.
    pub(crate) fn write<D: Device<Memory = M>>(&self, device: &D, values: &[T]) -> Result<(), CudaError> {
        assert_eq!(values.len(), self.len, "a number for each number");
        device.upload(&self.memory, bytemuck::cast_slice(values))
    }

    /// The numbers.
    pub(crate) fn download<D: Device<Memory = M>>(&self, device: &D) -> Result<Vec<T>, CudaError> {
        let mut values = vec![T::zeroed(); self.len];
        device.download(&self.memory, bytemuck::cast_slice_mut(&mut values))?;
        Ok(values)
    }

    /// All of it.
    pub(crate) fn view(&self) -> Array<'_, T> {
        self.memory.array(self.len)
    }
}

impl Precision {
    /// Numbers in the storage type, rounded to nearest.
    pub fn encode(self, values: impl Iterator<Item = f32>) -> Vec<u8> {
        match self {
            Self::F32 | Self::Tf32 => values.flat_map(f32::to_le_bytes).collect(),
            Self::F16 => values.flat_map(|v| f16::from_f32(v).to_le_bytes()).collect(),
            Self::Bf16 => values.flat_map(|v| bf16::from_f32(v).to_le_bytes()).collect(),
        }
    }

    /// Numbers of the storage type, widened.
    pub fn decode(self, bytes: &[u8]) -> Vec<f32> {
        let pairs = || bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
        match self {
            Self::F32 | Self::Tf32 => {
                bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
            }
            Self::F16 => pairs().map(|b| f16::from_le_bytes(b).to_f32()).collect(),
            Self::Bf16 => pairs().map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
        }
    }
}
