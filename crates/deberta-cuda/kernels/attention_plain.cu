// Rung 1: plain. One equation a loop.
//
// A block computes one row of one head: all scores of a query into shared memory, their softmax, then the context. No
// tile is reused between queries: every block reads all keys, values and position rows of its distances from global
// memory, and each position term is a product of its own for each score. Nothing but the row of scores, [L] floats, is
// kept, so it runs at any length that shared memory holds (about 25,000 tokens in 99 KiB), with any mask and head size.
// It is what the other rungs are read against, and what returns probabilities. Attention alone in bf16, heads of v3-base, on an H200
// (docs/gpu/2026-11-26-nvidia-h200.md, as all figures of the ladder): 43.6 ms for 16 sequences of 512, 541 ms for one of 8192.
#include "attention.cuh"

#define PLAIN_THREADS 128

__device__ inline float product(const Real* a, const Real* b) {
    float sum = 0;
    for (int d = 0; d < HEAD_SIZE; d++) sum += to_float(a[d]) * to_float(b[d]);
    return sum;
}

// `mask` (or null): whether query i of sequence b sees key j, at mask_starts[b] + i·length + j. A query that sees nothing
// is uniform over its keys where `uniform`, and zero elsewhere. `probabilities` (or null) is [B, H, max_length,
// max_length].
KERNEL(PLAIN_THREADS, attention_plain, (
    ATTENTION_PARAMETERS, const u8* mask, const i64* mask_starts, int uniform, Real* probabilities
)) {
    float* scores = shared_array<float>(max_length + PLAIN_THREADS / WARP);  // [L]
    float* partial = scores + max_length;
    const int i = blockIdx.x, head = blockIdx.y, sequence = blockIdx.z;
    const int begin = cu_seqlens[sequence], length = cu_seqlens[sequence + 1] - begin;
    if (i >= length) return;
    const int column = head * HEAD_SIZE;
    const Real* q = query + i64(begin + i) * query_stride + column;
    const u8* visible = mask ? mask + mask_starts[sequence] + i64(i) * length : nullptr;

    // 1. score_j = (q·k_j + q·PosK[slot] + k_j·PosQ[slot]) / s
    float largest = NEGATIVE_INFINITY;
    for (int j = threadIdx.x; j < length; j += PLAIN_THREADS) {
        const Real* k = key + i64(begin + j) * key_stride + column;
        const int slot = slots ? slots[i - j + max_length - 1] : 0;
        float score = product(q, k);
        if (pos_key) score += product(q, pos_key + i64(slot) * pos_key_stride + column);
        if (pos_query) score += product(k, pos_query + i64(slot) * pos_query_stride + column);
        score = visible && !visible[j] ? NEGATIVE_INFINITY : score / scale;
        scores[j] = score;
        largest = nan_max(largest, score);
    }
    largest = block_max<PLAIN_THREADS>(largest, partial);
    const bool blind = largest == NEGATIVE_INFINITY;

    // 2. p_j = exp(score_j − max) / Σ
    float sum = 0;
    for (int j = threadIdx.x; j < length; j += PLAIN_THREADS) {
        scores[j] = blind ? float(uniform) : expf(scores[j] - largest);
        sum += scores[j];
    }
    sum = block_sum<PLAIN_THREADS>(sum, partial);
    const float share = sum > 0 || sum != sum ? 1.0f / sum : 0.0f;
    if (probabilities) {
        Real* row = probabilities + ((i64(sequence) * gridDim.y + head) * max_length + i) * max_length;
        for (int j = threadIdx.x; j < max_length; j += PLAIN_THREADS) {
            row[j] = from_float<Real>(j < length ? scores[j] * share : 0.0f);
        }
    }

    // 3. out = Σ_j p_j·v_j. The last barrier was before the sum: every score is there since then.
    for (int d = threadIdx.x; d < HEAD_SIZE; d += PLAIN_THREADS) {
        float context = 0;
        for (int j = 0; j < length; j++) {
            context += scores[j] * to_float(value[i64(begin + j) * value_stride + column + d]);
        }
        out[i64(begin + i) * out_stride + column + d] = from_float<Real>(context * share);
    }
}
