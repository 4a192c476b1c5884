//! out = x·weightᵀ + bias by a kernel of our own (`kernels/gemm.cu`), for a device without a library of products.

use crate::device::{Device, Gemm, Launch};
use crate::error::CudaError;
use crate::ops::{Ops, assert_shape, blocks, int, pointer, pointer_or_null};
use crate::source::{File, Module};

/// `GEMM_THREADS`, `TILE` and the size of `GemmShared` in `gemm.cu`.
const THREADS: u32 = 256;
const TILE: usize = 64;
const SHARED_BYTES: usize = 2 * 16 * (TILE + 1) * size_of::<f32>();

impl<D: Device> Ops<'_, D> {
    /// # Shapes
    /// See [`Gemm`].
    ///
    /// # Errors
    /// See [`CudaError`].
    pub fn gemm(&self, gemm: &Gemm<'_>) -> Result<(), CudaError> {
        let (rows, columns, depth) = (gemm.x.rows(), gemm.weight.rows(), gemm.x.columns());
        assert_shape("out", &gemm.out, rows, columns);
        assert_shape("weight", &gemm.weight, columns, depth);
        if let Some(bias) = &gemm.bias {
            assert_shape("bias", bias, 1, columns);
        }
        if rows == 0 || columns == 0 {
            return Ok(());
        }
        let arguments = [
            pointer(&gemm.out),
            pointer(&gemm.x),
            pointer(&gemm.weight),
            pointer_or_null(gemm.bias.as_ref()),
            int(rows),
            int(columns),
            int(depth),
            int(gemm.out.stride()),
            int(gemm.x.stride()),
            int(gemm.weight.stride()),
        ];
        self.device.launch(&Launch {
            module: Module { file: File::Gemm, precision: gemm.precision, head_size: 0 },
            kernel: "gemm",
            grid: [blocks(columns.div_ceil(TILE)), blocks(rows.div_ceil(TILE)), 1],
            block: [THREADS, 1, 1],
            shared_bytes: SHARED_BYTES,
            arguments: &arguments,
        })
    }
}
