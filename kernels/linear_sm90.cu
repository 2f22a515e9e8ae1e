// Matrix product with a weight on Hopper GPUs, as linear.cu: linear maps and 1x1 convolutions.
//
//   y[m, o] = epilogue(sum_c x[m, c] w[o, c])        epilogue.cuh has the epilogue
//
// Tensors      x [m, columns_first], and x_second [m, others] whose columns follow (x again: there is none), by maps with boxes of 64 columns and
//              a tile's rows; w [n, pitch], by a map with boxes of 64 columns and a block's share of a tile's columns, its own columns beyond
//              those of x zero, its rows alternating value and gate if gated (Layout::Matrix); bias [n] f32; channels, row, residual, y as in
//              epilogue.cuh; partial and counters as in split.cuh, blocks and moments as in channel_moments.cuh,
//              normal_... as in in_place.cuh. All maps have swizzles of 128 bytes.
// Arithmetic   products exact, f32 sums by wgmma in steps of 16 along K.
// Launch       x: clusters of two blocks, each of which walks over tiles of the result; y: parts of K, each `part_steps` steps of 64 columns of all
//              `steps`. A tile's number of rows of tiles is `tiles_down`. Threads and shared memory: product_sm90.cuh, src/cuda/product/sm90.rs.
// Requirements widths are multiples of 8, with two sources the first of 64; every size fits in 31 bits. src/cuda/product/sm90.rs sees to all of them.
// Cost         2 m n k FLOPs; reads x once per column of tiles and w once per pair of rows of tiles, mostly from the second-level cache.
// Measured     not yet run on hardware. A stage is four (two fragments: eight) HGMMA and some forty other instructions of a warp, most of them
//              of the uniform path: two barriers, the stage's descriptors and its number.
#include "rows_sm90.cuh"

// ---- kernel template --------------------------------------------------------------------------------------------------------------

template <class T>
DEVICE void linear(const Rows<T>& x, const TensorMap& w, const Split& split, const Epilogue<half>& e, const ChannelMoments& asked,
                   const Steps& steps) {
    product<T>(x, w, split, e, asked, steps, Unseen());
}

// ---- entries ----------------------------------------------------------------------------------------------------------------------

#define LINEAR                                                                                                                         \
    half *y, float *partial, float *blocks, float *moments, int *counters, int piece_rows, half *normal,                    \
        const float *normal_weight, const float *normal_bias, int normal_columns, int normal_group, int normal_silu, float normal_eps, TENSOR_MAP x, TENSOR_MAP x_second, TENSOR_MAP w,           \
        const float *bias, const half *channels, const float *row, const half *residual, int m, int n, int tiles_down, int steps, int part_steps, int columns_first,            \
        int rows_per_image, int channel_rows, int residual_rows, int activation, int gate

#define OPERAND x, x_second, columns_first
#define IN_PLACE InPlace{normal, normal_weight, normal_bias, normal_columns, normal_group, normal_silu, normal_eps}
#define RESULT                                                                                                                         \
    w, Split{partial, counters},                                                                                                       \
        Epilogue<half>{y, bias, channels, row, residual, m, n, rows_per_image, channel_rows, residual_rows, activation, gate},         \
        ChannelMoments{moments, blocks, counters, rows_per_image, piece_rows, IN_PLACE}, Steps{tiles_down, steps, part_steps}

// Groups that multiply, 64 rows of each times so many, columns; stages; blocks of a cluster.
ENTRY_90(384, 1, 2, linear_f16_256x160_sm90, LINEAR) { linear<Tile<2, 2, 160, 3, 2>>({OPERAND}, RESULT); }
ENTRY_90(384, 1, 2, linear_f16_256x128_sm90, LINEAR) { linear<Tile<2, 2, 128, 3, 2>>({OPERAND}, RESULT); }
ENTRY_90(384, 1, 2, linear_f16_128x160_sm90, LINEAR) { linear<Tile<2, 1, 160, 5, 2>>({OPERAND}, RESULT); }
ENTRY_90(384, 1, 2, linear_f16_128x128_sm90, LINEAR) { linear<Tile<2, 1, 128, 5, 2>>({OPERAND}, RESULT); }
ENTRY_90(256, 1, 2, linear_f16_64x160_sm90, LINEAR) { linear<Tile<1, 1, 160, 6, 2>>({OPERAND}, RESULT); }
ENTRY_90(256, 2, 2, linear_f16_64x80_sm90, LINEAR) { linear<Tile<1, 1, 80, 5, 2>>({OPERAND}, RESULT); }
