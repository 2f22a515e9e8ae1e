// Normalisation over channels and the matrix product behind it as one: layer_norm.cu, then linear.cu, and no normalised row is stored.
//
//   y[m, o] = epilogue(sum_c ((x[m, c] - mean[m]) scale[m] factor[c] + addend[c]) v[o, c] + b[o])
//           = epilogue(scale[m] (sum_c x[m, c] w[o, c] - mean[m] sums[o]) + bias[o])
//
// with w[o, c] = v[o, c] factor[c], sums[o] those of the rows of w, and bias[o] = b[o] + sum_c addend[c] v[o, c], which packing makes
// (src/cuda/pack.rs). So only the mean of a row and its deviation are left: each thread sums its share of a row while the stage is there.
//
// Tensors      x [m, columns]; w [n, pitch], its columns beyond those of x zero, its rows alternating value and gate if gated (Layout::Scaled);
//              sums [n] f32, of the rows of w as rounded, so that a mean far from zero costs nothing (Layout::ScaledSums);
//              bias [n] f32 (Layout::Addends); channels, row, residual, y as in epilogue.cuh.
// Arithmetic   products as in linear.cu, `_half` of the rows as they are. The sums of a row and of its squares are f32 and less the row's first
//              element; of every 32 columns the first and the second 16 are summed apart, in every tile, so that the bits are no tile's.
// Launch       x: tiles of the result, along n first. Threads and shared memory as in linear.cu.
// Requirements columns is a multiple of 8, pitch one of 64 and at least that; every size fits in 31 bits. src/cuda/linear.rs sees to all of them.
// Cost         2 m n columns FLOPs, and 4 m columns for each column of tiles; memory as linear.cu.
// Measured     not yet run on hardware. Of the code for sm_80, the loop of one stage:
//
//                tile      registers  HMMA  LDSM.x4  LDGSTS.128  LDS.128  FADD, FFMA  others
//                128x160         241    80       18           9        4          96     109
//                128x128         223    64       16           8        4          96     107
//                128x64          147    32       12           6        4          96     103
//                64x160          175    40       14           7        2          48      85
//                64x64            96    16        8           4        2          48      79
//
//              and of the code for sm_89 with sums in halves, whose stages are twice as deep:
//
//                tile      registers  HMMA.F16  LDSM.x4  LDGSTS.128  LDS.128  FADD, FFMA  others
//                128x160         226        80       28           9        4         176     208
//                128x128         186        64       24           8        4         160     195
//                128x64          200        64       24          12        8         256     242
//                64x64           128        32       16           8        4         128     158
#include "moments.cuh"
#include "rows.cuh"

// ---- device helpers ---------------------------------------------------------------------------------------------------------------

// Rows with this thread's share of one of them: all of it, or every second half of 32 columns.
template <class T>
struct NormalisedRows {
    static constexpr int SHARES = T::THREADS / T::BM, HALVES = 2 / SHARES;
    AlignedRows<T> rows;
    int left;
    float shift;
    float sum[HALVES];
    float squares[HALVES];
    static_assert(T::BK % 32 == 0 && SHARES * HALVES == 2, "32 columns are two halves, of one thread or of two");
};

template <class T>
DEVICE int row_of_share() { return static_cast<int>(threadIdx.x) / NormalisedRows<T>::SHARES; }

template <class T>
DEVICE NormalisedRows<T> normalised_rows(const Rows<half>& x, int first) {
    NormalisedRows<T> a;
    a.rows = aligned_rows<T>(x, first, 0);
    a.left = x.columns_first;
    const int wanted = first + row_of_share<T>();
    a.shift = to_float(x.first[static_cast<size_t>(wanted < x.m ? wanted : x.m - 1) * x.columns_first]);
#pragma unroll
    for (int half = 0; half < NormalisedRows<T>::HALVES; half++) a.sum[half] = a.squares[half] = 0.0f;
    return a;
}

template <class T>
DEVICE void copy_rows(NormalisedRows<T>& a, half* stage) { copy_rows(a.rows, stage); }

template <class T>
DEVICE void look_at(NormalisedRows<T>& a, const half* stage) {
    constexpr int SHARES = NormalisedRows<T>::SHARES;
#pragma unroll
    for (int i = 0; i < NormalisedRows<T>::HALVES * T::BK / 16; i++) {
        constexpr int OF_32 = NormalisedRows<T>::HALVES * 2;
        const int chunk = i / OF_32 * (32 / CHUNK) + static_cast<int>(threadIdx.x) % SHARES * 2 + i % OF_32, half = i % OF_32 / 2;
        if (chunk * CHUNK >= a.left) continue;
        float x[CHUNK];
        widen(load_16(stage + place<T::BK>(row_of_share<T>(), chunk)), x);
#pragma unroll
        for (int e = 0; e < CHUNK; e++) {
            const float distance = x[e] - a.shift;
            a.sum[half] += distance;
            a.squares[half] = fmaf(distance, distance, a.squares[half]);
        }
    }
    a.left -= T::BK;
}

// What becomes of the thread's row.
template <class T>
DEVICE RowScale row_scale(const NormalisedRows<T>& a, float eps) {
    const bool alone = NormalisedRows<T>::HALVES == 2;
    const float sum = a.sum[0] + (alone ? a.sum[NormalisedRows<T>::HALVES - 1] : shuffle_xor(a.sum[0], 1));
    const float squares = a.squares[0] + (alone ? a.squares[NormalisedRows<T>::HALVES - 1] : shuffle_xor(a.squares[0], 1));
    const int columns = a.rows.x.columns_first;
    const Moments moments = moments_of(ShiftedSums{a.shift, sum, squares}, columns);
    return {moments.mean, 1.0f / sqrtf(moments.squares / static_cast<float>(columns) + eps)};
}

// ---- kernel template --------------------------------------------------------------------------------------------------------------

template <class T>
DEVICE void linear_norm(const Rows<half>& x, const half* w, const float* sums, const Epilogue<half>& e, int pitch, float eps) {
    wait_for_previous_grid();
    let_next_grid_start();
    SHARED_DYNAMIC(shared);
    half* ring = reinterpret_cast<half*>(shared);
    float sum[T::ROWS][T::COLUMNS][4];
    const int first = first_row<T>(e.n);
    NormalisedRows<T> a = normalised_rows<T>(x, first);
    Weights<T> loader = weights<T>(w, pitch, e.n, first_column<T>(e.n), 0);
    const int steps = (x.columns_first + T::BK - 1) / T::BK;
    multiply<T>(sum, a, loader, steps, steps, ring);
    // Behind the rows that the epilogue lays out.
    constexpr int LAID_OUT = T::THREADS / WARP * 16 * T::PITCH;
    static_assert((LAID_OUT + 2 * T::BM) * 4 <= T::STAGES * T::STAGE * 2, "the rows' scales fit in the ring");
    RowScale* scales = reinterpret_cast<RowScale*>(reinterpret_cast<float*>(ring) + LAID_OUT);
    const RowScale own = row_scale<T>(a, eps);
    if (static_cast<int>(threadIdx.x) % NormalisedRows<T>::SHARES == 0) scales[row_of_share<T>()] = own;
    sync_block();
    each_eight_columns<T>(sum, first, first_column<T>(e.n), ring, [&](int row, int column, float(&v)[COLUMNS_TOGETHER]) {
        normalise_columns(scales[row - first], sums, e.n, column, v);
        finish(e, row, column, v);
    });
}

// ---- entries ----------------------------------------------------------------------------------------------------------------------

#define LINEAR_NORM_F16                                                                                                                \
    half *y, const half *x, const half *w, const float *bias, const float *sums, const half *channels, const float *row,               \
        const half *residual, int m, int n, int columns, int pitch, int rows_per_image, int channel_rows, int residual_rows,           \
        int activation, int gate, float eps

#define NORMALISED Rows<half>{x, nullptr, m, columns, 0}
#define EPILOGUE Epilogue<half>{y, bias, channels, row, residual, m, n, rows_per_image, channel_rows, residual_rows, activation, gate}

// Rows, columns and depth of the tile; stages; warps along rows and columns.
ENTRY(128, 2, linear_norm_f16_128x160, LINEAR_NORM_F16) { linear_norm<Tile<128, 160, 32, 3, 2, 2>>(NORMALISED, w, sums, EPILOGUE, pitch, eps); }
ENTRY(128, 2, linear_norm_f16_128x128, LINEAR_NORM_F16) { linear_norm<Tile<128, 128, 32, 3, 2, 2>>(NORMALISED, w, sums, EPILOGUE, pitch, eps); }
ENTRY(128, 3, linear_norm_f16_128x64, LINEAR_NORM_F16) { linear_norm<Tile<128, 64, 32, 3, 2, 2>>(NORMALISED, w, sums, EPILOGUE, pitch, eps); }
ENTRY(128, 2, linear_norm_f16_64x160, LINEAR_NORM_F16) { linear_norm<Tile<64, 160, 32, 3, 2, 2>>(NORMALISED, w, sums, EPILOGUE, pitch, eps); }
ENTRY(128, 4, linear_norm_f16_64x64, LINEAR_NORM_F16) { linear_norm<Tile<64, 64, 32, 4, 2, 2>>(NORMALISED, w, sums, EPILOGUE, pitch, eps); }
// The same with the sums of 64 columns in halves, for consumer GPUs.
ENTRY(256, 1, linear_norm_f16_128x160_half, LINEAR_NORM_F16) { linear_norm<Tile<128, 160, 64, 2, 4, 2, true>>(NORMALISED, w, sums, EPILOGUE, pitch, eps); }
ENTRY(256, 1, linear_norm_f16_128x128_half, LINEAR_NORM_F16) { linear_norm<Tile<128, 128, 64, 2, 2, 4, true>>(NORMALISED, w, sums, EPILOGUE, pitch, eps); }
ENTRY(128, 2, linear_norm_f16_128x64_half, LINEAR_NORM_F16) { linear_norm<Tile<128, 64, 64, 2, 2, 2, true>>(NORMALISED, w, sums, EPILOGUE, pitch, eps); }
ENTRY(128, 3, linear_norm_f16_64x64_half, LINEAR_NORM_F16) { linear_norm<Tile<64, 64, 64, 2, 2, 2, true>>(NORMALISED, w, sums, EPILOGUE, pitch, eps); }
