// Rung 5: tiles of a single slot are plain flash attention.
//
// What changed: beyond the last bucket all distances share one row of the position tables. In a tile where they all do,
//
//   score[i, j] = Q_i·K_j + a_i + b_j        a_i = Q_i·PosK[slot]        b_j = K_j·PosQ[slot]
//
// a number a row and a number a column. The a are the same in every such tile, and computed once; the b are 64 products of
// D a tile. No window is brought, and no product with it computed.
//
// What it gains over rung 4: with 256 buckets and 512 positions, tiles beyond distance 512 (nearly nine in ten at 8192 tokens; none
// below 576) cost what plain flash attention costs. 4.11 → 1.26 ms (8192); where no tile has one slot, rung 4 is chosen.
//
// Rung 6 would be Hopper's (wgmma, TMA): docs/gpu/README.md says what it would have to gain.
#include "attention_window.cuh"

RESIDENT_KERNEL(MMA_THREADS, RESIDENT_BLOCKS, attention_slots, (ATTENTION_PARAMETERS)) { attend<true>(ATTENTION_ARGUMENTS); }
