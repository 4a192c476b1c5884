// out = x·weightᵀ + bias, for a machine whose driver came without cublasLt.
//
// A block of 256 threads computes 64×64 sums, a thread 4×4 of them, sixteen apart, so that neighbours read neighbouring
// words. Of x and weight 16 columns at a time lie in shared memory, transposed: one pass over global memory serves 64 rows
// and 64 columns. Sums are in float. No tensor cores: it is here to be right where there is nothing else.
#include "common.cuh"

#define GEMM_THREADS 256
#define TILE 64
#define DEPTH 16
#define SIDE 16            // threads along a side of the tile
#define EACH (TILE / SIDE) // sums a thread has along a side

struct GemmShared {
    float x[DEPTH][TILE + 1];  // one more, so that a column does not fall into one bank
    float weight[DEPTH][TILE + 1];
};

// Lays 16 columns of 64 rows beside one another; what lies outside is zero.
__device__ inline void load_tile(float (&tile)[DEPTH][TILE + 1], const Real* from, int first, int rows, int stride,
                                 int column, int depth) {
    for (int i = threadIdx.x; i < TILE * DEPTH; i += GEMM_THREADS) {
        const int row = i / DEPTH, k = i % DEPTH;
        const bool inside = first + row < rows && column + k < depth;
        tile[k][row] = inside ? to_float(from[i64(first + row) * stride + column + k]) : 0.0f;
    }
}

KERNEL(GEMM_THREADS, gemm, (
    Real* out, const Real* x, const Real* weight, const Real* bias, int rows, int columns, int depth, int out_stride,
    int x_stride, int weight_stride
)) {
    GemmShared& shared = shared_memory<GemmShared>();
    const int first_row = blockIdx.y * TILE, first_column = blockIdx.x * TILE;
    const int r = threadIdx.x / SIDE, c = threadIdx.x % SIDE;
    float sums[EACH][EACH] = {};
    for (int column = 0; column < depth; column += DEPTH) {
        // 1. What the block multiplies next.
        load_tile(shared.x, x, first_row, rows, x_stride, column, depth);
        load_tile(shared.weight, weight, first_column, columns, weight_stride, column, depth);
        __syncthreads();
        // 2. The products.
        for (int k = 0; k < DEPTH; k++)
            for (int i = 0; i < EACH; i++)
                for (int j = 0; j < EACH; j++)
                    sums[i][j] += shared.x[k][r + i * SIDE] * shared.weight[k][c + j * SIDE];
        __syncthreads();
    }
    // 3. The bias, and one rounding.
    for (int i = 0; i < EACH; i++) {
        const int row = first_row + r + i * SIDE;
        for (int j = 0; j < EACH; j++) {
            const int column = first_column + c + j * SIDE;
            if (row >= rows || column >= columns) continue;
            const float sum = bias ? sums[i][j] + to_float(bias[column]) : sums[i][j];
            out[i64(row) * out_stride + column] = from_float<Real>(sum);
        }
    }
}
