// The sum of a token's embeddings, and its layer norm.
//
//   sum = word[id] + position[p] + type[t]        out = LayerNorm(sum) · exists
//
// Any of position and type may be absent (null); without ids, row n of `word` is token n's (`inputs_embeds`, and the z of
// the enhanced mask decoder, which is position + hidden state). One block a token; each table row is read once.
#include "row.cuh"

// The sum from column `first` on.
__device__ inline void embedding(
    float (&sum)[CHUNK], int first, i64 row, const int* ids, const Real* word, const int* position_ids, const Real* position,
    const int* type_ids, const Real* type, int word_stride, int width
) {
    load_part(sum, word + (ids ? ids[row] : row) * i64(word_stride), first, width);
    const Real* tables[] = {position, type};
    const int* rows[] = {position_ids, type_ids};
#pragma unroll
    for (int i = 0; i < 2; i++) {
        if (!tables[i]) continue;
        float more[CHUNK];
        load_part(more, tables[i] + i64(rows[i][row]) * width, first, width);
#pragma unroll
        for (int e = 0; e < CHUNK; e++) sum[e] += more[e];
    }
}

KERNEL(ROW_THREADS, embed_layer_norm, (
    Real* out, const int* ids, const Real* word, const int* position_ids, const Real* position, const int* type_ids,
    const Real* type, const float* gamma, const float* beta, const u8* exists, int word_stride, int out_stride,
    int width, float eps
)) {
    const RowShared shared = row_shared(width);
    const i64 row = blockIdx.x;
    for (int i = 0; chunk_begin(i) < width; i++) {
        float sum[CHUNK];
        embedding(sum, chunk_begin(i), row, ids, word, position_ids, position, type_ids, type, word_stride, width);
        keep(shared, sum, i);
    }
    normalize_row(out + row * out_stride, shared, gamma, beta, !exists || exists[row], width, eps);
}

// The sum alone: where a projection to the width of the model comes before the norm.
KERNEL(ROW_THREADS, embed_sum, (
    Real* out, const int* ids, const Real* word, const int* position_ids, const Real* position, const int* type_ids,
    const Real* type, int word_stride, int out_stride, int width
)) {
    const i64 row = blockIdx.x;
    for (int i = 0; chunk_begin(i) < width; i++) {
        float sum[CHUNK];
        embedding(sum, chunk_begin(i), row, ids, word, position_ids, position, type_ids, type, word_stride, width);
        store_part(out + row * out_stride, sum, chunk_begin(i), width);
    }
}
