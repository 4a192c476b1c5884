// The window of distances of a tile, brought to shared memory once: rungs 4 and 5.
//
// A tile of 64 queries i and 64 keys j has 127 distances, first_query − first_key + (−63 … 63). So all that c2p and p2c need of
// the position rows are 127 of them, in order of distance, and both terms are products of small matrices:
//
//   c2p: a warp's 16 queries × the 80 rows its distances lie in      p2c: a warp's 16 keys × the 80 rows theirs lie in
//
// Each goes to shared memory as it comes from the tensor cores, and is read back shifted: row i of c2p at i − j.
//
// From one tile of keys to the next the distances fall by 64, so half of the window is there already. The rows lie in a ring:
// distance x in row x & 127. `base` is first_query − first_key, a multiple of 64; the window is distances base − 64 …
// base + 63, of which the first is there for the sake of alignment.
#include "attention_mma.cuh"

#define WINDOW (2 * TILE)
#define BAND 80                 // distances between 16 rows and 64 columns, and one more
#define BAND_STRIDE (BAND + 5)  // p2c is then read without bank conflicts

struct WindowShared {
    Tile key, value;
    Real pos_key[WINDOW * STRIDE];
    Real pos_query[WINDOW * STRIDE];
    float band[MMA_THREADS / WARP][16 * BAND_STRIDE];
    float column[TILE];  // rung 5 alone: p2c of each key in a tile of one slot
};

// Begins to copy the position rows of distances first … first + count − 1. Distances that no pair of tokens has are clamped.
__device__ inline void copy_window(
    Real* window, const Real* table, const int* slots, int first, int count, int max_length, int stride
) {
    const int chunks = HEAD_SIZE / CHUNK;
    for (int at = threadIdx.x; at < count * chunks; at += MMA_THREADS) {
        const int distance = first + at / chunks, d = at % chunks * CHUNK;
        const int held = max(min(distance, max_length - 1), 1 - max_length);
        const int slot = slots[held + max_length - 1];
        copy_async_16(&window[(distance & (WINDOW - 1)) * STRIDE + d], table + i64(slot) * stride + d, true);
    }
}

// band = A·windowᵀ for 16 rows A and the 80 rows of the window that begin at distance `first`.
__device__ inline void multiply_band(float* band, const u32 (&a)[STEPS][4], const Real* window, int first) {
    const int g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
#pragma unroll 1
    for (int n = 0; n < BAND / 8; n += 2) {
        float product[2][4] = {};
#pragma unroll
        for (int k = 0; k < STEPS; k++) {
            u32 b[4];
            load_b(b, window, first + 8 * n, k * STEP, WINDOW - 1);
            multiply_pair(product[0], product[1], a[k], b);
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                band[(g + e / 2 * 8) * BAND_STRIDE + 8 * (n + half) + 2 * t + e % 2] = product[half][e];
            }
        }
    }
}

// score[i, j] += Q_i·PosK[i − j], all within a warp: its queries are `row` … row + 15 of the tile.
__device__ inline void add_c2p(
    float (&score)[KEY_TILES][4], const Rows& rows, WindowShared& shared, int row, int base
) {
    const int g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
    float* band = shared.band[threadIdx.x / WARP];
    multiply_band(band, rows.query, shared.pos_key, base - TILE + row);
    __syncwarp();
#pragma unroll
    for (int n = 0; n < KEY_TILES; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int r = g + e / 2 * 8, j = 8 * n + 2 * t + e % 2;
            score[n][e] += band[r * BAND_STRIDE + r - j + TILE];
        }
    }
    __syncwarp();
}

// K_j·PosQ[i − j] of the warp's 16 keys, for every query, into its band.
__device__ inline void multiply_p2c(WindowShared& shared, int row, int base) {
    u32 keys[STEPS][4];
#pragma unroll
    for (int k = 0; k < STEPS; k++) load_a(keys[k], shared.key.at, row, k * STEP);
    multiply_band(shared.band[threadIdx.x / WARP], keys, shared.pos_query, base - 16 - row);
}

// score[i, j] += what the warp of key j has computed. The distances of its band begin at first query − its last key.
__device__ inline void add_p2c(float (&score)[KEY_TILES][4], const WindowShared& shared, int row) {
    const int g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < KEY_TILES; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int i = row + g + e / 2 * 8, j = 8 * n + 2 * t + e % 2;
            score[n][e] += shared.band[j / 16][j % 16 * BAND_STRIDE + i + 16 - j % 16];
        }
    }
}

// ---- tiles of a single slot (rung 5)

// The slot of every pair in the tile that begins at these tokens, or −1 where there is more than one.
__device__ inline int single_slot(const int* slots, const int* runs, int first_query, int first_key, int length, int max_length) {
    const int least = first_query - min(first_key + TILE - 1, length - 1);
    const int most = min(first_query + TILE - 1, length - 1) - first_key;
    const int at = least + max_length - 1;
    return runs[at] >= most + max_length - 1 ? slots[at] : -1;
}

#if defined(PRECISION_F16) || defined(PRECISION_BF16)
__device__ inline float element(u32 operand, int e) { return to_float(Real{u16(operand >> 16 * e)}); }
#else
__device__ inline float element(u32 operand, int) { return __uint_as_float(operand); }
#endif

// Q_i·position of the lane's two rows, from the fragments of the queries: each lane of four has a part of each row.
__device__ inline void multiply_rows(float (&product)[2], const Rows& rows, const Real* position) {
    const int t = threadIdx.x % 4;
    product[0] = product[1] = 0;
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
#pragma unroll
        for (int r = 0; r < 4; r++) {
#pragma unroll
            for (int e = 0; e < CHUNK / 4; e++) {
                const int d = k * STEP + r / 2 * CHUNK + t * (CHUNK / 4) + e;
                if (d < HEAD_SIZE) product[r % 2] += element(rows.query[k][r], e) * to_float(position[d]);
            }
        }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) product[half] = row_sum(product[half]);
}

// K_j·position of every key of the tile: two threads a key.
__device__ inline void multiply_column(WindowShared& shared, const Real* position) {
    const int j = threadIdx.x / 2;
    float sum = 0;
    for (int d = threadIdx.x % 2; d < HEAD_SIZE; d += 2) {
        sum += to_float(shared.key.at[j * STRIDE + d]) * to_float(position[d]);
    }
    sum += __shfl_xor_sync(EVERY_LANE, sum, 1);
    if (threadIdx.x % 2 == 0) shared.column[j] = sum;
}

// ---- the kernel

// With SINGLE, tiles of a single slot are told apart.
template <bool SINGLE> __device__ inline void attend(ATTENTION_PARAMETERS) {
    WindowShared& shared = shared_memory<WindowShared>();
    const int first_query = blockIdx.x * TILE, head = blockIdx.y, sequence = blockIdx.z;
    const int begin = cu_seqlens[sequence], length = cu_seqlens[sequence + 1] - begin;
    if (first_query >= length) return;
    const int column = head * HEAD_SIZE, row = threadIdx.x / WARP * 16;
    const bool positions = pos_key || pos_query;
    const Real* keys = key + i64(begin) * key_stride + column;
    const Real* values = value + i64(begin) * value_stride + column;
    const Real* position_keys = pos_key + column;
    const Real* position_queries = pos_query + column;

    clear_padding(shared.key.at, TILE);
    clear_padding(shared.value.at, TILE);
    clear_padding(shared.pos_key, WINDOW);
    clear_padding(shared.pos_query, WINDOW);
    Rows rows;
    load_queries(rows, shared.key, query + i64(begin) * query_stride + column, first_query, length, query_stride);
    copy_tile(shared.key, keys, 0, length, key_stride);

    float of_rows[2] = {0, 0};  // c2p of the lane's two rows in the slot `scored`
    int scored = -1;
    int slot = SINGLE && positions ? single_slot(slots, runs, first_query, 0, length, max_length) : -1;
    bool windowed = positions && slot < 0;
    if (windowed) {
        const int first = first_query - TILE;
        if (pos_key) copy_window(shared.pos_key, position_keys, slots, first, WINDOW, max_length, pos_key_stride);
        if (pos_query) copy_window(shared.pos_query, position_queries, slots, first, WINDOW, max_length, pos_query_stride);
    }
    copy_async_commit();
    for (int first_key = 0; first_key < length; first_key += TILE) {
        const int base = first_query - first_key;
        copy_tile(shared.value, values, first_key, length, value_stride);
        copy_async_commit();
        // 1. Q·Kᵀ and c2p, once keys and window have arrived.
        copy_async_wait<1>();
        __syncthreads();
        float score[KEY_TILES][4];
        multiply_keys(score, rows, shared.key);
        if (windowed && pos_key) add_c2p(score, rows, shared, row, base);
        if (windowed && pos_query) multiply_p2c(shared, row, base);
        if (slot >= 0 && pos_query) multiply_column(shared, position_queries + i64(slot) * pos_query_stride);
        __syncthreads();
        // 2. The next keys, and the half of the next window that is not there: all of it where there was none.
        const bool last = first_key + TILE >= length;
        const int next_slot = SINGLE && positions && !last
            ? single_slot(slots, runs, first_query, first_key + TILE, length, max_length) : -1;
        const bool next_windowed = positions && next_slot < 0 && !last;
        copy_tile(shared.key, keys, first_key + TILE, length, key_stride);
        if (next_windowed) {
            const int first = base - WINDOW, count = windowed ? TILE : WINDOW;
            if (pos_key) copy_window(shared.pos_key, position_keys, slots, first, count, max_length, pos_key_stride);
            if (pos_query) copy_window(shared.pos_query, position_queries, slots, first, count, max_length, pos_query_stride);
        }
        copy_async_commit();
        // 3. p2c; or, in a tile of one slot, a number a row and a number a column.
        if (windowed && pos_query) add_p2c(score, shared, row);
        if (slot >= 0) {
            if (pos_key && slot != scored) multiply_rows(of_rows, rows, position_keys + i64(slot) * pos_key_stride);
            scored = slot;
#pragma unroll
            for (int n = 0; n < KEY_TILES; n++) {
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    score[n][e] += of_rows[e / 2];
                    if (pos_query) score[n][e] += shared.column[8 * n + 2 * (threadIdx.x % 4) + e % 2];
                }
            }
        }
        // 4. Softmax, and the values once they have arrived.
        online_softmax(score, rows, length - first_key, LOG2_E / scale);
        copy_async_wait<1>();
        __syncthreads();
        multiply_values(rows, score, shared.value);
        __syncthreads();
        slot = next_slot;
        windowed = next_windowed;
    }
    copy_async_wait<0>();
    store_context(out + i64(begin) * out_stride + column, rows, first_query + row, length, out_stride);
}

#define ATTENTION_ARGUMENTS                                                                                    \
    out, query, key, value, pos_key, pos_query, slots, runs, cu_seqlens, out_stride, query_stride, key_stride, \
        value_stride, pos_key_stride, pos_query_stride, max_length, scale
