//! Goldens: sets of cases with a manifest, and how far from them an implementation may be.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ndarray::ArrayViewD;
use serde::Deserialize;

/// How far an `f64` result may be from the reference's `f64`: both round at 2⁻⁵³ of values of order ten over a few
/// hundred operations, which is 1e-12; a hundredfold for the depth of the largest model.
pub const F64_BOUND: f64 = 1e-10;

/// How many times the reference's own distance between its `f32` and its `f64` run an `f32` result may be from the
/// reference's `f64`: the same noise in another order of summation, of which the maximum over a tensor varies by less
/// than this factor.
pub const F32_FACTOR: f64 = 3.0;

/// A set of goldens: `manifest.json` beside the cases it lists.
#[derive(Deserialize)]
pub struct Manifest {
    /// The cases.
    pub cases: Vec<Case>,
    /// The folder of the manifest.
    #[serde(skip)]
    pub folder: PathBuf,
}

/// One forward pass of a reference.
#[derive(Deserialize)]
pub struct Case {
    /// `<model>/<case>`.
    pub name: String,
    /// The folder of the model's configuration and weights.
    pub model: String,
    /// The head, by its name on the command line.
    pub head: String,
    /// The profile, by its name on the command line.
    pub profile: String,
    /// The file of each precision, by `f64` and `f32`.
    pub golden: BTreeMap<String, String>,
    /// The reference's own max |f32 − f64| for each output; absent where all of it is NaN.
    pub f32_to_f64: BTreeMap<String, Option<f64>>,
    /// For the cases of an older transformers: how far each output is from what profile `hf-5` computes.
    #[serde(default, rename = "to_hf-5")]
    pub to_hf_5: BTreeMap<String, Option<f64>>,
}

impl Manifest {
    /// Reads `folder/manifest.json`.
    pub fn read(folder: &Path) -> Self {
        let path = folder.join("manifest.json");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut manifest: Self = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert!(!manifest.cases.is_empty(), "{} lists no case", path.display());
        manifest.folder = folder.to_owned();
        manifest
    }
}

/// How far two arrays are apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distance {
    /// The largest absolute difference where neither is NaN; infinite where shapes, NaNs or infinities differ.
    pub max_abs: f64,
}

impl Distance {
    /// Whether the distance is within `bound`.
    pub fn within(self, bound: f64) -> bool {
        self.max_abs <= bound
    }
}

/// The distance of two arrays.
pub fn distance(expected: ArrayViewD<'_, f64>, actual: ArrayViewD<'_, f64>) -> Distance {
    if expected.shape() != actual.shape() {
        return Distance { max_abs: f64::INFINITY };
    }
    let max_abs = expected.iter().zip(&actual).fold(0.0_f64, |max, (&e, &a)| {
        let apart = if e == a || (e.is_nan() && a.is_nan()) { 0.0 } else { (e - a).abs() };
        max.max(if apart.is_nan() { f64::INFINITY } else { apart })
    });
    Distance { max_abs }
}
