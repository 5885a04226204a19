// CUDA C++ on the CPU, so that the kernels' own source is tested where there is no GPU. Included before a .cu file.
//
// A thread is a fiber (ucontext) that runs until it meets a barrier, a shuffle or its end. The warps of a block run one
// after another from barrier to barrier, in an order shuffled by a seed; so are the lanes between two shuffles, and the
// blocks. A result that needs an order that no barrier gives is wrong, or differs from seed to seed. Shared memory
// holds a pattern at the start of every block, so that nothing is left from the block before.
//
// Reported as errors: a barrier or a shuffle that some threads of the block or warp do not meet, a shuffle from a lane
// that is not there, and whatever the CPU traps on: arrays and dynamic shared memory lie against pages that cannot be
// touched.
#pragma once

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __shared__ static __attribute__((section("emulated_shared")))
#define DYNAMIC_SHARED(type, name) type* name = (type*)emulation::dynamic_shared
#define COPY_LATER(to, from) emulation::copy_later(to, from)
#define WAIT_FOR_COPIES() emulation::finish_copies()

struct dim3 {
    unsigned x, y, z;
};
struct int2 {
    int x, y;
};
struct int4 {
    int x, y, z, w;
};
struct uint2 {
    unsigned x, y;
};
struct uint4 {
    unsigned x, y, z, w;
};
struct float2 {
    float x, y;
};
struct float4 {
    float x, y, z, w;
};

static dim3 gridDim, blockDim, blockIdx, threadIdx;

namespace emulation {

constexpr size_t STACK = 64 << 10;
constexpr unsigned LANES = 32;
constexpr unsigned char POISON = 0xcd;

enum State { RUNNABLE, AT_BARRIER, IN_WARP, DONE };

struct Fiber {
    ucontext_t context;
    dim3 index;
    unsigned rank;  // in the block
    State state;
    int line;                    // where it waits
    unsigned exchanges;          // of its warp that it has met
    unsigned long long slot[2];  // what it gives to its warp; two, since a lane may be one exchange ahead
    std::vector<char> stack;
    std::vector<std::function<void()>> copies;  // that it has started and not waited for
};

static std::vector<Fiber> fibers;
static Fiber* current;
static unsigned alive;  // threads of the block; the vector may hold more
static ucontext_t scheduler;
static std::function<void()> kernel;
static char* dynamic_shared;  // ends at a page that cannot be touched
static size_t dynamic_bytes;
static std::string error;
static sigjmp_buf trapped;

static std::string name(const Fiber& fiber) {
    return "thread " + std::to_string(fiber.rank) + " of block (" + std::to_string(blockIdx.x) + ", " +
           std::to_string(blockIdx.y) + ", " + std::to_string(blockIdx.z) + ")";
}

static void wait(State state, int line) {
    current->state = state;
    current->line = line;
    swapcontext(&current->context, &scheduler);
}

// Gives `value` to the warp and returns what lane `source` gave; a lane beyond the warp's 32 gives one's own back.
template <class T>
T exchange(T value, unsigned mask, unsigned source, int line) {
    static_assert(sizeof(T) <= 8);
    unsigned lane = current->rank % LANES, turn = current->exchanges++ % 2, giver = current->rank - lane + source;
    if (mask != 0xffffffff) {
        error = name(*current) + ": only shuffles of the whole warp are emulated";
    }
    memcpy(&current->slot[turn], &value, sizeof(T));
    wait(IN_WARP, line);
    if (source >= LANES) {
        return value;
    }
    if (giver >= alive) {
        error = name(*current) + " shuffles from lane " + std::to_string(source) + ", which is not there";
        return value;
    }
    memcpy(&value, &fibers[giver].slot[turn], sizeof(T));
    return value;
}

// Copies of one half of the threads come at once, as early as they may; those of the other half when they are waited
// for.
template <class T>
void copy_later(T* to, const T* from) {
    if (current->rank % 2) {
        *to = *from;
    } else {
        current->copies.push_back([=] { *to = *from; });
    }
}

inline void finish_copies() {
    for (auto& copy : current->copies) {
        copy();
    }
    current->copies.clear();
}

inline unsigned lane() { return current->rank % LANES; }

// Lets the fibers of a range go on if all wait in `state` at one line.
static bool open(unsigned first, unsigned last, State state) {
    for (unsigned k = first; k < last; ++k) {
        if (fibers[k].state != state || fibers[k].line != fibers[first].line) {
            return false;
        }
    }
    for (unsigned k = first; k < last; ++k) {
        fibers[k].state = RUNNABLE;
    }
    return true;
}

static void begin() {
    kernel();
    wait(DONE, 0);
}

static void create_fibers() {
    alive = blockDim.x * blockDim.y * blockDim.z;
    fibers.resize(std::max<size_t>(fibers.size(), alive));
    for (unsigned k = 0; k < alive; ++k) {
        Fiber& fiber = fibers[k];
        fiber.stack.resize(STACK);
        fiber.index = {k % blockDim.x, k / blockDim.x % blockDim.y, k / blockDim.x / blockDim.y};
        fiber.rank = k, fiber.state = RUNNABLE, fiber.line = 0, fiber.exchanges = 0, fiber.copies.clear();
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = STACK;
        makecontext(&fiber.context, begin, 0);
    }
}

// Lets the lanes of a warp run, from exchange to exchange, until all wait for the block or are done.
static void run_warp(unsigned first, std::mt19937& random) {
    unsigned last = std::min(first + LANES, alive);
    std::vector<unsigned> order(last - first);
    std::iota(order.begin(), order.end(), first);
    do {
        std::shuffle(order.begin(), order.end(), random);
        for (unsigned k : order) {
            if (fibers[k].state == RUNNABLE && error.empty()) {
                current = &fibers[k];
                threadIdx = current->index;
                swapcontext(&scheduler, &current->context);
            }
        }
    } while (error.empty() && open(first, last, IN_WARP));
}

// Lets the warps run one after another from barrier to barrier: the farthest from all at once, so that a race shows.
static void run_warps(std::mt19937& random) {
    std::vector<unsigned> firsts;
    for (unsigned first = 0; first < alive; first += LANES) {
        firsts.push_back(first);
    }
    do {
        std::shuffle(firsts.begin(), firsts.end(), random);
        for (unsigned first : firsts) {
            run_warp(first, random);
        }
    } while (error.empty() && open(0, alive, AT_BARRIER));
    auto stuck = std::find_if(fibers.begin(), fibers.begin() + alive, [](Fiber& f) { return f.state != DONE; });
    if (error.empty() && stuck != fibers.begin() + alive) {
        error = name(*stuck) + " waits at line " + std::to_string(stuck->line) + " for threads that do not come";
    }
}

extern "C" char __start_emulated_shared[] __attribute__((weak)), __stop_emulated_shared[] __attribute__((weak));

static void run_block(std::mt19937& random) {
    if (__start_emulated_shared) {
        memset(__start_emulated_shared, POISON, __stop_emulated_shared - __start_emulated_shared);
    }
    memset(dynamic_shared, POISON, dynamic_bytes);
    create_fibers();
    run_warps(random);
}

static void allocate_shared(size_t bytes) {
    constexpr size_t ROOM = 1 << 18, PAGE = 1 << 16;
    static char* room = (char*)mmap(nullptr, ROOM + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(room + ROOM, PAGE, PROT_NONE);
    dynamic_bytes = bytes;
    dynamic_shared = room + ROOM - bytes;
}

static void trap(int) { siglongjmp(trapped, 1); }

// Runs `body` as the kernel over the grid; returns the error, or nothing.
static const char* run(dim3 grid, dim3 block, size_t shared, unsigned seed, std::function<void()> body) {
    struct sigaction action = {}, before[3];
    int signals[] = {SIGSEGV, SIGBUS, SIGFPE};
    action.sa_handler = trap;
    for (int k = 0; k < 3; ++k) {
        sigaction(signals[k], &action, &before[k]);
    }
    kernel = body, gridDim = grid, blockDim = block, error.clear();
    allocate_shared(shared);
    std::mt19937 random(seed);
    std::vector<unsigned> order((size_t)grid.x * grid.y * grid.z);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
    if (sigsetjmp(trapped, 1) == 0) {
        for (size_t k = 0; k < order.size() && error.empty(); ++k) {
            blockIdx = {order[k] % grid.x, order[k] / grid.x % grid.y, order[k] / grid.x / grid.y};
            run_block(random);
        }
    } else {
        error = name(*current) + " touches memory outside its arrays, or divides by 0";
    }
    for (int k = 0; k < 3; ++k) {
        sigaction(signals[k], &before[k], nullptr);
    }
    return error.empty() ? nullptr : error.c_str();
}

}  // namespace emulation

#define __syncthreads() emulation::wait(emulation::AT_BARRIER, __LINE__)
#define __syncwarp() (void)emulation::exchange(0, 0xffffffff, 0, __LINE__)
#define __shfl_sync(mask, value, source) emulation::exchange(value, mask, source, __LINE__)
#define __shfl_xor_sync(mask, value, bits) emulation::exchange(value, mask, emulation::lane() ^ (bits), __LINE__)
#define __shfl_down_sync(mask, value, by) emulation::exchange(value, mask, emulation::lane() + (by), __LINE__)
#define __shfl_up_sync(mask, value, by) emulation::exchange(value, mask, emulation::lane() - (by), __LINE__)

// Fibers change over at barriers alone, so a plain read and write is atomic.
template <class T>
T atomicAdd(T* at, T value) {
    T before = *at;
    *at += value;
    return before;
}

template <class T>
T atomicMax(T* at, T value) {
    T before = *at;
    *at = std::max(before, value);
    return before;
}

template <class T>
T atomicMin(T* at, T value) {
    T before = *at;
    *at = std::min(before, value);
    return before;
}

using std::max;
using std::min;

// Compiled with -ffp-contract=off, where plain arithmetic is rounded at every step.
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fdividef(float a, float b) { return a / b; }
inline int __popcll(unsigned long long bits) { return __builtin_popcountll(bits); }
inline long long __float2ll_rn(float a) { return llrintf(a); }
inline int __mulhi(int a, int b) { return (long long)a * b >> 32; }
inline unsigned __dp2a_lo(unsigned two, unsigned bytes, unsigned sum) {
    return (two & 65535) * (bytes & 255) + (two >> 16) * (bytes >> 8 & 255) + sum;
}
inline unsigned __dp2a_hi(unsigned two, unsigned bytes, unsigned sum) { return __dp2a_lo(two, bytes >> 16, sum); }
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
    unsigned long long bytes = (unsigned long long)high << 32 | low;
    unsigned result = 0;
    for (int k = 0; k < 4; ++k) {
        result |= (bytes >> 8 * (selector >> 4 * k & 7) & 255) << 8 * k;
    }
    return result;
}
