// One row by one block: what the kernels that end in a layer norm share.
//
//   y = (x − mean(x)) / sqrt(var(x) + eps) · gamma + beta
//
// The row stays in shared memory in float between its passes, so global memory is read once and written once. The
// variance is the mean of squared differences from the mean (never E[x²] − E[x]²), all in float.
#include "common.cuh"

#define ROW_THREADS 128

struct RowShared {
    float* row;      // [width, filled up to whole chunks of every thread]
    float* partial;  // one a warp
};

__device__ inline RowShared row_shared(int width) {
    const int step = ROW_THREADS * CHUNK, floats = (width + step - 1) / step * step;
    float* all = shared_array<float>(floats + ROW_THREADS / WARP);
    return RowShared{all, all + floats};
}

// A thread takes a row 16 bytes at a time: where its i-th chunk begins, and where in shared memory element e of it lies, which is
// so that neighbours are in different banks. Each thread reads back the elements that it wrote itself, so the row needs no barrier.
__device__ inline int chunk_begin(int i) { return (i * ROW_THREADS + threadIdx.x) * CHUNK; }
__device__ inline int chunk_place(int i, int e) { return (i * CHUNK + e) * ROW_THREADS + threadIdx.x; }

// The numbers of a row from `first` on; zeros beyond its end.
__device__ inline void load_part(float (&x)[CHUNK], const Real* row, int first, int width) {
    if (first + CHUNK <= width && begins_a_chunk(row)) {
        load_chunk(x, row + first);
        return;
    }
#pragma unroll
    for (int e = 0; e < CHUNK; e++) x[e] = first + e < width ? to_float(row[first + e]) : 0.0f;
}
__device__ inline void load_floats(float (&x)[CHUNK], const float* row, int first, int width) {
    if (first + CHUNK <= width && begins_a_chunk(row)) {
#pragma unroll
        for (int e = 0; e < CHUNK; e += 4) {
            u32 words[4];
            load_16(words, row + first + e);
#pragma unroll
            for (int i = 0; i < 4; i++) x[e + i] = __uint_as_float(words[i]);
        }
        return;
    }
#pragma unroll
    for (int e = 0; e < CHUNK; e++) x[e] = first + e < width ? row[first + e] : 0.0f;
}
__device__ inline void store_part(Real* row, const float (&x)[CHUNK], int first, int width) {
    if (first + CHUNK <= width && begins_a_chunk(row)) {
        store_chunk(row + first, x);
        return;
    }
#pragma unroll
    for (int e = 0; e < CHUNK; e++) {
        if (first + e < width) row[first + e] = from_float<Real>(x[e]);
    }
}

// Puts the thread's i-th chunk into shared memory.
__device__ inline void keep(RowShared shared, const float (&x)[CHUNK], int i) {
#pragma unroll
    for (int e = 0; e < CHUNK; e++) shared.row[chunk_place(i, e)] = x[e];
}

// Normalizes the row in shared memory and writes it, times 0 where `exists` is false.
__device__ inline void normalize_row(Real* out, RowShared shared, const float* gamma, const float* beta, bool exists,
                                     int width, float eps) {
    // 1. The mean. What lies beyond the end of the row is zero.
    float sum = 0;
    for (int i = 0; chunk_begin(i) < width; i++) {
#pragma unroll
        for (int e = 0; e < CHUNK; e++) sum += shared.row[chunk_place(i, e)];
    }
    const float mean = block_sum<ROW_THREADS>(sum, shared.partial) / width;
    // 2. The variance.
    float squares = 0;
    for (int i = 0; chunk_begin(i) < width; i++) {
#pragma unroll
        for (int e = 0; e < CHUNK; e++) {
            const float difference = chunk_begin(i) + e < width ? shared.row[chunk_place(i, e)] - mean : 0.0f;
            squares += difference * difference;
        }
    }
    const float variance = block_sum<ROW_THREADS>(squares, shared.partial) / width;
    // 3. Scale and shift. Multiplied by the mask, so that NaN in a masked row stays NaN as in the references.
    const float scale = 1.0f / sqrtf(variance + eps);
    for (int i = 0; chunk_begin(i) < width; i++) {
        float weight[CHUNK], shift[CHUNK], y[CHUNK];
        load_floats(weight, gamma, chunk_begin(i), width);
        load_floats(shift, beta, chunk_begin(i), width);
#pragma unroll
        for (int e = 0; e < CHUNK; e++) {
            y[e] = (shared.row[chunk_place(i, e)] - mean) * scale * weight[e] + shift[e];
            if (!exists) y[e] *= 0.0f;
        }
        store_part(out, y, chunk_begin(i), width);
    }
}
