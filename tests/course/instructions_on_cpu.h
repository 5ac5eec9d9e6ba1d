// The instructions of flash_attention.cu on a CPU; see cuda_on_cpu.h.

static Block read_quarters(const real* row) {
    auto rows = of_warp(row);
    int lane = threadIdx.x % 32;
    Block x;
    for (int i = 0; i < 4; ++i) std::memcpy(&x.pair[i], rows[8 * i + lane / 4] + lane % 4 * 2, sizeof(real2));
    return x;
}
static Block read_quarters_transposed(const real* row) {
    auto rows = of_warp(row);
    int lane = threadIdx.x % 32;
    Block x;
    for (int i = 0; i < 4; ++i) {
        const real* const* two = &rows[8 * i + lane % 4 * 2];
        x.pair[i] = {two[0][lane / 4], two[1][lane / 4]};
    }
    return x;
}

static float number(real2 pair, int i) { return i == 0 ? widen(pair).x : widen(pair).y; }

// mma.m16n8k16: A (16, 16), B (16, 8), c (16, 8).
static void multiply(float* c, Block a, real2 left, real2 right) {
    auto A = of_warp(a);
    auto B = of_warp(std::array<real2, 2>{left, right});
    int lane = threadIdx.x % 32;
    for (int i = 0; i < 4; ++i) {
        int row = lane / 4 + 8 * (i / 2), column = lane % 4 * 2 + i % 2;
        for (int k = 0; k < 16; ++k)
            c[i] += number(A[row % 8 * 4 + k % 8 / 2].pair[row / 8 + k / 8 * 2], k % 2) *
                    number(B[column * 4 + k % 8 / 2][k / 8], k % 2);
    }
}

static void do_copy(Copy copy) {
    copy.from ? std::memcpy(copy.to, copy.from, copy.bytes) : std::memset(copy.to, 0, copy.bytes);
}
template <int BYTES>
static void begin_copy(void* to, const void* from, bool there) {
    Copy copy{to, there ? from : nullptr, BYTES};
    late_copies ? me().copies.push_back(copy) : do_copy(copy);
}
static void wait_for_copies() {
    for (Copy copy : me().copies) do_copy(copy);
    me().copies.clear();
}
