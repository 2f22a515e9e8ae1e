// What the kernels of group normalisation share: which channels and pixels a block has, how a thread walks over them, and normalising.
//
// A tile is `tile` channels: whole groups or, where a group is wider than a block, a part of one. A thread keeps one column of a tile, which is
// 16 bytes of channels (one channel in `_ragged` entries), and walks over every so many pixels, so what a group is need not be known
// until threads are joined: any number of channels per group, aligned or not. Last slice first, as those who wrote x, or have read it for its
// statistics, have left that in the second-level cache.
#pragma once

#include "activation.cuh"
#include "elements.cuh"
#include "moments.cuh"

// Loads that a thread has under way.
#define AHEAD 4

// The channels of a block.
struct ChannelTile {
    int first;     // channel
    int channels;  // as the group or the tensor ends, fewer than a tile's
    int part;      // which part of its group, of `parts`
    int parts;
};

DEVICE ChannelTile tile_of_block(int channels, int group, int tile) {
    const int block = static_cast<int>(blockIdx.y);
    const int parts = group > tile ? (group + tile - 1) / tile : 1;
    const int part = block % parts;
    const int first = parts == 1 ? block * tile : block / parts * group + part * tile;
    const int end = parts == 1 ? channels : (block / parts + 1) * group;
    return {first, min(tile, end - first), part, parts};
}

// The pixels of slice `slice` of `slices`.
struct PixelSlice {
    int first;
    int end;
};
DEVICE PixelSlice slice_of(int pixels, int slice, int slices) {
    const int each = (pixels + slices - 1) / slices;
    return {min(slice * each, pixels), min((slice + 1) * each, pixels)};
}

// This block's image of the second operand, whose `images` repeat, or of the first.
DEVICE int image_of_block(bool second, int images) { return static_cast<int>(blockIdx.z % (second ? static_cast<unsigned>(images) : gridDim.z)); }

// The part of a tile that one thread walks over: `SIZE` channels of every `rows`th pixel, from pixel `row` of a slice.
template <typename T, bool PACKED>
struct Column {
    using Raw = typename Stored<T, PACKED>::Type;
    static constexpr int SIZE = Stored<T, PACKED>::SIZE;
    const T* x;    // the channels at pixel 0
    int pitch;     // elements from one pixel to the next
    int channel;   // the first, within the tile
    int row;
    int rows;
    bool used;     // or the thread is left over
};

template <typename T, bool PACKED>
DEVICE Column<T, PACKED> column_of_thread(const T* x0, const T* x1, int channels0, int channels1, int images1, int pixels, const ChannelTile& tile,
                                          int width) {
    constexpr int SIZE = Column<T, PACKED>::SIZE;
    const int columns = width / SIZE;
    const int thread = static_cast<int>(threadIdx.x);
    Column<T, PACKED> column;
    column.row = thread / columns;
    column.rows = static_cast<int>(blockDim.x) / columns;
    column.channel = thread % columns * SIZE;
    column.used = column.row < column.rows && column.channel < tile.channels;
    const int channel = tile.first + column.channel;
    const bool second = channel >= channels0;
    column.pitch = second ? channels1 : channels0;
    column.x = (second ? x1 : x0) + static_cast<size_t>(image_of_block(second, images1)) * pixels * column.pitch + (second ? channel - channels0 : channel);
    return column;
}

// Pixels of a slice of `pixels` that row `row` of `rows` has.
DEVICE int pixels_of_row(int pixels, int row, int rows) { return row < pixels ? (pixels - row - 1) / rows + 1 : 0; }

// Loads what the thread has of the slice from pixel `first` on: as many pixels as may be under way at once.
template <typename T, bool PACKED>
DEVICE void load_ahead(typename Stored<T, PACKED>::Type (&raw)[AHEAD], const Column<T, PACKED>& column, int first, const PixelSlice& slice) {
    if (!column.used) return;
    const T* x = column.x + static_cast<size_t>(first) * column.pitch;
    const size_t step = static_cast<size_t>(column.rows) * column.pitch;
#pragma unroll
    for (int k = 0; k < AHEAD; k++) {
        if (first + k * column.rows < slice.end) load(raw[k], x + k * step);
    }
}

// Sums the thread's column over the slice, and leaves its moments in shared memory. No barrier follows.
template <typename T, bool PACKED>
DEVICE void sum_column(const Column<T, PACKED>& column, const PixelSlice& slice, float* means, float* squares, int width) {
    using C = Column<T, PACKED>;
    if (!column.used) return;
    ShiftedSums sums[C::SIZE];
#pragma unroll
    for (int i = 0; i < C::SIZE; i++) sums[i] = {0.0f, 0.0f, 0.0f};
    const int first = slice.first + column.row;
    for (int p = first; p < slice.end; p += AHEAD * column.rows) {
        typename C::Raw raw[AHEAD] = {};
        load_ahead(raw, column, p, slice);
#pragma unroll
        for (int k = 0; k < AHEAD; k++) {
            if (p + k * column.rows >= slice.end) break;
            float values[C::SIZE];
            widen(raw[k], values);
#pragma unroll
            for (int i = 0; i < C::SIZE; i++) {
                if (k == 0 && p == first) sums[i].shift = values[i];
                add(sums[i], values[i]);
            }
        }
    }
    const int count = pixels_of_row(slice.end - slice.first, column.row, column.rows);
#pragma unroll
    for (int i = 0; i < C::SIZE; i++) {
        const Moments moments = moments_of(sums[i], count);
        means[column.row * width + column.channel + i] = moments.mean;
        squares[column.row * width + column.channel + i] = moments.squares;
    }
}

// The moments of `channels` channels from `first` of the tile, over all rows. All lanes of the warp must call.
DEVICE Moments join_rows(const float* means, const float* squares, int width, int rows, int pixels, int first, int channels) {
    const float count = static_cast<float>(pixels) * static_cast<float>(channels);
    float sum = 0.0f;
    for (int i = lane_index(); i < rows * channels; i += WARP) {
        const int row = i / channels;
        sum += static_cast<float>(pixels_of_row(pixels, row, rows)) * means[row * width + first + i % channels];
    }
    const float mean = warp_sum(sum) / count;
    float deviations = 0.0f;
    for (int i = lane_index(); i < rows * channels; i += WARP) {
        const int row = i / channels;
        const int at = row * width + first + i % channels;
        deviations += squares_around(mean, {static_cast<float>(pixels_of_row(pixels, row, rows)), means[at], squares[at]});
    }
    return {count, mean, warp_sum(deviations)};
}

// Scales and shifts of this block's image, scales first.
template <typename T>
DEVICE const T* scale_shift_of_image(const T* scale_shift, const float* scale_row, int scale_rows, int channels) {
    if (scale_shift == nullptr) return nullptr;
    const int row = scale_row == nullptr ? static_cast<int>(blockIdx.z) : row_of(scale_row[0], scale_rows);
    return scale_shift + static_cast<size_t>(row) * 2 * channels;
}

// Mean and scale of a group, for the channels that belong to it.
struct Scale {
    float mean;
    float scale;
};
DEVICE Scale scale_of(const Moments& moments, float eps) { return {moments.mean, 1.0f / sqrtf(moments.squares / moments.count + eps)}; }

// Normalises the thread's column over the slice, of which `raw` holds the first pixels, with the scales of the tile's groups, into the image `y`.
// What is multiplied and added is written as one instruction: a product that normalises in place has the same bits (in_place.cuh).
template <typename T, bool PACKED>
DEVICE void normalise_column(T* y, typename Stored<T, PACKED>::Type (&raw)[AHEAD], const Column<T, PACKED>& column, const PixelSlice& slice,
                             int channels, const ChannelTile& tile, int group, const Scale* scales, const float* weight, const float* bias,
                             const T* scale_shift, bool silu_after) {
    using C = Column<T, PACKED>;
    if (!column.used) return;
    const int channel = tile.first + column.channel;
    float factor[C::SIZE];
    float addend[C::SIZE];
#pragma unroll
    for (int i = 0; i < C::SIZE; i++) {
        const Scale scale = scales[(channel + i) / group - tile.first / group];
        factor[i] = scale.scale * weight[channel + i];
        addend[i] = fmaf(-scale.mean, factor[i], bias[channel + i]);
    }
    if (scale_shift != nullptr) {
        typename C::Raw stored[2];
        load(stored[0], scale_shift + channel);
        load(stored[1], scale_shift + channels + channel);
        float by[C::SIZE], shift[C::SIZE];
        widen(stored[0], by);
        widen(stored[1], shift);
#pragma unroll
        for (int i = 0; i < C::SIZE; i++) {
            factor[i] *= 1.0f + by[i];
            addend[i] = fmaf(addend[i], 1.0f + by[i], shift[i]);
        }
    }
    const size_t step = static_cast<size_t>(column.rows) * channels;
    int p = slice.first + column.row;
    y += static_cast<size_t>(p) * channels + channel;
    while (p < slice.end) {
#pragma unroll
        for (int k = 0; k < AHEAD; k++) {
            if (p + k * column.rows >= slice.end) break;
            float values[C::SIZE];
            widen(raw[k], values);
#pragma unroll
            for (int i = 0; i < C::SIZE; i++) {
                const float normal = fmaf(values[i], factor[i], addend[i]);
                values[i] = silu_after ? activate<SILU>(normal) : normal;
            }
            store(y + k * step, values);
        }
        p += AHEAD * column.rows;
        y += AHEAD * step;
        load_ahead(raw, column, p, slice);
    }
}

// Groups of a tile at most: of one channel each, in the widest tile the selection makes of whole groups.
#define MOST_GROUPS 256

// The number of groups that a tile's channels belong to.
DEVICE int groups_of(const ChannelTile& tile, int group) { return (tile.first + tile.channels - 1) / group - tile.first / group + 1; }

// The sum over `count` pieces of what `weigh(sum, piece)` makes of a sum, `part(i)` being piece i. All lanes of the warp must call.
template <class Part, class Weigh>
DEVICE float sum_of_pieces(int count, const Part& part, const Weigh& weigh) {
    float sum = 0.0f;
    for (int i = lane_index(); i < count; i += WARP) sum = weigh(sum, part(i));
    return warp_sum(sum);
}

// The moments of `values` values from those of `count` pieces. All lanes of the warp must call.
template <class Part>
DEVICE Moments join_pieces(float values, int count, const Part& part) {
    const float mean = sum_of_pieces(count, part, [](float sum, const Moments& m) { return fmaf(m.count, m.mean, sum); }) / values;
    return {values, mean, sum_of_pieces(count, part, [&](float sum, const Moments& m) { return sum + squares_around(mean, m); })};
}

// Normalises a slice of a tile with `moments_of(group)`, for groups of this image counted from the first, all of whose lanes call.
template <typename T, bool PACKED, bool SILU_AFTER, class MomentsOf>
DEVICE void normalise(T* y, const T* x0, const T* x1, const float* weight, const float* bias, const T* scale_shift, const float* scale_row,
                      int scale_rows, int pixels, int channels0, int channels1, int images1, int group, int width, float eps,
                      const MomentsOf& moments_of) {
    wait_for_previous_grid();
    let_next_grid_start();
    SHARED_ARRAY(Scale, scales, MOST_GROUPS);
    const int channels = channels0 + channels1;
    const ChannelTile tile = tile_of_block(channels, group, width);
    const Column<T, PACKED> column = column_of_thread<T, PACKED>(x0, x1, channels0, channels1, images1, pixels, tile, width);
    const int slices = static_cast<int>(gridDim.x);
    const PixelSlice slice = slice_of(pixels, slices - 1 - static_cast<int>(blockIdx.x), slices);
    typename Stored<T, PACKED>::Type raw[AHEAD] = {};
    load_ahead(raw, column, slice.first + column.row, slice);
    const int warps = static_cast<int>(blockDim.x) / WARP;
    for (int g = warp_index(); g < groups_of(tile, group); g += warps) {
        const Moments moments = moments_of(tile.first / group + g);
        if (lane_index() == 0) scales[g] = scale_of(moments, eps);
    }
    scale_shift = scale_shift_of_image(scale_shift, scale_row, scale_rows, channels);
    y += static_cast<size_t>(blockIdx.z) * pixels * channels;
    sync_block();
    normalise_column<T, PACKED>(y, raw, column, slice, channels, tile, group, scales, weight, bias, scale_shift, SILU_AFTER);
}
