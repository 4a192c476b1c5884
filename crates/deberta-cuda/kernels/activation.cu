// Bias and activation in one pass, in place.
//
//   x = act(x + bias)
//
// cuBLASLt could fuse GELU into the product, but its GELU is the one with tanh, and DeBERTa's is the one with erf. A
// pass of its own reads and writes [N, I] once.
#include "common.cuh"
#include "activation.cuh"

#define ACTIVATION_THREADS 256

// A thread takes every (grid size)-th element, of `count` = N·width.
KERNEL(ACTIVATION_THREADS, bias_activation, (
    Real* x, const float* bias, int activation, int rows, int width, int stride
)) {
    const i64 count = i64(rows) * width;
    const i64 step = i64(gridDim.x) * ACTIVATION_THREADS;
    for (i64 i = i64(blockIdx.x) * ACTIVATION_THREADS + threadIdx.x; i < count; i += step) {
        const i64 row = i / width;
        const int column = int(i - row * width);
        const float value = to_float(x[row * stride + column]);
        x[row * stride + column] = from_float<Real>(activate(activation, bias ? value + bias[column] : value));
    }
}
