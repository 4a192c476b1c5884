//! What tests across crates share: the suite that holds a model on any device to the same model in `f64`, and how fast
//! that model is. The program `gpu_check` runs both on a GPU; a test runs both on the emulator.

pub mod attention;
pub mod parity;
pub mod speed;
pub mod worker;
