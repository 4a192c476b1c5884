// The products that rungs 2 and 3 gather from: every state of every head with every position row.
//
//   out[n, h, r] = x[n, h]·position[r, h]          x [N, H·D], position [R, H·D], out [N, H, R] in float
//
// Twice: queries with PosK (c2p), keys with PosQ (p2c). It is linear in the length, but at 512 rows it is more arithmetic
// than the scores themselves below 512 tokens, and it has to be written to global memory and gathered from there. That is
// what rung 4 does away with.
//
// A block of 128 threads computes a tile of 32 states × 32 rows, a thread 2 × 4 of them.
#include "attention.cuh"

#define POSITION_THREADS 128
#define POSITION_TILE 32
#define POSITION_STRIDE (HEAD_SIZE + 1)

struct PositionShared {
    float x[POSITION_TILE * POSITION_STRIDE];
    float position[POSITION_TILE * POSITION_STRIDE];
};

__device__ inline void load_rows(float* to, const Real* from, int first, int rows, int stride, int column) {
    for (int at = threadIdx.x; at < POSITION_TILE * HEAD_SIZE; at += POSITION_THREADS) {
        const int row = at / HEAD_SIZE, d = at % HEAD_SIZE;
        const bool there = first + row < rows;
        to[row * POSITION_STRIDE + d] = there ? to_float(from[i64(first + row) * stride + column + d]) : 0.0f;
    }
}

KERNEL(POSITION_THREADS, position_scores, (
    float* out, const Real* x, const Real* position, int rows, int position_rows, int x_stride, int position_stride
)) {
    PositionShared& shared = shared_memory<PositionShared>();
    const int first_row = blockIdx.x * POSITION_TILE, first_position = blockIdx.y * POSITION_TILE, head = blockIdx.z;
    load_rows(shared.x, x, first_row, rows, x_stride, head * HEAD_SIZE);
    load_rows(shared.position, position, first_position, position_rows, position_stride, head * HEAD_SIZE);
    __syncthreads();
    // The thread's states are 2·(thread / 8) and the next, its position rows thread % 8 + 8·c.
    const int row = threadIdx.x / 8 * 2, column = threadIdx.x % 8;
    float sums[2][4] = {};
    for (int d = 0; d < HEAD_SIZE; d++) {
        for (int a = 0; a < 2; a++) {
            for (int c = 0; c < 4; c++) {
                sums[a][c] += shared.x[(row + a) * POSITION_STRIDE + d] *
                              shared.position[(column + 8 * c) * POSITION_STRIDE + d];
            }
        }
    }
    for (int a = 0; a < 2; a++) {
        for (int c = 0; c < 4; c++) {
            const int n = first_row + row + a, r = first_position + column + 8 * c;
            if (n < rows && r < position_rows) out[(i64(n) * gridDim.z + head) * position_rows + r] = sums[a][c];
        }
    }
}
