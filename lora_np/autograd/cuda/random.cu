// Random numbers that follow from a key and a place: Philox 4x32 with ten rounds (Salmon et al., 2011, section 3.3).

namespace {

__device__ uint4 philox(uint4 place, uint2 key) {
    for (int round = 0; round < 10; ++round) {
        unsigned int high0 = __umulhi(0xD2511F53u, place.x), low0 = 0xD2511F53u * place.x;
        unsigned int high1 = __umulhi(0xCD9E8D57u, place.z), low1 = 0xCD9E8D57u * place.z;
        place = make_uint4(high1 ^ place.y ^ key.x, low1, high0 ^ place.w ^ key.y, low0);
        key.x += 0x9E3779B9u;
        key.y += 0xBB67AE85u;
    }
    return place;
}

}  // namespace

extern "C" {

// mask (·, rows, columns): 0 with probability limit / 2³², else `kept`. A thread has four columns of a row at once; there
// are `groups` of them. In a recording `now` is {key, number of its first mask}, and `number` is counted from that one.
__global__ void dropout_mask(real* mask, const unsigned long long* now, int columns, int rows, long long groups,
                             unsigned long long key, unsigned int number, unsigned int limit, float kept) {
    if (now) key = now[0], number += (unsigned int)now[1];
    int per_row = (columns + 3) / 4;
    for (long long i = first_index(); i < groups; i += stride()) {
        long long row = i / per_row;
        int group = i % per_row, first = 4 * group;
        uint4 place = make_uint4(group, row % rows, row / rows, number);
        uint4 drawn = philox(place, make_uint2((unsigned int)key, (unsigned int)(key >> 32)));
        unsigned int four[4] = {drawn.x, drawn.y, drawn.z, drawn.w};
        for (int j = 0; j < 4 && first + j < columns; ++j)
            mask[row * columns + first + j] = NARROW(four[j] < limit ? 0.0f : kept);
    }
}

}  // extern "C"
