// Normalisation over channels and the matrix product behind it on Hopper GPUs, as linear_norm.cu.
//
//   y[m, o] = epilogue(scale[m] (sum_c x[m, c] w[o, c] - mean[m] sums[o]) + bias[o])
//
// The threads that wait for the products sum their share of a row meanwhile, where the stage lies.
//
// Tensors      x [m, columns] and w [n, pitch] by maps as in linear_sm90.cu (Layout::Scaled); sums [n] f32 (Layout::ScaledSums) and bias [n] f32
//              (Layout::Addends) as in linear_norm.cu; channels, row, residual, y as in epilogue.cuh.
// Arithmetic   products as in linear_sm90.cu, sums of rows as in linear_norm.cu.
// Launch       as linear_sm90.cu, with 8 bytes of shared memory more for each of a tile's rows; K is not split.
// Requirements columns is a multiple of 8; every size fits in 31 bits. src/cuda/product/sm90.rs sees to both.
// Cost         2 m n columns FLOPs, and 4 m columns for each column of tiles, beside them; memory as linear_sm90.cu.
// Measured     not yet run on hardware.
#include "moments.cuh"
#include "rows_sm90.cuh"

// ---- device helpers ---------------------------------------------------------------------------------------------------------------

// A thread's share of one row: all of it, or of every 32 columns the first or the second 16.
template <class T>
struct NormalisedRows {
    static constexpr int SHARES = WARPGROUP / T::GROUP_ROWS, HALVES = 2 / SHARES;
    static_assert(SHARES * HALVES == 2, "a row is of one thread or of two");
    const float* sums;
    int n;
    int columns;
    float eps;
    RowScale* scales;    // of the tile's rows, in shared memory
    float shift;
    float sum[HALVES];
    float squares[HALVES];

    __device__ __forceinline__ static int row() { return static_cast<int>(threadIdx.x) % T::GROUP_ROWS; }
    __device__ __forceinline__ static int share() { return static_cast<int>(threadIdx.x) % WARPGROUP / T::GROUP_ROWS; }

    // Eight threads read one chunk of eight rows: the swizzle has them in different banks.
    __device__ __forceinline__ void look(const unsigned char* stage, int step) {
        const unsigned char* const at = stage + row() * DEPTH_BYTES;
        const int turn = row() % 8, left = columns - step * DEPTH;
        if (step == 0) {
            shift = to_float(*reinterpret_cast<const half*>(at + turn * 16));
#pragma unroll
            for (int i = 0; i < HALVES; i++) sum[i] = squares[i] = 0.0f;
        }
#pragma unroll
        for (int i = 0; i < 4 * HALVES; i++) {
            const int half_of = i / 2 % HALVES, chunk = SHARES == 1 ? i : share() * 2 + i / 2 * 4 + i % 2;
            if (chunk * 8 >= left) continue;
            float x[8];
            widen(load_16(at + (chunk ^ turn) * 16), x);
#pragma unroll
            for (int e = 0; e < 8; e++) {
                const float distance = x[e] - shift;
                sum[half_of] += distance;
                squares[half_of] = fmaf(distance, distance, squares[half_of]);
            }
        }
        // The next copy to the stage comes by the other proxy.
        fence_async_shared();
    }

    // The second share of a row goes to the thread that has the first, in the place of what becomes of the row.
    __device__ __forceinline__ void end(unsigned char* shared) {
        scales = reinterpret_cast<RowScale*>(shared + T::LAST + 16);
        RowScale* const own = scales + warpgroup_index() * T::GROUP_ROWS + row();
        sync_group();
        if (share() == 1) *own = RowScale{sum[0], squares[0]};
        sync_group();
        if (share() == 0) {
            const RowScale other = SHARES == 1 ? RowScale{sum[HALVES - 1], squares[HALVES - 1]} : *own;
            const Moments moments = moments_of(ShiftedSums{shift, sum[0] + other.mean, squares[0] + other.scale}, columns);
            *own = RowScale{moments.mean, 1.0f / sqrtf(moments.squares / static_cast<float>(columns) + eps)};
        }
        sync_group();
    }

    __device__ __forceinline__ void change(int tile_row, int column, float (&v)[COLUMNS_TOGETHER]) const {
        normalise_columns(scales[tile_row], sums, n, column, v);
    }
};

// ---- kernel template --------------------------------------------------------------------------------------------------------------

template <class T>
DEVICE void linear_norm(const Rows<T>& x, const TensorMap& w, const float* sums, const Epilogue<half>& e, const Steps& steps, int columns,
                        float eps) {
    NormalisedRows<T> seen;
    seen.sums = sums;
    seen.n = e.n;
    seen.columns = columns;
    seen.eps = eps;
    product<T>(x, w, Split{nullptr, nullptr}, e, ChannelMoments{nullptr, nullptr, nullptr, 1}, steps, seen);
}

// ---- entries ----------------------------------------------------------------------------------------------------------------------

#define LINEAR_NORM                                                                                                                    \
    half *y, TENSOR_MAP x, TENSOR_MAP w, const float *bias, const float *sums, const half *channels, const float *row,                 \
        const half *residual, int m, int n, int tiles_down, int steps, int columns, int rows_per_image, int channel_rows, int residual_rows, \
        int activation, int gate, float eps

#define OPERAND x, x, columns
#define RESULT                                                                                                                         \
    w, sums, Epilogue<half>{y, bias, channels, row, residual, m, n, rows_per_image, channel_rows, residual_rows, activation, gate},    \
        Steps{tiles_down, steps, steps}, columns, eps

// Groups that multiply, 64 rows of each times so many, columns; stages; blocks of a cluster.
ENTRY_90(384, 1, 2, linear_norm_f16_256x160_sm90, LINEAR_NORM) { linear_norm<Tile<2, 2, 160, 3, 2>>({OPERAND}, RESULT); }
ENTRY_90(384, 1, 2, linear_norm_f16_256x128_sm90, LINEAR_NORM) { linear_norm<Tile<2, 2, 128, 3, 2>>({OPERAND}, RESULT); }
ENTRY_90(384, 1, 2, linear_norm_f16_128x160_sm90, LINEAR_NORM) { linear_norm<Tile<2, 1, 160, 5, 2>>({OPERAND}, RESULT); }
ENTRY_90(384, 1, 2, linear_norm_f16_128x128_sm90, LINEAR_NORM) { linear_norm<Tile<2, 1, 128, 5, 2>>({OPERAND}, RESULT); }
ENTRY_90(256, 1, 2, linear_norm_f16_64x160_sm90, LINEAR_NORM) { linear_norm<Tile<1, 1, 160, 6, 2>>({OPERAND}, RESULT); }
ENTRY_90(256, 2, 2, linear_norm_f16_64x80_sm90, LINEAR_NORM) { linear_norm<Tile<1, 1, 80, 5, 2>>({OPERAND}, RESULT); }
