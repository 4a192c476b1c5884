//! x = act(x + bias), in place (`kernels/activation.cu`).

use deberta_ops::Activation;

use crate::device::{Array, Device, Launch, Matrix};
use crate::error::CudaError;
use crate::ops::{Ops, array_or_null, int, pointer};
use crate::source::{File, Module};

/// The threads of a block (`ACTIVATION_THREADS`).
const THREADS: u32 = 256;

/// More blocks than run at once on any GPU gain nothing: each thread takes more elements.
const BLOCKS: usize = 8192;

impl<D: Device> Ops<'_, D> {
    /// # Shapes
    /// `x` [N, I], `bias` \[I\].
    ///
    /// # Errors
    /// See [`CudaError`].
    pub fn bias_activation(
        &self,
        x: &Matrix<'_>,
        bias: Option<&Array<'_, f32>>,
        activation: Activation,
    ) -> Result<(), CudaError> {
        let count = x.rows() * x.columns();
        if count == 0 || (bias.is_none() && activation == Activation::Linear) {
            return Ok(());
        }
        let blocks = count.div_ceil(THREADS as usize).min(BLOCKS);
        self.device.launch(&Launch {
            module: Module { file: File::Activation, precision: self.precision, head_size: 0 },
            kernel: "bias_activation",
            grid: [blocks as u32, 1, 1],
            block: [THREADS, 1, 1],
            shared_bytes: 0,
            arguments: &[
                pointer(x),
                array_or_null("bias", bias, x.columns()),
                number(activation),
                int(x.rows()),
                int(x.columns()),
                int(x.stride()),
            ],
        })
    }
}

/// An activation as the kernels know it.
pub(super) fn number(activation: Activation) -> crate::device::Arg {
    int(Activation::ALL.iter().position(|&a| a == activation).expect("every activation is in the list of all"))
}
