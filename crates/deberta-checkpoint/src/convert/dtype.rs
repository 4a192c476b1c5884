//! Changing the type of numbers, with one rounding: to nearest, ties to even; beyond the range, infinity.

use half::{bf16, f16};
use safetensors::Dtype;

use super::OutputDtype;

/// The type a tensor gets. Only f64, f32, f16 and bf16 change.
pub(crate) fn output_dtype(source: Dtype, wanted: OutputDtype) -> Dtype {
    let is_number = matches!(source, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16);
    match wanted {
        OutputDtype::F32 if is_number => Dtype::F32,
        OutputDtype::F16 if is_number => Dtype::F16,
        OutputDtype::BF16 if is_number => Dtype::BF16,
        _ => source,
    }
}

/// Rewrites little-endian numbers of type `from` as type `to` at the end of `out`; returns how many finite numbers became
/// infinite. Every pair is rounded once, from the exact value.
pub(crate) fn convert(bytes: &[u8], from: Dtype, to: Dtype, out: &mut Vec<u8>) -> usize {
    match from {
        Dtype::F64 => narrow::<8>(bytes, to, out, f64::from_le_bytes),
        Dtype::F32 => narrow::<4>(bytes, to, out, |b| f32::from_le_bytes(b).into()),
        Dtype::F16 => narrow::<2>(bytes, to, out, |b| f16::from_le_bytes(b).into()),
        Dtype::BF16 => narrow::<2>(bytes, to, out, |b| bf16::from_le_bytes(b).into()),
        _ => {
            out.extend_from_slice(bytes);
            0
        }
    }
}

/// Through f64, which holds every value of the other three exactly.
fn narrow<const N: usize>(bytes: &[u8], to: Dtype, out: &mut Vec<u8>, read: impl Fn([u8; N]) -> f64) -> usize {
    let values = bytes.as_chunks::<N>().0.iter().map(|&b| read(b));
    let mut overflowed = 0;
    let mut count = |value: f64, infinite: bool| overflowed += usize::from(infinite && value.is_finite());
    match to {
        Dtype::F32 => values.for_each(|v| {
            let rounded = v as f32;
            count(v, rounded.is_infinite());
            out.extend_from_slice(&rounded.to_le_bytes());
        }),
        Dtype::F16 => values.for_each(|v| {
            let rounded = f16::from_f32(odd(v));
            count(v, rounded.is_infinite());
            out.extend_from_slice(&rounded.to_le_bytes());
        }),
        Dtype::BF16 => values.for_each(|v| {
            let rounded = bf16::from_f32(odd(v));
            count(v, rounded.is_infinite());
            out.extend_from_slice(&rounded.to_le_bytes());
        }),
        _ => values.for_each(|v| out.extend_from_slice(&v.to_le_bytes())),
    }
    overflowed
}

/// f64 to f32, truncated, with the last bit set where anything was cut off ("round to odd"). What is then rounded to f16 or
/// bf16, which have far fewer bits, is rounded as if from the f64 itself. (The crate `half` looks at the upper half of an f64
/// only.)
fn odd(value: f64) -> f32 {
    let nearest = value as f32;
    if f64::from(nearest) == value || value.is_nan() {
        return nearest;
    }
    let beyond = f64::from(nearest).abs() > value.abs();
    let truncated = nearest.to_bits() - u32::from(beyond);
    f32::from_bits(truncated | 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(value: f64, to: Dtype) -> (Vec<u8>, usize) {
        let mut out = Vec::new();
        let n = convert(&value.to_le_bytes(), Dtype::F64, to, &mut out);
        (out, n)
    }

    #[test]
    fn rounds_once_to_even() {
        // Half way between two f16 values plus a little that f32 cannot see: rounding twice would go down.
        let tie = 1.0 + 2f64.powi(-11);
        assert_eq!(one(tie, Dtype::F16).0, f16::from_f32(1.0).to_le_bytes());
        assert_eq!(one(tie + 2f64.powi(-40), Dtype::F16).0, f16::from_bits(0x3c01).to_le_bytes());
        let tie = 1.0 + 2f64.powi(-8);
        assert_eq!(one(tie, Dtype::BF16).0, bf16::from_f32(1.0).to_le_bytes());
        assert_eq!(one(tie + 2f64.powi(-40), Dtype::BF16).0, bf16::from_bits(0x3f81).to_le_bytes());
    }

    #[test]
    fn overflow_is_infinite_and_counted() {
        assert_eq!(one(65520.0, Dtype::F16), (f16::INFINITY.to_le_bytes().to_vec(), 1));
        assert_eq!(one(65519.9, Dtype::F16), (f16::MAX.to_le_bytes().to_vec(), 0));
        assert_eq!(one(f64::INFINITY, Dtype::F16).1, 0);
        assert_eq!(one(1e300, Dtype::F16), (f16::INFINITY.to_le_bytes().to_vec(), 1));
        assert_eq!(one(-1e300, Dtype::BF16), (bf16::NEG_INFINITY.to_le_bytes().to_vec(), 1));
        assert_eq!(one(1e-300, Dtype::F16), (f16::ZERO.to_le_bytes().to_vec(), 0));
        assert_eq!(one(1e300, Dtype::F32), (f32::INFINITY.to_le_bytes().to_vec(), 1));
    }

    #[test]
    fn widening_is_exact_for_every_f16_and_bf16() {
        for bits in 0..=u16::MAX {
            let (mut wide, mut back) = (Vec::new(), Vec::new());
            convert(&bits.to_le_bytes(), Dtype::F16, Dtype::F32, &mut wide);
            convert(&wide, Dtype::F32, Dtype::F16, &mut back);
            if !f16::from_bits(bits).is_nan() {
                assert_eq!(back, bits.to_le_bytes(), "{bits:#06x}");
            }
            let (mut wide, mut back) = (Vec::new(), Vec::new());
            convert(&bits.to_le_bytes(), Dtype::BF16, Dtype::F32, &mut wide);
            convert(&wide, Dtype::F32, Dtype::BF16, &mut back);
            if !bf16::from_bits(bits).is_nan() {
                assert_eq!(back, bits.to_le_bytes(), "{bits:#06x}");
            }
        }
    }
}
