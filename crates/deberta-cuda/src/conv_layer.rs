//! The convolution beside the first layer: the rows that a tap can reach laid beside one another, one product a group,
//! and one kernel for mask, activation, residual and layer norm.

use deberta_model::{DebertaV2Config, Trace};
use deberta_ops::Activation;

use crate::device::{Device, Gemm, Matrix, Memory};
use crate::error::CudaError;
use crate::ops::ConvNorm;
use crate::pass::Pass;
use crate::tensors::{List, Rows};
use crate::weights::{LayerNorm, Loader};

pub(crate) struct ConvLayer<M> {
    /// [E, E / groups · k]
    kernel: Rows<M>,
    bias: List<M, f32>,
    taps: usize,
    groups: usize,
    activation: Activation,
    layer_norm: LayerNorm<M>,
}

impl<M: Memory> ConvLayer<M> {
    pub(crate) fn new<D: Device<Memory = M>>(
        config: &DebertaV2Config,
        loader: &mut Loader<'_, '_, D>,
    ) -> Result<Option<Self>, CudaError> {
        if config.conv_kernel_size == 0 {
            return Ok(None);
        }
        let at = "deberta.encoder.conv";
        Ok(Some(Self {
            kernel: loader.kernel(&format!("{at}.conv.weight"))?,
            bias: loader.vector(&format!("{at}.conv.bias"))?,
            taps: config.conv_kernel_size,
            groups: config.conv_groups,
            activation: config.conv_act,
            layer_norm: loader.layer_norm(&format!("{at}.LayerNorm"))?,
        }))
    }

    /// # Shapes
    /// `embeddings` and `layer_output` [N, E]; returns [N, E].
    pub(crate) fn forward<D: Device<Memory = M>>(
        &self,
        embeddings: Matrix<'_>,
        layer_output: Matrix<'_>,
        pass: &Pass<'_, D>,
        trace: &mut Trace<'_, f32>,
    ) -> Result<Rows<M>, CudaError> {
        let (ops, staged) = (pass.ops, pass.staged);
        let (count, width) = (embeddings.rows(), embeddings.columns());
        // 1. Convolve each sequence by itself.
        let reached = Rows::new(ops, count, width * self.taps)?; // [N, E·k]
        ops.im2col(&reached.view(), &embeddings, &staged.sequences.view(), &staged.starts.view(), self.taps)?;
        let convolved = Rows::new(ops, count, width)?;
        let (outputs, inputs) = (width / self.groups, width / self.groups * self.taps);
        for group in 0..self.groups {
            let own = group * outputs..(group + 1) * outputs;
            ops.device.gemm(&Gemm {
                precision: ops.precision,
                out: convolved.view().column_range(own.clone()),
                x: reached.view().column_range(group * inputs..(group + 1) * inputs),
                weight: self.kernel.view().row_range(own),
                bias: None,
            })?;
        }
        // 2. Zero what does not exist, activate, add the layer's output, normalize, mask.
        let out = Rows::new(ops, count, width)?;
        let finish = ConvNorm {
            bias: Some(self.bias.view()),
            activation: self.activation,
            residual: layer_output,
            norm: self.layer_norm.view(),
            exists: pass.exists(),
        };
        ops.conv_layer_norm(&out.view(), &convolved.view(), &finish)?;
        pass.emit(trace, "conv", &out)?;
        Ok(out)
    }
}
