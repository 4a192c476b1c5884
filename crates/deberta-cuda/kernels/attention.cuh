// What every rung of the attention ladder is given.
//
//   score[i, j] = (Q_i·K_j + Q_i·PosK[slot(i − j)] + K_j·PosQ[slot(i − j)]) / s       out_i = Σ_j softmax(score_i)_j · V_j
//
// Sequences are packed: the rows of sequence b are cu_seqlens[b] … cu_seqlens[b + 1] − 1 of every matrix, and no row is
// padding. Head h is the columns h·D … h·D + D − 1. A block of the grid (x, y, z) is a part of the queries, a head, a
// sequence. `slots[x + max_length − 1]` is the row of distance x; either position term may be absent (null).
#include "common.cuh"

// D. Each head size is a module of its own, so that loops over it unroll.
#ifndef HEAD_SIZE
#error "define HEAD_SIZE"
#endif

#define ATTENTION_PARAMETERS                                                                                        \
    Real *out, const Real *query, const Real *key, const Real *value, const Real *pos_key, const Real *pos_query,   \
        const int *slots, const int *runs, const int *cu_seqlens, int out_stride, int query_stride, int key_stride, \
        int value_stride, int pos_key_stride, int pos_query_stride, int max_length, float scale

// The smallest multiple of `step` that is not below x.
#define ROUND_UP(x, step) (((x) + (step) - 1) / (step) * (step))
