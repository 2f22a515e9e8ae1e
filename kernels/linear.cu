// Matrix product with a weight, and what is fused after it: linear maps and 1x1 convolutions.
//
//   y[m, o] = epilogue(sum_c x[m, c] w[o, c])        epilogue.cuh has the epilogue
//
// Tensors      x [m, columns_first], and x_second [m, columns_second] whose columns follow (null and 0: there is none);
//              w [n, pitch], its columns beyond those of x zero, its rows alternating value and gate if gated (Layout::Matrix);
//              bias [n] f32; channels, row, residual, y as in epilogue.cuh; partial and
//              counters as in split.cuh, blocks and moments as in channel_moments.cuh, normal_... as in in_place.cuh.
// Arithmetic   f16: products exact, f32 sums by mma.sync in steps of 16 along K; `_half`: sums of 64 columns in halves, then added to f32, as
//              product.cuh says; f32: fused multiply-adds along K.
// Launch       x: tiles of the result, along n first; y: parts of K, each `k_part` columns. 128 threads (f32, and 128x160 and 128x128
//              `_half`: 256), shared memory as src/cuda/product.rs says: (rows + columns) * depth * stages * 2 bytes.
// Requirements `_f16_`: both widths are multiples of 8 (`_any_` takes the others); pitch is a multiple of 64 and at least the width; k_part
//              is a multiple of 64; every size fits in 31 bits. src/cuda/product.rs sees to all of them.
// Cost         2 m n k FLOPs; reads x once per column of tiles and w once per row of tiles, mostly from the second-level cache.
// Measured     not yet run on hardware. Of the code for sm_80, the loop of one stage:
//
//                tile      registers  HMMA  LDSM.x4  LDGSTS.128  others
//                128x160         254    80       18           9      68
//                128x128         254    64       16           8      66
//                128x64          140    32       12           6      62
//                64x160          174    40       14           7      64
//                64x64           107    16        8           4      58
//                16x64            58     8        8           5      69
//
//              of which eleven are run only where one source ends and the next begins. Of the code for sm_89 with sums in halves, whose
//              stages are twice as deep:
//
//                tile      registers  HMMA.F16  LDSM.x4  LDGSTS.128  FADD  others
//                128x160         218        80       28           9    80     175
//                128x128         181        64       24           8    64     156
//                128x64          190        64       24          12    64     164
//                64x64           122        32       16           8    32     123
#include "product_f32.cuh"
#include "rows.cuh"

// ---- device helpers ---------------------------------------------------------------------------------------------------------------

// The operand element by element, for rows that are not made of 16-byte pieces.
template <typename T, int PASSES>
struct RowElements {
    Rows<T> x;
    int row[PASSES];

    __device__ __forceinline__ int column(int k) const { return k; }
    __device__ __forceinline__ float element(int pass, int k) const {
        const size_t at = row[pass];
        if (k < x.columns_first) return to_float(x.first[at * x.columns_first + k]);
        k -= x.columns_first;
        return k < x.columns_second ? to_float(x.second[at * x.columns_second + k]) : 0.0f;
    }
};

// ---- kernel template --------------------------------------------------------------------------------------------------------------

template <class T>
DEVICE void linear(const Split& split, const Rows<half>& x, const half* w, const Epilogue<half>& e, const ChannelMoments& asked, int pitch,
                 int k_part) {
    AlignedRows<T> a = aligned_rows<T>(x, first_row<T>(e.n), static_cast<int>(blockIdx.y) * k_part);
    const int columns = x.columns_first + x.columns_second;
    product<T>(a, w, pitch, columns, columns, k_part, split, e, asked, SameRow());
}

template <class T>
DEVICE void linear_any(const Split& split, const Rows<half>& x, const half* w, const Epilogue<half>& e, const ChannelMoments& asked, int pitch,
                 int k_part) {
    Elements<T, RowElements<half, T::A_PASSES>> a = elements<T, RowElements<half, T::A_PASSES>>(k_part);
    a.source.x = x;
#pragma unroll
    for (int i = 0; i < T::A_PASSES; i++) {
        const int wanted = first_row<T>(e.n) + copied_row<T>(i);
        a.source.row[i] = wanted < x.m ? wanted : x.m - 1;
    }
    product<T>(a, w, pitch, x.columns_first + x.columns_second, 0, k_part, split, e, asked, SameRow());
}

DEVICE void linear_f32(const Rows<float>& x, const float* w, const Epilogue<float>& e, int pitch) {
    RowElements<float, F32_PASSES> a;
    a.x = x;
#pragma unroll
    for (int i = 0; i < F32_PASSES; i++) {
        const int wanted = static_cast<int>(blockIdx.x) / f32_tiles(e.n) * SIDE + f32_row(i);
        a.row[i] = wanted < x.m ? wanted : x.m - 1;
    }
    product_f32(a, w, pitch, x.columns_first + x.columns_second, e, SameRow());
}

// ---- entries ----------------------------------------------------------------------------------------------------------------------

#define LINEAR_F16                                                                                                                     \
    half *y, float *partial, float *blocks, float *moments, int *counters, int piece_rows, half *normal,                    \
        const float *normal_weight, const float *normal_bias, int normal_columns, int normal_group, int normal_silu, float normal_eps, const half *x, const half *x_second, const half *w, const float *bias, const half *channels,              \
        const float *row, const half *residual, int m, int n, int columns_first, int columns_second, int pitch, int k_part,            \
        int rows_per_image, int channel_rows, int residual_rows, int activation, int gate

#define LINEAR_F32                                                                                                                     \
    float *y, const float *x, const float *x_second, const float *w, const float *bias, const float *channels, const float *row,       \
        const float *residual, int m, int n, int columns_first, int columns_second, int pitch, int rows_per_image,                     \
        int channel_rows, int residual_rows, int activation, int gate

#define OPERAND(T) Rows<T>{x, x_second, m, columns_first, columns_second}
#define SPLIT Split{partial, counters}
#define IN_PLACE InPlace{normal, normal_weight, normal_bias, normal_columns, normal_group, normal_silu, normal_eps}
// Behind the counters of tiles are those of pieces.
#define MOMENTS ChannelMoments{moments, blocks, counters + gridDim.x, rows_per_image, piece_rows, IN_PLACE}
#define EPILOGUE(T) Epilogue<T>{y, bias, channels, row, residual, m, n, rows_per_image, channel_rows, residual_rows, activation, gate}

// Rows, columns and depth of the tile; stages; warps along rows and columns.
ENTRY(128, 2, linear_f16_128x160, LINEAR_F16) { linear<Tile<128, 160, 32, 3, 2, 2>>(SPLIT, OPERAND(half), w, EPILOGUE(half), MOMENTS, pitch, k_part); }
ENTRY(128, 2, linear_f16_128x128, LINEAR_F16) { linear<Tile<128, 128, 32, 3, 2, 2>>(SPLIT, OPERAND(half), w, EPILOGUE(half), MOMENTS, pitch, k_part); }
ENTRY(128, 3, linear_f16_128x64, LINEAR_F16) { linear<Tile<128, 64, 32, 3, 2, 2>>(SPLIT, OPERAND(half), w, EPILOGUE(half), MOMENTS, pitch, k_part); }
ENTRY(128, 2, linear_f16_64x160, LINEAR_F16) { linear<Tile<64, 160, 32, 3, 2, 2>>(SPLIT, OPERAND(half), w, EPILOGUE(half), MOMENTS, pitch, k_part); }
ENTRY(128, 4, linear_f16_64x64, LINEAR_F16) { linear<Tile<64, 64, 32, 4, 2, 2>>(SPLIT, OPERAND(half), w, EPILOGUE(half), MOMENTS, pitch, k_part); }
ENTRY(128, 4, linear_f16_16x64, LINEAR_F16) { linear<Tile<16, 64, 64, 4, 1, 4>>(SPLIT, OPERAND(half), w, EPILOGUE(half), MOMENTS, pitch, k_part); }
// The same with the sums of 64 columns in halves, for consumer GPUs.
ENTRY(256, 1, linear_f16_128x160_half, LINEAR_F16) { linear<Tile<128, 160, 64, 2, 4, 2, true>>(SPLIT, OPERAND(half), w, EPILOGUE(half), MOMENTS, pitch, k_part); }
ENTRY(256, 1, linear_f16_128x128_half, LINEAR_F16) { linear<Tile<128, 128, 64, 2, 2, 4, true>>(SPLIT, OPERAND(half), w, EPILOGUE(half), MOMENTS, pitch, k_part); }
ENTRY(128, 2, linear_f16_128x64_half, LINEAR_F16) { linear<Tile<128, 64, 64, 2, 2, 2, true>>(SPLIT, OPERAND(half), w, EPILOGUE(half), MOMENTS, pitch, k_part); }
ENTRY(128, 3, linear_f16_64x64_half, LINEAR_F16) { linear<Tile<64, 64, 64, 2, 2, 2, true>>(SPLIT, OPERAND(half), w, EPILOGUE(half), MOMENTS, pitch, k_part); }
ENTRY(128, 4, linear_any_f16_64x64, LINEAR_F16) { linear_any<Tile<64, 64, 32, 4, 2, 2>>(SPLIT, OPERAND(half), w, EPILOGUE(half), MOMENTS, pitch, k_part); }
ENTRY(256, 2, linear_f32_64x64, LINEAR_F32) {
    linear_f32(Rows<float>{x, x_second, m, columns_first, columns_second}, w,
               Epilogue<float>{y, bias, channels, row, residual, m, n, rows_per_image, channel_rows, residual_rows, activation, gate}, pitch);
}
