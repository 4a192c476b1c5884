//! DeBERTa-v2 and v3, equation by equation, generic over `f32` and `f64`.
//!
//! A model is given a [`DebertaV2Config`] and named arrays; it does no I/O and knows no file format. [`schema`] is the
//! one list of its parameters.

pub mod config;
pub mod schema;

pub use config::{ConfigError, DebertaV2Config};
pub use schema::{Head, Parameter, Presence, Role, schema};
