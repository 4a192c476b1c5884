// Bias and activation in one pass, in place.
//
//   x = act(x + bias)
//
// cuBLASLt could fuse GELU into the product, but its GELU is the one with tanh, and DeBERTa's is the one with erf. A
// pass of its own reads and writes [N, I] once.
#include "common.cuh"
#include "activation.cuh"

#define ACTIVATION_THREADS 128

// A thread takes 16 bytes of a row, of every (grid's height)-th row. GELU, which all released models have, is computed on all of
// them at once where they begin at a multiple of 16 bytes.
KERNEL(ACTIVATION_THREADS, bias_activation, (
    Real* x, const float* bias, int activation, int rows, int width, int stride
)) {
    const int first = (blockIdx.x * ACTIVATION_THREADS + threadIdx.x) * CHUNK;
    if (first >= width) return;
    for (int row = blockIdx.y; row < rows; row += gridDim.y) {
        Real* at = x + i64(row) * stride + first;
        if (activation == GELU && first + CHUNK <= width && begins_a_chunk(at)) {
            float values[CHUNK];
            load_chunk(values, at);
#pragma unroll
            for (int e = 0; e < CHUNK; e++) values[e] = gelu(bias ? values[e] + bias[first + e] : values[e]);
            store_chunk(at, values);
            continue;
        }
#pragma unroll 1
        for (int e = 0; e < CHUNK && first + e < width; e++) {
            const float value = to_float(at[e]);
            at[e] = from_float<Real>(activate(activation, bias ? value + bias[first + e] : value));
        }
    }
}
