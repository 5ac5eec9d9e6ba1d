// Kernels for weights and adapters, in many pieces at once: what optimizers do, LoRA by rows, 4 bits, and the cache.

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
