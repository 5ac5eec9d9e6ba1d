// Attention without the matrix of scores, on a GPU's tensor cores: tiles.py, in CUDA.
//
//     S = Q Kᵀ / √D,   P = softmax(S),   O = P V      q, k, v, out: (B, T, H, D)
//
// A GPU has three places for numbers. Global memory is large and slow. Shared memory is
// small and fast, and serves the threads of one block. Registers belong to one thread.
// A tile is TILE rows of an array in shared memory, read by all warps of the block. A
// warp is 32 threads in step, its "lanes". What it adds up for its own 16 rows stays in
// registers until the end. So S and P never are in global memory.
//
//     flash_forward    a warp owns 16 queries and walks over the keys:    O and L
//     flash_queries    the same walk once more, with P = exp(S - L):      dQ
//     flash_keys       a warp owns 16 keys and walks over the queries:    dK and dV
//
// Each gradient has one owner. So nothing is added up in global memory, and results are
// the same each time. The price: both kernels of the backward pass compute S and dP, 7
// products where 5 would do. In the names, q is the array and Q what is held of it.

#include <cuda_bf16.h>
typedef __nv_bfloat16 real;
typedef __nv_bfloat162 real2;
__device__ real2 narrow(float2 x) { return __float22bfloat162_rn(x); }
__device__ float2 widen(real2 x) { return __bfloat1622float2(x); }

#define MINUS_INFINITY __int_as_float(0xff800000)  // NVRTC knows no INFINITY

// HEAD_SIZE and WARPS are told to the compiler, by flash.py.
constexpr int D = HEAD_SIZE;            // channels of a head, a multiple of 16
constexpr int TILE = D > 64 ? 32 : 64;  // so that four tiles fit into 48 KiB
constexpr int THREADS = 32 * WARPS;
constexpr int OWN = 16 * WARPS;  // rows that the warps of a block own together

// A row has 8 numbers more than it needs. Shared memory has 32 banks, which can be read
// at the same time; so eight rows that are read together lie in different ones.
struct alignas(16) Tile {
    real row[TILE][D + 8];
};

// 16 x 16 numbers, spread over the lanes of a warp: 8 for each, as pairs of neighbours.
// Tensor cores multiply them in 16 bits and add up in float32.
struct Block {
    real2 pair[4];
};
struct Sums {
    float v[8];
};

// Where a lane's i-th number lies in them. A lane has numbers of two rows.
__device__ int which_row(int i) { return i / 2 % 2; }
__device__ int row_of(int i) { return threadIdx.x % 32 / 4 + 8 * which_row(i); }
__device__ int column_of(int i) { return threadIdx.x % 4 * 2 + i % 2 + 8 * (i / 4); }

// ---- The instructions that CUDA C++ has no words for ----

__device__ unsigned& bits(real2& pair) { return reinterpret_cast<unsigned&>(pair); }
__device__ unsigned place(const void* in_shared_memory) {
    return __cvta_generic_to_shared(in_shared_memory);
}

// Four quarters of 8 x 8 numbers. Lane l names the start of row l % 8 of quarter l / 8.
__device__ Block read_quarters(const real* row) {
    Block x;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 "
                 "{%0, %1, %2, %3}, [%4];"
                 : "=r"(bits(x.pair[0])), "=r"(bits(x.pair[1])),
                   "=r"(bits(x.pair[2])), "=r"(bits(x.pair[3]))
                 : "r"(place(row)) : "memory");
    return x;
}

// The same, each quarter transposed.
__device__ Block read_quarters_transposed(const real* row) {
    Block x;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 "
                 "{%0, %1, %2, %3}, [%4];"
                 : "=r"(bits(x.pair[0])), "=r"(bits(x.pair[1])),
                   "=r"(bits(x.pair[2])), "=r"(bits(x.pair[3]))
                 : "r"(place(row)) : "memory");
    return x;
}

// c += a bᵀ for 8 rows of b, (16 x 16) times (16 x 8): what the tensor cores do.
__device__ void multiply(float* c, Block a, real2 left, real2 right) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(bits(a.pair[0])), "r"(bits(a.pair[1])), "r"(bits(a.pair[2])),
          "r"(bits(a.pair[3])), "r"(bits(left)), "r"(bits(right)));
}

// Begin to copy 4 or 16 bytes to shared memory; zeros if they are not `there`.
template <int BYTES>
__device__ void begin_copy(void* to, const void* from, bool there) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;"
                 :: "r"(place(to)), "l"(from), "n"(BYTES), "r"(there ? BYTES : 0)
                 : "memory");
}
__device__ void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// ---- Blocks ----

// The block of a tile that begins at `corner`, and its transpose. They are second
// factors of a product, and those have their quarters row by row: upper left, upper
// right, lower left, lower right. First factors have them column by column (row_of).
__device__ Block load(const real* corner) {
    int lane = threadIdx.x % 32;
    int row = lane % 8 + lane / 16 * 8, column = lane / 8 % 2 * 8;
    return read_quarters(corner + row * (D + 8) + column);
}
__device__ Block load_transposed(const real* corner) {
    int lane = threadIdx.x % 32;
    int row = lane % 16, column = lane / 16 * 8;
    return read_quarters_transposed(corner + row * (D + 8) + column);
}

// c += a bᵀ
__device__ void add_product(Sums& c, Block a, Block b) {
    multiply(c.v, a, b.pair[0], b.pair[1]);
    multiply(c.v + 4, a, b.pair[2], b.pair[3]);
}

__device__ Block narrow(const Sums& x) {
    Block y;
    for (int i = 0; i < 4; ++i) y.pair[i] = narrow(float2{x.v[2 * i], x.v[2 * i + 1]});
    return y;
}

// 16 rows of global memory, `step` apart, as D / 16 blocks. Only `rows` of them are
// there; the others are zeros, and are not written.
__device__ void read_rows(Block* x, const real* from, int step, int rows) {
    for (int d = 0; d < D / 16; ++d)
        for (int i = 0; i < 4; ++i) {
            int row = row_of(2 * i), column = 16 * d + column_of(2 * i);
            const real* at = from + (long long)row * step + column;
            x[d].pair[i] = row < rows ? *(const real2*)at : narrow(float2{});
        }
}
__device__ void write_rows(real* to, int step, int rows, const Sums* x, float factor) {
    for (int d = 0; d < D / 16; ++d)
        for (int i = 0; i < 4; ++i) {
            int row = row_of(2 * i), column = 16 * d + column_of(2 * i);
            real* at = to + (long long)row * step + column;
            const float* v = x[d].v + 2 * i;
            if (row < rows) *(real2*)at = narrow(float2{factor * v[0], factor * v[1]});
        }
}

// Begin to copy rows of global memory to a tile; only `rows` of them are there.
__device__ void begin_copy(Tile& to, const real* from, int step, int rows) {
    for (int i = threadIdx.x; i < TILE * D / 8; i += THREADS) {
        int row = i / (D / 8), column = i % (D / 8) * 8;
        const real* at = from + (long long)row * step + column;
        begin_copy<16>(&to.row[row][column], at, row < rows);
    }
}

// The largest number, and the sum, of the four lanes that share a row.
__device__ float max_of_row(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffff, x, 2));
}
__device__ float sum_of_row(float x) {
    x += __shfl_xor_sync(0xffffffff, x, 1);
    return x + __shfl_xor_sync(0xffffffff, x, 2);
}

// S = -∞ where a query does not see a key: the key comes later, or is not there. The
// rows of S are queries in the first function, keys in the second. Most blocks have
// nothing to hide; so that is asked first.
__device__ void hide_keys(Sums& S, int query, int key, int T, bool causal) {
    if (key + 16 > T || (causal && key + 15 > query))
        for (int i = 0; i < 8; ++i)
            if (key + column_of(i) >= T ||
                (causal && key + column_of(i) > query + row_of(i)))
                S.v[i] = MINUS_INFINITY;
}
__device__ void hide_queries(Sums& S, int query, int key, bool causal) {
    if (causal && key + 15 > query)
        for (int i = 0; i < 8; ++i)
            if (key + row_of(i) > query + column_of(i)) S.v[i] = MINUS_INFINITY;
}

// Where head blockIdx.y of text blockIdx.z begins, in (B, T, H, D) and in (B, H, T).
__device__ long long start_of(int T, int H) {
    return ((long long)blockIdx.z * T * H + blockIdx.y) * D;
}
__device__ long long row_start_of(int T, int H) {
    return ((long long)blockIdx.z * H + blockIdx.y) * T;
}

// ---- O and L = log Σ exp(S) ----

extern "C" __global__ void __launch_bounds__(THREADS)
flash_forward(const real* q, const real* k, const real* v, real* out, float* log_sum,
              int T, int H, float scale, bool causal) {
    __shared__ Tile K[2], V[2];  // one to compute with while the other is filled
    int first = OWN * (gridDim.x - 1 - blockIdx.x);  // the longest walks begin first
    int query = first + threadIdx.x / 32 * 16;       // the first of this warp's 16
    int step = H * D;                                // from one position to the next
    long long start = start_of(T, H);
    q += start, k += start, v += start, out += start, log_sum += row_start_of(T, H);

    Block Q[D / 16];
    read_rows(Q, q + (long long)query * step, step, T - query);
    Sums O[D / 16] = {};
    float m[2] = {MINUS_INFINITY, MINUS_INFINITY}, z[2] = {0, 0};  // of two rows

    auto begin = [&](int to, int key) {
        begin_copy(K[to], k + (long long)key * step, step, T - key);
        begin_copy(V[to], v + (long long)key * step, step, T - key);
    };
    int end = causal ? min(T, first + OWN) : T;  // the keys that the block needs
    begin(0, 0);
    for (int key = 0, now = 0; key < end; key += TILE, now = 1 - now) {
        wait_for_copies();
        __syncthreads();  // this tile is there, and nobody still reads the one before
        if (key + TILE < end) begin(1 - now, key + TILE);
        Sums S[TILE / 16] = {};
        for (int j = 0; j < TILE / 16; ++j)
            for (int d = 0; d < D / 16; ++d)
                add_product(S[j], Q[d], load(&K[now].row[16 * j][16 * d]));
        for (int j = 0; j < TILE / 16; ++j)
            hide_keys(S[j], query, key + 16 * j, T, causal);

        float largest[2] = {MINUS_INFINITY, MINUS_INFINITY}, shrink[2];
        for (int j = 0; j < TILE / 16; ++j)
            for (int i = 0; i < 8; ++i)
                largest[which_row(i)] = fmaxf(largest[which_row(i)], S[j].v[i]);
        for (int r = 0; r < 2; ++r) {
            float higher = fmaxf(m[r], scale * max_of_row(largest[r]));
            shrink[r] = expf(m[r] - higher);
            z[r] *= shrink[r];
            m[r] = higher;
        }
        for (int d = 0; d < D / 16; ++d)
            for (int i = 0; i < 8; ++i) O[d].v[i] *= shrink[which_row(i)];

        for (int j = 0; j < TILE / 16; ++j) {
            for (int i = 0; i < 8; ++i) {
                S[j].v[i] = expf(scale * S[j].v[i] - m[which_row(i)]);
                z[which_row(i)] += S[j].v[i];
            }
            Block powers = narrow(S[j]);
            for (int d = 0; d < D / 16; ++d)
                add_product(O[d], powers, load_transposed(&V[now].row[16 * j][16 * d]));
        }
    }
    for (int r = 0; r < 2; ++r) z[r] = sum_of_row(z[r]);  // each lane had its own
    for (int d = 0; d < D / 16; ++d)
        for (int i = 0; i < 8; ++i) O[d].v[i] /= z[which_row(i)];
    write_rows(out + (long long)query * step, step, T - query, O, 1);
    for (int r = 0; r < 2; ++r)
        if (int row = query + row_of(2 * r); threadIdx.x % 4 == 0 && row < T)
            log_sum[row] = m[r] + logf(z[r]);
}

// ---- dQ; also Δ = rowsum(dO ∘ O), for the next kernel ----

extern "C" __global__ void __launch_bounds__(THREADS)
flash_queries(const real* q, const real* k, const real* v, const real* out,
              const real* dout, const float* log_sum, float* delta, real* dq,
              int T, int H, float scale, bool causal) {
    __shared__ Tile K[2], V[2];
    int first = OWN * (gridDim.x - 1 - blockIdx.x);
    int query = first + threadIdx.x / 32 * 16, step = H * D;
    long long start = start_of(T, H), own = start + (long long)query * step;
    k += start, v += start;
    log_sum += row_start_of(T, H), delta += row_start_of(T, H);

    Block Q[D / 16], dO[D / 16], O[D / 16];
    read_rows(Q, q + own, step, T - query);
    read_rows(dO, dout + own, step, T - query);
    read_rows(O, out + own, step, T - query);
    float L[2], Delta[2] = {0, 0};
    for (int d = 0; d < D / 16; ++d)
        for (int i = 0; i < 4; ++i) {
            float2 x = widen(dO[d].pair[i]), y = widen(O[d].pair[i]);
            Delta[i % 2] += x.x * y.x + x.y * y.y;
        }
    for (int r = 0; r < 2; ++r) {
        int row = query + row_of(2 * r);
        L[r] = row < T ? log_sum[row] : 0;
        Delta[r] = sum_of_row(Delta[r]);
        if (threadIdx.x % 4 == 0 && row < T) delta[row] = Delta[r];
    }

    Sums dQ[D / 16] = {};
    auto begin = [&](int to, int key) {
        begin_copy(K[to], k + (long long)key * step, step, T - key);
        begin_copy(V[to], v + (long long)key * step, step, T - key);
    };
    int end = causal ? min(T, first + OWN) : T;
    begin(0, 0);
    for (int key = 0, now = 0; key < end; key += TILE, now = 1 - now) {
        wait_for_copies();
        __syncthreads();
        if (key + TILE < end) begin(1 - now, key + TILE);
        for (int j = 0; j < TILE / 16; ++j) {
            Sums S = {}, dP = {}, dS;
            for (int d = 0; d < D / 16; ++d) {
                add_product(S, Q[d], load(&K[now].row[16 * j][16 * d]));
                add_product(dP, dO[d], load(&V[now].row[16 * j][16 * d]));
            }
            hide_keys(S, query, key + 16 * j, T, causal);
            for (int i = 0; i < 8; ++i) {
                float P = expf(scale * S.v[i] - L[which_row(i)]);
                dS.v[i] = P * (dP.v[i] - Delta[which_row(i)]);
            }
            Block slope = narrow(dS);
            for (int d = 0; d < D / 16; ++d)
                add_product(dQ[d], slope, load_transposed(&K[now].row[16 * j][16 * d]));
        }
    }
    write_rows(dq + own, step, T - query, dQ, scale);
}

// ---- dK and dV: the rows of S, P and dS are keys here, their columns queries ----

extern "C" __global__ void __launch_bounds__(THREADS)
flash_keys(const real* q, const real* k, const real* v, const real* dout,
           const float* log_sum, const float* delta, real* dk, real* dv,
           int T, int H, float scale, bool causal) {
    __shared__ Tile Q[2], dO[2];
    __shared__ float L[2][TILE], Delta[2][TILE];
    int first = OWN * blockIdx.x;
    int key = first + threadIdx.x / 32 * 16, step = H * D;
    long long start = start_of(T, H), own = start + (long long)key * step;
    q += start, dout += start;
    log_sum += row_start_of(T, H), delta += row_start_of(T, H);

    Block K[D / 16], V[D / 16];
    read_rows(K, k + own, step, T - key);
    read_rows(V, v + own, step, T - key);
    Sums dK[D / 16] = {}, dV[D / 16] = {};

    auto begin = [&](int to, int query) {
        begin_copy(Q[to], q + (long long)query * step, step, T - query);
        begin_copy(dO[to], dout + (long long)query * step, step, T - query);
        if (int i = threadIdx.x; i < TILE) {
            begin_copy<4>(&L[to][i], log_sum + query + i, query + i < T);
            begin_copy<4>(&Delta[to][i], delta + query + i, query + i < T);
        }
    };
    int query = causal ? first : 0;  // no earlier query sees a key of this block
    begin(0, query);
    for (int now = 0; query < T; query += TILE, now = 1 - now) {
        wait_for_copies();
        __syncthreads();
        if (query + TILE < T) begin(1 - now, query + TILE);
        for (int j = 0; j < TILE / 16; ++j) {
            Sums S = {}, dP = {}, dS;
            for (int d = 0; d < D / 16; ++d) {
                add_product(S, K[d], load(&Q[now].row[16 * j][16 * d]));
                add_product(dP, V[d], load(&dO[now].row[16 * j][16 * d]));
            }
            hide_queries(S, query + 16 * j, key, causal);
            for (int i = 0; i < 8; ++i) {
                int column = 16 * j + column_of(i);
                S.v[i] = expf(scale * S.v[i] - L[now][column]);
                dS.v[i] = S.v[i] * (dP.v[i] - Delta[now][column]);
            }
            Block P = narrow(S), slope = narrow(dS);
            for (int d = 0; d < D / 16; ++d) {
                add_product(dV[d], P, load_transposed(&dO[now].row[16 * j][16 * d]));
                add_product(dK[d], slope, load_transposed(&Q[now].row[16 * j][16 * d]));
            }
        }
    }
    write_rows(dk + own, step, T - key, dK, scale);
    write_rows(dv + own, step, T - key, dV, 1);
}
