//! The activation functions that Hugging Face's names stand for (`ACT2FN` in transformers' `activations.py`).
//!
//! | name | f(x) |
//! |---|---|
//! | `gelu`, `gelu_python` | x·Φ(x) = x/2 · (1 + erf(x/√2)) |
//! | `gelu_new`, `gelu_accurate`, `gelu_python_tanh`, `gelu_pytorch_tanh` | x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³))) |
//! | `gelu_fast` | the same, with √(2/π) rounded to 0.7978845608 |
//! | `gelu_10` | `gelu` clipped to \[−10, 10\] |
//! | `quick_gelu` | x·σ(1.702·x) |
//! | `silu`, `swish` | x·σ(x) |
//! | `mish` | x·tanh(ln(1 + eˣ)) |
//! | `hardswish` | x·min(max(x + 3, 0), 6)/6 |
//! | `laplace` | (1 + erf((x − 0.707107)/(0.282095·√2)))/2 |
//! | `leaky_relu` | x, or x/100 below zero |
//! | `relu`, `relu2`, `relu6` | max(x, 0), its square, min(max(x, 0), 6) |
//! | `sqrtsoftplus` | √(ln(1 + eˣ)) |
//! | `sigmoid`, `tanh`, `linear` | as named |
//!
//! `prelu` and `xielu` hold parameters of their own, which no DeBERTa checkpoint has; they are refused by name.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, SQRT_2};

use ndarray::{ArrayBase, DataMut, Dimension};

use crate::Real;

/// An activation function, under the name a configuration gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the variants are Hugging Face's names; the module's table defines them")]
pub enum Activation {
    Gelu,
    GeluPython,
    Gelu10,
    GeluFast,
    GeluNew,
    GeluPytorchTanh,
    GeluPythonTanh,
    GeluAccurate,
    HardSwish,
    Laplace,
    LeakyRelu,
    Linear,
    Mish,
    QuickGelu,
    Relu,
    Relu2,
    Relu6,
    Sigmoid,
    Silu,
    SqrtSoftplus,
    Swish,
    Tanh,
}

impl Activation {
    /// Every activation, in the order of its name.
    pub const ALL: [Self; 22] = [
        Self::Gelu,
        Self::Gelu10,
        Self::GeluAccurate,
        Self::GeluFast,
        Self::GeluNew,
        Self::GeluPython,
        Self::GeluPythonTanh,
        Self::GeluPytorchTanh,
        Self::HardSwish,
        Self::Laplace,
        Self::LeakyRelu,
        Self::Linear,
        Self::Mish,
        Self::QuickGelu,
        Self::Relu,
        Self::Relu2,
        Self::Relu6,
        Self::Sigmoid,
        Self::Silu,
        Self::SqrtSoftplus,
        Self::Swish,
        Self::Tanh,
    ];

    /// The activation of that name, or `None`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.name() == name)
    }

    /// Hugging Face's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gelu => "gelu",
            Self::GeluPython => "gelu_python",
            Self::Gelu10 => "gelu_10",
            Self::GeluFast => "gelu_fast",
            Self::GeluNew => "gelu_new",
            Self::GeluPytorchTanh => "gelu_pytorch_tanh",
            Self::GeluPythonTanh => "gelu_python_tanh",
            Self::GeluAccurate => "gelu_accurate",
            Self::HardSwish => "hardswish",
            Self::Laplace => "laplace",
            Self::LeakyRelu => "leaky_relu",
            Self::Linear => "linear",
            Self::Mish => "mish",
            Self::QuickGelu => "quick_gelu",
            Self::Relu => "relu",
            Self::Relu2 => "relu2",
            Self::Relu6 => "relu6",
            Self::Sigmoid => "sigmoid",
            Self::Silu => "silu",
            Self::SqrtSoftplus => "sqrtsoftplus",
            Self::Swish => "swish",
            Self::Tanh => "tanh",
        }
    }

    /// f(x), computed in `f64` and rounded to the type of x.
    pub fn apply<T: Real>(self, x: T) -> T {
        T::of(self.of(x.wide()))
    }

    fn of(self, x: f64) -> f64 {
        match self {
            Self::Gelu | Self::GeluPython => gelu(x),
            Self::Gelu10 => clip(gelu(x), -10.0, 10.0),
            Self::GeluFast => gelu_tanh(x, 0.797_884_560_8),
            Self::GeluNew | Self::GeluPytorchTanh | Self::GeluPythonTanh | Self::GeluAccurate => {
                gelu_tanh(x, FRAC_2_SQRT_PI * FRAC_1_SQRT_2)
            }
            Self::HardSwish => x * clip(x + 3.0, 0.0, 6.0) / 6.0,
            Self::Laplace => 0.5 * (1.0 + libm::erf((x - LAPLACE_MEAN) / (LAPLACE_DEVIATION * SQRT_2))),
            Self::LeakyRelu => {
                if x > 0.0 || x.is_nan() {
                    x
                } else {
                    x * 0.01
                }
            }
            Self::Linear => x,
            Self::Mish => x * softplus(x).tanh(),
            Self::QuickGelu => x * sigmoid(x * 1.702),
            Self::Relu => relu(x),
            Self::Relu2 => relu(x) * relu(x),
            Self::Relu6 => clip(x, 0.0, 6.0),
            Self::Sigmoid => sigmoid(x),
            Self::Silu | Self::Swish => x / (1.0 + (-x).exp()),
            Self::SqrtSoftplus => softplus(x).sqrt(),
            Self::Tanh => x.tanh(),
        }
    }

    /// Replaces every element by f of it, for many at a time: GELU by its vectorized form, in the type of the data.
    pub fn apply_slice<T: Real>(self, x: &mut [T]) {
        match self {
            Self::Gelu | Self::GeluPython => T::gelu_slice(x),
            _ => x.iter_mut().for_each(|v| *v = self.apply(*v)),
        }
    }

    /// Replaces every element by f of it.
    pub fn apply_inplace<T: Real, S: DataMut<Elem = T>, D: Dimension>(self, x: &mut ArrayBase<S, D>) {
        if self != Self::Linear {
            x.mapv_inplace(|v| self.apply(v));
        }
    }
}

/// μ and σ of `laplace`, as transformers rounds them.
#[expect(clippy::approx_constant, reason = "six digits of 1/√2 are what the reference computes with")]
const LAPLACE_MEAN: f64 = 0.707_107;
const LAPLACE_DEVIATION: f64 = 0.282_095;

fn gelu(x: f64) -> f64 {
    x * 0.5 * (1.0 + libm::erf(x * FRAC_1_SQRT_2))
}

fn gelu_tanh(x: f64, root: f64) -> f64 {
    let inner = root * (x + 0.044_715 * x * x * x);
    0.5 * x * (1.0 + inner.tanh())
}

/// σ(x) = 1 / (1 + e⁻ˣ).
fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// ln(1 + eˣ), which is x to the last digit where x > 20 (the threshold of `torch.nn.functional.softplus`).
fn softplus(x: f64) -> f64 {
    if x > 20.0 { x } else { x.exp().ln_1p() }
}

/// max(x, 0) that keeps NaN.
fn relu(x: f64) -> f64 {
    if x < 0.0 { 0.0 } else { x }
}

/// x held between two bounds; keeps NaN.
fn clip(x: f64, low: f64, high: f64) -> f64 {
    if x < low {
        low
    } else if x > high {
        high
    } else {
        x
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_lead_back() {
        for a in Activation::ALL {
            assert_eq!(Activation::from_name(a.name()), Some(a));
        }
        assert_eq!(Activation::from_name("GELU"), None);
        assert_eq!(Activation::from_name("prelu"), None);
    }
}
