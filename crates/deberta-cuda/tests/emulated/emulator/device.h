// device.cuh on a CPU: the same names, for g++. What needs more than one thread is in runtime.cpp.
//
// Kernels are compiled with -fsanitize=thread, not for its library, which is not linked, but for its calls: one before
// every access to memory, which runtime.cpp answers (bounds, races, reads before writes).
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <utility>

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;

struct dim3 { u32 x, y, z; };
struct uint4 { u32 x, y, z, w; } __attribute__((aligned(16)));

namespace emulator {
// The thread that is running, as far as kernels ask about it. Each thread is always told the same.
__attribute__((const)) dim3 thread_index();
__attribute__((const)) dim3 block_index();
__attribute__((const)) dim3 grid_size();

void* shared_memory(size_t bytes, bool exactly);
void block_barrier(const char* file, int line);
void warp_barrier(u32 mask, const char* file, int line);
u32 shuffle_xor(u32 mask, u32 value, int lanes, const char* file, int line);
u32 shuffle(u32 mask, u32 value, int lane, const char* file, int line);
void copy_async_16(void* shared, const void* global, bool exists);
void copy_async_commit();
void copy_async_wait(int pending);
void load_matrices(u32* r, const void* row, bool transposed);
enum Element { F16, BF16, TF32 };
void multiply_add(Element element, float* d, const u32* a, const u32* b);

float f16_to_float(u16 bits);
u16 float_to_f16(float x);
u16 float_to_bf16(float x);

inline u32 bits(float x) { u32 y; std::memcpy(&y, &x, 4); return y; }
inline float number(u32 x) { float y; std::memcpy(&y, &x, 4); return y; }

// Calls a kernel with arguments as cuLaunchKernel takes them: pointers to the values.
template <typename... A, size_t... I>
__attribute__((no_sanitize("thread"))) void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<A*>(arguments[I])...);
}
template <typename... A> inline void call(void (*kernel)(A...), void** arguments) {
    call(kernel, arguments, std::index_sequence_for<A...>());
}
template <typename... A> constexpr int count(void (*)(A...)) { return sizeof...(A); }
}  // namespace emulator

#define __device__
#define __forceinline__ inline
#define threadIdx (emulator::thread_index())
#define blockIdx (emulator::block_index())
#define gridDim (emulator::grid_size())

// A kernel NAME, and beside it what a launch needs to know: NAME_call, NAME_threads, NAME_parameters.
#define KERNEL(THREADS, NAME, PARAMETERS)                                                                    \
    extern "C" void NAME PARAMETERS;                                                                         \
    extern "C" void NAME##_call(void** arguments) { emulator::call(NAME, arguments); }                       \
    extern "C" const int NAME##_threads = THREADS;                                                           \
    extern "C" const int NAME##_parameters = emulator::count(NAME);                                          \
    extern "C" void NAME PARAMETERS

#define RESIDENT_KERNEL(THREADS, BLOCKS, NAME, PARAMETERS) KERNEL(THREADS, NAME, PARAMETERS)

template <typename Shared> inline Shared& shared_memory() {
    return *static_cast<Shared*>(emulator::shared_memory(sizeof(Shared), true));
}
template <typename Element> inline Element* shared_array(int count) {
    return static_cast<Element*>(emulator::shared_memory(count * sizeof(Element), true));
}

#define __syncthreads() emulator::block_barrier(__FILE__, __LINE__)
#define __syncwarp() emulator::warp_barrier(0xffffffffu, __FILE__, __LINE__)
#define __shfl_xor_sync(MASK, VALUE, LANES) \
    emulator::number(emulator::shuffle_xor(MASK, emulator::bits(VALUE), LANES, __FILE__, __LINE__))
#define __shfl_sync(MASK, VALUE, LANE) \
    emulator::number(emulator::shuffle(MASK, emulator::bits(VALUE), LANE, __FILE__, __LINE__))

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline float __uint_as_float(u32 x) { return emulator::number(x); }
inline u32 __float_as_uint(float x) { return emulator::bits(x); }

struct f16 { u16 bits; };
struct bf16 { u16 bits; };
inline float to_float(float x) { return x; }
inline float to_float(f16 x) { return emulator::f16_to_float(x.bits); }
inline float to_float(bf16 x) { return emulator::number(u32(x.bits) << 16); }
template <typename T> inline T from_float(float x);
template <> inline float from_float<float>(float x) { return x; }
template <> inline f16 from_float<f16>(float x) { return f16{emulator::float_to_f16(x)}; }
template <> inline bf16 from_float<bf16>(float x) { return bf16{emulator::float_to_bf16(x)}; }
template <typename T> inline u32 packed(float low, float high) {
    return u32(from_float<T>(low).bits) | u32(from_float<T>(high).bits) << 16;
}
inline float nan_max(float a, float b) { return a != a || a > b ? a : b; }
// As the GPU's, without its error.
inline float normal_or_zero(float x) { return std::fabs(x) < 1.17549435e-38f ? 0.0f : x; }
inline float exp2_fast(float x) { return normal_or_zero(exp2f(x)); }
inline float reciprocal_fast(float x) { return normal_or_zero(1.0f / x); }
inline u32 to_tf32(float x) {
    const u32 y = emulator::bits(x);
    return std::isfinite(x) ? (y + 0x1000u) & 0xffffe000u : y;
}

inline void load_16(u32 (&r)[4], const void* at) {
    const uint4 all = *static_cast<const uint4*>(at);
    r[0] = all.x, r[1] = all.y, r[2] = all.z, r[3] = all.w;
}
inline void store_16(void* at, const u32 (&r)[4]) { *static_cast<uint4*>(at) = uint4{r[0], r[1], r[2], r[3]}; }
inline void store_pair(float* base, int at, float x, float y) { base[at] = x, base[at + 1] = y; }
inline void copy_async_16(void* shared, const void* global, bool exists) {
    emulator::copy_async_16(shared, global, exists);
}
inline void copy_async_commit() { emulator::copy_async_commit(); }
template <int PENDING> inline void copy_async_wait() { emulator::copy_async_wait(PENDING); }
inline void load_matrices(u32 (&r)[4], const void* base, int bytes) {
    emulator::load_matrices(r, static_cast<const u8*>(base) + bytes, false);
}
inline void load_matrices_transposed(u32 (&r)[4], const void* base, int bytes) {
    emulator::load_matrices(r, static_cast<const u8*>(base) + bytes, true);
}

template <typename T> inline void multiply_add(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]);
template <> inline void multiply_add<f16>(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    emulator::multiply_add(emulator::F16, d, a, b);
}
template <> inline void multiply_add<bf16>(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    emulator::multiply_add(emulator::BF16, d, a, b);
}
template <> inline void multiply_add<float>(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    emulator::multiply_add(emulator::TF32, d, a, b);
}
