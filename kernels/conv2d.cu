// Two-dimensional convolution as a product whose first matrix exists only in shared memory (implicit GEMM), and what is fused after it.
//
//   y[n, i, j, o] = epilogue(sum_{r, s, c} x[n, i stride + r - top, j stride + s - left, c] w[o, r, s, c] + sum_c beside[n, i, j, c] v[o, c])
//
// where the second sum is a 1x1 convolution of another image, if there is one, and x is zero outside the image and, if `upsample`, twice as
// large by repetition: pixel (i, j) is the stored (i / 2, j / 2).
//
// In phases (grid z of 4), a 3x3 filter over an image upsampled by two is four filters of 2x2 over the image: phase 2 a + b makes the results
// of rows 2 i + a and columns 2 j + b, with weights of its own. out_h and out_w are then those of one phase, and m is of all four; nothing is beside.
//
// Tensors      x [images, h, width, channels_first], and x_second of the same pixels whose channels follow (null and 0: there is none);
//              beside [m, channels_beside], and beside_second [beside_rows, ..] whose channels follow, read again from its first row on (null, 0
//              and 1: there is none);
//              w [phases n, pitch], along a row taps and within a tap channels, then v, then zeros (Layout::Matrix, Layout::Beside,
//              Layout::Phases);
//              bias [n] f32; channels, row, residual, y [m = images out_h out_w, n] as in epilogue.cuh; the others as in linear.cu.
// Arithmetic   as linear.cu: K runs over taps, and within a tap over channels, then over the channels beside. `_half`: of whole stages of taps the
//              sums are in halves, as product.cuh says; those of channels beside are f32.
// Launch       as linear.cu; grid x covers one phase, and grid z the phases.
// Requirements as linear.cu, of both numbers of channels; where the rows of beside_second repeat, they are whole tiles (`_any_` and f32 take others).
//              Any filter, stride and padding; what lies below and to the right of the image follows from out_h and out_w.
// Cost         2 m n k FLOPs with k = filter_h filter_w channels; x is read once per tap and column of tiles, from the second-level cache.
// Measured     not yet run on hardware. Of the code for sm_80, the loop of one stage:
//
//                tile      registers  HMMA  LDSM.x4  LDGSTS.128  others
//                128x160         254    80       18           9     193
//                128x128         254    64       16           8     193
//                128x64          154    32       12           6     189
//                64x160          177    40       14           7     162
//                64x64           107    16        8           4     130
//                16x64            66     8        8           5     121
//
//              of which some 120 (with tiles of 64 rows or fewer: 70) are run only where a tap or a source ends and the next begins: with
//              320 channels in every tenth stage. Of the code for sm_89 with sums in halves, whose stages are twice as deep and whose
//              loop holds both ways to multiply one:
//
//                tile      registers  HMMA.F16  HMMA.F32  LDSM.x4  LDGSTS.128  FADD  others
//                128x160         228        80        80       56           9    80     357
//                128x128         191        64        64       48           8    64     334
//                128x64          213        64        64       48          12    64     448
//                64x64           132        32        32       32           8    32     302
#include "product.cuh"
#include "product_f32.cuh"

// ---- device helpers ---------------------------------------------------------------------------------------------------------------

// The image and the filter.
template <typename T>
struct Image {
    const T* first;     // [images, h, w, channels_first]
    const T* second;    // [images, h, w, channels_second]
    int h;
    int w;
    int channels_first;
    int channels_second;
    int filter_h;
    int filter_w;
    int stride;
    int top;
    int left;
    int upsample;    // 1: the filter slides over the image upsampled by two
    int out_h;
    int out_w;
    int pixels;    // of all results, in all phases
    const T* beside_first;    // [pixels, channels_beside_first]
    const T* beside_second;    // [beside_rows, channels_beside_second], repeated
    int channels_beside_first;
    int channels_beside_second;
    int beside_rows;
};

// As this block's phase sees it; the image itself where there is only one.
template <typename T>
DEVICE Image<T> own_phase(Image<T> in) {
    const int phase = static_cast<int>(blockIdx.z);
    in.top -= phase / 2;
    in.left -= phase % 2;
    return in;
}
template <typename T>
DEVICE const T* own_weights(const T* w, int n, int pitch) { return w + static_cast<size_t>(blockIdx.z) * n * pitch; }

// The row of the result that a row of this block's phase is.
struct PhaseRow {
    int out_w;
    bool whole;    // there is one phase

    __device__ __forceinline__ int operator()(int row) const {
        if (whole) return row;
        const unsigned phase = blockIdx.z, column = static_cast<unsigned>(row) % static_cast<unsigned>(out_w);
        return 4 * row - 2 * static_cast<int>(column) + static_cast<int>(phase / 2 * 2 * out_w + phase % 2);
    }
};

// Where the filter's first tap falls for one result: a line and a column of the (upsampled) source, and the index of its image's first line
// among all that are stored.
struct Pixel {
    int lines;
    int y;
    int x;
};

template <typename T>
DEVICE Pixel pixel(const Image<T>& in, int row) {
    // No filter is large enough to reach an image from there.
    if (row >= in.pixels / static_cast<int>(gridDim.z)) return Pixel{0, -(1 << 24), 0};
    const int line = row / in.out_w;
    return Pixel{line / in.out_h * in.h, line % in.out_h * in.stride - in.top, row % in.out_w * in.stride - in.left};
}

// A column of the product: a filter tap and a channel. Behind the last tap, on the line below the filter, are the channels beside.
struct Tap {
    int y;
    int x;
    int channel;
};

template <typename T>
DEVICE Tap tap(const Image<T>& in, int k) {
    const int channels = in.channels_first + in.channels_second, index = k / channels;
    const int behind = k - in.filter_h * in.filter_w * channels;
    return behind < 0 ? Tap{index / in.filter_w, index % in.filter_w, k % channels} : Tap{in.filter_h, 0, behind};
}

// The index of the source pixel under a tap, or -1 in the padding and above the last row.
template <typename T>
DEVICE int source(const Image<T>& in, const Pixel& p, const Tap& t) {
    const int y = p.y + t.y, x = p.x + t.x;
    // Compared as unsigned, a negative number is a large one.
    const bool inside = (static_cast<unsigned>(y) < static_cast<unsigned>(in.h << in.upsample)) &
                        (static_cast<unsigned>(x) < static_cast<unsigned>(in.w << in.upsample));
    return inside ? (p.lines + (y >> in.upsample)) * in.w + (x >> in.upsample) : -1;
}

// This thread's share of the copies of A: result pixels `PASS` apart, one chunk of channels each.
template <class T>
struct AlignedPixels {
    Image<half> in;
    Pixel pixel[T::A_PASSES];
    int row;
    int row_of_second;    // beside: no tile's rows begin again
    Tap tap;
    const half* at;
    int limit;
    int offset[T::A_PASSES];
    int inside;
    int to;
};

// Turns to the tap and the tensor that hold column `tap.channel`.
template <class T>
DEVICE void turn(AlignedPixels<T>& a) {
    const int channels = a.in.channels_first + a.in.channels_second;
    while (a.tap.channel >= channels && a.tap.y < a.in.filter_h) {
        a.tap.channel -= channels;
        if (++a.tap.x == a.in.filter_w) {
            a.tap.x = 0;
            a.tap.y++;
        }
    }
    const bool beside = a.tap.y == a.in.filter_h;
    const int first = beside ? a.in.channels_beside_first : a.in.channels_first;
    const int all = beside ? first + a.in.channels_beside_second : channels;
    const bool second = a.tap.channel >= first;
    const int stored = second ? all - first : first;
    const half* const from = beside ? second ? a.in.beside_second : a.in.beside_first : second ? a.in.second : a.in.first;
    a.at = from + (second ? a.tap.channel - first : a.tap.channel);
    a.limit = second ? all : first;
    const int base = second ? a.row_of_second : a.row;
    a.inside = 0;
#pragma unroll
    for (int i = 0; i < T::A_PASSES; i++) {
        const int row = i * T::PASS, own = (a.row + row < a.in.pixels) & (a.tap.channel < all) ? base + row : -1;
        const int index = beside ? own : source(a.in, a.pixel[i], a.tap);
        a.offset[i] = index < 0 ? 0 : index * stored;
        a.inside |= (index < 0 ? 0 : 1) << i;
    }
}

template <class T>
DEVICE AlignedPixels<T> aligned_pixels(const Image<half>& in, int first, int k) {
    AlignedPixels<T> a;
    const int row = static_cast<int>(threadIdx.x) / T::CHUNKS, chunk = static_cast<int>(threadIdx.x) % T::CHUNKS;
    a.in = in;
#pragma unroll
    for (int i = 0; i < T::A_PASSES; i++) a.pixel[i] = pixel(in, first + row + i * T::PASS);
    a.row = first + row;
    a.row_of_second = first % in.beside_rows + row;
    a.tap = tap(in, k + chunk * CHUNK);
    a.to = place<T::BK>(row, chunk);
    turn(a);
    return a;
}

template <class T>
DEVICE void copy_rows(AlignedPixels<T>& a, half* stage) {
#pragma unroll
    for (int i = 0; i < T::A_PASSES; i++) {
        copy_async_16(stage + a.to + i * T::PASS * T::BK, a.at + a.offset[i], (a.inside >> i & 1) != 0);
    }
    a.tap.channel += T::BK;
    a.at += T::BK;
    if (a.tap.channel >= a.limit) turn(a);
}

// The image element by element, for channels that are not made of 16-byte pieces.
template <typename T, int PASSES>
struct PixelElements {
    Image<T> in;
    Pixel pixel[PASSES];
    int row[PASSES];
    int row_of_second[PASSES];    // beside

    __device__ __forceinline__ Tap column(int k) const { return tap(in, k); }
    __device__ __forceinline__ void set(int pass, int wanted) {
        pixel[pass] = ::pixel(in, wanted);
        row[pass] = wanted;
        row_of_second[pass] = wanted % in.beside_rows;
    }
    __device__ __forceinline__ float element(int pass, const Tap& t) const {
        if (t.y >= in.filter_h) return row[pass] < in.pixels ? beside(pass, t.channel) : 0.0f;
        const int index = source(in, pixel[pass], t);
        if (index < 0) return 0.0f;
        if (t.channel < in.channels_first) return to_float(in.first[static_cast<size_t>(index) * in.channels_first + t.channel]);
        return to_float(in.second[static_cast<size_t>(index) * in.channels_second + t.channel - in.channels_first]);
    }
    __device__ __forceinline__ float beside(int pass, int channel) const {
        const size_t first = row[pass], second = row_of_second[pass];
        if (channel < in.channels_beside_first) return to_float(in.beside_first[first * in.channels_beside_first + channel]);
        channel -= in.channels_beside_first;
        return channel < in.channels_beside_second ? to_float(in.beside_second[second * in.channels_beside_second + channel]) : 0.0f;
    }
};

// ---- kernel template --------------------------------------------------------------------------------------------------------------

// Columns of the product: those of taps, whose values may be known to be normalised, and all.
template <typename T>
DEVICE int bounded_columns(const Image<T>& in) { return in.filter_h * in.filter_w * (in.channels_first + in.channels_second); }
template <typename T>
DEVICE int columns(const Image<T>& in) { return bounded_columns(in) + in.channels_beside_first + in.channels_beside_second; }

template <class T>
DEVICE void conv2d(const Split& split, const Image<half>& image, const half* w, const Epilogue<half>& e, const ChannelMoments& asked,
                 int pitch, int k_part) {
    const Image<half> in = own_phase(image);
    AlignedPixels<T> a = aligned_pixels<T>(in, first_row<T>(e.n), static_cast<int>(blockIdx.y) * k_part);
    const PhaseRow rows{in.out_w, in.out_h * in.out_w == e.rows_per_image};
    product<T>(a, own_weights(w, e.n, pitch), pitch, columns(in), bounded_columns(in), k_part, split, e, asked, rows);
}

template <class T>
DEVICE void conv2d_any(const Split& split, const Image<half>& image, const half* w, const Epilogue<half>& e, const ChannelMoments& asked,
                 int pitch, int k_part) {
    const Image<half> in = own_phase(image);
    Elements<T, PixelElements<half, T::A_PASSES>> a = elements<T, PixelElements<half, T::A_PASSES>>(k_part);
    a.source.in = in;
#pragma unroll
    for (int i = 0; i < T::A_PASSES; i++) a.source.set(i, first_row<T>(e.n) + copied_row<T>(i));
    const PhaseRow rows{in.out_w, in.out_h * in.out_w == e.rows_per_image};
    product<T>(a, own_weights(w, e.n, pitch), pitch, columns(in), 0, k_part, split, e, asked, rows);
}

DEVICE void conv2d_f32(const Image<float>& image, const float* w, const Epilogue<float>& e, int pitch) {
    const Image<float> in = own_phase(image);
    PixelElements<float, F32_PASSES> a;
    a.in = in;
#pragma unroll
    for (int i = 0; i < F32_PASSES; i++) a.set(i, static_cast<int>(blockIdx.x) / f32_tiles(e.n) * SIDE + f32_row(i));
    product_f32(a, own_weights(w, e.n, pitch), pitch, columns(in), e, PhaseRow{in.out_w, in.out_h * in.out_w == e.rows_per_image});
}

// ---- entries ----------------------------------------------------------------------------------------------------------------------

#define CONV2D_F16                                                                                                                     \
    half *y, float *partial, float *blocks, float *moments, int *counters, int piece_rows, half *normal,                    \
        const float *normal_weight, const float *normal_bias, int normal_columns, int normal_group, int normal_silu, float normal_eps, const half *x, const half *x_second, const half *beside, const half *beside_second, const half *w,        \
        const float *bias, const half *channels, const float *row, const half *residual, int m, int n, int h, int width,               \
        int channels_first, int channels_second, int channels_beside, int channels_beside_second, int beside_rows, int out_h,         \
        int out_w, int filter_h, int filter_w, int stride, int top, int left, int upsample, int pitch, int k_part, int rows_per_image, \
        int channel_rows, int residual_rows, int activation, int gate

#define CONV2D_F32                                                                                                                     \
    float *y, const float *x, const float *x_second, const float *beside, const float *beside_second, const float *w,                  \
        const float *bias, const float *channels, const float *row, const float *residual, int m, int n, int h, int width,             \
        int channels_first, int channels_second, int channels_beside, int channels_beside_second, int beside_rows, int out_h,         \
        int out_w, int filter_h, int filter_w, int stride, int top, int left, int upsample, int pitch, int rows_per_image,             \
        int channel_rows, int residual_rows, int activation, int gate

#define IMAGE(T)                                                                                                                       \
    Image<T> {                                                                                                                         \
        x, x_second, h, width, channels_first, channels_second, filter_h, filter_w, stride, top, left, upsample, out_h, out_w, m,      \
            beside, beside_second, channels_beside, channels_beside_second, beside_rows                                                \
    }
#define SPLIT Split{partial, counters}
#define IN_PLACE InPlace{normal, normal_weight, normal_bias, normal_columns, normal_group, normal_silu, normal_eps}
// Behind the counters of tiles are those of pieces.
#define MOMENTS ChannelMoments{moments, blocks, counters + gridDim.x * gridDim.z, rows_per_image, piece_rows, IN_PLACE}
#define EPILOGUE(T) Epilogue<T>{y, bias, channels, row, residual, m, n, rows_per_image, channel_rows, residual_rows, activation, gate}

// Rows, columns and depth of the tile; stages; warps along rows and columns.
ENTRY(128, 2, conv2d_f16_128x160, CONV2D_F16) { conv2d<Tile<128, 160, 32, 3, 2, 2>>(SPLIT, IMAGE(half), w, EPILOGUE(half), MOMENTS, pitch, k_part); }
ENTRY(128, 2, conv2d_f16_128x128, CONV2D_F16) { conv2d<Tile<128, 128, 32, 3, 2, 2>>(SPLIT, IMAGE(half), w, EPILOGUE(half), MOMENTS, pitch, k_part); }
ENTRY(128, 3, conv2d_f16_128x64, CONV2D_F16) { conv2d<Tile<128, 64, 32, 3, 2, 2>>(SPLIT, IMAGE(half), w, EPILOGUE(half), MOMENTS, pitch, k_part); }
ENTRY(128, 2, conv2d_f16_64x160, CONV2D_F16) { conv2d<Tile<64, 160, 32, 3, 2, 2>>(SPLIT, IMAGE(half), w, EPILOGUE(half), MOMENTS, pitch, k_part); }
ENTRY(128, 4, conv2d_f16_64x64, CONV2D_F16) { conv2d<Tile<64, 64, 32, 4, 2, 2>>(SPLIT, IMAGE(half), w, EPILOGUE(half), MOMENTS, pitch, k_part); }
ENTRY(128, 4, conv2d_f16_16x64, CONV2D_F16) { conv2d<Tile<16, 64, 64, 4, 1, 4>>(SPLIT, IMAGE(half), w, EPILOGUE(half), MOMENTS, pitch, k_part); }
// The same with the sums of 64 columns in halves, for consumer GPUs.
ENTRY(256, 1, conv2d_f16_128x160_half, CONV2D_F16) { conv2d<Tile<128, 160, 64, 2, 4, 2, true>>(SPLIT, IMAGE(half), w, EPILOGUE(half), MOMENTS, pitch, k_part); }
ENTRY(256, 1, conv2d_f16_128x128_half, CONV2D_F16) { conv2d<Tile<128, 128, 64, 2, 2, 4, true>>(SPLIT, IMAGE(half), w, EPILOGUE(half), MOMENTS, pitch, k_part); }
ENTRY(128, 2, conv2d_f16_128x64_half, CONV2D_F16) { conv2d<Tile<128, 64, 64, 2, 2, 2, true>>(SPLIT, IMAGE(half), w, EPILOGUE(half), MOMENTS, pitch, k_part); }
ENTRY(128, 3, conv2d_f16_64x64_half, CONV2D_F16) { conv2d<Tile<64, 64, 64, 2, 2, 2, true>>(SPLIT, IMAGE(half), w, EPILOGUE(half), MOMENTS, pitch, k_part); }
ENTRY(128, 4, conv2d_any_f16_64x64, CONV2D_F16) { conv2d_any<Tile<64, 64, 32, 4, 2, 2>>(SPLIT, IMAGE(half), w, EPILOGUE(half), MOMENTS, pitch, k_part); }
ENTRY(256, 2, conv2d_f32_64x64, CONV2D_F32) { conv2d_f32(IMAGE(float), w, EPILOGUE(float), pitch); }
