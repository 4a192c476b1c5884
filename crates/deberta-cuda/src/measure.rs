//! What a device can do at best: one large product, beside which passes are measured.

use std::time::{Duration, Instant};

use crate::device::{Device, Gemm, Memory, Precision};
use crate::error::CudaError;

/// How long each of `repeat` products of two square matrices takes, after one that is not counted. The operands are not zero:
/// a GPU clocks higher on zeros.
///
/// # Errors
/// What the device cannot do.
pub fn product_times<D: Device>(
    device: &D,
    precision: Precision,
    side: usize,
    repeat: usize,
) -> Result<Vec<Duration>, CudaError> {
    let bytes = side * side * precision.bytes();
    let (x, weight, out) = (device.allocate(bytes)?, device.allocate(bytes)?, device.allocate(bytes)?);
    // Multiples of the golden ratio, modulo 1, less a half: spread as evenly as random numbers.
    let numbers = (0..1 << 16).map(|i| (i as f32 * 0.618_034).fract() - 0.5);
    let operand: Vec<u8> = precision.encode(numbers).into_iter().cycle().take(bytes).collect();
    for memory in [&x, &weight] {
        device.upload(memory, &operand)?;
    }
    let product = || {
        let begin = Instant::now();
        let [x, weight, out_matrix] = [&x, &weight, &out].map(|memory| memory.matrix(precision, side, side));
        device.gemm(&Gemm { precision, out: out_matrix, x, weight, bias: None })?;
        device.download(&out, &mut [0])?;
        Ok(begin.elapsed())
    };
    product()?;
    (0..repeat).map(|_| product()).collect()
}
