// Pooling by attention from the first token, without parameters (Microsoft's multiple choice of 2021).
//
//   s_i = h_0·h_i / √E, or −10000 where token i does not exist        out = Σ_i softmax(s)_i · h_i
//
// One block a sequence, three loops: a thread a token, then a thread a column. It runs once a forward pass, over E
// numbers a token, so plain is fast enough.
#include "common.cuh"

#define POOL_THREADS 128

KERNEL(POOL_THREADS, pool_by_attention, (
    Real* out, const Real* states, const int* cu_seqlens, const u8* exists, int states_stride, int out_stride, int width,
    int max_length
)) {
    float* weights = shared_array<float>(max_length + POOL_THREADS / WARP);  // [L]
    float* partial = weights + max_length;
    const int begin = cu_seqlens[blockIdx.x], length = cu_seqlens[blockIdx.x + 1] - begin;
    const Real* first = states + i64(begin) * states_stride;
    // 1. Scores.
    float largest = NEGATIVE_INFINITY;
    for (int i = threadIdx.x; i < length; i += POOL_THREADS) {
        float score = 0;
        for (int c = 0; c < width; c++) score += to_float(first[c]) * to_float(first[i64(i) * states_stride + c]);
        weights[i] = exists && !exists[begin + i] ? -10000.0f : score / sqrtf(float(width));
        largest = nan_max(largest, weights[i]);
    }
    largest = block_max<POOL_THREADS>(largest, partial);
    // 2. Their softmax.
    float sum = 0;
    for (int i = threadIdx.x; i < length; i += POOL_THREADS) {
        weights[i] = expf(weights[i] - largest);
        sum += weights[i];
    }
    sum = block_sum<POOL_THREADS>(sum, partial);
    // 3. The states they weigh.
    for (int c = threadIdx.x; c < width; c += POOL_THREADS) {
        float pooled = 0;
        for (int i = 0; i < length; i++) pooled += weights[i] * to_float(first[i64(i) * states_stride + c]);
        out[i64(blockIdx.x) * out_stride + c] = from_float<Real>(pooled / sum);
    }
}
