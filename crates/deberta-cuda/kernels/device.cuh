// What a kernel needs from the machine, and nothing from a toolkit: NVRTC alone is enough, no header is included.
// Every inline PTX instruction stands here behind a function, so that the emulator (tests/emulated/emulator/device.h)
// can offer the same functions on a CPU. This is the one file that the emulator replaces.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;

// A kernel of exactly THREADS threads a block, under its plain name.
#define KERNEL(THREADS, NAME, PARAMETERS) extern "C" __global__ void __launch_bounds__(THREADS) NAME PARAMETERS

// The same, whose registers are few enough for BLOCKS of them on a multiprocessor.
#define RESIDENT_KERNEL(THREADS, BLOCKS, NAME, PARAMETERS) \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) NAME PARAMETERS

// Shared memory is always dynamic, and has a type: `Shared& shared = shared_memory<Shared>();`
template <typename Shared> __device__ inline Shared& shared_memory() {
    extern __shared__ __align__(16) u8 dynamic_shared[];
    return *reinterpret_cast<Shared*>(dynamic_shared);
}

// The same for a number of elements that only the launch knows.
template <typename Element> __device__ inline Element* shared_array(int) {
    extern __shared__ __align__(16) u8 dynamic_shared[];
    return reinterpret_cast<Element*>(dynamic_shared);
}

// IEEE half precision and bfloat16: bits, and their conversions. Arithmetic is done in float.
struct f16 { u16 bits; };
struct bf16 { u16 bits; };

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(f16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}
__device__ inline float to_float(bf16 x) { return __uint_as_float(u32(x.bits) << 16); }

// Rounds to nearest, ties to even.
template <typename T> __device__ inline T from_float(float x);
template <> __device__ inline float from_float<float>(float x) { return x; }
template <> __device__ inline f16 from_float<f16>(float x) {
    f16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}
template <> __device__ inline bf16 from_float<bf16>(float x) {
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

// Two numbers rounded, the first in the lower half of a register.
template <typename T> __device__ inline u32 packed(float low, float high);
template <> __device__ inline u32 packed<f16>(float low, float high) {
    u32 y;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}
template <> __device__ inline u32 packed<bf16>(float low, float high) {
    u32 y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}

// The larger; NaN where either is.
__device__ inline float nan_max(float a, float b) {
    float y;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
}
// 2ˣ to two units in the last place; zero where it is below the least normal number.
__device__ inline float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// 1 / x to one unit in the last place; zero where that is below the least normal number.
__device__ inline float reciprocal_fast(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// The nearest number with 10 bits of mantissa, ties away from zero: what a tensor core reads in TF32.
__device__ inline u32 to_tf32(float x) {
    u32 y;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
    return y;
}

__device__ inline u32 shared_address(const void* p) { return u32(__cvta_generic_to_shared(p)); }

// 16 bytes of global memory, aligned to as many.
__device__ inline void load_16(u32 (&r)[4], const void* at) {
    asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "l"(__cvta_generic_to_global(at))
                 : "memory");
}
__device__ inline void store_16(void* at, const u32 (&r)[4]) {
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(at)), "r"(r[0]), "r"(r[1]),
                 "r"(r[2]), "r"(r[3])
                 : "memory");
}

// Two numbers to neighbouring places in shared memory, the first so many floats from `base` on, at a multiple of 8 bytes.
__device__ inline void store_pair(float* base, int at, float x, float y) {
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(shared_address(base) + 4 * at), "f"(x), "f"(y) : "memory");
}

// Asynchronous copies of 16 bytes, global to shared memory, past the registers; zeros where `exists` is false.
// They arrive when the thread that asked for them has waited, and are seen by others after a barrier.
__device__ inline void copy_async_16(void* shared, const void* global, bool exists) {
    const int bytes = exists ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes)
                 : "memory");
}
// Closes a group of copies.
__device__ inline void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most PENDING of this thread's groups are under way.
template <int PENDING> __device__ inline void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Four 8×8 matrices of 16-bit elements from shared memory to a warp's registers. Lane 8m + r names the address of row r
// of matrix m (16 bytes, aligned), as so many bytes from `base` on: what is added in 32 bits costs nothing where it is constant.
// Lane 4g + t receives, of each matrix, elements 2t and 2t + 1 of row g, packed.
__device__ inline void load_matrices(u32 (&r)[4], const void* base, int bytes) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(base) + bytes)
                 : "memory");
}
// The same, transposed: lane 4g + t receives elements (2t, g) and (2t + 1, g) of each matrix.
__device__ inline void load_matrices_transposed(u32 (&r)[4], const void* base, int bytes) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(base) + bytes)
                 : "memory");
}

// d += a·b on the tensor cores, by one warp: a [16, K], b [K, 8], d [16, 8] in float; K = 16 in half precision and
// bfloat16, 8 in TF32. Lane 4g + t holds
//   d  (g, 2t) (g, 2t+1) (g+8, 2t) (g+8, 2t+1)
//   a  halves: pairs of columns (g, 2t) (g+8, 2t) (g, 2t+8) (g+8, 2t+8);  TF32: (g, t) (g+8, t) (g, t+4) (g+8, t+4)
//   b  halves: pairs of rows (2t, g) (2t+8, g);                           TF32: (t, g) (t+4, g)
template <typename T> __device__ inline void multiply_add(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]);
template <> __device__ inline void multiply_add<f16>(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <> __device__ inline void multiply_add<bf16>(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <> __device__ inline void multiply_add<float>(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
