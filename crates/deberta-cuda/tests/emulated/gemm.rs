//! The product for machines without a library.

use deberta_cuda::{Gemm, Ops, Precision};
use deberta_testkit::oracle::Rng;

use crate::emulator::EmulatedDevice;
use crate::support::{Checked, Held, Out, close, everywhere, notices};

/// Slices of wider matrices, so that every stride is another than the width.
fn check(ops: &Ops<'_, EmulatedDevice>, rng: &mut Rng, (m, n, k): (usize, usize, usize)) -> Checked {
    let (device, precision) = (ops.device, ops.precision);
    let x = Held::random(device, precision, rng, m, k + 3);
    let weight = Held::random(device, precision, rng, n, k + 1);
    let bias = Held::random(device, precision, rng, 1, n);
    let x_values = x.values.slice(ndarray::s![.., 2..k + 2]);
    let product = x_values.dot(&weight.values.slice(ndarray::s![.., ..k]).t());
    for biased in [false, true] {
        let out = Out::new(device, precision, m, n);
        ops.gemm(&Gemm {
            precision,
            out: out.matrix(),
            x: x.matrix().column_range(2..k + 2),
            weight: weight.matrix().column_range(0..k),
            bias: biased.then(|| bias.matrix()),
        })?;
        let expected = if biased { &product + &bias.values } else { product.clone() };
        close("product", precision, &out.values(), &expected, (k as f64).sqrt())?;
    }
    Ok(())
}

#[test]
fn equals_the_definition() {
    everywhere(|ops, rng| {
        for shape in [(1, 1, 1), (3, 67, 5), (65, 2, 18)] {
            check(ops, rng, shape)?;
        }
        Ok(())
    });
}

#[test]
fn mistakes_are_noticed() {
    for (from, to) in [
        ("weight_stride, column, depth);\n        __syncthreads();", "weight_stride, column, depth);"),
        ("[c + j * SIDE];\n        __syncthreads();", "[c + j * SIDE];"),
        ("first + row < rows && ", ""),
        ("&& column + k < depth", ""),
        ("to_float(bias[column])", "to_float(bias[c])"),
        ("i64(row) * out_stride + column", "i64(row) * columns + column + 1"),
        ("column += DEPTH", "column += 2 * DEPTH"),
    ] {
        notices(from, to, Precision::F32, |ops, rng| check(ops, rng, (66, 67, 18)));
    }
}
