// The sum of a token's embeddings, and its layer norm.
//
//   sum = word[id] + position[p] + type[t]        out = LayerNorm(sum) · exists
//
// Any of position and type may be absent (null); without ids, row n of `word` is token n's (`inputs_embeds`, and the z of
// the enhanced mask decoder, which is position + hidden state). One block a token; each table row is read once.
#include "row.cuh"

__device__ inline float embedding(
    int column, i64 row, const int* ids, const Real* word, const int* position_ids, const Real* position,
    const int* type_ids, const Real* type, int word_stride, int width
) {
    float sum = to_float(word[(ids ? ids[row] : row) * i64(word_stride) + column]);
    if (position) sum += to_float(position[i64(position_ids[row]) * width + column]);
    if (type) sum += to_float(type[i64(type_ids[row]) * width + column]);
    return sum;
}

KERNEL(ROW_THREADS, embed_layer_norm, (
    Real* out, const int* ids, const Real* word, const int* position_ids, const Real* position, const int* type_ids,
    const Real* type, const float* gamma, const float* beta, const u8* exists, int word_stride, int out_stride,
    int width, float eps
)) {
    const RowShared shared = row_shared(width);
    const i64 row = blockIdx.x;
    for (int c = threadIdx.x; c < width; c += ROW_THREADS) {
        shared.row[c] = embedding(c, row, ids, word, position_ids, position, type_ids, type, word_stride, width);
    }
    normalize_row(out + row * out_stride, shared, gamma, beta, !exists || exists[row], width, eps);
}

// The sum alone: where a projection to the width of the model comes before the norm.
KERNEL(ROW_THREADS, embed_sum, (
    Real* out, const int* ids, const Real* word, const int* position_ids, const Real* position, const int* type_ids,
    const Real* type, int word_stride, int out_stride, int width
)) {
    const i64 row = blockIdx.x;
    for (int c = threadIdx.x; c < width; c += ROW_THREADS) {
        const float sum = embedding(c, row, ids, word, position_ids, position, type_ids, type, word_stride, width);
        out[row * out_stride + c] = from_float<Real>(sum);
    }
}
