//! The convolution beside the first layer (`kernels/conv1d.cu`): neighbours side by side, a product for each group, and
//! LayerNorm(residual + act(exists·(y + bias))) · exists.

use deberta_ops::Activation;

use crate::device::{Arg, Array, Device, Matrix};
use crate::error::CudaError;
use crate::ops::activation::number;
use crate::ops::{Norm, Ops, array, array_or_null, assert_shape, int, pointer};
use crate::source::File;

/// What happens to the convolved rows.
#[derive(Clone, Copy, Debug)]
pub struct ConvNorm<'m> {
    /// \[E\]
    pub bias: Option<Array<'m, f32>>,
    /// Applied before the residual is added.
    pub activation: Activation,
    /// The output of layer 0, [N, E].
    pub residual: Matrix<'m>,
    /// The layer norm.
    pub norm: Norm<'m>,
    /// Which tokens exist, \[N\]; `None`: all.
    pub exists: Option<Array<'m, u8>>,
}

impl<D: Device> Ops<'_, D> {
    /// out[n, c·k + t] = x[n + t − ⌊k/2⌋, c], zero outside the sequence of n.
    ///
    /// # Shapes
    /// `out` [N, E·k], `x` [N, E], `row_sequence` \[N\], `cu_seqlens` \[B + 1\].
    ///
    /// # Errors
    /// See [`CudaError`].
    pub fn im2col(
        &self,
        out: &Matrix<'_>,
        x: &Matrix<'_>,
        row_sequence: &Array<'_, i32>,
        cu_seqlens: &Array<'_, i32>,
        kernel: usize,
    ) -> Result<(), CudaError> {
        let (rows, width) = (x.rows(), x.columns());
        assert_shape("out", out, rows, width * kernel);
        let arguments = [
            pointer(out),
            pointer(x),
            array("row_sequence", row_sequence, rows),
            Arg::Pointer(cu_seqlens.address()),
            int(x.stride()),
            int(out.stride()),
            int(width),
            int(kernel),
        ];
        self.launch_rows(File::Conv1d, "im2col", rows, None, &arguments)
    }

    /// # Shapes
    /// `out` and `convolved` [N, E].
    ///
    /// # Errors
    /// See [`CudaError`].
    pub fn conv_layer_norm(
        &self,
        out: &Matrix<'_>,
        convolved: &Matrix<'_>,
        conv: &ConvNorm<'_>,
    ) -> Result<(), CudaError> {
        let (rows, width) = (convolved.rows(), convolved.columns());
        assert_shape("out", out, rows, width);
        assert_shape("residual", &conv.residual, rows, width);
        let arguments = [
            pointer(out),
            pointer(convolved),
            array_or_null("bias", conv.bias.as_ref(), width),
            pointer(&conv.residual),
            array("gamma", &conv.norm.gamma, width),
            array("beta", &conv.norm.beta, width),
            array_or_null("exists", conv.exists.as_ref(), rows),
            number(conv.activation),
            int(convolved.stride()),
            int(conv.residual.stride()),
            int(out.stride()),
            int(width),
            Arg::Float(conv.norm.eps),
        ];
        self.launch_rows(File::Conv1d, "conv_layer_norm", rows, Some(self.row_floats(width)), &arguments)
    }
}
