// Rows moved, and widened.
#include "common.cuh"

#define ROW_COPY_THREADS 128

// out[n] = x[rows[n]], or zeros where rows[n] is negative: packs, unpacks and picks the first token of each sequence.
KERNEL(ROW_COPY_THREADS, gather_rows, (
    Real* out, const Real* x, const int* rows, int x_stride, int out_stride, int width
)) {
    const i64 row = blockIdx.x;
    const i64 from = rows[row];
    for (int c = threadIdx.x; c < width; c += ROW_COPY_THREADS) {
        out[row * out_stride + c] = from < 0 ? from_float<Real>(0.0f) : x[from * x_stride + c];
    }
}

// To float, densely.
KERNEL(ROW_COPY_THREADS, to_f32, (float* out, const Real* x, int x_stride, int width)) {
    const i64 row = blockIdx.x;
    for (int c = threadIdx.x; c < width; c += ROW_COPY_THREADS) out[row * width + c] = to_float(x[row * x_stride + c]);
}
