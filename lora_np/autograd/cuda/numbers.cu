// The CUDA side of autograd/fused/: the same formulas, one block of threads for each row, computed in float32.
// Each kernel's derivation stands in the docstring of the Python function of the same name.
// The file is compiled once for each type that numbers are stored in: `real` is float, __nv_bfloat16 or __half.

#if defined(BFLOAT16)
#include <cuda_bf16.h>
typedef __nv_bfloat16 real;
#define WIDE(x) __bfloat162float(x)
#define NARROW(x) __float2bfloat16(x)
#elif defined(FLOAT16)
#include <cuda_fp16.h>
typedef __half real;
#define WIDE(x) __half2float(x)
#define NARROW(x) __float2half(x)
#else
typedef float real;
#define WIDE(x) (x)
#define NARROW(x) (x)
#endif

#if defined(BFLOAT16) || defined(FLOAT16)
#define EXP(x) __expf(x)  // off by 2⁻²¹ or so: what is stored is off by more
#define TANH(x) (1.0f - __fdividef(2.0f, 1.0f + __expf(2.0f * (x))))
#else
#define EXP(x) expf(x)
#define TANH(x) tanhf(x)
#endif

namespace {

constexpr float SQRT_2_OVER_PI = 0.7978845608028654f, CUBIC = 0.044715f;
constexpr float SQRT_HALF = 0.7071067811865476f, INV_SQRT_2PI = 0.3989422804014327f;

#define MINUS_INFINITY __int_as_float(0xff800000)  // NVRTC knows no INFINITY
#define LOWEST __int_as_float(0xff7fffff)          // the lowest finite number: LOWEST - LOWEST is not NaN

constexpr int HELD = 16;                   // how many numbers of a row of scores a thread keeps in registers
constexpr int PACK = 16 / sizeof(real);    // how many numbers a thread reads at once where they allow it

// The sum of `value` over all threads of the block, for every thread. At most 1024 threads.
__device__ float block_sum(float value) {
    __shared__ float parts[32];
    for (int i = 16; i > 0; i /= 2) value += __shfl_xor_sync(0xffffffff, value, i);
    __syncthreads();  // so that a call before this one has been read
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
    __syncthreads();
    float sum = 0;
    for (int i = 0; i < (blockDim.x + 31) / 32; ++i) sum += parts[i];
    return sum;
}

__device__ float block_max(float value) {
    __shared__ float parts[32];
    for (int i = 16; i > 0; i /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffff, value, i));
    __syncthreads();
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
    __syncthreads();
    float largest = parts[0];
    for (int i = 1; i < (blockDim.x + 31) / 32; ++i) largest = fmaxf(largest, parts[i]);
    return largest;
}

__device__ long long first_index() { return blockIdx.x * (long long)blockDim.x + threadIdx.x; }
__device__ long long stride() { return gridDim.x * (long long)blockDim.x; }

// N numbers that lie side by side, as they are stored and as they are computed with.
template <int N>
struct alignas(N * sizeof(real)) Stored {
    real v[N];
};
template <int N>
struct Floats {
    float v[N];
};

// The i-th N numbers of an array.
template <int N>
__device__ Floats<N> get(const real* p, long long i) {
    Stored<N> stored = reinterpret_cast<const Stored<N>*>(p)[i];
    Floats<N> out;
#pragma unroll
    for (int j = 0; j < N; ++j) out.v[j] = WIDE(stored.v[j]);
    return out;
}
template <int N>
__device__ void put(real* p, long long i, Floats<N> x) {
    Stored<N> stored;
#pragma unroll
    for (int j = 0; j < N; ++j) stored.v[j] = NARROW(x.v[j]);
    reinterpret_cast<Stored<N>*>(p)[i] = stored;
}

// f of each of the numbers.
template <int N, typename F>
__device__ Floats<N> each(Floats<N> x, F f) {
#pragma unroll
    for (int j = 0; j < N; ++j) x.v[j] = f(x.v[j], j);
    return x;
}
template <int N>
__device__ float sum_of(Floats<N> x) {
    float sum = 0;
#pragma unroll
    for (int j = 0; j < N; ++j) sum += x.v[j];
    return sum;
}
template <int N>
__device__ Floats<N> times(Floats<N> x, Floats<N> y) {
    return each(x, [&](float a, int j) { return a * y.v[j]; });
}

}  // namespace
