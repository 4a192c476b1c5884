// One row by one block: what the kernels that end in a layer norm share.
//
//   y = (x − mean(x)) / sqrt(var(x) + eps) · gamma + beta
//
// The row stays in shared memory in float between its passes, so global memory is read once and written once. The
// variance is the mean of squared differences from the mean (never E[x²] − E[x]²), all in float.
#include "common.cuh"

#define ROW_THREADS 128

struct RowShared {
    float* row;      // [width]
    float* partial;  // one a warp
};

__device__ inline RowShared row_shared(int width) {
    float* all = shared_array<float>(width + ROW_THREADS / WARP);
    return RowShared{all, all + width};
}

// Normalizes the row in shared memory and writes it, times 0 where `exists` says so. Each thread reads back the
// elements that it wrote itself, so the row needs no barrier.
__device__ inline void normalize_row(Real* out, RowShared shared, const float* gamma, const float* beta, bool exists,
                                     int width, float eps) {
    // 1. The mean.
    float sum = 0;
    for (int c = threadIdx.x; c < width; c += ROW_THREADS) sum += shared.row[c];
    const float mean = block_sum<ROW_THREADS>(sum, shared.partial) / width;
    // 2. The variance.
    float squares = 0;
    for (int c = threadIdx.x; c < width; c += ROW_THREADS) {
        const float difference = shared.row[c] - mean;
        squares += difference * difference;
    }
    const float variance = block_sum<ROW_THREADS>(squares, shared.partial) / width;
    // 3. Scale and shift. Multiplied by the mask, so that NaN in a masked row stays NaN as in the references.
    const float scale = 1.0f / sqrtf(variance + eps);
    for (int c = threadIdx.x; c < width; c += ROW_THREADS) {
        const float y = (shared.row[c] - mean) * scale * gamma[c] + beta[c];
        out[c] = from_float<Real>(exists ? y : y * 0.0f);
    }
}
