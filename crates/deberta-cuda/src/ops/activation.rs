//! x = act(x + bias), in place (`kernels/activation.cu`).

use deberta_ops::Activation;

use crate::device::{Array, Device, Launch, Matrix};
use crate::error::CudaError;
use crate::ops::{Ops, array_or_null, blocks, int, pointer};
use crate::source::{File, Module};

/// The threads of a block (`ACTIVATION_THREADS`), each of which takes 16 bytes of a row.
const THREADS: u32 = 128;

/// The most blocks in the second dimension of a grid.
const HEIGHT: usize = 65_535;

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
        if x.rows() * x.columns() == 0 || (bias.is_none() && activation == Activation::Linear) {
            return Ok(());
        }
        let width = THREADS as usize * 16 / self.precision.bytes();
        self.device.launch(&Launch {
            module: Module { file: File::Activation, precision: self.precision, head_size: 0 },
            kernel: "bias_activation",
            grid: [blocks(x.columns().div_ceil(width)), blocks(x.rows().min(HEIGHT)), 1],
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
