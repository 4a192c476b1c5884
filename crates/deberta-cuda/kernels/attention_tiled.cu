// Rung 2: tiled through shared memory, with an online softmax.
//
// What changed: a block takes 64 queries of a head and walks over the keys 32 at a time. Each key and value is read from
// global memory once for 64 queries, and not once for each; scores live in shared memory for a moment only. With the
// running maximum m and sum l of each row,
//
//   m' = max(m, max_j s_j)    l' = l·e^(m − m') + Σ_j e^(s_j − m')    out' = out·e^(m − m') + Σ_j e^(s_j − m')·V_j
//
// and out / l at the end is the softmax (Milakov and Gimelshein 2018; Dao et al. 2022). The position terms are gathered
// from products computed beforehand (position_scores.cu), one number a score and term, as the published Triton kernels do.
//
// What it gains over rung 1: global traffic for K and V divided by 64, and a position term for a load in place of D
// multiplications. 43.6 → 1.73 ms (16 × 512), 541 → 12.0 ms (8192). It is for float arithmetic in every precision, any head size,
// and masks.
#include "attention.cuh"

#define TILED_THREADS 128
#define TILE_Q 64
#define TILE_K 32
#define ROW_LANES 8                               // threads that share a row of scores: neighbours in a warp
#define ROWS 4                                    // rows a thread
#define KEYS (TILE_K / ROW_LANES)                 // scores of each row a thread
#define DEPTH ROUND_UP(HEAD_SIZE, 4)              // D, filled up with zeros
#define GROUPS ((DEPTH + 4 * ROW_LANES - 1) / (4 * ROW_LANES))  // quadruples of out's columns a thread
#define STRIDE (DEPTH + 4)                        // eight rows at one column then lie in different banks
#define SCORE_STRIDE (TILE_K + 4)

struct __attribute__((aligned(16))) Quad { float at[4]; };

struct TiledShared {
    float query[TILE_Q * STRIDE];
    float key[TILE_K * STRIDE];
    float value[TILE_K * STRIDE];
    float score[TILE_Q * SCORE_STRIDE];
};

__device__ inline Quad quad(const float* p) { return *reinterpret_cast<const Quad*>(p); }

// Rows first … first + count − 1 of a head; rows from `length` on, and columns from D on, are zero.
__device__ inline void load_tile(float* to, const Real* from, int first, int count, int length, int stride) {
    for (int at = threadIdx.x; at < count * DEPTH; at += TILED_THREADS) {
        const int row = at / DEPTH, d = at % DEPTH;
        const bool there = first + row < length && d < HEAD_SIZE;
        to[row * STRIDE + d] = there ? to_float(from[i64(first + row) * stride + d]) : 0.0f;
    }
}

// The largest, and the sum, over the lanes that share a row.
__device__ inline float row_max(float x) {
    for (int lanes = ROW_LANES / 2; lanes > 0; lanes /= 2) x = nan_max(x, __shfl_xor_sync(EVERY_LANE, x, lanes));
    return x;
}
__device__ inline float row_sum(float x) {
    for (int lanes = ROW_LANES / 2; lanes > 0; lanes /= 2) x += __shfl_xor_sync(EVERY_LANE, x, lanes);
    return x;
}

// Q·Kᵀ of the thread's rows and keys.
__device__ inline void multiply_tile(float (&score)[ROWS][KEYS], const TiledShared& shared, int row, int lane) {
    for (int d = 0; d < DEPTH; d += 4) {
        Quad q[ROWS], k[KEYS];
        for (int a = 0; a < ROWS; a++) q[a] = quad(&shared.query[(row + a) * STRIDE + d]);
        for (int c = 0; c < KEYS; c++) k[c] = quad(&shared.key[(lane + ROW_LANES * c) * STRIDE + d]);
        for (int a = 0; a < ROWS; a++) {
            for (int c = 0; c < KEYS; c++) {
                for (int e = 0; e < 4; e++) score[a][c] += q[a].at[e] * k[c].at[e];
            }
        }
    }
}

// `mask`, `mask_starts` and `uniform` as in rung 1; `c2p` and `p2c` [N, H, position_rows], or null.
KERNEL(TILED_THREADS, attention_tiled, (
    ATTENTION_PARAMETERS, const u8* mask, const i64* mask_starts, int uniform, const float* c2p, const float* p2c,
    int position_rows
)) {
    TiledShared& shared = shared_memory<TiledShared>();
    const int first_query = blockIdx.x * TILE_Q, head = blockIdx.y, sequence = blockIdx.z;
    const int begin = cu_seqlens[sequence], length = cu_seqlens[sequence + 1] - begin;
    if (first_query >= length) return;
    const int column = head * HEAD_SIZE, heads = gridDim.y;
    const int row = threadIdx.x / ROW_LANES * ROWS, lane = threadIdx.x % ROW_LANES;
    const Real* keys = key + i64(begin) * key_stride + column;
    const Real* values = value + i64(begin) * value_stride + column;

    load_tile(shared.query, query + i64(begin) * query_stride + column, first_query, TILE_Q, length, query_stride);
    float largest[ROWS], sum[ROWS], context[ROWS][GROUPS][4] = {};
    for (int a = 0; a < ROWS; a++) {
        largest[a] = NEGATIVE_INFINITY;
        sum[a] = 0;
    }
    for (int first_key = 0; first_key < length; first_key += TILE_K) {
        // 1. The next keys and values, once nobody reads the last ones any more.
        __syncthreads();
        load_tile(shared.key, keys, first_key, TILE_K, length, key_stride);
        load_tile(shared.value, values, first_key, TILE_K, length, value_stride);
        __syncthreads();
        // 2. Their scores.
        float score[ROWS][KEYS] = {};
        multiply_tile(score, shared, row, lane);
        for (int a = 0; a < ROWS; a++) {
            const int i = first_query + row + a;
            for (int c = 0; c < KEYS; c++) {
                const int j = first_key + lane + ROW_LANES * c;
                if (i >= length || j >= length) {
                    score[a][c] = NEGATIVE_INFINITY;
                    continue;
                }
                const int slot = slots ? slots[i - j + max_length - 1] : 0;
                if (c2p) score[a][c] += c2p[(i64(begin + i) * heads + head) * position_rows + slot];
                if (p2c) score[a][c] += p2c[(i64(begin + j) * heads + head) * position_rows + slot];
                score[a][c] /= scale;
                if (mask && !mask[mask_starts[sequence] + i64(i) * length + j]) score[a][c] = NEGATIVE_INFINITY;
            }
        }
        // 3. The online softmax. A row that has seen nothing yet keeps its maximum at minus infinity, and exponents at 0.
        for (int a = 0; a < ROWS; a++) {
            float top = score[a][0];
            for (int c = 1; c < KEYS; c++) top = nan_max(top, score[a][c]);
            top = nan_max(largest[a], row_max(top));
            const float base = top == NEGATIVE_INFINITY ? 0.0f : top;
            const float shrink = expf(largest[a] - base);
            float added = 0;
            for (int c = 0; c < KEYS; c++) {
                const float p = expf(score[a][c] - base);
                shared.score[(row + a) * SCORE_STRIDE + lane + ROW_LANES * c] = p;
                added += p;
            }
            largest[a] = top;
            sum[a] = sum[a] * shrink + row_sum(added);
            for (int group = 0; group < GROUPS; group++) {
                for (int e = 0; e < 4; e++) context[a][group][e] *= shrink;
            }
        }
        // 4. The values they weigh. A row is written and read by one warp.
        __syncwarp();
        for (int j = 0; j < TILE_K; j += 4) {
            Quad p[ROWS];
            for (int a = 0; a < ROWS; a++) p[a] = quad(&shared.score[(row + a) * SCORE_STRIDE + j]);
            for (int group = 0; group < GROUPS; group++) {
                const int d = 4 * (lane + ROW_LANES * group);
                if (d >= DEPTH) break;
                for (int k = 0; k < 4; k++) {
                    const Quad v = quad(&shared.value[(j + k) * STRIDE + d]);
                    for (int a = 0; a < ROWS; a++) {
                        for (int e = 0; e < 4; e++) context[a][group][e] += p[a].at[k] * v.at[e];
                    }
                }
            }
        }
    }
    // 5. The quotient. A row without a visible key is what the reference makes of it.
    for (int a = 0; a < ROWS; a++) {
        const int i = first_query + row + a;
        if (i >= length) continue;
        const bool blind = largest[a] == NEGATIVE_INFINITY;
        for (int group = 0; group < GROUPS; group++) {
            for (int e = 0; e < 4; e++) {
                const int d = 4 * (lane + ROW_LANES * group) + e;
                if (d >= HEAD_SIZE) continue;
                float y = context[a][group][e] / sum[a];
                if (blind) {
                    y = 0;
                    for (int j = 0; uniform && j < length; j++) y += to_float(values[i64(j) * value_stride + d]) / length;
                }
                out[i64(begin + i) * out_stride + column + d] = from_float<Real>(y);
            }
        }
    }
}
