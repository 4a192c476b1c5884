// Rung 4: the window of distances of a tile in shared memory.
//
// What changed: nothing is gathered from global memory, and no products with position rows are computed beforehand. A tile
// of 64×64 scores spans 127 distances, so its position rows are a window that fits into shared memory, half of which the
// tile before has left there; c2p and p2c are products with that window on the tensor cores, read back shifted
// (attention_window.cuh).
//
// What it gains over rung 3: two gathers a score become two reads of shared memory. In return the tensor cores do 1 + 2·80/64
// products where Q·Kᵀ alone is one; no [N, H, R] arrays are written and read, so memory beyond the operands is none at all.
// 1.38 → 0.154 ms (16 × 512), 6.38 → 4.11 ms (8192).
#include "attention_window.cuh"

RESIDENT_KERNEL(MMA_THREADS, RESIDENT_BLOCKS, attention_window, (ATTENTION_PARAMETERS)) { attend<false>(ATTENTION_ARGUMENTS); }
