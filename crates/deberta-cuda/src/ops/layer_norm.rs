//! out = LayerNorm(x + bias + residual) · exists (`kernels/layer_norm.cu`).

use crate::device::{Arg, Array, Device, Matrix};
use crate::error::CudaError;
use crate::ops::{Ops, array, array_or_null, assert_shape, int, pointer, pointer_or_null};
use crate::source::File;

/// The parameters of a layer norm, each \[E\], in `f32` in every precision.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'m> {
    /// The scale.
    pub gamma: Array<'m, f32>,
    /// The shift.
    pub beta: Array<'m, f32>,
    /// ε
    pub eps: f32,
}

/// What is added to the rows before their norm.
#[derive(Clone, Copy, Debug)]
pub struct Residual<'m> {
    /// [N, E], or fewer rows where `rows` names them.
    pub states: Matrix<'m>,
    /// Which row is added to each, \[N\]; `None`: the row of the same number.
    pub rows: Option<Array<'m, i32>>,
}

impl<D: Device> Ops<'_, D> {
    /// # Shapes
    /// `out` and `x` [N, E], which may be one matrix; `bias` \[E\]; `exists` \[N\].
    ///
    /// # Errors
    /// See [`CudaError`].
    pub fn layer_norm(
        &self,
        out: &Matrix<'_>,
        x: &Matrix<'_>,
        bias: Option<&Array<'_, f32>>,
        residual: Option<&Residual<'_>>,
        norm: &Norm<'_>,
        exists: Option<&Array<'_, u8>>,
    ) -> Result<(), CudaError> {
        let (rows, width) = (x.rows(), x.columns());
        assert_shape("out", out, rows, width);
        let named = residual.and_then(|r| r.rows.as_ref());
        if let Some(residual) = residual {
            let rows = if named.is_some() { residual.states.rows() } else { rows };
            assert_shape("residual", &residual.states, rows, width);
        }
        let arguments = [
            pointer(out),
            pointer(x),
            array_or_null("bias", bias, width),
            pointer_or_null(residual.map(|r| &r.states)),
            array_or_null("rows of the residual", named, rows),
            array("gamma", &norm.gamma, width),
            array("beta", &norm.beta, width),
            array_or_null("exists", exists, rows),
            int(x.stride()),
            int(residual.map_or(0, |r| r.states.stride())),
            int(out.stride()),
            int(width),
            Arg::Float(norm.eps),
        ];
        self.launch_rows(File::LayerNorm, "layer_norm", rows, Some(self.row_floats(width)), &arguments)
    }
}
