// Bias, residual and layer norm in one pass.
//
//   out = LayerNorm(x + bias + residual) · exists
//
// Three reads and one write of global memory in place of the nine and three of bias, sum and norm apart. The kernel is
// bound by memory, so that is what it should gain.
//
// A block takes a row. `residual_rows` names another row of the residual for each row (the replaced-token head adds the
// first state of a sequence to all of its states); null is the row itself.
#include "row.cuh"

KERNEL(ROW_THREADS, layer_norm, (
    Real* out, const Real* x, const float* bias, const Real* residual, const int* residual_rows, const float* gamma,
    const float* beta, const u8* exists, int x_stride, int residual_stride, int out_stride, int width, float eps
)) {
    const RowShared shared = row_shared(width);
    const i64 row = blockIdx.x;
    const i64 of_residual = residual_rows ? residual_rows[row] : row;
    for (int i = 0; chunk_begin(i) < width; i++) {
        const int first = chunk_begin(i);
        float sum[CHUNK], more[CHUNK];
        load_part(sum, x + row * x_stride, first, width);
        if (bias) {
            load_floats(more, bias, first, width);
#pragma unroll
            for (int e = 0; e < CHUNK; e++) sum[e] += more[e];
        }
        if (residual) {
            load_part(more, residual + of_residual * residual_stride, first, width);
#pragma unroll
            for (int e = 0; e < CHUNK; e++) sum[e] += more[e];
        }
        keep(shared, sum, i);
    }
    normalize_row(out + row * out_stride, shared, gamma, beta, !exists || exists[row], width, eps);
}
