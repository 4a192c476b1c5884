// What the rungs on tensor cores share: tiles in shared memory, fragments in registers, the online softmax.
//
// A block takes 64 queries of a head and walks over the keys 64 at a time; each of its four warps has 16 of the queries.
// In TF32 an operand is rounded when it is taken from shared memory; in f16 and bf16 a product is exact. Sums, the
// softmax and the context stay in float, in registers; a probability is rounded once, where it becomes an operand.
//
// Only one tile of keys and one of values is held: the next keys travel while this tile's softmax and P·V are computed,
// and the values while its scores are. A barrier for each of the two arrivals, and one for each of the two departures.
#include "attention.cuh"

#define MMA_THREADS 128
#define TILE 64
#define STEP (2 * CHUNK)                       // depth of one multiply_add
#define DEPTH ROUND_UP(HEAD_SIZE, STEP)        // D, filled up with zeros
#define STEPS (DEPTH / STEP)
#define STRIDE (DEPTH + CHUNK)                 // eight rows at one column then lie in different banks
#define KEY_TILES (TILE / 8)
#define OUT_TILES (DEPTH / 8)

#define LOG2_E 1.44269504088896340736f

struct Tile { Real at[TILE * STRIDE]; };

// What a warp keeps of its 16 queries; the lane 4g + t of it has rows g and g + 8, columns 2t and 2t + 1 of every tile.
struct Rows {
    u32 query[STEPS][4];
    float largest[2], sum[2];
    float context[OUT_TILES][4];
};

// ---- from global to shared memory

// Columns from D on are zero, and no copy touches them.
__device__ inline void clear_padding(Real* tile, int rows) {
    for (int row = threadIdx.x; row < rows; row += MMA_THREADS) {
        for (int d = HEAD_SIZE; d < DEPTH; d++) tile[row * STRIDE + d] = from_float<Real>(0.0f);
    }
}

// How many times every thread copies 16 bytes to bring `rows` rows; the last time not all may have one.
#define COPIES(ROWS) (ROUND_UP((ROWS) * (HEAD_SIZE / CHUNK), MMA_THREADS) / MMA_THREADS)

// The row and the column of a thread's i-th copy; false where it has none.
__device__ inline bool copied_by(int i, int rows, int& row, int& d) {
    const u32 chunks = HEAD_SIZE / CHUNK, at = i * MMA_THREADS + threadIdx.x;
    row = at / chunks;
    d = at % chunks * CHUNK;
    return rows * chunks % MMA_THREADS == 0 || row < rows;
}

// Begins to copy 64 rows from `from` on, of which `left` exist; the others are zero.
__device__ inline void copy_tile(Tile& tile, const Real* from, int left, int stride) {
#pragma unroll
    for (int i = 0; i < COPIES(TILE); i++) {
        int row, d;
        if (!copied_by(i, TILE, row, d)) break;
        copy_async_16(&tile.at[row * STRIDE + d], from + (row * stride + d), row < left);
    }
}

// ---- from shared memory to fragments

__device__ inline u32 rounded(u32 operand, float) { return to_tf32(__uint_as_float(operand)); }
__device__ inline u32 rounded(u32 operand, f16) { return operand; }
__device__ inline u32 rounded(u32 operand, bf16) { return operand; }

__device__ inline void round_all(u32 (&r)[4]) {
#pragma unroll
    for (int i = 0; i < 4; i++) r[i] = rounded(r[i], Real());
}

// Where, from the start of a tile, a lane's row of four matrices begins, in bytes; they begin at row `row` and column k. The
// second matrix lies eight rows below the first and the third a chunk to the right, or the reverse.
__device__ inline int matrix_at(int row, int k, bool below_first) {
    const int lane = threadIdx.x % WARP, matrix = lane / 8;
    const int below = below_first ? matrix % 2 : matrix / 2, right = below_first ? matrix / 2 : matrix % 2;
    return (row + below * 8 + lane % 8) * int(STRIDE * sizeof(Real)) + right * 16 + k * int(sizeof(Real));
}

// The operand a: rows `row` … row + 15, one step of depth from k on.
__device__ inline void load_a(u32 (&a)[4], const Real* tile, int row, int k) {
    load_matrices(a, tile, matrix_at(row, k, true));
    round_all(a);
}

// The operand b twice: of a matrix [n, k], rows `row` … row + 7 in b[0 … 1], the eight after them in b[2 … 3].
__device__ inline void load_b(u32 (&b)[4], const Real* tile, int row, int k) {
    load_matrices(b, tile, matrix_at(row, k, false));
    round_all(b);
}

__device__ inline void multiply_pair(float (&d0)[4], float (&d1)[4], const u32 (&a)[4], const u32 (&b)[4]) {
    const u32 b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
    multiply_add<Real>(d0, a, b0);
    multiply_add<Real>(d1, a, b1);
}

// ---- the steps of a tile

// The warp's queries, which were copied to `tile`; all but the last group of copies must have been of them. Ends with a barrier:
// the tile is free again.
__device__ inline void load_queries(Rows& rows, const Tile& tile) {
    copy_async_wait<1>();
    __syncthreads();
#pragma unroll
    for (int k = 0; k < STEPS; k++) load_a(rows.query[k], tile.at, threadIdx.x / WARP * 16, k * STEP);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        rows.largest[half] = NEGATIVE_INFINITY;
        rows.sum[half] = 0;
    }
#pragma unroll
    for (int n = 0; n < OUT_TILES; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) rows.context[n][e] = 0;
    }
    __syncthreads();
}

__device__ inline void clear(float (&score)[KEY_TILES][4]) {
#pragma unroll
    for (int n = 0; n < KEY_TILES; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) score[n][e] = 0;
    }
}

// score += Q·Kᵀ
__device__ inline void multiply_keys(float (&score)[KEY_TILES][4], const Rows& rows, const Tile& keys) {
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
#pragma unroll
        for (int n = 0; n < KEY_TILES; n += 2) {
            u32 b[4];
            load_b(b, keys.at, 8 * n, k * STEP);
            multiply_pair(score[n], score[n + 1], rows.query[k], b);
        }
    }
}

// The largest, and the sum, over the four lanes that share a row.
__device__ inline float row_max(float x) {
    x = nan_max(x, __shfl_xor_sync(EVERY_LANE, x, 1));
    return nan_max(x, __shfl_xor_sync(EVERY_LANE, x, 2));
}
__device__ inline float row_sum(float x) {
    x += __shfl_xor_sync(EVERY_LANE, x, 1);
    return x + __shfl_xor_sync(EVERY_LANE, x, 2);
}

// Scores, plus a number for each row, become probabilities relative to the running maximum; `keys_left` of the tile's keys
// exist. Exponents are taken to the base 2: `scale` is log2(e) / s, and maxima are kept times it. A lane sums its own part of a
// row; `store_context` puts the parts together.
__device__ inline void online_softmax(
    float (&score)[KEY_TILES][4], Rows& rows, const float (&of_rows)[2], int keys_left, float scale
) {
    const int t = threadIdx.x % 4;
    if (keys_left < TILE) {
#pragma unroll
        for (int n = 0; n < KEY_TILES; n++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                if (8 * n + 2 * t + e % 2 >= keys_left) score[n][e] = NEGATIVE_INFINITY;
            }
        }
    }
    // Four chains of maxima, and of sums: element e of every tile is of row e / 2.
    float top[4], added[4] = {};
#pragma unroll
    for (int n = 0; n < KEY_TILES; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) top[e] = n ? nan_max(top[e], score[n][e]) : score[n][e];
    }
    float shrink[2], shift[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float of_tile = row_max(nan_max(top[2 * half], top[2 * half + 1])) + of_rows[half];
        const float largest = nan_max(rows.largest[half], of_tile * scale);
        shrink[half] = exp2_fast(rows.largest[half] - largest);
        shift[half] = of_rows[half] * scale - largest;
        rows.largest[half] = largest;
    }
#pragma unroll
    for (int n = 0; n < KEY_TILES; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            score[n][e] = exp2_fast(score[n][e] * scale + shift[e / 2]);
            added[e] += score[n][e];
        }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        rows.sum[half] = rows.sum[half] * shrink[half] + (added[2 * half] + added[2 * half + 1]);
    }
#pragma unroll
    for (int n = 0; n < OUT_TILES; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) rows.context[n][e] *= shrink[e / 2];
    }
}

// context += P·V. The result fragment of the scores is the operand fragment of P: no lane needs another's numbers.
#if defined(PRECISION_F16) || defined(PRECISION_BF16)
__device__ inline void multiply_values(Rows& rows, const float (&p)[KEY_TILES][4], const Tile& values) {
#pragma unroll
    for (int k = 0; k < TILE / STEP; k++) {
        const u32 a[4] = {
            packed<Real>(p[2 * k][0], p[2 * k][1]), packed<Real>(p[2 * k][2], p[2 * k][3]),
            packed<Real>(p[2 * k + 1][0], p[2 * k + 1][1]), packed<Real>(p[2 * k + 1][2], p[2 * k + 1][3])};
#pragma unroll
        for (int n = 0; n < OUT_TILES; n += 2) {
            u32 b[4];
            load_matrices_transposed(b, values.at, matrix_at(k * STEP, 8 * n, true));
            multiply_pair(rows.context[n], rows.context[n + 1], a, b);
        }
    }
}
#else
// In TF32 a lane has columns 2t and 2t + 1 of P, and the operand wants t and t + 4. The sum over keys has no order: key 2t
// takes the place of t, key 2t + 1 that of t + 4, in both operands.
__device__ inline void multiply_values(Rows& rows, const float (&p)[KEY_TILES][4], const Tile& values) {
    const int g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int k = 0; k < TILE / STEP; k++) {
        const u32 a[4] = {to_tf32(p[k][0]), to_tf32(p[k][2]), to_tf32(p[k][1]), to_tf32(p[k][3])};
#pragma unroll
        for (int n = 0; n < OUT_TILES; n++) {
            const Real* v = &values.at[(k * STEP + 2 * t) * STRIDE + 8 * n + g];
            const u32 b[2] = {to_tf32(v[0]), to_tf32(v[STRIDE])};
            multiply_add<Real>(rows.context[n], a, b);
        }
    }
}
#endif

// A lane's two neighbouring columns of the result.
#if defined(PRECISION_F16) || defined(PRECISION_BF16)
__device__ inline void store_two(Real* at, float x, float y) { *reinterpret_cast<u32*>(at) = packed<Real>(x, y); }
#else
__device__ inline void store_two(Real* at, float x, float y) { at[0] = x, at[1] = y; }
#endif

// out = context / sum, for the warp's queries that exist; `first` is the first of them within its sequence.
__device__ inline void store_context(Real* out, const Rows& rows, int first, int length, int stride) {
    const int g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int i = first + g + 8 * half;
        const float share = 1.0f / row_sum(rows.sum[half]);
        if (i >= length) continue;
#pragma unroll
        for (int n = 0; n < OUT_TILES; n++) {
            const int d = 8 * n + 2 * t;
            const float x = rows.context[n][2 * half] * share, y = rows.context[n][2 * half + 1] * share;
            if (d < HEAD_SIZE) store_two(&out[i64(i) * stride + d], x, y);
        }
    }
}
