// Normalisation over groups of channels (Wu and He, arXiv:1803.08494, equation 1), and a scale, a shift and SiLU behind it.
//
//   y[n, p, c] = f((x[n, p, c] - mean) / sqrt(variance + eps) weight[c] + bias[c]), mean and variance over the pixels and channels of c's group
//   f(z) = silu(z (1 + s[n or row, c]) + s[n or row, C0 + C1 + c]), of which each part may be left out
//
// Tensors       x: [N, P, C0] and, beside it, [N, P, C1] or null; y: [N, P, C0 + C1]; weight, bias: [C0 + C1], f32.
//               scale_shift, s above: [N, 2 (C0 + C1)], or a table [scale_rows, 2 (C0 + C1)] of which all images take row scale_row[0]; or null
//               partials: [N, G, S, 2] f32, the mean and the squared deviations of each of S pieces of a group. Those of a whole image may
//               normalise a part of it, a band of rows
// Arithmetic    f32. Statistics per thread and channel, then joined without cancellation (moments.cuh), so a mean far from zero costs nothing
// Launch        A tile is `tile` channels: whole groups or, where a group is wider than a block, a part of one. A thread keeps one column of a
//               tile, which is 16 bytes of channels (one channel in `_ragged` entries), and walks over every so many pixels, so what a group
//               is need not be known until threads are joined: any number of channels per group, aligned or not.
//                 whole      512 threads, blocks (1, tiles, N): statistics and result in one launch, for small images
//                 statistics 256 threads, blocks (slices of the pixels, tiles, N)
//                 normalise  the same; joins the partials of its groups, while its first pixels are on their way. Last slice first, as
//                            the statistics have left those in L2
//               The selection fixes tiles and slices by one image's shape, never by the batch
// Requirements  not ragged: C0, C1 and the tile are whole packs. Channels of a tile <= 256 packs, or a group wider than that in parts
//               (src/cuda/group_norm.rs checks)
// Cost          x read twice, y written once; 4 instructions per element in the statistics, 8 behind them
// Measured      not yet run on hardware
#include "activation.cuh"
#include "elements.cuh"
#include "moments.cuh"

// Loads that a thread has under way.
#define AHEAD 4

// The channels of a block.
struct Tile {
    int first;     // channel
    int channels;  // as the group or the tensor ends, fewer than a tile's
    int part;      // which part of its group, of `parts`
    int parts;
};

DEVICE Tile tile_of_block(int channels, int group, int tile) {
    const int block = static_cast<int>(blockIdx.y);
    const int parts = group > tile ? (group + tile - 1) / tile : 1;
    const int part = block % parts;
    const int first = parts == 1 ? block * tile : block / parts * group + part * tile;
    const int end = parts == 1 ? channels : (block / parts + 1) * group;
    return {first, min(tile, end - first), part, parts};
}

// The pixels of slice `slice` of `slices`.
struct Pixels {
    int first;
    int end;
};
DEVICE Pixels slice_of(int pixels, int slice, int slices) {
    const int each = (pixels + slices - 1) / slices;
    return {min(slice * each, pixels), min((slice + 1) * each, pixels)};
}

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
DEVICE Column<T, PACKED> column_of_thread(const T* x0, const T* x1, int channels0, int channels1, int pixels, const Tile& tile, int width) {
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
    column.x = (second ? x1 : x0) + static_cast<size_t>(blockIdx.z) * pixels * column.pitch + (second ? channel - channels0 : channel);
    return column;
}

// Pixels of a slice of `pixels` that row `row` of `rows` has.
DEVICE int pixels_of_row(int pixels, int row, int rows) { return row < pixels ? (pixels - row - 1) / rows + 1 : 0; }

// Loads what the thread has of the slice from pixel `first` on: as many pixels as may be under way at once.
template <typename T, bool PACKED>
DEVICE void load_ahead(typename Stored<T, PACKED>::Type (&raw)[AHEAD], const Column<T, PACKED>& column, int first, const Pixels& slice) {
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
DEVICE void sum_column(const Column<T, PACKED>& column, const Pixels& slice, float* means, float* squares, int width) {
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

// Normalises the thread's column over the slice, of which `raw` holds the first pixels, with the scales of the tile's groups.
template <typename T, bool PACKED, bool SILU_AFTER>
DEVICE void normalise_column(T* y, typename Stored<T, PACKED>::Type (&raw)[AHEAD], const Column<T, PACKED>& column, const Pixels& slice,
                             int pixels, int channels, const Tile& tile, int group, const Scale* scales, const float* weight,
                             const float* bias, const T* scale_shift) {
    using C = Column<T, PACKED>;
    if (!column.used) return;
    const int channel = tile.first + column.channel;
    float factor[C::SIZE];
    float addend[C::SIZE];
#pragma unroll
    for (int i = 0; i < C::SIZE; i++) {
        const Scale scale = scales[(channel + i) / group - tile.first / group];
        factor[i] = scale.scale * weight[channel + i];
        addend[i] = bias[channel + i] - scale.mean * factor[i];
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
            addend[i] = addend[i] * (1.0f + by[i]) + shift[i];
        }
    }
    const size_t step = static_cast<size_t>(column.rows) * channels;
    int p = slice.first + column.row;
    y += (static_cast<size_t>(blockIdx.z) * pixels + p) * channels + channel;
    while (p < slice.end) {
#pragma unroll
        for (int k = 0; k < AHEAD; k++) {
            if (p + k * column.rows >= slice.end) break;
            float values[C::SIZE];
            widen(raw[k], values);
#pragma unroll
            for (int i = 0; i < C::SIZE; i++) {
                const float normal = values[i] * factor[i] + addend[i];
                values[i] = SILU_AFTER ? activate<SILU>(normal) : normal;
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
DEVICE int groups_of(const Tile& tile, int group) { return (tile.first + tile.channels - 1) / group - tile.first / group + 1; }

template <typename T, bool PACKED, bool SILU_AFTER>
DEVICE void whole(T* y, const T* x0, const T* x1, const float* weight, const float* bias, const T* scale_shift, const float* scale_row,
                  int scale_rows, int pixels, int channels0, int channels1, int group, int width, float eps) {
    wait_for_previous_grid();
    let_next_grid_start();
    constexpr int MOST = 512 * Stored<T, PACKED>::SIZE;
    SHARED_ARRAY(float, means, MOST);
    SHARED_ARRAY(float, squares, MOST);
    SHARED_ARRAY(Scale, scales, MOST_GROUPS);
    const int channels = channels0 + channels1;
    const Tile tile = tile_of_block(channels, group, width);
    const Column<T, PACKED> column = column_of_thread<T, PACKED>(x0, x1, channels0, channels1, pixels, tile, width);
    const Pixels slice = {0, pixels};
    sum_column(column, slice, means, squares, width);
    sync_block();
    const int warps = static_cast<int>(blockDim.x) / WARP;
    for (int g = warp_index(); g < groups_of(tile, group); g += warps) {
        const Moments moments = join_rows(means, squares, width, column.rows, pixels, g * group, group);
        if (lane_index() == 0) scales[g] = scale_of(moments, eps);
    }
    scale_shift = scale_shift_of_image(scale_shift, scale_row, scale_rows, channels);
    sync_block();
    typename Stored<T, PACKED>::Type raw[AHEAD] = {};
    load_ahead(raw, column, column.row, slice);
    normalise_column<T, PACKED, SILU_AFTER>(y, raw, column, slice, pixels, channels, tile, group, scales, weight, bias, scale_shift);
}

template <typename T, bool PACKED>
DEVICE void statistics(float* partials, const T* x0, const T* x1, int pixels, int channels0, int channels1, int group, int width) {
    wait_for_previous_grid();
    let_next_grid_start();
    constexpr int MOST = 256 * Stored<T, PACKED>::SIZE;
    SHARED_ARRAY(float, means, MOST);
    SHARED_ARRAY(float, squares, MOST);
    const int channels = channels0 + channels1;
    const Tile tile = tile_of_block(channels, group, width);
    const Column<T, PACKED> column = column_of_thread<T, PACKED>(x0, x1, channels0, channels1, pixels, tile, width);
    const int slices = static_cast<int>(gridDim.x);
    const Pixels slice = slice_of(pixels, static_cast<int>(blockIdx.x), slices);
    sum_column(column, slice, means, squares, width);
    sync_block();
    const int warps = static_cast<int>(blockDim.x) / WARP;
    for (int g = warp_index(); g < groups_of(tile, group); g += warps) {
        const int own = slice.end - slice.first;
        const Moments moments = join_rows(means, squares, width, column.rows, own, g * group, min(group, tile.channels));
        if (lane_index() == 0) {
            const size_t row = static_cast<size_t>(blockIdx.z) * (channels / group) + tile.first / group + g;
            float* to = partials + 2 * ((row * slices + blockIdx.x) * tile.parts + tile.part);
            to[0] = moments.mean;
            to[1] = moments.squares;
        }
    }
}

// The moments of a group from those of its pieces, each one slice of the pixels and one part of the channels. All lanes must call.
DEVICE Moments join_pieces(const float* partials, int pixels, int slices, int group, int width, int parts) {
    const float count = static_cast<float>(pixels) * static_cast<float>(group);
    float sum = 0.0f;
    float deviations = 0.0f;
    float mean = 0.0f;
    for (int pass = 0; pass < 2; pass++) {
        for (int i = lane_index(); i < slices * parts; i += WARP) {
            const Pixels slice = slice_of(pixels, i / parts, slices);
            const int channels = min(width, group - i % parts * width);
            const float n = static_cast<float>(slice.end - slice.first) * static_cast<float>(channels);
            const Moments piece = {n, partials[2 * i], partials[2 * i + 1]};
            if (pass == 0) {
                sum += piece.count * piece.mean;
            } else {
                deviations += squares_around(mean, piece);
            }
        }
        if (pass == 0) mean = warp_sum(sum) / count;
    }
    return {count, mean, warp_sum(deviations)};
}

template <typename T, bool PACKED, bool SILU_AFTER>
DEVICE void normalise(T* y, const T* x0, const T* x1, const float* weight, const float* bias, const T* scale_shift, const float* scale_row,
                      int scale_rows, const float* partials, int pixels, int channels0, int channels1, int group, int width, float eps,
                      int all_pixels, int all_slices) {
    wait_for_previous_grid();
    let_next_grid_start();
    SHARED_ARRAY(Scale, scales, MOST_GROUPS);
    const int channels = channels0 + channels1;
    const Tile tile = tile_of_block(channels, group, width);
    const Column<T, PACKED> column = column_of_thread<T, PACKED>(x0, x1, channels0, channels1, pixels, tile, width);
    const int slices = static_cast<int>(gridDim.x);
    const Pixels slice = slice_of(pixels, slices - 1 - static_cast<int>(blockIdx.x), slices);
    typename Stored<T, PACKED>::Type raw[AHEAD] = {};
    load_ahead(raw, column, slice.first + column.row, slice);
    const int warps = static_cast<int>(blockDim.x) / WARP;
    for (int g = warp_index(); g < groups_of(tile, group); g += warps) {
        const size_t row = static_cast<size_t>(blockIdx.z) * (channels / group) + tile.first / group + g;
        const float* own = partials + 2 * row * all_slices * tile.parts;
        const Moments moments = join_pieces(own, all_pixels, all_slices, group, width, tile.parts);
        if (lane_index() == 0) scales[g] = scale_of(moments, eps);
    }
    scale_shift = scale_shift_of_image(scale_shift, scale_row, scale_rows, channels);
    sync_block();
    normalise_column<T, PACKED, SILU_AFTER>(y, raw, column, slice, pixels, channels, tile, group, scales, weight, bias, scale_shift);
}

#define WHOLE(T, PACKED, SILU_AFTER) \
    whole<T, PACKED, SILU_AFTER>(y, x0, x1, weight, bias, scale_shift, scale_row, scale_rows, pixels, channels0, channels1, group, tile, eps)
#define NORMALISE(T, PACKED, SILU_AFTER)                                                                                            \
    normalise<T, PACKED, SILU_AFTER>(y, x0, x1, weight, bias, scale_shift, scale_row, scale_rows, partials, pixels, channels0, channels1, \
                                     group, tile, eps, all_pixels, all_slices)
#define WHOLE_F16 \
    half* y, const half* x0, const half* x1, const float* weight, const float* bias, const half* scale_shift, const float* scale_row, \
        int scale_rows, int pixels, int channels0, int channels1, int group, int tile, float eps
#define STATISTICS_F16 \
    float* partials, const half* x0, const half* x1, int pixels, int channels0, int channels1, int group, int tile
#define NORMALISE_F16 \
    half* y, const half* x0, const half* x1, const float* weight, const float* bias, const half* scale_shift, const float* scale_row, \
        int scale_rows, const float* partials, int pixels, int channels0, int channels1, int group, int tile, float eps, int all_pixels, \
        int all_slices
#define WHOLE_F32 \
    float* y, const float* x0, const float* x1, const float* weight, const float* bias, const float* scale_shift, const float* scale_row, \
        int scale_rows, int pixels, int channels0, int channels1, int group, int tile, float eps
#define STATISTICS_F32 \
    float* partials, const float* x0, const float* x1, int pixels, int channels0, int channels1, int group, int tile
#define NORMALISE_F32 \
    float* y, const float* x0, const float* x1, const float* weight, const float* bias, const float* scale_shift, const float* scale_row, \
        int scale_rows, const float* partials, int pixels, int channels0, int channels1, int group, int tile, float eps, int all_pixels, \
        int all_slices

ENTRY(512, 2, group_norm_whole_f16, WHOLE_F16) { WHOLE(half, true, false); }
ENTRY(512, 2, group_norm_whole_silu_f16, WHOLE_F16) { WHOLE(half, true, true); }
ENTRY(256, 3, group_norm_statistics_f16, STATISTICS_F16) {
    statistics<half, true>(partials, x0, x1, pixels, channels0, channels1, group, tile);
}
ENTRY(256, 3, group_norm_normalise_f16, NORMALISE_F16) { NORMALISE(half, true, false); }
ENTRY(256, 3, group_norm_normalise_silu_f16, NORMALISE_F16) { NORMALISE(half, true, true); }
ENTRY(512, 2, group_norm_whole_ragged_f16, WHOLE_F16) { WHOLE(half, false, false); }
ENTRY(512, 2, group_norm_whole_silu_ragged_f16, WHOLE_F16) { WHOLE(half, false, true); }
ENTRY(256, 3, group_norm_statistics_ragged_f16, STATISTICS_F16) {
    statistics<half, false>(partials, x0, x1, pixels, channels0, channels1, group, tile);
}
ENTRY(256, 3, group_norm_normalise_ragged_f16, NORMALISE_F16) { NORMALISE(half, false, false); }
ENTRY(256, 3, group_norm_normalise_silu_ragged_f16, NORMALISE_F16) { NORMALISE(half, false, true); }

ENTRY(512, 1, group_norm_whole_f32, WHOLE_F32) { WHOLE(float, true, false); }
ENTRY(512, 1, group_norm_whole_silu_f32, WHOLE_F32) { WHOLE(float, true, true); }
ENTRY(256, 3, group_norm_statistics_f32, STATISTICS_F32) {
    statistics<float, true>(partials, x0, x1, pixels, channels0, channels1, group, tile);
}
ENTRY(256, 3, group_norm_normalise_f32, NORMALISE_F32) { NORMALISE(float, true, false); }
ENTRY(256, 3, group_norm_normalise_silu_f32, NORMALISE_F32) { NORMALISE(float, true, true); }
ENTRY(512, 1, group_norm_whole_ragged_f32, WHOLE_F32) { WHOLE(float, false, false); }
ENTRY(512, 1, group_norm_whole_silu_ragged_f32, WHOLE_F32) { WHOLE(float, false, true); }
ENTRY(256, 3, group_norm_statistics_ragged_f32, STATISTICS_F32) {
    statistics<float, false>(partials, x0, x1, pixels, channels0, channels1, group, tile);
}
ENTRY(256, 3, group_norm_normalise_ragged_f32, NORMALISE_F32) { NORMALISE(float, false, false); }
ENTRY(256, 3, group_norm_normalise_silu_ragged_f32, NORMALISE_F32) { NORMALISE(float, false, true); }
