// What the kernels share: the type of the model, and sums over a warp and a block.
#include "device.cuh"

// The type in which states and weights are stored. TF32 is a precision of products alone: its storage is float.
#if defined(PRECISION_F16)
typedef f16 Real;
#elif defined(PRECISION_BF16)
typedef bf16 Real;
#elif defined(PRECISION_F32) || defined(PRECISION_TF32)
typedef float Real;
#else
#error "define PRECISION_F32, PRECISION_TF32, PRECISION_F16 or PRECISION_BF16"
#endif

// Elements in 16 bytes: what a thread takes of a row at once, where the row begins at a multiple of them.
#define CHUNK int(16 / sizeof(Real))

__device__ inline bool begins_a_chunk(const void* at) { return reinterpret_cast<unsigned long long>(at) % 16 == 0; }

__device__ inline void load_chunk(float (&x)[CHUNK], const Real* at) {
    u32 words[4];
    load_16(words, at);
#pragma unroll
    for (int i = 0; i < 4; i++) {
#if defined(PRECISION_F16) || defined(PRECISION_BF16)
        x[2 * i] = to_float(Real{u16(words[i])});
        x[2 * i + 1] = to_float(Real{u16(words[i] >> 16)});
#else
        x[i] = __uint_as_float(words[i]);
#endif
    }
}
__device__ inline void store_chunk(Real* at, const float (&x)[CHUNK]) {
    u32 words[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
#if defined(PRECISION_F16) || defined(PRECISION_BF16)
        words[i] = packed<Real>(x[2 * i], x[2 * i + 1]);
#else
        words[i] = __float_as_uint(x[i]);
#endif
    }
    store_16(at, words);
}

#define WARP 32
#define EVERY_LANE 0xffffffffu
#define NEGATIVE_INFINITY __uint_as_float(0xff800000u)

// The sum over a warp, in every lane.
__device__ inline float warp_sum(float x) {
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2) x += __shfl_xor_sync(EVERY_LANE, x, lanes);
    return x;
}

// The largest over a warp, in every lane; NaN where any lane has it.
__device__ inline float warp_max(float x) {
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2) x = nan_max(x, __shfl_xor_sync(EVERY_LANE, x, lanes));
    return x;
}

// The sum over a block of THREADS threads, in every thread. `partial` is shared memory for a float a warp; the barriers
// before and after keep one use of it apart from the next.
template <int THREADS> __device__ inline float block_sum(float x, float* partial) {
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % WARP == 0) partial[threadIdx.x / WARP] = x;
    __syncthreads();
    float sum = 0;
    for (int warp = 0; warp < THREADS / WARP; warp++) sum += partial[warp];
    return sum;
}

// The largest over a block, in every thread.
template <int THREADS> __device__ inline float block_max(float x, float* partial) {
    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % WARP == 0) partial[threadIdx.x / WARP] = x;
    __syncthreads();
    float largest = partial[0];
    for (int warp = 1; warp < THREADS / WARP; warp++) largest = nan_max(largest, partial[warp]);
    return largest;
}
