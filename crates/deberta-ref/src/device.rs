//! Where a forward pass is computed: on the processor, or on a GPU where there is one.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;
use crate::run::Precision;

/// A device, by its name on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceName {
    /// The processor.
    #[default]
    Cpu,
    /// The first GPU.
    Cuda,
    /// The first GPU, or the processor where there is none.
    Auto,
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda),
            "auto" => Ok(Self::Auto),
            other => Err(format!("`{other}` is no device; use cpu, cuda or auto")),
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Auto => "auto",
        })
    }
}

/// Where a forward pass is computed.
pub enum Place {
    /// On the processor, in `f32` or `f64`.
    Cpu,
    /// On a GPU, in one of its precisions.
    #[cfg(feature = "cuda")]
    Gpu(Box<deberta_cuda::CudaDevice>, deberta_cuda::Precision),
}

impl DeviceName {
    /// Opens the device for a precision. `say` is told, in one sentence, where `auto` found no GPU to use.
    ///
    /// # Errors
    /// A GPU that is not there, and a precision that the device does not compute in.
    pub fn open(self, precision: Precision, say: impl FnOnce(String)) -> Result<Place, Error> {
        let on_cpu = match precision {
            Precision::F32 | Precision::F64 => Ok(Place::Cpu),
            Precision::Tf32 | Precision::F16 | Precision::Bf16 => {
                Err(Error::Precision { precision, device: "the processor", others: "f32 or f64, or --device cuda" })
            }
        };
        match self {
            Self::Cpu => on_cpu,
            Self::Cuda => gpu(precision),
            Self::Auto => gpu(precision).or_else(|error| {
                let place = on_cpu?;
                say(format!("computing on the processor: {error}"));
                Ok(place)
            }),
        }
    }
}

#[cfg(feature = "cuda")]
fn gpu(precision: Precision) -> Result<Place, Error> {
    let on_gpu = match precision {
        Precision::F64 => {
            return Err(Error::Precision {
                precision,
                device: "a GPU",
                others: "f32, tf32, f16 or bf16, or --device cpu",
            });
        }
        Precision::F32 => deberta_cuda::Precision::F32,
        Precision::Tf32 => deberta_cuda::Precision::Tf32,
        Precision::F16 => deberta_cuda::Precision::F16,
        Precision::Bf16 => deberta_cuda::Precision::Bf16,
    };
    Ok(Place::Gpu(Box::new(deberta_cuda::CudaDevice::open(0)?), on_gpu))
}

#[cfg(not(feature = "cuda"))]
fn gpu(_: Precision) -> Result<Place, Error> {
    Err(Error::NoCuda)
}
