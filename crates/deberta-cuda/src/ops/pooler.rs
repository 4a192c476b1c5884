//! Pooling by attention from the first token, without parameters (`kernels/pooler.cu`).

use crate::device::{Arg, Array, Device, Matrix};
use crate::error::CudaError;
use crate::ops::{Ops, array_or_null, assert_shape, int, pointer};
use crate::source::File;

impl<D: Device> Ops<'_, D> {
    /// # Shapes
    /// `out` [B, E], `states` [N, E], `cu_seqlens` \[B + 1\], `exists` \[N\]; no sequence is longer than `max_length`.
    ///
    /// # Errors
    /// See [`CudaError`].
    pub fn pool_by_attention(
        &self,
        out: &Matrix<'_>,
        states: &Matrix<'_>,
        cu_seqlens: &Array<'_, i32>,
        exists: Option<&Array<'_, u8>>,
        max_length: usize,
    ) -> Result<(), CudaError> {
        let width = states.columns();
        assert_shape("out", out, cu_seqlens.len() - 1, width);
        let arguments = [
            pointer(out),
            pointer(states),
            Arg::Pointer(cu_seqlens.address()),
            array_or_null("exists", exists, states.rows()),
            int(states.stride()),
            int(out.stride()),
            int(width),
            int(max_length),
        ];
        self.launch_rows(File::Pooler, "pool_by_attention", out.rows(), Some(max_length), &arguments)
    }
}
