// A product whose K is split over blocks: each leaves the sums of its part in memory, and the last to come adds up all of them and goes on as
// if they had been its own. So no launch follows that adds.
//
// A part lies as its threads hold it, not as the matrix does: element i of thread t at [i / 4][t][i % 4], which a warp moves in whole lines. It
// is read by the same thread of another block. Parts are added in their order, whichever block comes last: the bits are the split's alone.
#pragma once

#include "elements.cuh"

// Where blocks that share a tile leave their parts of it, `[parts, tiles, sums of a tile]`, and a counter for each tile at which they meet.
// Null: K is not split.
struct Split {
    float* partial;
    int* counters;
};

// Stores the `COUNT` sums that thread `thread` of `threads` has of a part.
template <int COUNT>
DEVICE void store_part(float* part, const float (&sum)[COUNT], int thread, int threads) {
    static_assert(COUNT % 4 == 0, "sums are moved four at a time");
#pragma unroll
    for (int i = 0; i < COUNT; i += 4) {
        const float four[4] = {sum[i], sum[i + 1], sum[i + 2], sum[i + 3]};
        store(part + static_cast<size_t>(i) * threads + thread * 4, four);
    }
}

// The thread's sums over `parts` parts, each `step` floats behind the one before.
template <int COUNT>
DEVICE void add_parts(float (&sum)[COUNT], const float* part, size_t step, int parts, int thread, int threads) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) sum[i] = 0.0f;
    part += thread * 4;
#pragma unroll 1
    for (int p = 0; p < parts; p++) {
#pragma unroll
        for (int i = 0; i < COUNT; i += 4) {
            const Pack<float> four = load_pack(part + static_cast<size_t>(i) * threads);
#pragma unroll
            for (int e = 0; e < 4; e++) sum[i + e] += four.x[e];
        }
        part += step;
    }
}
