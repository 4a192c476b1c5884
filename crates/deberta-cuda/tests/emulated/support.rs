//! What the tests of the kernels share: data on the device, and how far a kernel may be from its oracle.

use deberta_cuda::{Array, Device, Element, Matrix, Memory, Ops, Precision};
use deberta_testkit::oracle::Rng;
use ndarray::Array2;

use crate::emulator::library::Mutation;
use crate::emulator::{EmulatedDevice, EmulatedMemory, read};

/// A matrix on the device, and what it holds.
pub struct Held {
    memory: EmulatedMemory,
    precision: Precision,
    /// The values as they were rounded to the precision.
    pub values: Array2<f64>,
}

impl Held {
    pub fn new(device: &EmulatedDevice, precision: Precision, values: &Array2<f64>) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|&v| round(precision, v).0).collect();
        let memory = device.allocate(bytes.len()).unwrap();
        device.upload(&memory, &bytes).unwrap();
        Self { memory, precision, values: values.mapv(|v| round(precision, v).1) }
    }

    pub fn random(device: &EmulatedDevice, precision: Precision, rng: &mut Rng, rows: usize, columns: usize) -> Self {
        Self::new(device, precision, &rng.matrix(rows, columns))
    }

    pub fn matrix(&self) -> Matrix<'_> {
        let (rows, columns) = self.values.dim();
        self.memory.matrix(self.precision, rows, columns)
    }

    /// What the device holds now, where a kernel has written in place.
    pub fn read(&self) -> Array2<f64> {
        Array2::from_shape_vec(self.values.raw_dim(), read(self.precision, &self.matrix())).unwrap()
    }
}

/// A result on the device, poisoned until a kernel writes it.
pub struct Out {
    memory: EmulatedMemory,
    precision: Precision,
    shape: (usize, usize),
}

impl Out {
    pub fn new(device: &EmulatedDevice, precision: Precision, rows: usize, columns: usize) -> Self {
        let memory = device.allocate(rows * columns * precision.bytes()).unwrap();
        Self { memory, precision, shape: (rows, columns) }
    }

    pub fn matrix(&self) -> Matrix<'_> {
        self.memory.matrix(self.precision, self.shape.0, self.shape.1)
    }

    pub fn values(&self) -> Array2<f64> {
        Array2::from_shape_vec(self.shape, read(self.precision, &self.matrix())).unwrap()
    }
}

/// An array on the device.
pub struct Numbers(EmulatedMemory, usize);

impl Numbers {
    pub fn floats(device: &EmulatedDevice, values: impl IntoIterator<Item = f64>) -> Self {
        Self::of(device, values.into_iter().map(|v| (v as f32).to_ne_bytes()))
    }

    pub fn ints(device: &EmulatedDevice, values: impl IntoIterator<Item = i32>) -> Self {
        Self::of(device, values.into_iter().map(i32::to_ne_bytes))
    }

    pub fn longs(device: &EmulatedDevice, values: impl IntoIterator<Item = i64>) -> Self {
        Self::of(device, values.into_iter().map(i64::to_ne_bytes))
    }

    pub fn flags(device: &EmulatedDevice, values: impl IntoIterator<Item = bool>) -> Self {
        Self::of(device, values.into_iter().map(|v| [u8::from(v)]))
    }

    fn of<const N: usize>(device: &EmulatedDevice, values: impl Iterator<Item = [u8; N]>) -> Self {
        let bytes: Vec<u8> = values.flatten().collect();
        let memory = device.allocate(bytes.len()).unwrap();
        device.upload(&memory, &bytes).unwrap();
        Self(memory, bytes.len() / N)
    }

    pub fn array<T: Element>(&self) -> Array<'_, T> {
        self.0.array(self.1)
    }
}

/// The bytes of a number in a precision, and what they stand for.
pub fn round(precision: Precision, value: f64) -> (Vec<u8>, f64) {
    match precision {
        Precision::F32 | Precision::Tf32 => ((value as f32).to_ne_bytes().to_vec(), f64::from(value as f32)),
        Precision::F16 => {
            let x = half::f16::from_f64(value);
            (x.to_ne_bytes().to_vec(), x.to_f64())
        }
        Precision::Bf16 => {
            let x = half::bf16::from_f64(value);
            (x.to_ne_bytes().to_vec(), x.to_f64())
        }
    }
}

/// How far a result of order `scale` may be from the exact one: half a unit of the last place of its type, for the
/// rounding at the end, and what `f32` arithmetic adds on the way, of which 2e-5 is allowed in all (the bound that the
/// whole forward pass in `f32` is held to).
pub fn tolerance(precision: Precision, scale: f64) -> f64 {
    let half_unit = match precision {
        Precision::F32 | Precision::Tf32 => 0.0,
        Precision::F16 => 2f64.powi(-11),
        Precision::Bf16 => 2f64.powi(-8),
    };
    scale * (half_unit + 2e-5)
}

/// What a check of a kernel comes to: the kernel failed in itself, or its result is wrong.
pub type Checked = Result<(), Box<dyn std::error::Error>>;

/// The first number that is not within `tolerance(precision, |expected| + floor)` of what it should be.
pub fn close(what: &str, precision: Precision, found: &Array2<f64>, expected: &Array2<f64>, floor: f64) -> Checked {
    assert_eq!(found.dim(), expected.dim(), "{what}");
    for ((at, &f), &e) in found.indexed_iter().zip(expected) {
        let (bound, apart) = (tolerance(precision, e.abs() + floor), (f - e).abs());
        if !(apart <= bound) {
            return Err(format!("{what}: {at:?} is {f} and not {e}; {apart:e} apart, {bound:e} allowed").into());
        }
    }
    Ok(())
}

/// Runs a check in every precision, each with another order of threads.
pub fn everywhere(mut check: impl FnMut(&Ops<'_, EmulatedDevice>, &mut Rng) -> Checked) {
    for (seed, precision) in Precision::ALL.into_iter().enumerate() {
        let device = EmulatedDevice::new(seed as u64);
        if let Err(problem) = check(&Ops::new(&device, precision), &mut Rng::new(17 + seed as u64)) {
            panic!("{}, threads in order {seed}: {problem}", precision.name());
        }
    }
}

/// Asserts that a check passes, and that it fails once `from` has become `to` in the kernels.
pub fn notices(
    from: &'static str,
    to: &'static str,
    precision: Precision,
    mut check: impl FnMut(&Ops<'_, EmulatedDevice>, &mut Rng) -> Checked,
) {
    let mut run = |device: EmulatedDevice| check(&Ops::new(&device, precision), &mut Rng::new(17));
    run(EmulatedDevice::new(0)).unwrap();
    let problem = run(EmulatedDevice::mutated(Mutation { from, to })).err();
    match problem {
        Some(problem) => println!("{from:?} → {to:?} is noticed: {problem}"),
        None => panic!("nothing notices that {from:?} has become {to:?}"),
    }
}
