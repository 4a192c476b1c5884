//! Layer norm with bias, residual and mask.

use deberta_cuda::ops::{Norm, Residual};
use deberta_cuda::{Ops, Precision};
use deberta_testkit::oracle::Rng;
use ndarray::{Array1, Array2};

use crate::emulator::EmulatedDevice;
use crate::support::{Checked, Held, Numbers, Out, close, everywhere, notices, round};

const EPS: f64 = 1e-7;

/// The definition, one row at a time.
pub fn oracle(sum: &Array2<f64>, gamma: &Array1<f64>, beta: &Array1<f64>) -> Array2<f64> {
    let mut out = sum.clone();
    for mut row in out.rows_mut() {
        let n = row.len() as f64;
        let mean = row.sum() / n;
        let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
        for (i, v) in row.iter_mut().enumerate() {
            *v = (*v - mean) / (variance + EPS).sqrt() * gamma[i] + beta[i];
        }
    }
    out
}

/// γ and β on the device and as `f32` has them.
pub struct Parameters {
    gamma: Numbers,
    beta: Numbers,
    pub gamma_values: Array1<f64>,
    pub beta_values: Array1<f64>,
}

impl Parameters {
    pub fn random(device: &EmulatedDevice, rng: &mut Rng, width: usize) -> Self {
        let mut vector = || rng.vector(width).mapv(|v| f64::from(v as f32));
        let (gamma, beta) = (vector() + 1.0, vector());
        Self {
            gamma: Numbers::floats(device, gamma.iter().copied()),
            beta: Numbers::floats(device, beta.iter().copied()),
            gamma_values: gamma.mapv(|v| f64::from(v as f32)),
            beta_values: beta,
        }
    }

    pub fn norm(&self) -> Norm<'_> {
        Norm { gamma: self.gamma.array(), beta: self.beta.array(), eps: EPS as f32 }
    }
}

fn check(ops: &Ops<'_, EmulatedDevice>, rng: &mut Rng, width: usize) -> Checked {
    let (device, precision, rows) = (ops.device, ops.precision, 5);
    let x = Held::random(device, precision, rng, rows, width);
    let residual = Held::random(device, precision, rng, 3, width);
    let named = [2, 0, 1, 1, 2];
    let rows_of_residual = Numbers::ints(device, named);
    let bias_values = rng.vector(width).mapv(|v| f64::from(v as f32));
    let bias = Numbers::floats(device, bias_values.iter().copied());
    let exists_values = [true, true, false, true, true];
    let exists = Numbers::flags(device, exists_values);
    let parameters = Parameters::random(device, rng, width);
    let out = Out::new(device, precision, rows, width);

    let residual_of = Residual { states: residual.matrix(), rows: Some(rows_of_residual.array()) };
    ops.layer_norm(
        &out.matrix(),
        &x.matrix(),
        Some(&bias.array()),
        Some(&residual_of),
        &parameters.norm(),
        Some(&exists.array()),
    )?;
    let sum = Array2::from_shape_fn((rows, width), |(i, j)| {
        x.values[[i, j]] + bias_values[j] + residual.values[[named[i] as usize, j]]
    });
    let mut expected = oracle(&sum, &parameters.gamma_values, &parameters.beta_values);
    expected.row_mut(2).fill(0.0);
    close("with everything", precision, &out.values(), &expected, 1.0)?;

    ops.layer_norm(&out.matrix(), &x.matrix(), None, None, &parameters.norm(), None)?;
    let expected = oracle(&x.values, &parameters.gamma_values, &parameters.beta_values);
    close("alone", precision, &out.values(), &expected, 1.0)
}

#[test]
fn equals_the_definition() {
    everywhere(|ops, rng| {
        for width in [1, 31, 130, 768, 1024] {
            check(ops, rng, width)?;
        }
        Ok(())
    });
}

#[test]
fn nan_in_a_masked_row_stays() {
    everywhere(|ops, rng| {
        let x = Held::new(ops.device, ops.precision, &Array2::from_elem((1, 7), f64::NAN));
        let exists = Numbers::flags(ops.device, [false]);
        let parameters = Parameters::random(ops.device, rng, 7);
        let out = Out::new(ops.device, ops.precision, 1, 7);
        ops.layer_norm(&out.matrix(), &x.matrix(), None, None, &parameters.norm(), Some(&exists.array()))?;
        assert!(out.values().iter().all(|v| v.is_nan()));
        Ok(())
    });
}

/// Ties, subnormal numbers, and what overflows: rounded as `half` rounds them. Of equal numbers nothing is left but β.
#[test]
fn results_are_rounded_to_nearest() {
    let halves = [1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0, 6e-8, 2.9e-8, 6.1e-5, -65519.0, 65520.0, -0.0];
    everywhere(|ops, rng| {
        let (device, precision) = (ops.device, ops.precision);
        let others = (0..248).map(|_| rng.unit() * 10f64.powf(rng.unit() * 8.0));
        let beta: Vec<f64> = halves.into_iter().chain(others).map(|v| f64::from(v as f32)).collect();
        let zeros = Held::new(device, precision, &Array2::zeros((1, beta.len())));
        let (gamma, shift) = (vec![1.0; beta.len()], beta.iter().copied());
        let (gamma, shift) = (Numbers::floats(device, gamma), Numbers::floats(device, shift));
        let norm = Norm { gamma: gamma.array(), beta: shift.array(), eps: EPS as f32 };
        let out = Out::new(device, precision, 1, beta.len());
        ops.layer_norm(&out.matrix(), &zeros.matrix(), None, None, &norm, None)?;
        let rounded: Vec<f64> = beta.iter().map(|&v| round(precision, v).1).collect();
        assert_eq!(out.values().into_raw_vec_and_offset().0, rounded);
        Ok(())
    });
}

#[test]
fn mistakes_are_noticed() {
    for (from, to) in [
        // Barriers.
        ("    x = warp_sum(x);\n    __syncthreads();", "    x = warp_sum(x);"),
        (
            "partial[threadIdx.x / WARP] = x;\n    __syncthreads();\n    float sum",
            "partial[threadIdx.x / WARP] = x;\n    float sum",
        ),
        // Indices.
        ("x + row * x_stride, first, width", "x + row * x_stride, 0, width"),
        ("load_floats(more, bias, first, width)", "load_floats(more, bias, 0, width)"),
        ("residual_rows ? residual_rows[row] : row", "row"),
        ("lanes = WARP / 2; lanes > 0; lanes /= 2) x +=", "lanes = WARP / 4; lanes > 0; lanes /= 2) x +="),
        // Scales.
        ("/ sqrtf(variance + eps)", "/ (variance + eps)"),
        ("partial) / width;\n    // 2.", "partial) / (width - 1);\n    // 2."),
    ] {
        notices(from, to, Precision::F32, |ops, rng| check(ops, rng, 130));
    }
}
