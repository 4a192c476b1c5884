//! Rows moved, and widened (`kernels/rows.cu`).

use crate::device::{Array, Device, Matrix};
use crate::error::CudaError;
use crate::ops::{Ops, array, int, pointer};
use crate::source::File;

impl<D: Device> Ops<'_, D> {
    /// Row n of `out` is row `rows[n]` of `x`, or zeros where that is negative.
    ///
    /// # Shapes
    /// `out` [M, E], `x` [N, E], `rows` \[M\].
    ///
    /// # Errors
    /// See [`CudaError`].
    pub fn gather_rows(&self, out: &Matrix<'_>, x: &Matrix<'_>, rows: &Array<'_, i32>) -> Result<(), CudaError> {
        assert_eq!(out.columns(), x.columns(), "the width of rows");
        let arguments = [
            pointer(out),
            pointer(x),
            array("rows", rows, out.rows()),
            int(x.stride()),
            int(out.stride()),
            int(out.columns()),
        ];
        self.launch_rows(File::Rows, "gather_rows", out.rows(), None, &arguments)
    }

    /// # Shapes
    /// `x` [N, E], `out` [N·E].
    ///
    /// # Errors
    /// See [`CudaError`].
    pub fn to_f32(&self, out: &Array<'_, f32>, x: &Matrix<'_>) -> Result<(), CudaError> {
        let out = array("out", out, x.rows() * x.columns());
        let arguments = [out, pointer(x), int(x.stride()), int(x.columns())];
        self.launch_rows(File::Rows, "to_f32", x.rows(), None, &arguments)
    }
}
