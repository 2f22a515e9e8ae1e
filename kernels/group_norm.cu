// Normalisation over groups of channels (Wu and He, arXiv:1803.08494, equation 1), and a scale, a shift and SiLU behind it.
//
//   y[n, p, c] = f((x[n, p, c] - mean) / sqrt(variance + eps) weight[c] + bias[c]), mean and variance over the pixels and channels of c's group
//   f(z) = silu(z (1 + s[n or row, c]) + s[n or row, C0 + C1 + c]), of which each part may be left out
//
// Tensors       x: [N, P, C0] and, beside it, [images1, P, C1] read again from its first image on, or null; y: [N, P, C0 + C1];
//               weight, bias: [C0 + C1], f32.
//               scale_shift, s above: [N, 2 (C0 + C1)], or a table [scale_rows, 2 (C0 + C1)] of which all images take row scale_row[0]; or null
//               partials: [N, G, S, 2] f32, the mean and the squared deviations of each of S pieces of a group. Those of a whole image may
//               normalise a part of it, a band of rows
// Arithmetic    f32. Statistics per thread and channel, then joined without cancellation (moments.cuh), so a mean far from zero costs nothing
// Launch        Tiles of channels and slices of pixels as in group_norm.cuh.
//                 whole      512 threads, blocks (1, tiles, N): statistics and result in one launch, for small images
//                 statistics 256 threads, blocks (slices of the pixels, tiles, N)
//                 normalise  the same; joins the partials of its groups, while its first pixels are on their way
//               The selection fixes tiles and slices by one image's shape, never by the batch
// Requirements  not ragged: C0, C1 and the tile are whole packs. Channels of a tile <= 256 packs, or a group wider than that in parts
//               (src/cuda/group_norm.rs checks)
// Cost          x read twice, y written once; 4 instructions per element in the statistics, 8 behind them
// Measured      not yet run on hardware
#include "group_norm.cuh"

template <typename T, bool PACKED, bool SILU_AFTER>
DEVICE void whole(T* y, const T* x0, const T* x1, const float* weight, const float* bias, const T* scale_shift, const float* scale_row,
                  int scale_rows, int pixels, int channels0, int channels1, int images1, int group, int width, float eps) {
    wait_for_previous_grid();
    let_next_grid_start();
    constexpr int MOST = 512 * Stored<T, PACKED>::SIZE;
    SHARED_ARRAY(float, means, MOST);
    SHARED_ARRAY(float, squares, MOST);
    SHARED_ARRAY(Scale, scales, MOST_GROUPS);
    const int channels = channels0 + channels1;
    const ChannelTile tile = tile_of_block(channels, group, width);
    const Column<T, PACKED> column = column_of_thread<T, PACKED>(x0, x1, channels0, channels1, images1, pixels, tile, width);
    const PixelSlice slice = {0, pixels};
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
    y += static_cast<size_t>(blockIdx.z) * pixels * channels;
    normalise_column<T, PACKED>(y, raw, column, slice, channels, tile, group, scales, weight, bias, scale_shift, SILU_AFTER);
}

template <typename T, bool PACKED>
DEVICE void statistics(float* partials, const T* x0, const T* x1, int pixels, int channels0, int channels1, int images1, int group, int width) {
    wait_for_previous_grid();
    let_next_grid_start();
    constexpr int MOST = 256 * Stored<T, PACKED>::SIZE;
    SHARED_ARRAY(float, means, MOST);
    SHARED_ARRAY(float, squares, MOST);
    const int channels = channels0 + channels1;
    const ChannelTile tile = tile_of_block(channels, group, width);
    const Column<T, PACKED> column = column_of_thread<T, PACKED>(x0, x1, channels0, channels1, images1, pixels, tile, width);
    const int slices = static_cast<int>(gridDim.x);
    const PixelSlice slice = slice_of(pixels, static_cast<int>(blockIdx.x), slices);
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

template <typename T, bool PACKED, bool SILU_AFTER>
DEVICE void normalise_after(T* y, const T* x0, const T* x1, const float* weight, const float* bias, const T* scale_shift,
                            const float* scale_row, int scale_rows, const float* partials, int pixels, int channels0, int channels1,
                            int images1, int group, int width, float eps, int all_pixels, int all_slices) {
    const int parts = group > width ? (group + width - 1) / width : 1;
    // A piece is one slice of all pixels, and one part of the channels.
    const auto moments_of = [&](int g) {
        const size_t row = static_cast<size_t>(blockIdx.z) * ((channels0 + channels1) / group) + g;
        const float* own = partials + 2 * row * all_slices * parts;
        const auto piece = [&](int i) {
            const PixelSlice slice = slice_of(all_pixels, i / parts, all_slices);
            const int channels = min(width, group - i % parts * width);
            return Moments{static_cast<float>(slice.end - slice.first) * static_cast<float>(channels), own[2 * i], own[2 * i + 1]};
        };
        return join_pieces(static_cast<float>(all_pixels) * static_cast<float>(group), all_slices * parts, piece);
    };
    normalise<T, PACKED, SILU_AFTER>(y, x0, x1, weight, bias, scale_shift, scale_row, scale_rows, pixels, channels0, channels1, images1, group,
                                     width, eps, moments_of);
}

#define WHOLE(T, PACKED, SILU_AFTER) \
    whole<T, PACKED, SILU_AFTER>(y, x0, x1, weight, bias, scale_shift, scale_row, scale_rows, pixels, channels0, channels1, images1, group, tile, eps)
#define NORMALISE(T, PACKED, SILU_AFTER)                                                                                            \
    normalise_after<T, PACKED, SILU_AFTER>(y, x0, x1, weight, bias, scale_shift, scale_row, scale_rows, partials, pixels, channels0, \
                                           channels1, images1, group, tile, eps, all_pixels, all_slices)
#define WHOLE_F16 \
    half* y, const half* x0, const half* x1, const float* weight, const float* bias, const half* scale_shift, const float* scale_row, \
        int scale_rows, int pixels, int channels0, int channels1, int images1, int group, int tile, float eps
#define STATISTICS_F16 \
    float* partials, const half* x0, const half* x1, int pixels, int channels0, int channels1, int images1, int group, int tile
#define NORMALISE_F16 \
    half* y, const half* x0, const half* x1, const float* weight, const float* bias, const half* scale_shift, const float* scale_row, \
        int scale_rows, const float* partials, int pixels, int channels0, int channels1, int images1, int group, int tile, float eps, \
        int all_pixels, int all_slices
#define WHOLE_F32 \
    float* y, const float* x0, const float* x1, const float* weight, const float* bias, const float* scale_shift, const float* scale_row, \
        int scale_rows, int pixels, int channels0, int channels1, int images1, int group, int tile, float eps
#define STATISTICS_F32 \
    float* partials, const float* x0, const float* x1, int pixels, int channels0, int channels1, int images1, int group, int tile
#define NORMALISE_F32 \
    float* y, const float* x0, const float* x1, const float* weight, const float* bias, const float* scale_shift, const float* scale_row, \
        int scale_rows, const float* partials, int pixels, int channels0, int channels1, int images1, int group, int tile, float eps, \
        int all_pixels, int all_slices

ENTRY(512, 2, group_norm_whole_f16, WHOLE_F16) { WHOLE(half, true, false); }
ENTRY(512, 2, group_norm_whole_silu_f16, WHOLE_F16) { WHOLE(half, true, true); }
ENTRY(256, 3, group_norm_statistics_f16, STATISTICS_F16) {
    statistics<half, true>(partials, x0, x1, pixels, channels0, channels1, images1, group, tile);
}
ENTRY(256, 3, group_norm_normalise_f16, NORMALISE_F16) { NORMALISE(half, true, false); }
ENTRY(256, 3, group_norm_normalise_silu_f16, NORMALISE_F16) { NORMALISE(half, true, true); }
ENTRY(512, 2, group_norm_whole_ragged_f16, WHOLE_F16) { WHOLE(half, false, false); }
ENTRY(512, 2, group_norm_whole_silu_ragged_f16, WHOLE_F16) { WHOLE(half, false, true); }
ENTRY(256, 3, group_norm_statistics_ragged_f16, STATISTICS_F16) {
    statistics<half, false>(partials, x0, x1, pixels, channels0, channels1, images1, group, tile);
}
ENTRY(256, 3, group_norm_normalise_ragged_f16, NORMALISE_F16) { NORMALISE(half, false, false); }
ENTRY(256, 3, group_norm_normalise_silu_ragged_f16, NORMALISE_F16) { NORMALISE(half, false, true); }

ENTRY(512, 1, group_norm_whole_f32, WHOLE_F32) { WHOLE(float, true, false); }
ENTRY(512, 1, group_norm_whole_silu_f32, WHOLE_F32) { WHOLE(float, true, true); }
ENTRY(256, 3, group_norm_statistics_f32, STATISTICS_F32) {
    statistics<float, true>(partials, x0, x1, pixels, channels0, channels1, images1, group, tile);
}
ENTRY(256, 3, group_norm_normalise_f32, NORMALISE_F32) { NORMALISE(float, true, false); }
ENTRY(256, 3, group_norm_normalise_silu_f32, NORMALISE_F32) { NORMALISE(float, true, true); }
ENTRY(512, 1, group_norm_whole_ragged_f32, WHOLE_F32) { WHOLE(float, false, false); }
ENTRY(512, 1, group_norm_whole_silu_ragged_f32, WHOLE_F32) { WHOLE(float, false, true); }
ENTRY(256, 3, group_norm_statistics_ragged_f32, STATISTICS_F32) {
    statistics<float, false>(partials, x0, x1, pixels, channels0, channels1, images1, group, tile);
}
ENTRY(256, 3, group_norm_normalise_ragged_f32, NORMALISE_F32) { NORMALISE(float, false, false); }
ENTRY(256, 3, group_norm_normalise_silu_ragged_f32, NORMALISE_F32) { NORMALISE(float, false, true); }
