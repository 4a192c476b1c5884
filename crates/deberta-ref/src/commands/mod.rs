//! The commands, one module each: its arguments (`Args`) and what it does (`run`).

pub mod bench;
pub mod compare;
pub mod compare_profiles;
pub mod decode;
pub mod inspect;
pub mod lines;
mod naming;
pub mod profiles;
pub mod random_model;
pub mod run;
pub mod text;
pub mod tokenize;
pub mod verify;

/// Tells on standard error what a result does not say.
fn note(what: impl std::fmt::Display) {
    eprintln!("note: {what}");
}
