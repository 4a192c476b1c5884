//! DeBERTa-v2 and v3, equation by equation, generic over `f32` and `f64`.
//!
//! A model is given a [`DebertaV2Config`] and named arrays; it does no I/O and knows no file format. [`schema()`] is the
//! one list of its parameters.

//! Reading order, which is the paper's: [`config`], [`mod@schema`], the embeddings, [`relative_position`], disentangled
//! attention, the layer, the convolution, the encoder, the enhanced mask decoder, the heads, and [`model`], which puts
//! them together. [`profile`] says what differs between reference implementations, and [`trace`] lets an observer see
//! every intermediate.

pub mod config;
pub mod error;
pub mod inputs;
pub mod model;
pub mod predicted;
pub mod profile;
pub mod relative_position;
pub mod schema;
pub mod trace;

mod conv_layer;
mod disentangled_attention;
mod embeddings;
mod encoder;
mod enhanced_mask_decoder;
mod heads;
mod layer;
mod weights;

pub use config::{ConfigError, DebertaV2Config};
pub use deberta_ops::{Real, set_threads, threads};
pub use disentangled_attention::{Attention, AttentionInputs, SelfAttention, attention_scale};
pub use error::ModelError;
pub use inputs::{AttentionMask, Batch, Inputs, Labels, Tokens};
pub use model::{Keep, Model, Outputs};
pub use predicted::{LabelledWords, Predicted};
pub use profile::Profile;
pub use schema::{Head, Parameter, Presence, Role, schema, schema_under};
pub use trace::{Observer, Trace};
pub use weights::Weights;
