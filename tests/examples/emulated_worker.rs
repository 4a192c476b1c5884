//! The worker of `tools/bench_gpu` on the emulator, to try the whole benchmark without a GPU: its numbers are those of the
//! computation, and its times mean nothing.
//!
//! `tools/bench_gpu --cpu --models tiny --tokens 128 --lengths 64 --ragged 64 --worker target/release/examples/emulated_worker`

#[path = "../../crates/deberta-cuda/tests/emulated/emulator/mod.rs"]
#[allow(dead_code, reason = "the tests of the kernels use more of it")]
mod emulator;

use emulator::EmulatedDevice;

fn main() -> std::io::Result<()> {
    deberta_tests::worker::serve(&EmulatedDevice::new(0), std::io::stdin().lock(), std::io::stdout().lock())
}
