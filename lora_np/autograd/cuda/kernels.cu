// The CUDA side of autograd/fused/: the same formulas, one block of threads for each row, float32 throughout.
// Each kernel's derivation stands in the docstring of the Python function of the same name.

namespace {

constexpr float SQRT_2_OVER_PI = 0.7978845608028654f, CUBIC = 0.044715f;
constexpr float SQRT_HALF = 0.7071067811865476f, INV_SQRT_2PI = 0.3989422804014327f;

#define MINUS_INFINITY __int_as_float(0xff800000)  // NVRTC knows no INFINITY
#define LOWEST __int_as_float(0xff7fffff)          // the lowest finite number: LOWEST - LOWEST is not NaN

constexpr int HELD = 16;  // how many numbers of a row of scores a thread keeps in registers

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

// A row may be read by one number or by four at a time: what follows is written for both.
__device__ float4 operator+(float4 a, float4 b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }
__device__ float4 operator*(float4 a, float4 b) { return {a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w}; }
__device__ float4 operator+(float4 a, float b) { return {a.x + b, a.y + b, a.z + b, a.w + b}; }
__device__ float4 operator*(float4 a, float b) { return {a.x * b, a.y * b, a.z * b, a.w * b}; }
__device__ float sum_of(float a) { return a; }
__device__ float sum_of(float4 a) { return (a.x + a.y) + (a.z + a.w); }

template <typename Pack>
__device__ void layer_norm_row(const Pack* x, const Pack* weight, const Pack* bias, Pack* y, Pack* normed,
                               float* inv_std, int packs, int width, float eps) {
    long long start = blockIdx.x * (long long)packs;
    float sum = 0;
    for (int i = threadIdx.x; i < packs; i += blockDim.x) sum += sum_of(x[start + i]);
    float mean = block_sum(sum) / width, squares = 0;
    for (int i = threadIdx.x; i < packs; i += blockDim.x) {
        Pack centred = x[start + i] + -mean;
        squares += sum_of(centred * centred);
    }
    float scale = 1.0f / sqrtf(block_sum(squares) / width + eps);
    if (inv_std && threadIdx.x == 0) inv_std[blockIdx.x] = scale;
    for (int i = threadIdx.x; i < packs; i += blockDim.x) {
        Pack value = (x[start + i] + -mean) * scale;
        if (normed) normed[start + i] = value;
        y[start + i] = value * weight[i] + bias[i];
    }
}

template <typename Pack>
__device__ void layer_norm_row_back(const Pack* dy, const Pack* weight, const Pack* normed, const float* inv_std,
                                    Pack* dx, int packs, int width) {
    long long start = blockIdx.x * (long long)packs;
    float sum = 0, along = 0;
    for (int i = threadIdx.x; i < packs; i += blockDim.x) {
        Pack g = dy[start + i] * weight[i];
        sum += sum_of(g);
        along += sum_of(g * normed[start + i]);
    }
    float mean = block_sum(sum) / width, slope = block_sum(along) / width, scale = inv_std[blockIdx.x];
    for (int i = threadIdx.x; i < packs; i += blockDim.x)
        dx[start + i] = (dy[start + i] * weight[i] + -mean + normed[start + i] * -slope) * scale;
}

template <typename Pack>
__device__ void rms_norm_row(const Pack* x, const Pack* weight, Pack* y, Pack* normed, float* inv_rms, int packs,
                             int width, float eps) {
    long long start = blockIdx.x * (long long)packs;
    float squares = 0;
    for (int i = threadIdx.x; i < packs; i += blockDim.x) squares += sum_of(x[start + i] * x[start + i]);
    float scale = 1.0f / sqrtf(block_sum(squares) / width + eps);
    if (inv_rms && threadIdx.x == 0) inv_rms[blockIdx.x] = scale;
    for (int i = threadIdx.x; i < packs; i += blockDim.x) {
        Pack value = x[start + i] * scale;
        if (normed) normed[start + i] = value;
        y[start + i] = value * weight[i];
    }
}

template <typename Pack>
__device__ void rms_norm_row_back(const Pack* dy, const Pack* weight, const Pack* normed, const float* inv_rms,
                                  Pack* dx, int packs, int width) {
    long long start = blockIdx.x * (long long)packs;
    float along = 0;
    for (int i = threadIdx.x; i < packs; i += blockDim.x)
        along += sum_of(dy[start + i] * weight[i] * normed[start + i]);
    float slope = block_sum(along) / width, scale = inv_rms[blockIdx.x];
    for (int i = threadIdx.x; i < packs; i += blockDim.x)
        dx[start + i] = (dy[start + i] * weight[i] + normed[start + i] * -slope) * scale;
}

template <typename Pack>
__device__ void swap_packs(const Pack* x, Pack* y, int B, int T, int P, int H, int D, int back) {
    int t = blockIdx.x % T, b = blockIdx.x / T, width = P * H * D;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        int d = i % D, h = i / D % H, p = i / D / H;
        long long by_time = blockIdx.x * (long long)width + i;
        long long by_head = ((((long long)p * B + b) * H + h) * T + t) * D + d;
        if (back) y[by_time] = x[by_head]; else y[by_head] = x[by_time];
    }
}

}  // namespace

extern "C" {

// The norms, one block for each row. `fours`: rows may be read by four numbers at a time.
#define PACKS(p) reinterpret_cast<float4*>(p)
#define CONST_PACKS(p) reinterpret_cast<const float4*>(p)

__global__ void layer_norm_forward(const float* x, const float* weight, const float* bias, float* y, float* normed,
                                   float* inv_std, int width, float eps, int fours) {
    if (fours)
        layer_norm_row(CONST_PACKS(x), CONST_PACKS(weight), CONST_PACKS(bias), PACKS(y), PACKS(normed), inv_std,
                       width / 4, width, eps);
    else
        layer_norm_row(x, weight, bias, y, normed, inv_std, width, width, eps);
}

__global__ void layer_norm_backward(const float* dy, const float* weight, const float* normed, const float* inv_std,
                                    float* dx, int width, int fours) {
    if (fours)
        layer_norm_row_back(CONST_PACKS(dy), CONST_PACKS(weight), CONST_PACKS(normed), inv_std, PACKS(dx), width / 4,
                            width);
    else
        layer_norm_row_back(dy, weight, normed, inv_std, dx, width, width);
}

__global__ void rms_norm_forward(const float* x, const float* weight, float* y, float* normed, float* inv_rms,
                                 int width, float eps, int fours) {
    if (fours)
        rms_norm_row(CONST_PACKS(x), CONST_PACKS(weight), PACKS(y), PACKS(normed), inv_rms, width / 4, width, eps);
    else
        rms_norm_row(x, weight, y, normed, inv_rms, width, width, eps);
}

__global__ void rms_norm_backward(const float* dy, const float* weight, const float* normed, const float* inv_rms,
                                  float* dx, int width, int fours) {
    if (fours)
        rms_norm_row_back(CONST_PACKS(dy), CONST_PACKS(weight), CONST_PACKS(normed), inv_rms, PACKS(dx), width / 4,
                          width);
    else
        rms_norm_row_back(dy, weight, normed, inv_rms, dx, width, width);
}

// z = x + y by four numbers at a time; `size` counts packs of four.
__global__ void add_by_fours(const float4* x, const float4* y, float4* z, long long size) {
    for (long long i = first_index(); i < size; i += stride()) z[i] = x[i] + y[i];
}

__global__ void gelu_forward(const float* __restrict__ x, float* __restrict__ y, float* __restrict__ slope,
                             long long size, int exact) {
#pragma unroll 4
    for (long long i = first_index(); i < size; i += stride()) {
        float v = x[i], below, rise;
        if (exact) {
            below = 0.5f * (1.0f + erff(v * SQRT_HALF));
            rise = INV_SQRT_2PI * expf(-0.5f * v * v);
        } else {
            float t = tanhf(SQRT_2_OVER_PI * (v + CUBIC * v * v * v));
            below = 0.5f * (1.0f + t);
            rise = 0.5f * (1.0f - t * t) * SQRT_2_OVER_PI * (1.0f + 3.0f * CUBIC * v * v);
        }
        y[i] = v * below;
        if (slope) slope[i] = below + v * rise;
    }
}

__global__ void gelu_backward(const float* __restrict__ dy, const float* __restrict__ slope, float* __restrict__ dx,
                              long long size) {
#pragma unroll 4
    for (long long i = first_index(); i < size; i += stride()) dx[i] = dy[i] * slope[i];
}

__global__ void swiglu_forward(const float* gate, const float* up, float* y, float* slope, float* through,
                               long long size) {
    for (long long i = first_index(); i < size; i += stride()) {
        float x = gate[i], sigmoid = 1.0f / (1.0f + expf(-x)), a = x * sigmoid;
        if (slope) slope[i] = (sigmoid + a * (1.0f - sigmoid)) * up[i];
        if (through) through[i] = a;
        y[i] = a * up[i];
    }
}

__global__ void swiglu_backward(const float* dy, const float* slope, const float* through, float* dgate, float* dup,
                                long long size) {
    for (long long i = first_index(); i < size; i += stride()) {
        if (dgate) dgate[i] = dy[i] * slope[i];
        if (dup) dup[i] = dy[i] * through[i];
    }
}

// x (B, T, H, D) -> y (B, H, T, D) turned, or with `back` the other way round, turned back. One block for each (b, t).
// Angles (T, D/2), or (B, T, D/2) with `by_row`.
__global__ void rotary(const float* x, const float* cosines, const float* sines, float* y, int T, int H, int half,
                       int by_row, int back) {
    int t = blockIdx.x % T;
    long long b = blockIdx.x / T, angles = (by_row ? (long long)blockIdx.x : t) * half;
    for (int i = threadIdx.x; i < H * half; i += blockDim.x) {
        int h = i / half, c = i % half;
        long long by_time = (blockIdx.x * (long long)H + h) * 2 * half + c;
        long long by_head = ((b * H + h) * T + t) * 2 * half + c;
        long long from = back ? by_head : by_time, to = back ? by_time : by_head;
        float cosine = cosines[angles + c], sine = back ? -sines[angles + c] : sines[angles + c];
        float first = x[from], second = x[from + half];
        y[to] = first * cosine - second * sine;
        y[to + half] = second * cosine + first * sine;
    }
}

// y_b += s_b x_b A_bᵀ B_bᵀ for rows b that each have matrices of their own. x (B, T, in), y (B, T, out).
// table[i] = {address of A (r, in), of B (out, r), r, b, the bits of s_b as a double}. One block for each row of the table
// and TOKENS tokens of it; of a rank above RANKS, so many at a time.
constexpr int TOKENS = 32, RANKS = 8, EACH = 4;  // EACH: the tokens that a warp multiplies by A at the same time

__global__ void lora_rows(const float* __restrict__ x, float* __restrict__ y, const long long* table, int T, int fan_in,
                          int fan_out) {
    __shared__ float h[TOKENS][RANKS];
    const long long* own = table + 5 * blockIdx.y;
    const float *A = (const float*)own[0], *B = (const float*)own[1];
    int r = (int)own[2], first = blockIdx.x * TOKENS, tokens = min(TOKENS, T - first);
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    x += (own[3] * T + first) * fan_in;
    y += (own[3] * T + first) * fan_out;
    float scale = (float)__longlong_as_double(own[4]);
    for (int from = 0; from < r; from += RANKS) {
        int ranks = min(RANKS, r - from);
        for (int t = warp * EACH; t < tokens; t += warps * EACH) {  // h = s x Aᵀ
            float sums[EACH][RANKS] = {};
            for (int i = lane; i < fan_in; i += 32) {
                float a[RANKS];
#pragma unroll
                for (int k = 0; k < RANKS; ++k) a[k] = k < ranks ? A[(long long)(from + k) * fan_in + i] : 0;
#pragma unroll
                for (int j = 0; j < EACH; ++j) {
                    float value = t + j < tokens ? x[(long long)(t + j) * fan_in + i] : 0;
#pragma unroll
                    for (int k = 0; k < RANKS; ++k) sums[j][k] += value * a[k];
                }
            }
#pragma unroll
            for (int j = 0; j < EACH; ++j)
#pragma unroll
                for (int k = 0; k < RANKS; ++k) {
                    float sum = sums[j][k];
                    for (int i = 16; i > 0; i /= 2) sum += __shfl_xor_sync(0xffffffff, sum, i);
                    if (lane == 0 && t + j < tokens) h[t + j][k] = scale * sum;
                }
        }
        __syncthreads();
        for (int i = threadIdx.x; i < fan_out; i += blockDim.x) {  // y += h Bᵀ
            float b[RANKS];
#pragma unroll
            for (int k = 0; k < RANKS; ++k) b[k] = k < ranks ? B[(long long)i * r + from + k] : 0;
#pragma unroll 4
            for (int t = 0; t < tokens; ++t) {
                float sum = 0;
#pragma unroll
                for (int k = 0; k < RANKS; ++k) sum += h[t][k] * b[k];
                y[(long long)t * fan_out + i] += sum;
            }
        }
        __syncthreads();  // before h is written again
    }
}

// x (B, T, P, H, D) -> y (P, B, H, T, D), or with `back` the other way round. One block for each (b, t).
__global__ void swap_heads(const float* x, float* y, int B, int T, int P, int H, int D, int back) {
    swap_packs(x, y, B, T, P, H, D, back);
}

// The same by four numbers at a time, for D that is divisible by 4; D counts packs of four here.
__global__ void swap_heads_by_fours(const float4* x, float4* y, int B, int T, int P, int H, int D, int back) {
    swap_packs(x, y, B, T, P, H, D, back);
}

// The keys that matter to query t: up to its own place with `causal`. Beyond the last key of its stripe of queries
// nobody reads or writes; a stripe of 0 queries means that rows are whole.
__device__ int keys_seen(int t, int T, int S, int causal) { return causal ? t + 1 + S - T : S; }
__device__ int keys_kept(int t, int T, int S, int stripe) {
    return stripe ? S - T + min(T, (t / stripe + 1) * stripe) : S;
}

// Softmax of scale * scores, in place. Row r is query r % T; each batch element has `rows_per_batch` rows.
// A row has at most HELD * blockDim.x keys: it is read once and written once.
__global__ void softmax_forward(float* scores, const bool* key_mask, int T, int S, int causal, int stripe,
                                float scale, int rows_per_batch) {
    long long row = blockIdx.x;
    float* p = scores + row * S;
    int seen = keys_seen(row % T, T, S, causal), kept = keys_kept(row % T, T, S, stripe);
    const bool* counts = key_mask ? key_mask + row / rows_per_batch * S : nullptr;
    float e[HELD], largest = MINUS_INFINITY, sum = 0;
#pragma unroll
    for (int j = 0, s = threadIdx.x; j < HELD; ++j, s += blockDim.x) {
        e[j] = s < seen && (!counts || counts[s]) ? scale * p[s] : MINUS_INFINITY;
        largest = fmaxf(largest, e[j]);
    }
    largest = block_max(largest);
    bool nothing = largest == MINUS_INFINITY;  // only padding sees nothing: some average instead of NaN
#pragma unroll
    for (int j = 0, s = threadIdx.x; j < HELD; ++j, s += blockDim.x) {
        e[j] = s >= seen ? 0.0f : nothing ? 1.0f : expf(e[j] - largest);
        sum += e[j];
    }
    float factor = 1.0f / block_sum(sum);
#pragma unroll
    for (int j = 0, s = threadIdx.x; j < HELD; ++j, s += blockDim.x)
        if (s < kept) p[s] = e[j] * factor;
}

// dP -> dS = P (dP - rowsum(dP P)) scale, in place.
__global__ void softmax_backward(float* dscores, const float* probabilities, const float* mask, int T, int S,
                                 int causal, int stripe, float scale) {
    long long row = blockIdx.x;
    float* d = dscores + row * S;
    const float* p = probabilities + row * S;
    const float* m = mask ? mask + row * S : nullptr;
    int seen = keys_seen(row % T, T, S, causal), kept = keys_kept(row % T, T, S, stripe);
    float dp[HELD], weight[HELD], along = 0;
#pragma unroll
    for (int j = 0, s = threadIdx.x; j < HELD; ++j, s += blockDim.x) {
        dp[j] = s >= seen ? 0.0f : m ? d[s] * m[s] : d[s];
        weight[j] = s >= seen ? 0.0f : p[s];
        along += dp[j] * weight[j];
    }
    along = block_sum(along);
#pragma unroll
    for (int j = 0, s = threadIdx.x; j < HELD; ++j, s += blockDim.x)
        if (s < kept) d[s] = (dp[j] - along) * weight[j] * scale;
}

// For each row of logits (stored `row_stride` apart): losses[row] = ln sum e^z - z[target], and, if the gradient is
// wanted, z <- softmax(z) - onehot(target). A row whose target is negative does not count: both are 0. The largest logit
// and the sum are found in one reading. Rows are read by four numbers at a time: they begin at multiples of 16 bytes, and
// what lies between them may be overwritten.
__global__ void cross_entropy_rows(float* logits, const long long* targets, float* losses, int V, long long row_stride,
                                   int with_gradient) {
    float* z = logits + blockIdx.x * row_stride;
    int target = targets[blockIdx.x];
    if (target < 0) {
        if (threadIdx.x == 0) losses[blockIdx.x] = 0;
        for (int i = 4 * threadIdx.x; with_gradient && i < V; i += 4 * blockDim.x) {
            *reinterpret_cast<float4*>(z + i) = {0, 0, 0, 0};
        }
        return;
    }
    float largest = LOWEST, sum = 0;
    for (int i = 4 * threadIdx.x; i < V; i += 4 * blockDim.x) {
        float4 v = *reinterpret_cast<const float4*>(z + i);
        if (i + 1 >= V) v.y = MINUS_INFINITY;
        if (i + 2 >= V) v.z = MINUS_INFINITY;
        if (i + 3 >= V) v.w = MINUS_INFINITY;
        float top = fmaxf(fmaxf(fmaxf(v.x, v.y), fmaxf(v.z, v.w)), largest);
        sum = sum * expf(largest - top) + (expf(v.x - top) + expf(v.y - top)) + (expf(v.z - top) + expf(v.w - top));
        largest = top;
    }
    float top = block_max(largest);
    sum = block_sum(sum * expf(largest - top));
    if (threadIdx.x == 0) losses[blockIdx.x] = logf(sum) + (top - z[target]);
    if (!with_gradient) return;
    __syncthreads();
    float inverse = 1.0f / sum;
    for (int i = 4 * threadIdx.x; i < V; i += 4 * blockDim.x) {
        float4 v = *reinterpret_cast<const float4*>(z + i);
        v = {expf(v.x - top) * inverse, expf(v.y - top) * inverse, expf(v.z - top) * inverse, expf(v.w - top) * inverse};
        *reinterpret_cast<float4*>(z + i) = v;
    }
    __syncthreads();
    if (threadIdx.x == 0) z[target] -= 1.0f;
}

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

}  // extern "C"
