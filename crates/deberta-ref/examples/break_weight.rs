//! Breaks a weight on purpose, for the demonstration: copies a safetensors file, with one row of one tensor scaled.
//!
//! `break_weight IN.safetensors OUT.safetensors TENSOR`: the middle row of TENSOR is multiplied by 1.5.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [source, target, name] = arguments.as_slice() else {
        bail!("usage: break_weight IN.safetensors OUT.safetensors TENSOR");
    };
    let bytes = std::fs::read(source).with_context(|| source.clone())?;
    let file = SafeTensors::deserialize(&bytes).with_context(|| source.clone())?;
    let broken = file.tensor(name).with_context(|| format!("{source}: {name}"))?;
    ensure!(broken.dtype() == Dtype::F32, "{name} is {}, not F32", broken.dtype());
    let rows = *broken.shape().first().context("a scalar has no row")?;
    let width = broken.data().len() / rows.max(1);
    let mut data = broken.data().to_vec();
    let row = rows / 2 * width..(rows / 2 + 1) * width;
    for number in data[row].chunks_exact_mut(4) {
        let value = f32::from_le_bytes(number.try_into()?);
        number.copy_from_slice(&(value * 1.5).to_le_bytes());
    }
    let changed = TensorView::new(Dtype::F32, broken.shape().to_vec(), &data)?;
    let tensors: HashMap<&str, TensorView<'_>> =
        file.iter().map(|(n, view)| (n, if n == name { changed.clone() } else { view })).collect();
    safetensors::serialize_to_file(&tensors, None, Path::new(target)).with_context(|| target.clone())?;
    println!("{name}: row {} of {rows} multiplied by 1.5", rows / 2);
    Ok(())
}
