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
#define BAND_TILES 10   // of 8 distances each: those between 16 rows and 64 columns
#define BAND_STRIDE 72  // nine tiles are of use to a row; pairs are then stored without bank conflicts
#define RESIDENT_BLOCKS (sizeof(WindowShared) <= 76800 ? 3 : 1)

struct WindowShared {
    Tile key, value;
    Real pos_key[WINDOW * STRIDE];
    Real pos_query[WINDOW * STRIDE];
    union {
        float band[MMA_THREADS / WARP][16 * BAND_STRIDE];
        float column[TILE];  // in a tile of one slot, which has no bands: p2c of each key
    };
};

// Begins to copy the position rows of distances first … first + ROWS − 1 of each table that is there. Distances that no pair
// of tokens has are clamped.
template <int ROWS> __device__ inline void copy_window(
    WindowShared& shared, const Real* keys, const Real* queries, const int* slots, int first, int max_length,
    int key_stride, int query_stride
) {
#pragma unroll
    for (int i = 0; i < COPIES(ROWS); i++) {
        int row, d;
        if (!copied_by(i, ROWS, row, d)) break;
        const int distance = first + row;
        const int slot = slots[max(min(distance, max_length - 1), 1 - max_length) + max_length - 1];
        const int at = (distance & (WINDOW - 1)) * STRIDE + d;
        if (keys) copy_async_16(&shared.pos_key[at], keys + i64(slot) * key_stride + d, true);
        if (queries) copy_async_16(&shared.pos_query[at], queries + i64(slot) * query_stride + d, true);
    }
}

// band = A·windowᵀ for 16 rows A and the 80 rows of the window that begin at distance `first`, a multiple of 16. Of the ten tiles
// that this makes, the upper eight rows of A keep nine from tile UPPER on, the lower eight nine from tile 1 − UPPER on: the other
// one none of their pairs lies in.
template <int UPPER> __device__ inline void multiply_band(float* band, const u32 (&a)[STEPS][4], const Real* window, int first) {
    const int g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < BAND_TILES; n += 2) {
        float product[2][4] = {};
#pragma unroll
        for (int k = 0; k < STEPS; k++) {
            u32 b[4];
            load_b(b, window, (first + 8 * n) & (WINDOW - 1), k * STEP);
            multiply_pair(product[0], product[1], a[k], b);
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int tile = n + i - (half ? 1 - UPPER : UPPER);
                if (tile < 0 || tile >= BAND_TILES - 1) continue;
                const int at = g * BAND_STRIDE + 2 * t + 8 * (half * BAND_STRIDE + tile);
                store_pair(band, at, product[i][2 * half], product[i][2 * half + 1]);
            }
        }
    }
}

// score[i, j] = Q_i·PosK[i − j], all within a warp: its queries are `row` … row + 15 of the tile.
__device__ inline void start_with_c2p(
    float (&score)[KEY_TILES][4], const Rows& rows, WindowShared& shared, int row, int base
) {
    const int g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
    float* band = shared.band[threadIdx.x / WARP];
    multiply_band<0>(band, rows.query, shared.pos_key, base - TILE + row);
    __syncwarp();
    const float* own = &band[g * BAND_STRIDE + g - 2 * t + TILE];
#pragma unroll
    for (int n = 0; n < KEY_TILES; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) score[n][e] = own[e / 2 * 8 * BAND_STRIDE - 8 * n - e % 2];
    }
    __syncwarp();
}

// K_j·PosQ[i − j] of the warp's 16 keys, for every query, into its band.
__device__ inline void multiply_p2c(WindowShared& shared, int row, int base) {
    u32 keys[STEPS][4];
#pragma unroll
    for (int k = 0; k < STEPS; k++) load_a(keys[k], shared.key.at, row, k * STEP);
    multiply_band<1>(shared.band[threadIdx.x / WARP], keys, shared.pos_query, base - 16 - row);
}

// score[i, j] += what the warp of key j has computed. The distances of its band begin at first query − its last key.
__device__ inline void add_p2c(float (&score)[KEY_TILES][4], const WindowShared& shared, int row) {
    const int g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < KEY_TILES; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int i = row + g + e / 2 * 8, j = 8 * n + 2 * t + e % 2;
            score[n][e] += shared.band[j / 16][j % 16 * BAND_STRIDE + i + 8 - j % 8];
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

// A lane's part of a position row: what it has of each row of the operand a in which all rows are this one, and of each
// column of the operand b in which all columns are.
struct Position { u32 at[STEPS][2]; };

__device__ inline void load_position(Position& position, const Real* row) {
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int d = k * STEP + half * CHUNK + t * (CHUNK / 4);
            position.at[k][half] = d < HEAD_SIZE ? rounded(*reinterpret_cast<const u32*>(row + d), Real()) : 0;
        }
    }
}

// Q_i·position of the lane's two rows.
__device__ inline void multiply_rows(float (&product)[2], const Rows& rows, const Position& position) {
    float d[4] = {};
#pragma unroll
    for (int k = 0; k < STEPS; k++) multiply_add<Real>(d, rows.query[k], position.at[k]);
    product[0] = d[0];
    product[1] = d[2];
}

// K_j·position of the warp's 16 keys.
__device__ inline void multiply_column(WindowShared& shared, const Position& position, int row) {
    float d[2][4] = {};
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
        const u32 a[4] = {position.at[k][0], position.at[k][0], position.at[k][1], position.at[k][1]};
        u32 b[4];
        load_b(b, shared.key.at, row, k * STEP);
        multiply_pair(d[0], d[1], a, b);
    }
    const int lane = threadIdx.x % WARP;
    if (lane < 4) {
        store_pair(shared.column, row + 2 * lane, d[0][0], d[0][1]);
        store_pair(shared.column, row + 8 + 2 * lane, d[1][0], d[1][1]);
    }
}

// score[i, j] += K_j·position
__device__ inline void add_column(float (&score)[KEY_TILES][4], const WindowShared& shared) {
#pragma unroll
    for (int n = 0; n < KEY_TILES; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) score[n][e] += shared.column[8 * n + 2 * (threadIdx.x % 4) + e % 2];
    }
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
    const Real* position_keys = pos_key ? pos_key + column : nullptr;
    const Real* position_queries = pos_query ? pos_query + column : nullptr;

    clear_padding(shared.key.at, TILE);
    clear_padding(shared.value.at, TILE);
    clear_padding(shared.pos_key, WINDOW);
    clear_padding(shared.pos_query, WINDOW);
    // The queries come by way of the tile of values, while the first keys and the first window travel.
    copy_tile(shared.value, query + i64(begin + first_query) * query_stride + column, length - first_query, query_stride);
    copy_async_commit();
    copy_tile(shared.key, keys, length, key_stride);
    int slot = SINGLE && positions ? single_slot(slots, runs, first_query, 0, length, max_length) : -1;
    bool windowed = positions && slot < 0;
    if (windowed) {
        copy_window<WINDOW>(
            shared, position_keys, position_queries, slots, first_query - TILE, max_length, pos_key_stride, pos_query_stride);
    }
    copy_async_commit();
    Rows rows;
    load_queries(rows, shared.value);
    float of_rows[2] = {0, 0};  // c2p of the lane's two rows where the tile has one slot
    int scored = -1;            // the slot that `of_slot` is of
    float of_slot[2] = {0, 0};
    for (int first_key = 0; first_key < length; first_key += TILE) {
        const int base = first_query - first_key, left = length - first_key;
        copy_tile(shared.value, values + i64(first_key) * value_stride, left, value_stride);
        copy_async_commit();
        const bool last = left <= TILE;
        const int next_slot = SINGLE && positions && !last
            ? single_slot(slots, runs, first_query, first_key + TILE, length, max_length) : -1;
        const bool next_windowed = positions && next_slot < 0 && !last;
        // 1. c2p and Q·Kᵀ, once keys and window have arrived; and what the warp's keys are to the queries of others.
        copy_async_wait<1>();
        __syncthreads();
        float score[KEY_TILES][4];
        if (windowed && pos_key) {
            start_with_c2p(score, rows, shared, row, base);
        } else {
            clear(score);
        }
        multiply_keys(score, rows, shared.key);
        if (windowed && pos_query) multiply_p2c(shared, row, base);
        if (slot >= 0) {
            Position position;
            if (pos_query) {
                load_position(position, position_queries + i64(slot) * pos_query_stride);
                multiply_column(shared, position, row);
            }
            if (pos_key && slot != scored) {
                load_position(position, position_keys + i64(slot) * pos_key_stride);
                multiply_rows(of_slot, rows, position);
                scored = slot;
            }
        }
        __syncthreads();
        // 2. The next keys, and the half of the next window that is not there: all of it where there was none.
        copy_tile(shared.key, keys + i64(first_key + TILE) * key_stride, left - TILE, key_stride);
        if (next_windowed && windowed) {
            copy_window<TILE>(
                shared, position_keys, position_queries, slots, base - WINDOW, max_length, pos_key_stride, pos_query_stride);
        } else if (next_windowed) {
            copy_window<WINDOW>(
                shared, position_keys, position_queries, slots, base - WINDOW, max_length, pos_key_stride, pos_query_stride);
        }
        copy_async_commit();
        // 3. p2c; in a tile of one slot it is a number a column, and c2p a number a row.
        if (windowed && pos_query) add_p2c(score, shared, row);
        if (slot >= 0 && pos_query) add_column(score, shared);
#pragma unroll
        for (int half = 0; half < 2; half++) of_rows[half] = slot >= 0 ? of_slot[half] : 0;
        // 4. Softmax, and the values once they have arrived.
        online_softmax(score, rows, of_rows, left, LOG2_E / scale);
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
