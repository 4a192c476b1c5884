//! A forward pass from a model directory and a tensor file, with what was asked to be kept.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use deberta_checkpoint::Element;
use deberta_model::{Attention, Head, Inputs, Keep, Observer, Outputs, Profile, Real, Trace};
use globset::GlobSet;
use ndarray::ArrayViewD;

use crate::error::Error;
use crate::model_directory::ModelDirectory;
use crate::tensor_file::{NamedTensors, TensorData};

/// The number type of a forward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Single.
    #[default]
    F32,
    /// Double; on the processor.
    F64,
    /// Single, multiplied with 10 bits of mantissa; on a GPU.
    Tf32,
    /// IEEE half; on a GPU.
    F16,
    /// bfloat16; on a GPU.
    Bf16,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Tf32 => "tf32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        })
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "f32" => Ok(Self::F32),
            "f64" => Ok(Self::F64),
            "tf32" => Ok(Self::Tf32),
            "f16" => Ok(Self::F16),
            "bf16" => Ok(Self::Bf16),
            other => Err(format!("`{other}` is no precision; use f32 or f64, or on a GPU f32, tf32, f16 or bf16")),
        }
    }
}

/// What to compute and what to keep of it.
#[derive(Clone, Debug)]
pub struct Request {
    /// What stands on top of the encoder.
    pub head: Head,
    /// Whose choices to follow.
    pub profile: Profile,
    /// Which of the large outputs to keep.
    pub keep: Keep,
    /// The intermediates to keep, by patterns of their paths.
    pub trace: GlobSet,
    /// How attention is computed; see [`Model::with_attention`](deberta_model::Model::with_attention). A GPU has its own way.
    pub attention: Attention,
}

/// The outputs and intermediates of a forward pass, in the order in which they were computed.
pub type Recorded = NamedTensors;

/// Runs the model of `directory` in `T`.
///
/// # Errors
/// Weights that do not serve the head, and inputs that do not fit the model; `inputs_from` is the file they were read from.
pub fn run<T: Real + Element>(
    directory: &ModelDirectory,
    inputs: &Inputs<T>,
    inputs_from: &Path,
    request: &Request,
) -> Result<Recorded, Error> {
    let model = directory.load::<T>(request.head, request.profile)?.with_attention(request.attention);
    let failed = |source| Error::Model { path: inputs_from.to_owned(), source };
    record(request, |trace| model.forward(inputs, request.keep, trace).map_err(failed))
}

/// Runs the model of `directory` on a GPU.
///
/// # Errors
/// As [`run`], and what the GPU cannot do.
#[cfg(feature = "cuda")]
pub fn run_on<D: deberta_cuda::Device>(
    device: D,
    precision: deberta_cuda::Precision,
    directory: &ModelDirectory,
    inputs: &Inputs<f32>,
    inputs_from: &Path,
    request: &Request,
) -> Result<Recorded, Error> {
    let model = directory.load_on(device, precision, request.head, request.profile)?;
    let failed = |error| match error {
        deberta_cuda::CudaError::Model(source) => Error::Model { path: inputs_from.to_owned(), source },
        other => other.into(),
    };
    record(request, |trace| model.forward(inputs, request.keep, trace).map_err(failed))
}

/// What a forward pass returns and hands to its trace, as far as it is wanted.
fn record<T: Real>(
    request: &Request,
    forward: impl FnOnce(&mut Trace<'_, T>) -> Result<Outputs<T>, Error>,
) -> Result<Recorded, Error> {
    let mut recorder = Recorder { wanted: &request.trace, recorded: NamedTensors::default() };
    let mut trace = if request.trace.is_empty() { Trace::off() } else { Trace::to(&mut recorder) };
    let outputs = forward(&mut trace)?;
    let mut recorded = recorder.recorded;
    outputs.for_each(|name, value| recorded.entries.push((name.to_owned(), TensorData::new(&value))));
    Ok(recorded)
}

impl Request {
    /// Describes the run, for the header of the file it is written to.
    pub fn metadata(&self, precision: Precision) -> HashMap<String, String> {
        let facts = [
            ("head", self.head.to_string()),
            ("profile", self.profile.to_string()),
            ("precision", precision.to_string()),
            ("producer", format!("deberta-ref {}", env!("CARGO_PKG_VERSION"))),
        ];
        facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

struct Recorder<'a> {
    wanted: &'a GlobSet,
    recorded: NamedTensors,
}

impl<T: Real> Observer<T> for Recorder<'_> {
    fn wants(&self, path: &str) -> bool {
        self.wanted.is_match(path)
    }

    fn observe(&mut self, path: &str, value: ArrayViewD<'_, T>) {
        self.recorded.entries.push((path.to_owned(), TensorData::new(&value)));
    }
}
