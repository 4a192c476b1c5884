//! Every kernel, run on the CPU by the emulator, against oracles in `f64` that share no code with it.

#![expect(clippy::unwrap_used, reason = "what tests share is not known as test code")]

mod attention;
mod elementwise;
mod emulator;
mod gemm;
mod layer_norm;
mod mutants;
mod support;
