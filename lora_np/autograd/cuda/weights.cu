// Kernels for weights and adapters, in many pieces at once: what optimizers do, LoRA by rows, 4 bits, and the cache.

namespace {

// y_b += s_b x_b A_bᵀ B_bᵀ for rows b that each have matrices of their own: first h = s x Aᵀ, then y += h Bᵀ.
// x (B, T, in) and y (B, T, out); A, B and h (entries, T, width) are in float32, width is a multiple of RANKS.
// table[i] = {address of A (r, in), of B (out, r), r, b, the bits of s_b as a double, its place in h}; r is 0 where
// there is no adapter. Blocks begin at the end: the cache still has what was written last. packed: may several numbers
// be read at once?
constexpr int RANKS = 8;  // that a thread takes at a time
constexpr int EACH = 4;   // tokens that a warp multiplies by A at a time; EACH · RANKS is a warp
constexpr int TILE = 4;   // tokens that a thread multiplies by COLUMNS columns of Bᵀ at a time
constexpr int PAIRS = 2;  // the same where there are two y
constexpr int COLUMNS = 4;

// N numbers of a matrix in float32.
template <int N>
struct alignas(4 * N) Numbers {
    float v[N];
};
template <int N>
__device__ __forceinline__ Numbers<N> numbers(const float* p) {
    return *reinterpret_cast<const Numbers<N>*>(p);
}

// Over the lanes of a warp the sums of 32 numbers; lane i returns that of number i. In each round a lane hands half of
// what it has to another and gets the other's half: 31 exchanges in place of 160.
template <int HALF = 16>
__device__ __forceinline__ float sum_for_lane(float (&v)[32], int lane) {
    bool upper = lane & HALF;
#pragma unroll
    for (int j = 0; j < HALF; ++j) {
        float other = __shfl_xor_sync(0xffffffff, upper ? v[j] : v[j + HALF], HALF);
        v[j] = (upper ? v[j + HALF] : v[j]) + other;
    }
    if constexpr (HALF > 1) return sum_for_lane<HALF / 2>(v, lane);
    return v[0];
}

// x Aᵀ of EACH tokens, rank k of token t in lane t · RANKS + k: summed over i = start, start + step, ... and the lanes.
// What is beyond `tokens` or `ranks` repeats the last.
template <int N>
__device__ __forceinline__ float into_ranks(const real* x, const float* A, int tokens, int ranks, int fan_in, int start,
                                            int step) {
    float sums[EACH * RANKS] = {};
#pragma unroll 1
    for (int i = start * N; i < fan_in; i += step * N) {
        Floats<N> token[EACH];
#pragma unroll
        for (int t = 0; t < EACH; ++t) token[t] = get<N>(x + (min(t, tokens - 1) * fan_in + i), 0);
#pragma unroll
        for (int k = 0; k < RANKS; ++k) {
            Numbers<N> a = numbers<N>(A + (min(k, ranks - 1) * fan_in + i));
#pragma unroll
            for (int t = 0; t < EACH; ++t)
#pragma unroll
                for (int n = 0; n < N; ++n) sums[t * RANKS + k] += token[t].v[n] * a.v[n];
        }
    }
    return sum_for_lane(sums, threadIdx.x % 32);
}

// N columns of an adapter's Bᵀ, for TOKENS tokens at a time. Up to RANKS numbers of each stay in registers from one time
// to the next.
template <int N, int TOKENS>
struct Columns {
    const float *h, *B;  // of the first token, and of the first column, a row of B
    int r, width;
    Numbers<4> b[N][RANKS / 4];

    __device__ __forceinline__ Columns(const long long* entry, const float* h, int t, int T, int column, int width)
        : h(h + (entry[5] * T + t) * width), B((const float*)entry[1] + column * entry[2]), r(entry[2]), width(width) {}

    // sums += h Bᵀ for the tokens from `first`; what is beyond `tokens` repeats the last, so that nothing branches.
    __device__ __forceinline__ void add_to(Floats<N> (&sums)[TOKENS], int first, int tokens) {
#pragma unroll 1
        for (int from = 0; from < r; from += RANKS) {
            if (!first || r > RANKS) read(from);
#pragma unroll
            for (int t = 0; t < TOKENS; ++t) {
#pragma unroll
                for (int k = 0; k < RANKS; k += 4) {
                    Numbers<4> own = numbers<4>(h + (min(first + t, tokens - 1) * width + from + k));
#pragma unroll
                    for (int n = 0; n < N; ++n)
#pragma unroll
                        for (int j = 0; j < 4; ++j) sums[t].v[n] += own.v[j] * b[n][k / 4].v[j];
                }
            }
        }
    }

    __device__ __forceinline__ void read(int from) {
#pragma unroll
        for (int i = 0; i < N * RANKS; ++i) {
            int n = i / RANKS, k = i % RANKS;
            if (N > 1 && r % RANKS == 0) {
                if (k % 4 == 0) b[n][k / 4] = numbers<4>(B + (n * r + from + k));
            } else {
                b[n][k / 4].v[k % 4] = from + k < r ? B[n * r + from + k] : 0;
            }
        }
    }
};

// N columns of TOKENS tokens of y from `first`, of which there are `tokens`; the others stay as they are.
template <int N, int TOKENS>
__device__ __forceinline__ void get_tokens(Floats<N> (&x)[TOKENS], const real* y, int first, int tokens, int fan_out) {
#pragma unroll
    for (int t = 0; t < TOKENS; ++t)
        if (first + t < tokens) x[t] = get<N>(y + (first + t) * fan_out, 0);
}

// y += h Bᵀ of a row, for N columns of `tokens` tokens from t.
template <int N>
__device__ __forceinline__ void add_ranks(real* y, const float* h, const long long* entry, int T, int fan_out,
                                          int width, int t, int column, int tokens) {
    Columns<N, TILE> own(entry, h, t, T, column, width);
    y += (entry[3] * T + t) * fan_out + column;
#pragma unroll 1
    for (int first = 0; first < tokens; first += TILE) {
        Floats<N> sums[TILE];
        get_tokens(sums, y, first, tokens, fan_out);
        own.add_to(sums, first, tokens);
#pragma unroll
        for (int t = 0; t < TILE; ++t)
            if (first + t < tokens) put<N>(y + (first + t) * fan_out, 0, sums[t]);
    }
}

// gate = silu(gate + h Bᵀ) ∘ (up + h Bᵀ) in the same way; their entries lie one behind the other.
template <int N>
__device__ __forceinline__ void swiglu_ranks(real* gate, const real* up, const float* h, const long long* entry, int T,
                                             int fan_out, int width, int t, int column, int tokens) {
    Columns<N, PAIRS> own(entry, h, t, T, column, width), other(entry + 6, h, t, T, column, width);
    long long begin = (entry[3] * T + t) * fan_out + column;
    gate += begin, up += begin;
#pragma unroll 1
    for (int first = 0; first < tokens; first += PAIRS) {
        Floats<N> g[PAIRS], u[PAIRS];
        get_tokens(g, gate, first, tokens, fan_out);
        get_tokens(u, up, first, tokens, fan_out);
        own.add_to(g, first, tokens);
        other.add_to(u, first, tokens);
#pragma unroll
        for (int t = 0; t < PAIRS; ++t)
            if (first + t < tokens) put<N>(gate + (first + t) * fan_out, 0, swiglu(g[t], u[t]));
    }
}

}  // namespace

extern "C" {

// One step of AdamW for many parameters: table[i] = {p, g, m, v, size}; block row y is parameter y.
__global__ void adamw(const long long* table, const float* settings) {
    float lr = settings[0], beta1 = settings[1], beta2 = settings[2], eps = settings[3], decay = settings[4];
    float correction1 = settings[5], correction2 = settings[6];
    const long long* entry = table + 5 * blockIdx.y;
    float* p = reinterpret_cast<float*>(entry[0]);
    const float* g = reinterpret_cast<const float*>(entry[1]);
    float* m = reinterpret_cast<float*>(entry[2]);
    float* v = reinterpret_cast<float*>(entry[3]);
    for (long long i = first_index(); i < entry[4]; i += stride()) {
        float grad = g[i];
        m[i] = beta1 * m[i] + (1.0f - beta1) * grad;
        v[i] = beta2 * v[i] + (1.0f - beta2) * grad * grad;
        float step = lr * (m[i] * correction1) / (sqrtf(v[i] * correction2) + eps);
        p[i] = p[i] * (1.0f - lr * decay) - step;
    }
}

// squares[i] = the sum of the squares of gradient i; one block each, in a fixed order.
__global__ void sum_squares(const long long* table, float* squares) {
    const float* g = reinterpret_cast<const float*>(table[2 * blockIdx.x]);
    float sum = 0;
    for (long long i = threadIdx.x; i < table[2 * blockIdx.x + 1]; i += blockDim.x) sum += g[i] * g[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) squares[blockIdx.x] = sum;
}

// Every gradient times *factor.
__global__ void scale_all(const long long* table, const float* factor) {
    float* g = reinterpret_cast<float*>(table[2 * blockIdx.y]);
    for (long long i = first_index(); i < table[2 * blockIdx.y + 1]; i += stride()) g[i] *= *factor;
}

// sums[place..] += *share · each of many float32 arrays: table[i] = {address, place, size}; block row y is array y.
__global__ void add_shares(float* sums, const long long* table, const float* share) {
    const long long* entry = table + 3 * blockIdx.y;
    const float* from = reinterpret_cast<const float*>(entry[0]);
    for (long long i = first_index(); i < entry[2]; i += stride()) sums[entry[1] + i] += *share * from[i];
}

// Many float32 arrays as `real`, each at its place in `flat`: table[i] = {address, place, size}; block row y is array y.
__global__ void narrow_all(real* flat, const long long* table) {
    const long long* entry = table + 3 * blockIdx.y;
    const float* from = reinterpret_cast<const float*>(entry[0]);
    for (long long i = first_index(); i < entry[2]; i += stride()) flat[entry[1] + i] = NARROW(from[i]);
}

// h = s x Aᵀ. `slices` warps, a power of two, share the sum for EACH tokens among them. Each does so `rounds` times, for
// others; more than once only where it shares nothing.
__global__ void __launch_bounds__(256, 2)
    lora_rows_in(const real* __restrict__ x, float* __restrict__ h, const long long* table, int T, int fan_in,
                 int width, int slices, int rounds, int packed) {
    __shared__ float parts[8][32];
    int entry = gridDim.y - 1 - blockIdx.y, from = blockIdx.z * RANKS;
    const long long* own = table + 6 * entry;
    int ranks = min(RANKS, (int)own[2] - from);
    if (ranks <= 0) return;
    const float* A = (const float*)own[0] + (long long)from * fan_in;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, slice = warp % slices, together = 8 / slices;
    int start = slice * 32 + lane, step = slices * 32;
    int group = (int)(gridDim.x - 1 - blockIdx.x) * together * rounds + warp / slices;
    for (int round = 0; round < rounds; ++round, group += together) {
        int t = group * EACH, tokens = min(EACH, T - t);
        const real* first = x + (own[3] * T + t) * fan_in;
        float sum = 0;
        if (tokens > 0)
            sum = packed ? into_ranks<4>(first, A, tokens, ranks, fan_in, start, step)
                         : into_ranks<1>(first, A, tokens, ranks, fan_in, start, step);
        if (slices > 1) {
            parts[warp][lane] = sum;
            __syncthreads();
            for (int i = 1; slice == 0 && i < slices; ++i) sum += parts[warp + i][lane];
        }
        if (slice == 0 && lane / RANKS < tokens)
            h[(own[5] * T + t + lane / RANKS) * width + from + lane % RANKS] =
                (float)__longlong_as_double(own[4]) * sum;
    }
}

// y += h Bᵀ; a thread has COLUMNS columns, or one, of `each` tokens.
__global__ void __launch_bounds__(256, 2)
    lora_rows_out(real* __restrict__ y, const float* __restrict__ h, const long long* table, int T, int fan_out,
                  int width, int each, int packed) {
    int across = fan_out / (packed ? COLUMNS : 1);
    int i = (int)((gridDim.x - 1 - blockIdx.x) * blockDim.x) + threadIdx.x, t = i / across * each;
    if (t >= T) return;
    const long long* entry = table + 6 * (gridDim.y - 1 - blockIdx.y);
    if (packed)
        add_ranks<COLUMNS>(y, h, entry, T, fan_out, width, t, i % across * COLUMNS, min(each, T - t));
    else
        add_ranks<1>(y, h, entry, T, fan_out, width, t, i % across, min(each, T - t));
}

// gate = silu(gate + h Bᵀ) ∘ (up + h Bᵀ); table has two entries for each row, its gate's and its up's.
__global__ void __launch_bounds__(256, 2)
    lora_rows_swiglu(real* __restrict__ gate, const real* __restrict__ up, const float* __restrict__ h,
                     const long long* table, int T, int fan_out, int width, int each, int packed) {
    int across = fan_out / (packed ? COLUMNS : 1);
    int i = (int)((gridDim.x - 1 - blockIdx.x) * blockDim.x) + threadIdx.x, t = i / across * each;
    if (t >= T) return;
    const long long* entry = table + 12 * (gridDim.y - 1 - blockIdx.y);
    if (packed)
        swiglu_ranks<COLUMNS>(gate, up, h, entry, T, fan_out, width, t, i % across * COLUMNS, min(each, T - t));
    else
        swiglu_ranks<1>(gate, up, h, entry, T, fan_out, width, t, i % across, min(each, T - t));
}

// out[i] = values[code i] * the largest number of its block. Two codes to a byte, the first in the high four bits; each
// thread takes N bytes, of one block. The largest numbers are float32, or with `scales` int8: see nn/nf4.py.
__global__ void nf4_numbers(real* out, const unsigned char* codes, const void* absmax, const float* scales,
                            const float* mean, const float* values, long long bytes, int bytes_per_block, int packed) {
    __shared__ float table[16];
    if (threadIdx.x < 16) table[threadIdx.x] = values[threadIdx.x];
    __syncthreads();
    auto largest = [&](long long block) {
        if (!scales) return static_cast<const float*>(absmax)[block];
        float step = scales[block / 256] / 127.0f;
        return fmaxf(__fadd_rn(__fmul_rn(static_cast<const signed char*>(absmax)[block], step), *mean), 0.0f);
    };
    if (packed) {
        for (long long i = first_index(); i < bytes / 4; i += stride()) {
            unsigned int four = reinterpret_cast<const unsigned int*>(codes)[i];
            float scale = largest(4 * i / bytes_per_block);
            Floats<8> x;
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                x.v[2 * j] = table[four >> (8 * j + 4) & 15] * scale;
                x.v[2 * j + 1] = table[four >> (8 * j) & 15] * scale;
            }
            put<8>(out, i, x);
        }
        return;
    }
    for (long long i = first_index(); i < bytes; i += stride()) {
        float scale = largest(i / bytes_per_block);
        out[2 * i] = NARROW(table[codes[i] >> 4] * scale);
        out[2 * i + 1] = NARROW(table[codes[i] & 15] * scale);
    }
}

// x (rows, D), each row to its place in room (rows, capacity, D).
__global__ void keep_at(const real* x, real* room, const long long* place, int capacity, int D, long long size) {
    for (long long i = first_index(); i < size; i += stride()) room[(i / D * capacity + *place) * D + i % D] = x[i];
}

}  // extern "C"
