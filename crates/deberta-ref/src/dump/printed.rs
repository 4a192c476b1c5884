//! Tensors as PyTorch prints them, such as `tensor([[1.5000e-01, nan], [-inf, 2.0000e+00]], dtype=torch.float16)`.
//!
//! Integers are printed whole. Floating-point numbers are printed to five digits, a relative error of up to 5e-5; f16 rounds
//! by up to 4.9e-4, which is the type to compare them as. bf16 stands in where one is too large for that.

use deberta_verify::{Dtype, Tensor};
use half::{bf16, f16};

/// `torch.Size([2, 7])`.
pub(super) fn shape(text: &str) -> Option<Vec<usize>> {
    let sizes = text.strip_prefix("torch.Size([")?.strip_suffix("])")?;
    sizes.split(',').map(str::trim).filter(|s| !s.is_empty()).map(|s| s.parse().ok()).collect()
}

/// The tensor that a text prints; `None` where dots stand for most of it. `dtype` is PyTorch's name.
pub(super) fn tensor(name: &str, text: &str, shape: Vec<usize>, dtype: &str) -> Result<Option<Tensor>, String> {
    let inside = text.trim().strip_prefix("tensor(").ok_or("its value is not printed as a tensor is")?;
    // What follows the values: dtype=…, device=…, size=… of an empty one.
    let end = inside.find('=').map_or(inside.len(), |at| inside[..at].rfind(',').unwrap_or(0));
    let values = inside[..end].trim_end().trim_end_matches(')');
    if values.contains("...") {
        return Ok(None);
    }
    let words = || values.split([' ', ',', '[', ']', '\n', '\t']).filter(|w| !w.is_empty());
    let wanted = shape.iter().try_fold(1usize, |n, &s| n.checked_mul(s));
    if Some(words().count()) != wanted {
        return Err(format!("{} values are printed for the shape {shape:?}", words().count()));
    }
    let not = |word: &str| format!("{word} is no value of {dtype}");
    let (dtype, bytes) = match dtype.strip_prefix("torch.").unwrap_or(dtype) {
        "bool" => {
            let bit = |w: &str| match w {
                "True" => Ok(1),
                "False" => Ok(0),
                _ => Err(not(w)),
            };
            (Dtype::Bool, words().map(bit).collect::<Result<Vec<u8>, _>>()?)
        }
        integer if integer.contains("int") => {
            let numbers = words().map(|w| w.parse::<i64>().map_err(|_| not(w)));
            let bytes = numbers.map(|n| n.map(i64::to_le_bytes)).collect::<Result<Vec<_>, _>>()?;
            (Dtype::I64, bytes.concat())
        }
        _ => {
            let numbers = words().map(|w| w.parse::<f64>().map_err(|_| not(w)));
            let numbers = numbers.collect::<Result<Vec<_>, _>>()?;
            let fits = numbers.iter().all(|x| !x.is_finite() || x.abs() <= f16::MAX.to_f64());
            if fits {
                (Dtype::F16, numbers.iter().flat_map(|&x| f16::from_f64(x).to_le_bytes()).collect())
            } else {
                (Dtype::Bf16, numbers.iter().flat_map(|&x| bf16::from_f64(x).to_le_bytes()).collect())
            }
        }
    };
    Tensor::from_bytes(name, dtype, shape, bytes).map(Some).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, shape: &[usize], dtype: &str) -> (Dtype, Vec<f64>) {
        let tensor = tensor("x", text, shape.to_vec(), dtype).unwrap().unwrap();
        assert_eq!(tensor.shape(), shape);
        (tensor.dtype(), tensor.values().collect())
    }

    #[test]
    fn what_torch_prints_is_read() {
        assert_eq!(shape("torch.Size([2, 7])"), Some(vec![2, 7]));
        assert_eq!(shape("torch.Size([])"), Some(vec![]));
        assert_eq!(shape("[2]"), None);
        let ids = read("tensor([[ 2, 31],         [-7,  0]], device='cuda:0')", &[2, 2], "torch.int64");
        assert_eq!(ids, (Dtype::I64, vec![2.0, 31.0, -7.0, 0.0]));
        assert_eq!(read("tensor([ True, False])", &[2], "torch.bool"), (Dtype::Bool, vec![1.0, 0.0]));
        assert_eq!(read("tensor(6.5000e-01)", &[], "torch.float32"), (Dtype::F16, vec![0.64990234375]));
        let some = read("tensor([1., -inf], dtype=torch.float16)", &[2], "torch.float16");
        assert_eq!(some, (Dtype::F16, vec![1.0, f64::NEG_INFINITY]));
        assert_eq!(read("tensor([-3.4028e+38])", &[1], "torch.float32").0, Dtype::Bf16);
        assert_eq!(read("tensor([], size=(0, 3))", &[0, 3], "torch.float32").1, [0.0; 0]);
        assert!(read("tensor([nan])", &[1], "torch.float32").1[0].is_nan());
    }

    #[test]
    fn dots_are_a_summary_and_nonsense_an_error() {
        assert!(tensor("x", "tensor([1, 2, ..., 9])", vec![2000], "torch.int64").unwrap().is_none());
        for (text, shape) in
            [("tensor([1, 2])", vec![3]), ("[1, 2]", vec![2]), ("tensor([a, b])", vec![2]), ("tensor(", vec![])]
        {
            assert!(tensor("x", text, shape, "torch.int64").is_err(), "{text}");
        }
    }
}
