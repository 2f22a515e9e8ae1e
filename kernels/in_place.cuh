// A group normalisation by the product whose result it reads: whoever brings the last block of an image, in columns that are whole groups, normalises
// these, so that no launch follows that does. Nobody waits for anybody. What is normalised was stored a moment ago, by this block or by others that
// have gone on, and lies in the second-level cache.
//
// One block does for an image's columns what a launch has many blocks for, so it is asked for where images are small (src/cuda/in_place.rs).
//
// The bits are those of group_norm_given.cu, which is launched where nobody normalises in place: the same moments, joined and applied by the same
// functions in the same order.
#pragma once

#include "group_norm.cuh"

// What is to be normalised of a product's result. y null: nothing.
struct InPlace {
    half* y;
    const float* weight;    // [n], as bias
    const float* bias;
    int columns;    // whole tiles of the product, and whole groups
    int group;      // channels of a group
    int silu;
    float eps;
};

// Normalises image `image` of `x`, of so many pixels, in `columns` columns of `n` from `first` on, by the moments [images, n, 2] of its columns.
// `scales` has room for one of each group; `sync` waits for all of the `threads` threads, who must call.
template <class Sync>
DEVICE void normalise_in_place(const InPlace& to, const half* x, const float* moments, int image, int pixels, int first, int columns, int n,
                               int thread, int threads, Scale* scales, const Sync& sync) {
    for (int g = thread / WARP; g < columns / to.group; g += threads / WARP) {
        const float* const own = moments + 2 * (static_cast<size_t>(image) * n + first + g * to.group);
        const auto part = [&](int i) { return Moments{static_cast<float>(pixels), own[2 * i], own[2 * i + 1]}; };
        const Moments all = join_pieces(static_cast<float>(pixels) * static_cast<float>(to.group), to.group, part);
        if (lane_index() == 0) scales[g] = scale_of(all, to.eps);
    }
    sync();
    constexpr int SIZE = Column<half, true>::SIZE;
    const int across = columns / SIZE, channel = thread % across * SIZE, rows = threads / across, row = thread / across;
    const size_t at = static_cast<size_t>(image) * pixels * n;
    const Column<half, true> column = {x + at + first + channel, n, channel, row, rows, row < rows};
    const PixelSlice all = {0, pixels};
    typename Column<half, true>::Raw raw[AHEAD] = {};
    load_ahead(raw, column, row, all);
    normalise_column<half, true>(to.y + at, raw, column, all, n, ChannelTile{first, columns, 0, 1}, to.group, scales, to.weight, to.bias,
                                 static_cast<const half*>(nullptr), to.silu != 0);
}
