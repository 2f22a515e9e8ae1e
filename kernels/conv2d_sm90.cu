// Two-dimensional convolution on Hopper GPUs, as conv2d.cu: an implicit product, whose first matrix is made by the copy engine.
//
//   y[n, i, j, o] = epilogue(sum_{r, s, c} x[n, i stride + r - top, j stride + s - left, c] w[o, r, s, c] + sum_c beside[n, i, j, c] v[o, c])
//
// where x is zero outside the image: what a box has there is loaded as zero. A tile's rows are the pixels of a box of the result, so those of
// its A for one tap and 64 channels are a box of x, every `stride`-th pixel of it.
//
// In phases (grid z of 4) as conv2d.cu says: out_h and out_w are those of one phase, and w has the phases' rows one after another (Layout::Phases).
//
// Tensors      x [images, h, w, channels_first] and x_second of the same pixels whose channels follow (x again: there is none), by maps with
//              boxes of 64 channels and of the tile's pixels; beside [images, out_h, out_w, channels_beside] and beside_second likewise (any maps:
//              there are none); w [n, pitch] by a map with boxes of 64 columns and a block's share of the rows (along a row taps and within a tap
//              channels, then v: Layout::Matrix, Layout::Beside); the others as in linear_sm90.cu.
// Arithmetic   products exact, f32 sums by wgmma in steps of 16 along K, which runs over taps and within a tap over channels, then over the channels
//              beside.
// Launch       as linear_sm90.cu, and z: the phases.
// Requirements all numbers of channels are multiples of 64; no upsampling but in phases. 2^columns by 2^rows pixels are no more than a tile's rows;
//              the tiles below each other are the images' boxes, across first; where moments are asked for, their blocks of 64 pixels fit the image.
//              src/cuda/product/sm90.rs sees to all of them.
// Cost         2 m n k FLOPs with k = filter_h filter_w channels; x is read once per tap and column of tiles, w once per pair of rows of tiles.
// Measured     not yet run on hardware. The loop of one stage is that of linear_sm90.cu.
#include "product_sm90.cuh"

// ---- device helpers ---------------------------------------------------------------------------------------------------------------

// The operand: of every row of a tile, the pixels under one tap after another, in 64 channels after another.
template <class T>
struct Pixels {
    const TensorMap& first;
    const TensorMap& second;
    const TensorMap& beside;
    const TensorMap& beside_second;
    int channels_first;
    int channels;
    int channels_beside;
    int filter_h;
    int filter_w;
    int stride;
    int top;
    int left;
    int out_h;
    int out_w;
    int columns;    // log2 of the pixels of a tile side by side
    int rows;       // log2 of those below each other; a tile goes on in the next image
    int beside_images;    // of beside_second, which repeat; where they are fewer than the result's, a tile is of one image

    __device__ __forceinline__ static int phase() { return static_cast<int>(blockIdx.z); }

    __device__ __forceinline__ void prefetch() const {
        prefetch_map(first);
        prefetch_map(second);
        prefetch_map(beside);
        prefetch_map(beside_second);
    }

    // The first pixel of a tile.
    struct Place {
        int image;
        int y;
        int x;
    };
    __device__ __forceinline__ Place place(int tile) const {
        const int across = (out_w + (1 << columns) - 1) >> columns, down = (out_h + (1 << rows) - 1) >> rows;
        const int line = tile / across;
        return Place{line / down * (T::BM >> columns >> rows), line % down << rows, tile % across << columns};
    }
    // The pixel that is a tile's row of this number.
    __device__ __forceinline__ Place pixel(const Place& place, int tile_row) const {
        const int x = place.x + (tile_row & ((1 << columns) - 1)), y = place.y + (tile_row >> columns & ((1 << rows) - 1));
        return Place{place.image + (tile_row >> columns >> rows), y, x};
    }
    // Beyond the images' edges there is no row.
    __device__ __forceinline__ int row(const Place& place, int tile_row) const {
        const Place at = pixel(place, tile_row);
        if (at.x >= out_w || at.y >= out_h) return 0x7fffffff;
        if (gridDim.z == 1) return (at.image * out_h + at.y) * out_w + at.x;
        return ((at.image * out_h + at.y) * 2 + phase() / 2) * 2 * out_w + at.x * 2 + phase() % 2;
    }
    // The block of 64 rows that begins there, where moments are found: a box of pixels that is the same in every tile, and fits the image.
    __device__ __forceinline__ int block(const Place& place, int tile_row) const {
        const Place at = pixel(place, tile_row);
        const int across = min(columns, 6), down = 6 - across;
        const int image = at.image * static_cast<int>(gridDim.z) + phase();
        return (image * (out_h >> down) + (at.y >> down)) * (out_w >> across) + (at.x >> across);
    }

    // The tile's first pixel, and what comes next: a tap and a channel, behind the last tap the channels beside.
    struct At {
        Place place;
        int tap_y;
        int tap_x;
        int channel;
    };
    __device__ __forceinline__ At begin(const Place& place, int step) const {
        const int tap = step * DEPTH / channels, taps = filter_h * filter_w;
        if (tap >= taps) return At{place, filter_h, 0, step * DEPTH - taps * channels};
        return At{place, tap / filter_w, tap % filter_w, step * DEPTH % channels};
    }
    __device__ __forceinline__ void load(At& at, unsigned char* stage, Barrier* full) const {
        if (at.tap_y == filter_h) {
            const bool more = at.channel >= channels_beside;
            const TensorMap& map = more ? beside_second : beside;
            const int image = more ? at.place.image % beside_images : at.place.image;
            tensor_load_4d(stage, map, full, at.channel - (more ? channels_beside : 0), at.place.x, at.place.y, image);
            at.channel += DEPTH;
            return;
        }
        const bool more = at.channel >= channels_first;
        const TensorMap& map = more ? second : first;
        const int x = at.place.x * stride + at.tap_x - left + phase() % 2, y = at.place.y * stride + at.tap_y - top + phase() / 2;
        tensor_load_4d(stage, map, full, at.channel - (more ? channels_first : 0), x, y, at.place.image);
        at.channel += DEPTH;
        if (at.channel < channels) return;
        at.channel = 0;
        at.tap_x++;
        if (at.tap_x < filter_w) return;
        at.tap_x = 0;
        at.tap_y++;
    }
};

// ---- kernel template --------------------------------------------------------------------------------------------------------------

template <class T>
DEVICE void conv2d(const Pixels<T>& x, const TensorMap& w, const Split& split, const Epilogue<half>& e, const ChannelMoments& asked,
                   const Steps& steps) {
    product<T>(x, w, split, e, asked, steps, Unseen());
}

// ---- entries ----------------------------------------------------------------------------------------------------------------------

#define CONV2D                                                                                                                         \
    half *y, float *partial, float *blocks, float *moments, int *counters, int piece_rows, half *normal,                    \
        const float *normal_weight, const float *normal_bias, int normal_columns, int normal_group, int normal_silu, float normal_eps, TENSOR_MAP x, TENSOR_MAP x_second, TENSOR_MAP beside,      \
        TENSOR_MAP beside_second, TENSOR_MAP w, const float *bias, const half *channels, const float *row, const half *residual, int m, int n, int tiles_down, int steps,      \
        int part_steps, int channels_first, int channels_both, int channels_beside, int filter_h, int filter_w, int stride, int top,   \
        int left, int out_h, int out_w, int box_columns, int box_rows, int beside_images, int rows_per_image, int channel_rows,        \
        int residual_rows, int activation, int gate

#define OPERAND                                                                                                                        \
    x, x_second, beside, beside_second, channels_first, channels_both, channels_beside, filter_h, filter_w, stride, top, left, out_h,  \
        out_w, box_columns, box_rows, beside_images
#define IN_PLACE InPlace{normal, normal_weight, normal_bias, normal_columns, normal_group, normal_silu, normal_eps}
#define RESULT                                                                                                                         \
    w, Split{partial, counters},                                                                                                       \
        Epilogue<half>{y, bias, channels, row, residual, m, n, rows_per_image, channel_rows, residual_rows, activation, gate},         \
        ChannelMoments{moments, blocks, counters, rows_per_image, piece_rows, IN_PLACE}, Steps{tiles_down, steps, part_steps}

// Groups that multiply, 64 rows of each times so many, columns; stages; blocks of a cluster.
ENTRY_90(384, 1, 2, conv2d_f16_256x160_sm90, CONV2D) { conv2d<Tile<2, 2, 160, 3, 2>>({OPERAND}, RESULT); }
ENTRY_90(384, 1, 2, conv2d_f16_256x128_sm90, CONV2D) { conv2d<Tile<2, 2, 128, 3, 2>>({OPERAND}, RESULT); }
ENTRY_90(384, 1, 2, conv2d_f16_128x160_sm90, CONV2D) { conv2d<Tile<2, 1, 160, 5, 2>>({OPERAND}, RESULT); }
ENTRY_90(384, 1, 2, conv2d_f16_128x128_sm90, CONV2D) { conv2d<Tile<2, 1, 128, 5, 2>>({OPERAND}, RESULT); }
ENTRY_90(256, 1, 2, conv2d_f16_64x160_sm90, CONV2D) { conv2d<Tile<1, 1, 160, 6, 2>>({OPERAND}, RESULT); }
ENTRY_90(256, 2, 2, conv2d_f16_64x80_sm90, CONV2D) { conv2d<Tile<1, 1, 80, 5, 2>>({OPERAND}, RESULT); }
