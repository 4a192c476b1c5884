//! This implementation on a GPU, for `tools/bench_gpu` to time beside others: requests on standard input, answers on standard
//! output ([`deberta_tests::worker`]). Exit code 2 and one sentence where there is no GPU.

use std::process::ExitCode;

use deberta_cuda::CudaDevice;
use deberta_tests::worker::serve;

fn main() -> ExitCode {
    let served = CudaDevice::open(0).map_err(|error| error.to_string()).and_then(|gpu| {
        if !gpu.has_cublas_lt() {
            eprintln!("gpu_worker: libcublasLt is not found, so products are by a kernel of our own, which is slow");
        }
        serve(&gpu, std::io::stdin().lock(), std::io::stdout().lock()).map_err(|error| error.to_string())
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gpu_worker: {error}");
            ExitCode::from(2)
        }
    }
}
