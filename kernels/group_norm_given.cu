// Group normalisation of what products have stored together with its moments (channel_moments.cuh): as group_norm.cu, without a launch for the
// statistics.
//
//   y[n, p, c] = f((x[n, p, c] - mean) / sqrt(variance + eps) weight[c] + bias[c]), f as in group_norm.cu
//
// Tensors       as group_norm.cu; moments0: [N, C0, pieces, 2] f32, the mean and the squared deviations of each channel over every piece of
//               `piece` pixels, of `all_pixels` of an image, and moments1: [images1, C1, pieces, 2], or null. Those of a whole image may
//               normalise a part of it, a band of rows
// Arithmetic    f32; the channels and pieces of a group are joined without cancellation. A group may have channels of both operands
// Launch        256 threads, blocks (slices of the pixels, tiles of channels, N), as `normalise` of group_norm.cu
// Requirements  as group_norm.cu; whole groups in a tile, and rows of whole packs (src/cuda/group_norm.rs sees to both)
// Cost          x read and y written once. Each block reads 8 bytes for each of its channels and pieces: of 4096 pixels, 64 bytes a channel, and
//               never more than 512 (src/cuda/moments.rs)
// Measured      not yet run on hardware
#include "channel_moments.cuh"
#include "group_norm.cuh"

// ---- kernel template --------------------------------------------------------------------------------------------------------------

template <typename T, bool SILU_AFTER>
DEVICE void normalise_given(T* y, const T* x0, const T* x1, const float* weight, const float* bias, const T* scale_shift,
                            const float* scale_row, int scale_rows, const float* moments0, const float* moments1, int pixels, int channels0,
                            int channels1, int images1, int group, int width, float eps, int all_pixels, int piece) {
    const int pieces = pieces_of(all_pixels, piece), image1 = image_of_block(moments1 != nullptr, images1);
    const auto moments_of = [&](int g) {
        const auto part = [&](int i) {
            const int channel = g * group + i / pieces, p = i % pieces;
            const bool second = channel >= channels0;
            const float* const moments = second ? moments1 : moments0;
            const int channels = second ? channels1 : channels0;
            const size_t row = static_cast<size_t>(second ? image1 : static_cast<int>(blockIdx.z)) * channels + channel - (second ? channels0 : 0);
            const float* const at = moments + 2 * (row * pieces + p);
            return Moments{static_cast<float>(rows_of_piece(all_pixels, piece, p)), at[0], at[1]};
        };
        return join_pieces(static_cast<float>(all_pixels) * static_cast<float>(group), pieces * group, part);
    };
    normalise<T, true, SILU_AFTER>(y, x0, x1, weight, bias, scale_shift, scale_row, scale_rows, pixels, channels0, channels1, images1, group,
                                   width, eps, moments_of);
}

// ---- entries ----------------------------------------------------------------------------------------------------------------------

#define GIVEN_F16                                                                                                                          \
    half *y, const half *x0, const half *x1, const float *weight, const float *bias, const half *scale_shift, const float *scale_row,       \
        int scale_rows, const float *moments0, const float *moments1, int pixels, int channels0, int channels1, int images1, int group,      \
        int tile, float eps, int all_pixels, int piece
#define GIVEN_F32                                                                                                                          \
    float *y, const float *x0, const float *x1, const float *weight, const float *bias, const float *scale_shift, const float *scale_row,   \
        int scale_rows, const float *moments0, const float *moments1, int pixels, int channels0, int channels1, int images1, int group,      \
        int tile, float eps, int all_pixels, int piece
#define OPERANDS                                                                                                                            \
    y, x0, x1, weight, bias, scale_shift, scale_row, scale_rows, moments0, moments1, pixels, channels0, channels1, images1, group, tile,    \
        eps, all_pixels, piece

ENTRY(256, 3, group_norm_given_f16, GIVEN_F16) { normalise_given<half, false>(OPERANDS); }
ENTRY(256, 3, group_norm_given_silu_f16, GIVEN_F16) { normalise_given<half, true>(OPERANDS); }
ENTRY(256, 3, group_norm_given_f32, GIVEN_F32) { normalise_given<float, false>(OPERANDS); }
ENTRY(256, 3, group_norm_given_silu_f32, GIVEN_F32) { normalise_given<float, true>(OPERANDS); }
