// The kernels; what they are written in stands in numbers.cu, which is compiled before this file.

namespace {

template <int N>
__device__ void layer_norm_row(const real* x, const real* weight, const real* bias, real* y, real* normed,
                               float* inv_std, int width, float eps) {
    int packs = width / N;
    long long start = blockIdx.x * (long long)packs;
    float sum = 0;
    for (int i = threadIdx.x; i < packs; i += blockDim.x) sum += sum_of(get<N>(x, start + i));
    float mean = block_sum(sum) / width, squares = 0;
    for (int i = threadIdx.x; i < packs; i += blockDim.x)
        squares += sum_of(each(get<N>(x, start + i), [&](float a, int) { return (a - mean) * (a - mean); }));
    float scale = 1.0f / sqrtf(block_sum(squares) / width + eps);
    if (inv_std && threadIdx.x == 0) inv_std[blockIdx.x] = scale;
    for (int i = threadIdx.x; i < packs; i += blockDim.x) {
        Floats<N> value = each(get<N>(x, start + i), [&](float a, int) { return (a - mean) * scale; });
        if (normed) put<N>(normed, start + i, value);
        Floats<N> w = get<N>(weight, i), b = get<N>(bias, i);
        put<N>(y, start + i, each(value, [&](float a, int j) { return a * w.v[j] + b.v[j]; }));
    }
}

template <int N>
__device__ void layer_norm_row_back(const real* dy, const real* weight, const real* normed, const float* inv_std,
                                    real* dx, int width) {
    int packs = width / N;
    long long start = blockIdx.x * (long long)packs;
    float sum = 0, along = 0;
    for (int i = threadIdx.x; i < packs; i += blockDim.x) {
        Floats<N> g = times(get<N>(dy, start + i), get<N>(weight, i));
        sum += sum_of(g);
        along += sum_of(times(g, get<N>(normed, start + i)));
    }
    float mean = block_sum(sum) / width, slope = block_sum(along) / width, scale = inv_std[blockIdx.x];
    for (int i = threadIdx.x; i < packs; i += blockDim.x) {
        Floats<N> g = times(get<N>(dy, start + i), get<N>(weight, i)), n = get<N>(normed, start + i);
        put<N>(dx, start + i, each(g, [&](float a, int j) { return (a - mean - n.v[j] * slope) * scale; }));
    }
}

template <int N>
__device__ void rms_norm_row(const real* x, const real* weight, real* y, real* normed, float* inv_rms, int width,
                             float eps) {
    int packs = width / N;
    long long start = blockIdx.x * (long long)packs;
    float squares = 0;
    for (int i = threadIdx.x; i < packs; i += blockDim.x) {
        Floats<N> value = get<N>(x, start + i);
        squares += sum_of(times(value, value));
    }
    float scale = 1.0f / sqrtf(block_sum(squares) / width + eps);
    if (inv_rms && threadIdx.x == 0) inv_rms[blockIdx.x] = scale;
    for (int i = threadIdx.x; i < packs; i += blockDim.x) {
        Floats<N> value = each(get<N>(x, start + i), [&](float a, int) { return a * scale; });
        if (normed) put<N>(normed, start + i, value);
        put<N>(y, start + i, times(value, get<N>(weight, i)));
    }
}

template <int N>
__device__ void rms_norm_row_back(const real* dy, const real* weight, const real* normed, const float* inv_rms,
                                  real* dx, int width) {
    int packs = width / N;
    long long start = blockIdx.x * (long long)packs;
    float along = 0;
    for (int i = threadIdx.x; i < packs; i += blockDim.x)
        along += sum_of(times(times(get<N>(dy, start + i), get<N>(weight, i)), get<N>(normed, start + i)));
    float slope = block_sum(along) / width, scale = inv_rms[blockIdx.x];
    for (int i = threadIdx.x; i < packs; i += blockDim.x) {
        Floats<N> g = times(get<N>(dy, start + i), get<N>(weight, i)), n = get<N>(normed, start + i);
        put<N>(dx, start + i, each(g, [&](float a, int j) { return (a - n.v[j] * slope) * scale; }));
    }
}

template <int N>
__device__ void swap_packs(const real* x, real* y, int B, int T, int P, int H, int D, int back) {
    const Stored<N>* from = reinterpret_cast<const Stored<N>*>(x);
    Stored<N>* to = reinterpret_cast<Stored<N>*>(y);
    int t = blockIdx.x % T, b = blockIdx.x / T, width = P * H * D;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        int d = i % D, h = i / D % H, p = i / D / H;
        long long by_time = blockIdx.x * (long long)width + i;
        long long by_head = ((((long long)p * B + b) * H + h) * T + t) * D + d;
        if (back) to[by_time] = from[by_head]; else to[by_head] = from[by_time];
    }
}

// GELU of v, and its slope there.
__device__ float gelu(float v, int exact, float* slope) {
    float below, rise;
    if (exact) {
        below = 0.5f * (1.0f + erff(v * SQRT_HALF));
        rise = INV_SQRT_2PI * EXP(-0.5f * v * v);
    } else {
        float t = TANH(SQRT_2_OVER_PI * (v + CUBIC * v * v * v));
        below = 0.5f * (1.0f + t);
        rise = 0.5f * (1.0f - t * t) * SQRT_2_OVER_PI * (1.0f + 3.0f * CUBIC * v * v);
    }
    *slope = below + v * rise;
    return v * below;
}

template <int N>
__device__ void gelu_numbers(const real* x, real* y, long long packs, int exact) {
    float slope;
    for (long long i = first_index(); i < packs; i += stride())
        put<N>(y, i, each(get<N>(x, i), [&](float v, int) { return gelu(v, exact, &slope); }));
}

template <int N>
__device__ void gelu_numbers_back(const real* dy, const real* x, real* dx, long long packs, int exact) {
    for (long long i = first_index(); i < packs; i += stride()) {
        Floats<N> d = get<N>(dy, i);
        put<N>(dx, i, each(get<N>(x, i), [&](float v, int j) {
            float slope;
            gelu(v, exact, &slope);
            return d.v[j] * slope;
        }));
    }
}

template <int N>
__device__ Floats<N> swiglu(Floats<N> gate, Floats<N> up) {
    return each(gate, [&](float g, int j) { return __fdividef(g, 1.0f + EXP(-g)) * up.v[j]; });
}

template <int N>
__device__ void swiglu_numbers(const real* gate, const real* up, real* y, long long packs) {
    for (long long i = first_index(); i < packs; i += stride()) put<N>(y, i, swiglu(get<N>(gate, i), get<N>(up, i)));
}

template <int N>
__device__ void swiglu_numbers_back(const real* dy, const real* gate, const real* up, real* dgate, real* dup,
                                    long long packs) {
    for (long long i = first_index(); i < packs; i += stride()) {
        Floats<N> d = get<N>(dy, i), g = get<N>(gate, i);
        if (dup) put<N>(dup, i, each(g, [&](float x, int j) { return d.v[j] * x / (1.0f + EXP(-x)); }));
        if (!dgate) continue;
        Floats<N> u = get<N>(up, i);
        put<N>(dgate, i, each(g, [&](float x, int j) {
            float sigmoid = 1.0f / (1.0f + EXP(-x)), a = x * sigmoid;
            return d.v[j] * (sigmoid + a * (1.0f - sigmoid)) * u.v[j];
        }));
    }
}

template <int N>
__device__ void add_numbers(const real* x, const real* y, real* z, long long packs) {
    for (long long i = first_index(); i < packs; i += stride()) {
        Floats<N> b = get<N>(y, i);
        put<N>(z, i, each(get<N>(x, i), [&](float a, int j) { return a + b.v[j]; }));
    }
}

// One position's heads, turned: N pairs of channels (c, c + half) at once. `from` and `to` say where head h begins.
template <int N, typename From, typename To>
__device__ void turn(const real* x, const float* cosines, const float* sines, real* y, int H, int half, int back,
                     From from, To to) {
    int packs = half / N;
    for (int i = threadIdx.x; i < H * packs; i += blockDim.x) {
        int h = i / packs, c = i % packs;
        Floats<N> first = get<N>(x + from(h), c), second = get<N>(x + from(h) + half, c), left, right;
#pragma unroll
        for (int j = 0; j < N; ++j) {
            float cosine = cosines[c * N + j], sine = back ? -sines[c * N + j] : sines[c * N + j];
            left.v[j] = first.v[j] * cosine - second.v[j] * sine;
            right.v[j] = second.v[j] * cosine + first.v[j] * sine;
        }
        put<N>(y + to(h), c, left);
        put<N>(y + to(h) + half, c, right);
    }
}

}  // namespace

extern "C" {

// `packed`: rows may be read by PACK numbers at a time.
#define EITHER(function, ...)           \
    if (packed)                         \
        function<PACK>(__VA_ARGS__);    \
    else                                \
        function<1>(__VA_ARGS__);

// The norms, one block for each row.
__global__ void layer_norm_forward(const real* x, const real* weight, const real* bias, real* y, real* normed,
                                   float* inv_std, int width, float eps, int packed) {
    EITHER(layer_norm_row, x, weight, bias, y, normed, inv_std, width, eps)
}

__global__ void layer_norm_backward(const real* dy, const real* weight, const real* normed, const float* inv_std,
                                    real* dx, int width, int packed) {
    EITHER(layer_norm_row_back, dy, weight, normed, inv_std, dx, width)
}

__global__ void rms_norm_forward(const real* x, const real* weight, real* y, real* normed, float* inv_rms, int width,
                                 float eps, int packed) {
    EITHER(rms_norm_row, x, weight, y, normed, inv_rms, width, eps)
}

__global__ void rms_norm_backward(const real* dy, const real* weight, const real* normed, const float* inv_rms,
                                  real* dx, int width, int packed) {
    EITHER(rms_norm_row_back, dy, weight, normed, inv_rms, dx, width)
}

// Number by number; `packs` counts them, or PACK of them at once.
__global__ void add_numbers_of(const real* x, const real* y, real* z, long long packs, int packed) {
    EITHER(add_numbers, x, y, z, packs)
}

__global__ void gelu_forward(const real* __restrict__ x, real* __restrict__ y, long long packs, int exact, int packed) {
    EITHER(gelu_numbers, x, y, packs, exact)
}

__global__ void gelu_backward(const real* __restrict__ dy, const real* __restrict__ x, real* __restrict__ dx,
                              long long packs, int exact, int packed) {
    EITHER(gelu_numbers_back, dy, x, dx, packs, exact)
}

__global__ void swiglu_forward(const real* gate, const real* up, real* y, long long packs, int packed) {
    EITHER(swiglu_numbers, gate, up, y, packs)
}

__global__ void swiglu_backward(const real* dy, const real* gate, const real* up, real* dgate, real* dup,
                                long long packs, int packed) {
    EITHER(swiglu_numbers_back, dy, gate, up, dgate, dup, packs)
}

// out = x * *factor, from float32 or from `real`.
__global__ void scaled(const real* x, const float* factor, real* out, long long size) {
    for (long long i = first_index(); i < size; i += stride()) out[i] = NARROW(WIDE(x[i]) * *factor);
}

// x (B, T, H, D) -> y, turned, or with `back` turned back. One block for each (b, t). Angles (T, D/2), or (B, T, D/2)
// with `by_row`. y is (B, T, H, D) too, or with `heads_first` (B, H, T, D), and then `back` goes from that to this.
__global__ void rotary(const real* x, const float* cosines, const float* sines, real* y, int T, int H, int half,
                       int by_row, int back, int heads_first, int packed) {
    int t = blockIdx.x % T;
    long long b = blockIdx.x / T, angles = (by_row ? (long long)blockIdx.x : t) * half;
    auto by_time = [=](int h) { return (blockIdx.x * (long long)H + h) * 2 * half; };
    auto by_head = [=](int h) { return ((b * H + h) * T + t) * 2 * half; };
    cosines += angles, sines += angles;
    if (!heads_first) {
        if (packed)
            turn<PACK>(x, cosines, sines, y, H, half, back, by_time, by_time);
        else
            turn<1>(x, cosines, sines, y, H, half, back, by_time, by_time);
    } else if (back) {
        turn<1>(x, cosines, sines, y, H, half, back, by_head, by_time);
    } else {
        turn<1>(x, cosines, sines, y, H, half, back, by_time, by_head);
    }
}

// x (B, T, P, H, D) -> y (P, B, H, T, D), or with `back` the other way round. One block for each (b, t). With `packed`,
// D counts packs.
__global__ void swap_heads(const real* x, real* y, int B, int T, int P, int H, int D, int back, int packed) {
    EITHER(swap_packs, x, y, B, T, P, H, D, back)
}

// The keys that matter to query t: up to its own place with `causal`. Beyond the last key of its stripe of queries
// nobody reads or writes; a stripe of 0 queries means that rows are whole.
__device__ int keys_seen(int t, int T, int S, int causal) { return causal ? t + 1 + S - T : S; }
__device__ int keys_kept(int t, int T, int S, int stripe) {
    return stripe ? S - T + min(T, (t / stripe + 1) * stripe) : S;
}

// Softmax of scale * scores, in place. Row r is query r % T; each batch element has `rows_per_batch` rows.
// A row has at most HELD * blockDim.x keys: it is read once and written once.
__global__ void softmax_forward(real* scores, const bool* key_mask, int T, int S, int causal, int stripe,
                                float scale, int rows_per_batch) {
    long long row = blockIdx.x;
    real* p = scores + row * S;
    int seen = keys_seen(row % T, T, S, causal), kept = keys_kept(row % T, T, S, stripe);
    const bool* counts = key_mask ? key_mask + row / rows_per_batch * S : nullptr;
    float e[HELD], largest = MINUS_INFINITY, sum = 0;
#pragma unroll
    for (int j = 0, s = threadIdx.x; j < HELD; ++j, s += blockDim.x) {
        e[j] = s < seen && (!counts || counts[s]) ? scale * WIDE(p[s]) : MINUS_INFINITY;
        largest = fmaxf(largest, e[j]);
    }
    largest = block_max(largest);
    bool nothing = largest == MINUS_INFINITY;  // only padding sees nothing: some average instead of NaN
#pragma unroll
    for (int j = 0, s = threadIdx.x; j < HELD; ++j, s += blockDim.x) {
        e[j] = s >= seen ? 0.0f : nothing ? 1.0f : EXP(e[j] - largest);
        sum += e[j];
    }
    float factor = 1.0f / block_sum(sum);
#pragma unroll
    for (int j = 0, s = threadIdx.x; j < HELD; ++j, s += blockDim.x)
        if (s < kept) p[s] = NARROW(e[j] * factor);
}

// dP -> dS = P (dP - rowsum(dP P)) scale, in place.
__global__ void softmax_backward(real* dscores, const real* probabilities, const real* mask, int T, int S,
                                 int causal, int stripe, float scale) {
    long long row = blockIdx.x;
    real* d = dscores + row * S;
    const real* p = probabilities + row * S;
    const real* m = mask ? mask + row * S : nullptr;
    int seen = keys_seen(row % T, T, S, causal), kept = keys_kept(row % T, T, S, stripe);
    float dp[HELD], weight[HELD], along = 0;
#pragma unroll
    for (int j = 0, s = threadIdx.x; j < HELD; ++j, s += blockDim.x) {
        dp[j] = s >= seen ? 0.0f : m ? WIDE(d[s]) * WIDE(m[s]) : WIDE(d[s]);
        weight[j] = s >= seen ? 0.0f : WIDE(p[s]);
        along += dp[j] * weight[j];
    }
    along = block_sum(along);
#pragma unroll
    for (int j = 0, s = threadIdx.x; j < HELD; ++j, s += blockDim.x)
        if (s < kept) d[s] = NARROW((dp[j] - along) * weight[j] * scale);
}

// For each row of logits (stored `row_stride` apart): losses[row] = ln sum e^z - z[target], and, if the gradient is
// wanted, z <- softmax(z) - onehot(target). A row whose target is negative does not count: both are 0. The largest logit
// and the sum are found in one reading. Rows are read by PACK numbers at a time: they begin at multiples of 16 bytes, and
// what lies between them may be overwritten.
__global__ void cross_entropy_rows(real* logits, const long long* targets, float* losses, int V, long long row_stride,
                                   int with_gradient) {
    real* z = logits + blockIdx.x * row_stride;
    int target = targets[blockIdx.x], packs = (V + PACK - 1) / PACK;
    if (target < 0) {
        if (threadIdx.x == 0) losses[blockIdx.x] = 0;
        for (int i = threadIdx.x; with_gradient && i < packs; i += blockDim.x) put<PACK>(z, i, Floats<PACK>{});
        return;
    }
    float largest = LOWEST, sum = 0;
    for (int i = threadIdx.x; i < packs; i += blockDim.x) {
        Floats<PACK> v = each(get<PACK>(z, i), [&](float a, int j) { return i * PACK + j < V ? a : MINUS_INFINITY; });
        float top = largest;
        for (int j = 0; j < PACK; ++j) top = fmaxf(top, v.v[j]);
        sum = sum * EXP(largest - top) + sum_of(each(v, [&](float a, int) { return EXP(a - top); }));
        largest = top;
    }
    float top = block_max(largest);
    sum = block_sum(sum * EXP(largest - top));
    float at_target = WIDE(z[target]), inverse = 1.0f / sum;
    if (threadIdx.x == 0) losses[blockIdx.x] = logf(sum) + (top - at_target);
    if (!with_gradient) return;
    __syncthreads();  // every thread has read the target's logit
    for (int i = threadIdx.x; i < packs; i += blockDim.x)
        put<PACK>(z, i, each(get<PACK>(z, i), [&](float a, int j) {
            return EXP(a - top) * inverse - (i * PACK + j == target ? 1.0f : 0.0f);
        }));
}

}  // extern "C"
