// Rung 3: tensor cores, asynchronous copies.
//
// What changed: Q·Kᵀ and P·V are done by the tensor cores (mma.sync, 16×8 results a warp), from fragments that stay in
// registers, and tiles come by cp.async, past the registers, while something else is computed. The position terms are
// still gathered from global memory, one number a score and term.
//
// What it gains over rung 2: products that took D multiplications a thread are an eighth of an instruction a warp. 1.73 →
// 1.38 ms (16 × 512), 12.0 → 6.38 ms (8192), and no more, as now the gather takes the time: it is the point that the published
// Triton kernels have reached.
#include "attention_mma.cuh"

struct MmaShared {
    Tile key, value;
};

// `c2p` and `p2c` as in rung 2.
KERNEL(MMA_THREADS, attention_mma, (ATTENTION_PARAMETERS, const float* c2p, const float* p2c, int position_rows)) {
    MmaShared& shared = shared_memory<MmaShared>();
    const int first_query = blockIdx.x * TILE, head = blockIdx.y, sequence = blockIdx.z;
    const int begin = cu_seqlens[sequence], length = cu_seqlens[sequence + 1] - begin;
    if (first_query >= length) return;
    const int column = head * HEAD_SIZE, heads = gridDim.y;
    const int first_row = first_query + threadIdx.x / WARP * 16, g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
    const Real* keys = key + i64(begin) * key_stride + column;
    const Real* values = value + i64(begin) * value_stride + column;

    clear_padding(shared.key.at, TILE);
    clear_padding(shared.value.at, TILE);
    // The queries come by way of the tile of values, while the first keys travel.
    copy_tile(shared.value, query + i64(begin + first_query) * query_stride + column, length - first_query, query_stride);
    copy_async_commit();
    copy_tile(shared.key, keys, length, key_stride);
    copy_async_commit();
    Rows rows;
    load_queries(rows, shared.value);
    const float nothing[2] = {0, 0};
    for (int first_key = 0; first_key < length; first_key += TILE) {
        const int left = length - first_key;
        copy_tile(shared.value, values + i64(first_key) * value_stride, left, value_stride);
        copy_async_commit();
        // 1. Scores, once the keys have arrived.
        copy_async_wait<1>();
        __syncthreads();
        float score[KEY_TILES][4];
        clear(score);
        multiply_keys(score, rows, shared.key);
        __syncthreads();
        // 2. The next keys, and the position terms of these.
        copy_tile(shared.key, keys + i64(first_key + TILE) * key_stride, left - TILE, key_stride);
        copy_async_commit();
#pragma unroll
        for (int n = 0; n < KEY_TILES; n++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int i = first_row + g + e / 2 * 8, j = first_key + 8 * n + 2 * t + e % 2;
                if (i >= length || j >= length || !slots) continue;
                const int slot = slots[i - j + max_length - 1];
                if (c2p) score[n][e] += c2p[(i64(begin + i) * heads + head) * position_rows + slot];
                if (p2c) score[n][e] += p2c[(i64(begin + j) * heads + head) * position_rows + slot];
            }
        }
        // 3. Softmax, and the values once they have arrived.
        online_softmax(score, rows, nothing, left, LOG2_E / scale);
        copy_async_wait<1>();
        __syncthreads();
        multiply_values(rows, score, shared.value);
        __syncthreads();
    }
    copy_async_wait<0>();
    store_context(out + i64(begin) * out_stride + column, rows, first_row, length, out_stride);
}
