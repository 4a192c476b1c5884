// The convolution beside the first layer (nGiE), as a matrix product.
//
//   y[n, o] = Σ_c Σ_t weight[o, c, t] · x[n + t − k/2, c]       out = LayerNorm(residual + act(exists·(y + bias))) · exists
//
// `im2col` lays the k neighbours of every token side by side, so that the double sum is one product with the weight as
// checkpoints have it, [E, E/groups · k]; a group's columns are contiguous. Neighbours outside the token's own sequence
// are zero, which is what makes packed sequences convolve as padded ones do. `conv_layer_norm` does all the rest in one
// pass.
#include "row.cuh"
#include "activation.cuh"

KERNEL(ROW_THREADS, im2col, (
    Real* out, const Real* x, const int* row_sequence, const int* cu_seqlens, int x_stride, int out_stride, int width,
    int kernel
)) {
    const int row = blockIdx.x;
    const int sequence = row_sequence[row];
    const int begin = cu_seqlens[sequence], end = cu_seqlens[sequence + 1];
    for (int i = threadIdx.x; i < width * kernel; i += ROW_THREADS) {
        const int column = i / kernel, tap = i % kernel;
        const int neighbour = row + tap - kernel / 2;
        const bool inside = neighbour >= begin && neighbour < end;
        out[i64(row) * out_stride + i] = inside ? x[i64(neighbour) * x_stride + column] : from_float<Real>(0.0f);
    }
}

KERNEL(ROW_THREADS, conv_layer_norm, (
    Real* out, const Real* convolved, const float* bias, const Real* residual, const float* gamma, const float* beta,
    const u8* exists, int activation, int convolved_stride, int residual_stride, int out_stride, int width, float eps
)) {
    const RowShared shared = row_shared(width);
    const i64 row = blockIdx.x;
    const bool there = !exists || exists[row];
    for (int i = 0; chunk_begin(i) < width; i++) {
#pragma unroll 1
        for (int e = 0; e < CHUNK; e++) {
            const int c = chunk_begin(i) + e;
            float sum = 0;
            if (c < width) {
                // Zeroed before the activation, so an activation with act(0) ≠ 0 reaches masked rows.
                const float y = there ? to_float(convolved[row * convolved_stride + c]) + (bias ? bias[c] : 0.0f) : 0.0f;
                sum = to_float(residual[row * residual_stride + c]) + activate(activation, y);
            }
            shared.row[chunk_place(i, e)] = sum;
        }
    }
    normalize_row(out + row * out_stride, shared, gamma, beta, there, width, eps);
}
