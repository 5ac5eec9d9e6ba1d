// The words of CUDA that flash_attention.cu uses, for a CPU, so that its text can be run where there is no GPU.
//
// The threads of a block are fibers that take turns on one core; a barrier lets the others go on. What a warp does
// together (shuffles, ldmatrix, mma) is written here from NVIDIA's description of where each lane's numbers lie. Copies
// to shared memory are done at once or, with `late_copies`, when they are waited for: both must give the same.

#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

#define __device__ inline
#define __global__
#define __shared__ static
#define __launch_bounds__(threads)
using std::min;

struct Index {
    unsigned x, y, z;
};
struct float2 {
    float x, y;
};
static Index threadIdx, blockIdx, gridDim;
static bool late_copies;

// ---- Numbers ----

struct __nv_bfloat16 {
    uint16_t bits;
};
struct __nv_bfloat162 {
    __nv_bfloat16 x, y;
};
static __nv_bfloat16 narrowed(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};  // to the nearest, ties to even
}
static float widened(__nv_bfloat16 x) {
    uint32_t bits = uint32_t(x.bits) << 16;
    float y;
    std::memcpy(&y, &bits, 4);
    return y;
}
static __nv_bfloat162 __float22bfloat162_rn(float2 x) { return {narrowed(x.x), narrowed(x.y)}; }
static float2 __bfloat1622float2(__nv_bfloat162 x) { return {widened(x.x), widened(x.y)}; }
static float __int_as_float(unsigned bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

// ---- Fibers ----

struct Copy {
    void* to;
    const void* from;
    int bytes;
};
struct Fiber {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(1 << 17);
    long at_block = 0, at_warp = 0;  // how many barriers it has come to
    bool done = false;
    std::vector<Copy> copies;
};
static std::vector<Fiber> fibers;
static ucontext_t turns;
static std::function<void()> kernel;

static Fiber& me() { return fibers[threadIdx.x]; }

// Wait until all of the fibers from `first` on have come to as many barriers.
static void barrier(long Fiber::*count, unsigned first, unsigned size) {
    long mine = ++(me().*count);
    auto behind = [&](const Fiber& other) { return other.*count < mine; };
    while (std::any_of(fibers.begin() + first, fibers.begin() + first + size, behind)) swapcontext(&me().context, &turns);
}
static void __syncthreads() { barrier(&Fiber::at_block, 0, fibers.size()); }
static void warp_barrier() { barrier(&Fiber::at_warp, threadIdx.x / 32 * 32, 32); }

static void run_fiber() {
    kernel();
    me().done = true;
}

static void launch(Index grid, int threads, std::function<void()> body) {
    kernel = body;
    gridDim = grid;
    for (unsigned block = 0; block < grid.x * grid.y * grid.z; ++block) {
        blockIdx = {block % grid.x, block / grid.x % grid.y, block / grid.x / grid.y};
        fibers = std::vector<Fiber>(threads);
        for (Fiber& fiber : fibers) {
            getcontext(&fiber.context);
            fiber.context.uc_stack.ss_sp = fiber.stack.data();
            fiber.context.uc_stack.ss_size = fiber.stack.size();
            fiber.context.uc_link = &turns;
            makecontext(&fiber.context, run_fiber, 0);
        }
        for (bool any = true; any;) {
            any = false;
            for (threadIdx = {0, 0, 0}; threadIdx.x < fibers.size(); ++threadIdx.x)
                if (!me().done) any = true, swapcontext(&turns, &me().context);
        }
    }
}

// ---- What a warp does together ----

// What each lane of the warp says.
template <typename T>
static std::array<T, 32> of_warp(T mine) {
    static T said[1024];
    said[threadIdx.x] = mine;
    warp_barrier();
    std::array<T, 32> all;
    std::copy_n(said + threadIdx.x / 32 * 32, 32, all.begin());
    warp_barrier();
    return all;
}
static float __shfl_xor_sync(unsigned, float x, int mask) { return of_warp(x)[threadIdx.x % 32 ^ mask]; }
