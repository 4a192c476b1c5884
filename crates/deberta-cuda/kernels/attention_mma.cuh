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
#define CHUNK int(16 / sizeof(Real))           // elements in 16 bytes
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

// Begins to copy rows first … first + 63; those from `length` on are zero.
__device__ inline void copy_tile(Tile& tile, const Real* from, int first, int length, int stride) {
    const int chunks = HEAD_SIZE / CHUNK;
    for (int at = threadIdx.x; at < TILE * chunks; at += MMA_THREADS) {
        const int row = at / chunks, d = at % chunks * CHUNK;
        copy_async_16(&tile.at[row * STRIDE + d], from + i64(first + row) * stride + d, first + row < length);
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

// The operand a: rows `row` … row + 15, one step of depth from k on.
__device__ inline void load_a(u32 (&a)[4], const Real* tile, int row, int k) {
    const int lane = threadIdx.x % WARP, matrix = lane / 8;
    load_matrices(a, &tile[(row + matrix % 2 * 8 + lane % 8) * STRIDE + k + matrix / 2 * CHUNK]);
    round_all(a);
}

// The operand b twice: rows `row` … row + 7 of a matrix [n, k] in b[0 … 1], the eight after them in b[2 … 3]. Row r is
// `tile` row r & mask, so that a ring of rows can be read too.
__device__ inline void load_b(u32 (&b)[4], const Real* tile, int row, int k, int mask) {
    const int lane = threadIdx.x % WARP, matrix = lane / 8;
    load_matrices(b, &tile[((row + matrix / 2 * 8 + lane % 8) & mask) * STRIDE + k + matrix % 2 * CHUNK]);
    round_all(b);
}

__device__ inline void multiply_pair(float (&d0)[4], float (&d1)[4], const u32 (&a)[4], const u32 (&b)[4]) {
    const u32 b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
    multiply_add<Real>(d0, a, b0);
    multiply_add<Real>(d1, a, b1);
}

// ---- the steps of a tile

// The warp's queries, by way of the tile of keys. Ends with a barrier: the tile is free again.
__device__ inline void load_queries(Rows& rows, Tile& tile, const Real* from, int first, int length, int stride) {
    copy_tile(tile, from, first, length, stride);
    copy_async_commit();
    copy_async_wait<0>();
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

// score = Q·Kᵀ
__device__ inline void multiply_keys(float (&score)[KEY_TILES][4], const Rows& rows, const Tile& keys) {
#pragma unroll
    for (int n = 0; n < KEY_TILES; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) score[n][e] = 0;
    }
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
#pragma unroll
        for (int n = 0; n < KEY_TILES; n += 2) {
            u32 b[4];
            load_b(b, keys.at, 8 * n, k * STEP, TILE - 1);
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

// Scores become probabilities relative to the running maximum; `keys_left` of the tile's keys exist. Exponents are taken
// to the base 2: `scale` is log2(e) / s.
__device__ inline void online_softmax(float (&score)[KEY_TILES][4], Rows& rows, int keys_left, float scale) {
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
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float top = rows.largest[half];
#pragma unroll
        for (int n = 0; n < KEY_TILES; n++) top = nan_max(top, nan_max(score[n][2 * half], score[n][2 * half + 1]));
        top = row_max(top);
        const float shrink = exp2f((rows.largest[half] - top) * scale);
        float added = 0;
#pragma unroll
        for (int n = 0; n < KEY_TILES; n++) {
#pragma unroll
            for (int e = 2 * half; e < 2 * half + 2; e++) {
                score[n][e] = exp2f((score[n][e] - top) * scale);
                added += score[n][e];
            }
        }
        rows.largest[half] = top;
        rows.sum[half] = rows.sum[half] * shrink + row_sum(added);
#pragma unroll
        for (int n = 0; n < OUT_TILES; n++) {
            rows.context[n][2 * half] *= shrink;
            rows.context[n][2 * half + 1] *= shrink;
        }
    }
}

// context += P·V. The result fragment of the scores is the operand fragment of P: no lane needs another's numbers.
#if defined(PRECISION_F16) || defined(PRECISION_BF16)
__device__ inline u32 packed(float low, float high) {
    return u32(from_float<Real>(low).bits) | u32(from_float<Real>(high).bits) << 16;
}

__device__ inline void multiply_values(Rows& rows, const float (&p)[KEY_TILES][4], const Tile& values) {
    const int lane = threadIdx.x % WARP, matrix = lane / 8;
#pragma unroll
    for (int k = 0; k < TILE / STEP; k++) {
        const u32 a[4] = {packed(p[2 * k][0], p[2 * k][1]), packed(p[2 * k][2], p[2 * k][3]),
                          packed(p[2 * k + 1][0], p[2 * k + 1][1]), packed(p[2 * k + 1][2], p[2 * k + 1][3])};
#pragma unroll
        for (int n = 0; n < OUT_TILES; n += 2) {
            u32 b[4];
            load_matrices_transposed(
                b, &values.at[(k * STEP + matrix % 2 * 8 + lane % 8) * STRIDE + 8 * n + matrix / 2 * 8]);
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

// out = context / sum, for the warp's queries that exist; `first` is the first of them within its sequence.
__device__ inline void store_context(Real* out, const Rows& rows, int first, int length, int stride) {
    const int g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int i = first + g + 8 * half;
        if (i >= length) continue;
#pragma unroll
        for (int n = 0; n < OUT_TILES; n++) {
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int d = 8 * n + 2 * t + e;
                if (d < HEAD_SIZE) {
                    out[i64(i) * stride + d] = from_float<Real>(rows.context[n][2 * half + e] / rows.sum[half]);
                }
            }
        }
    }
}
