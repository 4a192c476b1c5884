// One block at a time, one fiber a CUDA thread, one order of threads a seed.
//
// What is checked, each with the thread and the place:
//   memory   every access lies in a buffer of the launch, in shared memory, or in the thread's own frame
//   races    two threads touch the same bytes of shared memory, one of them writing, with no barrier between: the next
//            __syncthreads for threads of different warps, the next __syncwarp for lanes of one warp
//   initial  shared memory is not read before it was written (it holds NaN besides, as do the frames of a launch's first
//            block); an asynchronous copy has not arrived before its thread has waited
//   barriers all threads of a block wait at the same __syncthreads, all lanes of a warp at the same collective
//
// What is not: that a fragment layout is the hardware's (it is our reading of the PTX manual), and memory ordering
// between blocks (no kernel here communicates between blocks).
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;
struct dim3 { u32 x, y, z; };

namespace emulator {
enum Element { F16, BF16, TF32 };

constexpr size_t STACK_BYTES = 64 * 1024;
constexpr size_t FRAME_BYTES = 4096;  // what a kernel has of it, or more
constexpr int WARP = 32;

// ---- switching between fibers -------------------------------------------------------------------------------------

#if defined(__x86_64__)
struct Context { void* stack_pointer; };
// Saves what the ABI wants kept on the stack of the one, and takes it from the stack of the other.
extern "C" void emulator_switch(Context* from, Context* to);
asm(R"(
    .text
    .hidden emulator_switch
    .globl emulator_switch
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq (%rsi), %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");
void prepare(Context& context, u8* stack, void (*entry)()) {
    uintptr_t top = (reinterpret_cast<uintptr_t>(stack) + STACK_BYTES) & ~uintptr_t(15);
    void** frame = reinterpret_cast<void**>(top - 16);
    *frame = reinterpret_cast<void*>(entry);  // where `ret` goes
    context.stack_pointer = frame - 6;        // six saved registers, of any value
}
#else
struct Context { ucontext_t inner; };
void emulator_switch(Context* from, Context* to) { swapcontext(&from->inner, &to->inner); }
void prepare(Context& context, u8* stack, void (*entry)()) {
    getcontext(&context.inner);
    context.inner.uc_stack.ss_sp = stack;
    context.inner.uc_stack.ss_size = STACK_BYTES;
    context.inner.uc_link = nullptr;
    makecontext(&context.inner, entry, 0);
}
#endif

// ---- the state of a launch ----------------------------------------------------------------------------------------

// What a thread is waiting for.
enum Wait { READY, AT_BLOCK_BARRIER, AT_COLLECTIVE, DONE };
enum Collective { BARRIER, SHUFFLE_XOR, SHUFFLE, MATRICES, MATRICES_TRANSPOSED, MULTIPLY_F16, MULTIPLY_BF16, MULTIPLY_TF32 };

struct Copy { u8* to; u8 bytes[16]; };

struct Fiber {
    Context context;
    std::unique_ptr<u8[]> stack;
    int index = 0;
    dim3 thread{}, block{}, grid{};
    Wait wait = READY;
    const char* file = "";
    int line = 0;
    // The operands and results of a collective.
    Collective collective = BARRIER;
    u32 operand[6];
    float accumulator[4];
    int argument = 0;
    const void* row = nullptr;
    u32 result[4];
    // Asynchronous copies: those not yet committed, then the groups in order.
    std::vector<Copy> open;
    std::vector<std::vector<Copy>> groups;
};

// Who touched two bytes of shared memory last. A barrier of the block or of a warp begins a new epoch.
struct Shadow {
    u32 block = 0;  // the block (counted from one) that wrote it last; another: not written yet
    u32 write_epoch = 0, write_warp_epoch = 0, read_epoch = 0, read_warp_epoch = 0;
    u16 writer = 0, reader = 0;
    u16 copier = 0;                 // thread + 1 of an asynchronous copy under way
    bool lanes = false, warps = false;  // readers beside `reader`: of its warp and warp epoch; of other warps
};

struct Buffer { u8* begin; u8* end; };

struct Launch {
    Fiber* fibers = nullptr;
    std::vector<std::unique_ptr<Fiber>> threads;
    std::vector<u32> warp_epochs;
    Context scheduler;
    Fiber* running = nullptr;
    void (*kernel)(void**) = nullptr;
    void** arguments = nullptr;
    const Buffer* buffers = nullptr;
    size_t buffer_count = 0;
    std::vector<u8> arena;
    u8* shared = nullptr;
    size_t shared_bytes = 0;
    bool shared_asked = false;
    std::vector<Shadow> shadows;
    u32 block = 0, epoch = 0;
    uint64_t random = 0;
    bool failed = false;
    char* report = nullptr;
    size_t report_bytes = 0;
};

__thread Launch* launch __attribute__((tls_model("initial-exec"), visibility("hidden"))) = nullptr;

Fiber& self() { return *launch->running; }

dim3 thread_index() { return self().thread; }
dim3 block_index() { return self().block; }
dim3 grid_size() { return self().grid; }

void pause() {
    Fiber& fiber = self();
    emulator_switch(&fiber.context, &launch->scheduler);
}

// Says what went wrong, once, and gives the launch up: no thread runs on.
__attribute__((format(printf, 1, 2))) void note(const char* format, ...) {
    if (launch->failed) return;
    launch->failed = true;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(launch->report, launch->report_bytes, format, arguments);
    va_end(arguments);
}

#define FAIL(FORMAT, ...)                                                                                          \
    do {                                                                                                           \
        Fiber& at = self();                                                                                        \
        const dim3 b = at.block, t = at.thread;                                                    \
        note("block (%u, %u, %u) thread (%u, %u, %u), last seen at %s:%d: " FORMAT, b.x, b.y, b.z, t.x, t.y, t.z,  \
             at.file, at.line, __VA_ARGS__);                                                                       \
        pause();                                                                                                   \
    } while (0)

// ---- memory -------------------------------------------------------------------------------------------------------

extern "C" char __ehdr_start __attribute__((visibility("hidden")));
extern "C" char _end __attribute__((visibility("hidden")));

bool in_own_frame(const u8* p) {
    const u8* stack = self().stack.get();
    return p >= stack && p < stack + STACK_BYTES;
}

// Whether the bytes may be touched at all; shared memory is told apart.
bool in_global(const u8* p, size_t bytes) {
    for (size_t i = 0; i < launch->buffer_count; i++) {
        if (p >= launch->buffers[i].begin && p + bytes <= launch->buffers[i].end) return true;
    }
    const u8* image = reinterpret_cast<const u8*>(&__ehdr_start);
    return p >= image && p < reinterpret_cast<const u8*>(&_end);  // constants of the kernel
}

bool in_shared(const u8* p) { return p >= launch->shared && p < launch->shared + launch->shared_bytes; }

// Whether an access of `epoch` and `warp_epoch` by `thread` comes before this one of ours with no barrier between.
bool unordered(u16 thread, u32 epoch, u32 warp_epoch) {
    const int own = self().index;
    if (epoch != launch->epoch || thread == own) return false;
    return thread / WARP != own / WARP || warp_epoch == launch->warp_epochs[own / WARP];
}

void touch_shared(const u8* p, size_t bytes, bool write, bool copying = false) {
    if (p + bytes > launch->shared + launch->shared_bytes) {
        FAIL("%zu bytes at the end of shared memory reach beyond it", bytes);
    }
    const u16 own = u16(self().index);
    const u32 warp_epoch = launch->warp_epochs[own / WARP];
    const size_t first = (p - launch->shared) / 2, last = (p + bytes - 1 - launch->shared) / 2;
    for (size_t cell = first; cell <= last; cell++) {
        Shadow& shadow = launch->shadows[cell];
        const bool written = shadow.block == launch->block;
        if (written && shadow.copier && !copying) {
            FAIL("byte %zu of shared memory is the goal of an asynchronous copy of thread %d that was not waited for", cell * 2,
                 shadow.copier - 1);
        }
        if (!write && !written) FAIL("byte %zu of shared memory is read before anything was written there", cell * 2);
        if (written && unordered(shadow.writer, shadow.write_epoch, shadow.write_warp_epoch)) {
            FAIL("%s of byte %zu of shared memory, which thread %d wrote with no barrier between", write ? "write" : "read",
                 cell * 2, shadow.writer);
        }
        if (write) {
            const bool by_reader = unordered(shadow.reader, shadow.read_epoch, shadow.read_warp_epoch);
            const bool by_lanes = shadow.lanes && shadow.read_epoch == launch->epoch &&
                                  (shadow.reader / WARP != own / WARP || shadow.read_warp_epoch == warp_epoch);
            const bool by_warps = shadow.warps && shadow.read_epoch == launch->epoch;
            if (by_reader || by_lanes || by_warps) {
                FAIL("write of byte %zu of shared memory, which thread %d or another read with no barrier between", cell * 2,
                     shadow.reader);
            }
            shadow.block = launch->block;
            shadow.writer = own;
            shadow.write_epoch = launch->epoch;
            shadow.write_warp_epoch = warp_epoch;
            shadow.copier = copying ? own + 1 : 0;
        } else if (shadow.read_epoch != launch->epoch) {
            shadow.reader = own;
            shadow.read_epoch = launch->epoch;
            shadow.read_warp_epoch = warp_epoch;
            shadow.lanes = shadow.warps = false;
        } else if (shadow.reader / WARP != own / WARP) {
            shadow.warps = true;
        } else if (shadow.read_warp_epoch != warp_epoch) {
            // Reads of an earlier warp epoch are ordered within the warp, and others are remembered as `warps`.
            shadow.reader = own;
            shadow.read_warp_epoch = warp_epoch;
            shadow.lanes = false;
        } else if (shadow.reader != own) {
            shadow.lanes = true;
        }
    }
}

void touch(const void* address, size_t bytes, bool write) {
    if (!launch || !launch->running) return;
    const u8* p = static_cast<const u8*>(address);
    if (in_own_frame(p)) return;
    if (in_shared(p)) return touch_shared(p, bytes, write);
    if (!in_global(p, bytes)) {
        FAIL("%s of %zu bytes at %p, which is in no buffer of this launch", write ? "write" : "read", bytes, address);
    }
    if (bytes > 1 && reinterpret_cast<uintptr_t>(p) % bytes != 0) {
        FAIL("%s of %zu bytes at %p, which is not aligned to them", write ? "write" : "read", bytes, address);
    }
}

void* shared_memory(size_t bytes, bool) {
    if (bytes != launch->shared_bytes) {
        FAIL("the kernel needs %zu bytes of shared memory, and was launched with %zu", bytes, launch->shared_bytes);
    }
    return launch->shared;
}

// ---- barriers and collectives -------------------------------------------------------------------------------------

void block_barrier(const char* file, int line) {
    Fiber& fiber = self();
    fiber.file = file;
    fiber.line = line;
    fiber.wait = AT_BLOCK_BARRIER;
    pause();
}

float f16_to_float(u16 bits) {
    const u32 sign = u32(bits & 0x8000u) << 16, exponent = bits >> 10 & 31, mantissa = bits & 1023;
    u32 out;
    if (exponent == 31) {
        out = sign | 0x7f800000u | mantissa << 13;
    } else if (exponent) {
        out = sign | (exponent + 112) << 23 | mantissa << 13;
    } else {
        const float small = std::ldexp(float(mantissa), -24);
        return sign ? -small : small;
    }
    float y;
    std::memcpy(&y, &out, 4);
    return y;
}

u16 float_to_f16(float x) {
    u32 bits;
    std::memcpy(&bits, &x, 4);
    const u16 sign = bits >> 16 & 0x8000u;
    if (std::isnan(x)) return sign | 0x7fffu;
    const float magnitude = std::fabs(x);
    if (magnitude >= 65520.0f) return sign | 0x7c00u;
    // The unit in the last place of the result is 2^(exponent − 10), and at least 2^−24.
    int exponent;
    std::frexp(magnitude, &exponent);
    const int unit = exponent - 1 < -14 ? -24 : exponent - 11;
    const float rounded = std::ldexp(std::nearbyint(std::ldexp(magnitude, -unit)), unit);
    if (rounded == 0.0f) return sign;
    std::frexp(rounded, &exponent);
    if (exponent - 1 < -14) return sign | u16(std::ldexp(rounded, 24));
    return sign | u16((exponent - 1 + 15) << 10) | u16(std::ldexp(rounded, 11 - exponent) - 1024);
}

u16 float_to_bf16(float x) {
    u32 bits;
    std::memcpy(&bits, &x, 4);
    if (std::isnan(x)) return 0x7fffu;
    return u16((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

float operand_value(Collective kind, u32 word, int half) {
    u32 bits = word;
    if (kind == MULTIPLY_F16) return f16_to_float(u16(word >> 16 * half));
    if (kind == MULTIPLY_BF16) bits = (half ? word >> 16 : word & 0xffffu) << 16;
    if (kind == MULTIPLY_TF32) bits = word & 0xffffe000u;  // the tensor core reads no more
    float y;
    std::memcpy(&y, &bits, 4);
    return y;
}

// d += a·b from the fragments of the 32 lanes; the layouts stand in device.cuh.
void multiply(Fiber** lanes, Collective kind) {
    const int depth = kind == MULTIPLY_TF32 ? 8 : 16;
    float a[16][16], b[16][8];
    for (int lane = 0; lane < WARP; lane++) {
        const int g = lane / 4, t = lane % 4;
        const u32* words = lanes[lane]->operand;
        if (kind == MULTIPLY_TF32) {
            for (int r = 0; r < 4; r++) a[g + 8 * (r % 2)][t + 4 * (r / 2)] = operand_value(kind, words[r], 0);
            for (int r = 0; r < 2; r++) b[t + 4 * r][g] = operand_value(kind, words[4 + r], 0);
        } else {
            for (int half = 0; half < 2; half++) {
                for (int r = 0; r < 4; r++) {
                    a[g + 8 * (r % 2)][2 * t + 8 * (r / 2) + half] = operand_value(kind, words[r], half);
                }
                for (int r = 0; r < 2; r++) b[2 * t + 8 * r + half][g] = operand_value(kind, words[4 + r], half);
            }
        }
    }
    for (int lane = 0; lane < WARP; lane++) {
        const int g = lane / 4, t = lane % 4;
        for (int r = 0; r < 4; r++) {
            double sum = lanes[lane]->accumulator[r];
            for (int k = 0; k < depth; k++) sum += double(a[g + 8 * (r / 2)][k]) * b[k][2 * t + r % 2];
            lanes[lane]->accumulator[r] = float(sum);
        }
    }
}

void load(Fiber** lanes, bool transposed) {
    for (int lane = 0; lane < WARP; lane++) {
        const int g = lane / 4, t = lane % 4;
        for (int m = 0; m < 4; m++) {
            u16 pair[2];
            for (int half = 0; half < 2; half++) {
                const int row = transposed ? 2 * t + half : g, column = transposed ? g : 2 * t + half;
                std::memcpy(&pair[half], static_cast<const u8*>(lanes[8 * m + row]->row) + 2 * column, 2);
            }
            lanes[lane]->result[m] = u32(pair[0]) | u32(pair[1]) << 16;
        }
    }
}

// Carries out what all lanes of a warp have come to.
void perform(Fiber** lanes, int warp) {
    const Collective kind = lanes[0]->collective;
    switch (kind) {
        case BARRIER: launch->warp_epochs[warp]++; break;
        case SHUFFLE_XOR:
            for (int i = 0; i < WARP; i++) lanes[i]->result[0] = lanes[(i ^ lanes[i]->argument) % WARP]->operand[0];
            break;
        case SHUFFLE:
            for (int i = 0; i < WARP; i++) lanes[i]->result[0] = lanes[lanes[i]->argument % WARP]->operand[0];
            break;
        case MATRICES: load(lanes, false); break;
        case MATRICES_TRANSPOSED: load(lanes, true); break;
        default: multiply(lanes, kind);
    }
}

// Waits for the other lanes; the last to come carries the collective out for all.
void meet(Collective kind, const char* file, int line) {
    Fiber& fiber = self();
    fiber.collective = kind;
    if (*file) {
        fiber.file = file;
        fiber.line = line;
    }
    const int warp = fiber.index / WARP;
    Fiber* lanes[WARP];
    bool all = true;
    for (int i = 0; i < WARP; i++) {
        lanes[i] = launch->threads[warp * WARP + i].get();
        all = all && (lanes[i] == &fiber || lanes[i]->wait == AT_COLLECTIVE);
    }
    fiber.wait = AT_COLLECTIVE;
    if (!all) return pause();
    for (Fiber* lane : lanes) {
        if (lane->collective != kind || lane->line != fiber.line || std::strcmp(lane->file, fiber.file) != 0) {
            FAIL("lane %d of the same warp came to %s:%d instead", lane->index % WARP, lane->file, lane->line);
        }
    }
    perform(lanes, warp);
    for (Fiber* lane : lanes) lane->wait = READY;
}

void full(u32 mask) {
    if (mask != 0xffffffffu) FAIL("a collective of the lanes %08x alone, which no kernel here needs", mask);
}

void warp_barrier(u32 mask, const char* file, int line) {
    full(mask);
    meet(BARRIER, file, line);
}

u32 shuffle_xor(u32 mask, u32 value, int lanes, const char* file, int line) {
    full(mask);
    if (lanes < 0 || lanes >= WARP) FAIL("a shuffle by %d lanes, beyond the warp", lanes);
    Fiber& fiber = self();
    fiber.operand[0] = value;
    fiber.argument = lanes;
    meet(SHUFFLE_XOR, file, line);
    return fiber.result[0];
}

u32 shuffle(u32 mask, u32 value, int lane, const char* file, int line) {
    full(mask);
    Fiber& fiber = self();
    fiber.operand[0] = value;
    fiber.argument = lane;
    meet(SHUFFLE, file, line);
    return fiber.result[0];
}

void multiply_add(Element element, float* d, const u32* a, const u32* b) {
    Fiber& fiber = self();
    std::memcpy(fiber.operand, a, 16);
    std::memcpy(fiber.operand + 4, b, 8);
    std::memcpy(fiber.accumulator, d, 16);
    meet(element == F16 ? MULTIPLY_F16 : element == BF16 ? MULTIPLY_BF16 : MULTIPLY_TF32, "", 0);
    std::memcpy(d, fiber.accumulator, 16);
}

void load_matrices(u32* r, const void* row, bool transposed) {
    Fiber& fiber = self();
    const u8* p = static_cast<const u8*>(row);
    if (!in_shared(p)) FAIL("ldmatrix of %p, which is not in shared memory", row);
    if (reinterpret_cast<uintptr_t>(p) % 16 != 0) FAIL("ldmatrix of a row that is not aligned to 16 bytes: %p", row);
    touch_shared(p, 16, false);
    fiber.row = row;
    meet(transposed ? MATRICES_TRANSPOSED : MATRICES, "", 0);
    std::memcpy(r, fiber.result, 16);
}

// ---- asynchronous copies ------------------------------------------------------------------------------------------

// The data is read at once and arrives as late as it may: when its thread waits.
void copy_async_16(void* shared, const void* global, bool exists) {
    u8* to = static_cast<u8*>(shared);
    if (!in_shared(to)) FAIL("cp.async to %p, which is not in shared memory", shared);
    if (reinterpret_cast<uintptr_t>(to) % 16 != 0) FAIL("cp.async to %p, which is not aligned to 16 bytes", shared);
    touch_shared(to, 16, true, true);
    Copy copy{to, {}};
    if (exists) {
        const u8* from = static_cast<const u8*>(global);
        if (!in_global(from, 16)) FAIL("cp.async from %p, which is in no buffer of this launch", global);
        if (reinterpret_cast<uintptr_t>(from) % 16 != 0) FAIL("cp.async from %p, which is not aligned to 16 bytes", global);
        std::memcpy(copy.bytes, from, 16);
    }
    self().open.push_back(copy);
}

void copy_async_commit() {
    Fiber& fiber = self();
    fiber.groups.push_back(std::move(fiber.open));
    fiber.open.clear();
}

void copy_async_wait(int pending) {
    Fiber& fiber = self();
    while (fiber.groups.size() > size_t(pending)) {
        for (const Copy& copy : fiber.groups.front()) {
            std::memcpy(copy.to, copy.bytes, 16);
            touch_shared(copy.to, 16, true, true);
            for (size_t cell = (copy.to - launch->shared) / 2, end = cell + 8; cell < end; cell++) {
                launch->shadows[cell].copier = 0;
            }
        }
        fiber.groups.erase(fiber.groups.begin());
    }
}

// ---- running ------------------------------------------------------------------------------------------------------

void enter() {
    launch->kernel(launch->arguments);
    Fiber& fiber = self();
    if (!fiber.open.empty() || !fiber.groups.empty()) FAIL("the thread left the kernel with %s under way", "asynchronous copies");
    fiber.wait = DONE;
    pause();
}

size_t below(size_t bound) {  // xorshift64*
    launch->random ^= launch->random >> 12;
    launch->random ^= launch->random << 25;
    launch->random ^= launch->random >> 27;
    return (launch->random * 0x2545F4914F6CDD1Dull >> 33) % bound;
}

// Nobody can run on: either all are at the same barrier, or all are done, or the block hangs.
bool pass_barrier() {
    const Fiber& first = *launch->threads[0];
    for (const auto& fiber : launch->threads) {
        const bool same = fiber->wait == first.wait && fiber->line == first.line && std::strcmp(fiber->file, first.file) == 0;
        if (first.wait != AT_COLLECTIVE && same) continue;
        if (first.wait == DONE && fiber->wait == DONE) continue;
        const char* names[] = {"ready", "at the barrier", "at the collective", "done, last at"};
        note("the block hangs: thread %d is %s %s:%d, thread %d is %s %s:%d", first.index, names[first.wait], first.file,
             first.line, fiber->index, names[fiber->wait], fiber->file, fiber->line);
        return false;
    }
    if (first.wait == DONE) return false;
    launch->epoch++;
    for (auto& fiber : launch->threads) fiber->wait = READY;
    return true;
}

void run_block(dim3 block) {
    launch->block++;
    launch->epoch++;
    std::memset(launch->shared, 0xff, launch->shared_bytes);  // NaN in every type
    for (auto& fiber : launch->threads) {
        fiber->block = block;
        fiber->wait = READY;
        fiber->file = "the beginning";
        fiber->line = 0;
        fiber->open.clear();
        fiber->groups.clear();
        prepare(fiber->context, fiber->stack.get(), enter);
    }
    std::vector<Fiber*> ready;
    do {
        for (;;) {
            ready.clear();
            for (auto& fiber : launch->threads) {
                if (fiber->wait == READY) ready.push_back(fiber.get());
            }
            if (ready.empty()) break;
            // Each runs until it waits; seed 0 keeps the order of the threads.
            while (!ready.empty()) {
                const size_t at = launch->random ? below(ready.size()) : 0;
                Fiber* fiber = ready[at];
                if (launch->random) {
                    ready[at] = ready.back();
                    ready.pop_back();
                } else {
                    ready.erase(ready.begin());
                }
                launch->running = fiber;
                emulator_switch(&launch->scheduler, &fiber->context);
                launch->running = nullptr;
                if (launch->failed) return;
            }
        }
    } while (pass_barrier());
}
}  // namespace emulator

using namespace emulator;

// Runs a kernel; false, and a sentence in `report`, if anything was wrong.
extern "C" bool emulator_launch(void (*kernel)(void**), void** arguments, const u32* grid, size_t threads,
                                size_t shared_bytes, uint64_t seed, const Buffer* buffers, size_t buffer_count,
                                char* report, size_t report_bytes) {
    Launch state;
    state.kernel = kernel;
    state.arguments = arguments;
    state.buffers = buffers;
    state.buffer_count = buffer_count;
    state.random = seed;
    state.report = report;
    state.report_bytes = report_bytes;
    state.shared_bytes = shared_bytes;
    state.arena.resize(shared_bytes + 128);
    state.shared = reinterpret_cast<u8*>((reinterpret_cast<uintptr_t>(state.arena.data()) + 127) & ~uintptr_t(127));
    state.shadows.resize(shared_bytes / 2 + 1);
    state.warp_epochs.resize((threads + WARP - 1) / WARP);
    for (size_t i = 0; i < threads; i++) {
        auto fiber = std::make_unique<Fiber>();
        fiber->index = int(i);
        fiber->stack = std::unique_ptr<u8[]>(new u8[STACK_BYTES]);
        std::memset(fiber->stack.get() + STACK_BYTES - FRAME_BYTES, 0xff, FRAME_BYTES);
        fiber->thread = {u32(i), 0, 0};
        fiber->grid = {grid[0], grid[1], grid[2]};
        state.threads.push_back(std::move(fiber));
    }
    launch = &state;
    for (u32 z = 0; z < grid[2] && !state.failed; z++) {
        for (u32 y = 0; y < grid[1] && !state.failed; y++) {
            for (u32 x = 0; x < grid[0] && !state.failed; x++) run_block({x, y, z});
        }
    }
    launch = nullptr;
    return !state.failed;
}

// ---- what -fsanitize=thread calls ---------------------------------------------------------------------------------

extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_read1(void* p) { touch(p, 1, false); }
void __tsan_read2(void* p) { touch(p, 2, false); }
void __tsan_read4(void* p) { touch(p, 4, false); }
void __tsan_read8(void* p) { touch(p, 8, false); }
void __tsan_read16(void* p) { touch(p, 16, false); }
void __tsan_write1(void* p) { touch(p, 1, true); }
void __tsan_write2(void* p) { touch(p, 2, true); }
void __tsan_write4(void* p) { touch(p, 4, true); }
void __tsan_write8(void* p) { touch(p, 8, true); }
void __tsan_write16(void* p) { touch(p, 16, true); }
void __tsan_unaligned_read2(void* p) { touch(p, 2, false); }
void __tsan_unaligned_read4(void* p) { touch(p, 4, false); }
void __tsan_unaligned_read8(void* p) { touch(p, 8, false); }
void __tsan_unaligned_read16(void* p) { touch(p, 16, false); }
void __tsan_unaligned_write2(void* p) { touch(p, 2, true); }
void __tsan_unaligned_write4(void* p) { touch(p, 4, true); }
void __tsan_unaligned_write8(void* p) { touch(p, 8, true); }
void __tsan_unaligned_write16(void* p) { touch(p, 16, true); }
void __tsan_read_range(void* p, size_t n) { touch(p, n, false); }
void __tsan_write_range(void* p, size_t n) { touch(p, n, true); }
}
