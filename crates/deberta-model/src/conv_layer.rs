//! The convolution beside the first layer, nGiE: n-gram induced input encoding (`ConvLayer`).
//!
//! ```text
//! y = LayerNorm(x₁ + act(mask(conv(x₀)))) · mask
//! ```
//!
//! x₀ is the embedding output and x₁ the output of layer 0. Masked positions are zeroed between convolution and
//! activation, so an activation with act(0) ≠ 0 reaches them.

use deberta_ops::{Activation, Real, conv1d, narrow, wide};
use ndarray::{Array2, ArrayView2, Axis, CowArray, Ix1, Ix3, s};

use crate::config::DebertaV2Config;
use crate::embeddings::emit_wide;
use crate::inputs::Batch;
use crate::trace::Trace;
use crate::weights::{LayerNorm, Weights};

pub(crate) struct ConvLayer<'w, T: Clone> {
    weight: CowArray<'w, T, Ix3>,
    bias: CowArray<'w, T, Ix1>,
    groups: usize,
    activation: Activation,
    layer_norm: LayerNorm<'w, T>,
}

impl<'w, T: Real> ConvLayer<'w, T> {
    pub(crate) fn new(config: &DebertaV2Config, weights: &mut Weights<'w, T>) -> Option<Self> {
        let at = "deberta.encoder.conv";
        (config.conv_kernel_size > 0).then(|| Self {
            weight: weights.take(&format!("{at}.conv.weight")),
            bias: weights.take(&format!("{at}.conv.bias")),
            groups: config.conv_groups,
            activation: config.conv_act,
            layer_norm: weights.layer_norm(&format!("{at}.LayerNorm"), config.layer_norm_eps),
        })
    }

    /// # Shapes
    /// `embeddings` (x₀) and `layer_output` (x₁) [B·L, E]; returns [B·L, E].
    pub(crate) fn forward(
        &self,
        embeddings: ArrayView2<'_, T>,
        layer_output: Array2<T>,
        batch: &Batch<T>,
        trace: &mut Trace<'_, T>,
    ) -> Array2<T> {
        trace.within("conv", |trace| {
            // 1. Convolve each sequence by itself.
            let mut out = Array2::<f64>::zeros(embeddings.raw_dim()); // [B·L, E]
            for sequence in &batch.sequences {
                let rows = s![sequence.clone(), ..];
                let convolved = conv1d(embeddings.slice(rows), self.weight.view(), self.bias.view(), self.groups);
                out.slice_mut(rows).assign(&convolved);
            }
            emit_channels_first(&out, batch, trace);
            // 2. Zero what does not exist, then activate.
            for (mut row, &exists) in out.axis_iter_mut(Axis(0)).zip(batch.mask.tokens()) {
                if !exists {
                    row.fill(0.0);
                }
            }
            emit_wide(trace, "dropout", &out, batch.size);
            self.activation.apply_inplace(&mut out);
            // 3. Add the layer's output, normalize, mask.
            out += &wide(&layer_output);
            let mut out = self.layer_norm.forward(out.view());
            batch.emit(trace, "LayerNorm", &out);
            batch.mask_rows(&mut out);
            batch.emit(trace, "", &out);
            out
        })
    }
}

/// PyTorch's convolution returns [B, E, L].
fn emit_channels_first<T: Real>(out: &Array2<f64>, batch: &Batch<T>, trace: &mut Trace<'_, T>) {
    if trace.wants("conv") {
        let shape = (batch.size, batch.length, out.ncols());
        let tokens = narrow(out).into_shape_with_order(shape).expect("rows are contiguous");
        trace.emit("conv", tokens.view().permuted_axes([0, 2, 1]));
    }
}
