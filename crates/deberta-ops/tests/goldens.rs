//! Activations against PyTorch, over a grid that includes subnormal, huge, infinite and NaN arguments.

use deberta_ops::{Activation, Real};
use deberta_testkit::{TensorFile, fixtures};

/// Units in the last place, at the magnitude of the larger of result and argument: most of these functions are sums that
/// cancel (1 + erf x, 1 + tanh x) in PyTorch as here, so their error is that of the uncancelled terms.
const ULPS: f64 = 4.0;

fn check<T: Real>(file: &str, epsilon: f64) {
    let golden = TensorFile::read(&fixtures(file));
    let x = golden.float("x");
    let mut failures = Vec::new();
    for activation in Activation::ALL {
        let expected = golden.float(activation.name());
        for (&x, &expected) in x.iter().zip(expected) {
            let actual = activation.apply(T::of(x)).wide();
            // PyTorch's vectorized erf in f32 makes NaN of infinity, in whole vectors only; the limit is what is right.
            if x == f64::INFINITY && expected.is_nan() && T::NAME == f32::NAME {
                continue;
            }
            let same = actual == expected || (actual.is_nan() && expected.is_nan());
            let scale = x.abs().max(expected.abs()).max(1.0);
            if !same && !((actual - expected).abs() <= ULPS * epsilon * scale) {
                failures.push(format!("{}({x:e}) = {actual:e}, PyTorch {expected:e}", activation.name()));
            }
        }
    }
    assert!(failures.is_empty(), "{} values:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn activations_in_f64() {
    check::<f64>("hf/activations.f64.safetensors", f64::EPSILON);
}

#[test]
fn activations_in_f32() {
    check::<f32>("hf/activations.f32.safetensors", f32::EPSILON.into());
}
