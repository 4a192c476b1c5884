//! A readable, verified reference implementation of DeBERTa-v2 and v3.
//!
//! This is the library that users depend on; the other crates are its rooms. From a directory to outputs:
//!
//! ```no_run
//! use std::path::Path;
//!
//! use deberta_ref::{Inputs, Keep, ModelDirectory, Profile, Trace};
//! use ndarray::array;
//!
//! let directory = ModelDirectory::open(Path::new("deberta-v3-base"))?;
//! let model = directory.load::<f32>(directory.default_head(), Profile::HF_5)?;
//! let inputs = Inputs { input_ids: Some(array![[1, 8000, 2]].into_dyn()), ..Inputs::default() };
//! let outputs = model.forward(&inputs, Keep::default(), &mut Trace::off())?;
//! println!("{}", outputs.last_hidden_state);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod bench;

mod device;
mod dump;
mod error;
mod known_weights;
pub mod likeness;
mod model_directory;
mod npy;
mod random;
mod random_model;
mod run;
pub mod spectrum;
pub mod tasks;
mod tensor_file;

pub use deberta_checkpoint as checkpoint;
#[cfg(feature = "cuda")]
pub use deberta_cuda as cuda;
pub use deberta_model::{
    Attention, AttentionInputs, AttentionMask, DebertaV2Config, Head, Inputs, Keep, Labels, Model, ModelError,
    Observer, Outputs, Profile, Real, SelfAttention, Trace, model, profile, schema, set_threads, threads,
};
pub use deberta_tokenizer as tokenizer;
pub use deberta_verify as verify;
pub use device::{DeviceName, Place};
pub use dump::open_dump;
pub use error::Error;
pub use known_weights::KnownWeights;
pub use model_directory::ModelDirectory;
pub use npy::write_npy;
pub use random_model::{published_config, published_names, write_random_model};
#[cfg(feature = "cuda")]
pub use run::run_on;
pub use run::{Precision, Recorded, Request, run};
pub use tensor_file::{INPUT_NAMES, NamedTensors, TensorData, inputs_of, read_inputs};
