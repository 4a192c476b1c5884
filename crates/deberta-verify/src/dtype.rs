//! The dtypes of tensors, and what rounding to them does.

use half::{bf16, f16};

/// The dtypes that a dump may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Dtype {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

impl Dtype {
    /// Bytes a value takes.
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::Bf16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// Whether values are floating-point numbers.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::Bf16)
    }

    /// The unit roundoff: the largest relative error of rounding to this dtype. 0 for integers.
    pub fn unit_roundoff(self) -> f64 {
        match self {
            Self::F64 => 2f64.powi(-53),
            Self::F32 => 2f64.powi(-24),
            Self::F16 => 2f64.powi(-11),
            Self::Bf16 => 2f64.powi(-8),
            _ => 0.0,
        }
    }

    /// The absolute error that underflow can make: the smallest normal number where processors may flush to zero, twice
    /// the spacing of the subnormal ones in f16, where they do not. 0 for integers.
    pub fn underflow(self) -> f64 {
        match self {
            Self::F64 => f64::MIN_POSITIVE,
            Self::F32 | Self::Bf16 => f32::MIN_POSITIVE.into(),
            Self::F16 => 2f64.powi(-23),
            _ => 0.0,
        }
    }

    /// The dtype of the two with the greater unit roundoff.
    pub fn coarser(self, other: Self) -> Self {
        if other.unit_roundoff() > self.unit_roundoff() { other } else { self }
    }

    /// `x` rounded to this dtype; integers leave it as it is.
    pub fn round(self, x: f64) -> f64 {
        match self {
            Self::F32 => f64::from(x as f32),
            Self::F16 => f16::from_f64(x).to_f64(),
            Self::Bf16 => bf16::from_f64(x).to_f64(),
            _ => x,
        }
    }

    /// The number of representable values between `a` and `b`, each rounded to this dtype first.
    #[inline]
    pub fn ulps(self, a: f64, b: f64) -> u64 {
        fn ordered(bits: i64, sign: i64) -> i64 {
            if bits & sign != 0 { -(bits & !sign) } else { bits }
        }
        let order = |x: f64| match self {
            Self::F32 => ordered((x as f32).to_bits().into(), 1 << 31),
            Self::F16 => ordered(f16::from_f64(x).to_bits().into(), 1 << 15),
            Self::Bf16 => ordered(bf16::from_f64(x).to_bits().into(), 1 << 15),
            _ => ordered(x.to_bits().cast_signed(), i64::MIN),
        };
        order(a).abs_diff(order(b))
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::I64 => "i64",
            Self::I32 => "i32",
            Self::I16 => "i16",
            Self::I8 => "i8",
            Self::U8 => "u8",
            Self::Bool => "bool",
        })
    }
}
