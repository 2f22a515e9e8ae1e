// Group normalisation of what products have stored together with its moments (channel_moments.cuh): as group_norm.cu, without a launch for the
// statistics.
//
//   y[n, p, c] = f((x[n, p, c] - mean) / sqrt(variance + eps) weight[c] + bias[c]), f as in group_norm.cu
//
// Tensors       as group_norm.cu; moments0: [N, pieces, C0, 2] f32, the mean and the squared deviations of each channel over every piece of 512
//               pixels, and moments1: [images1, pieces, C1, 2], or null
// Arithmetic    f32; the channels and pieces of a group are joined without cancellation. A group may have channels of both operands
// Launch        256 threads, blocks (slices of the pixels, tiles of channels, N), as `normalise` of group_norm.cu
// Requirements  as group_norm.cu; whole groups in a tile, and rows of whole packs (src/cuda/group_norm.rs sees to both)
// Cost          x read and y written once. Each block reads 8 bytes for each of its channels and pieces: of 4096 pixels, 64 bytes a channel
// Measured      not yet run on hardware
#include "channel_moments.cuh"
#include "group_norm.cuh"

// ---- kernel template --------------------------------------------------------------------------------------------------------------

template <bool SILU_AFTER>
DEVICE void normalise_given(half* y, const half* x0, const half* x1, const float* weight, const float* bias, const half* scale_shift,
                            const float* scale_row, int scale_rows, const float* moments0, const float* moments1, int pixels, int channels0,
                            int channels1, int images1, int group, int width, float eps) {
    const int pieces = pieces_of(pixels), image1 = image_of_block(moments1 != nullptr, images1);
    const auto moments_of = [&](int g) {
        const auto piece = [&](int i) {
            const int p = i / group, channel = g * group + i % group;
            const bool second = channel >= channels0;
            const float* const moments = second ? moments1 : moments0;
            const int channels = second ? channels1 : channels0;
            const size_t row = static_cast<size_t>(second ? image1 : static_cast<int>(blockIdx.z)) * pieces + p;
            const float* const at = moments + 2 * (row * channels + channel - (second ? channels0 : 0));
            return Moments{static_cast<float>(rows_of_piece(pixels, p)), at[0], at[1]};
        };
        return join_pieces(static_cast<float>(pixels) * static_cast<float>(group), pieces * group, piece);
    };
    normalise<half, true, SILU_AFTER>(y, x0, x1, weight, bias, scale_shift, scale_row, scale_rows, pixels, channels0, channels1, images1, group,
                                      width, eps, moments_of);
}

// ---- entries ----------------------------------------------------------------------------------------------------------------------

#define GIVEN                                                                                                                              \
    half *y, const half *x0, const half *x1, const float *weight, const float *bias, const half *scale_shift, const float *scale_row,       \
        int scale_rows, const float *moments0, const float *moments1, int pixels, int channels0, int channels1, int images1, int group,      \
        int tile, float eps
#define OPERANDS                                                                                                                            \
    y, x0, x1, weight, bias, scale_shift, scale_row, scale_rows, moments0, moments1, pixels, channels0, channels1, images1, group, tile, eps

ENTRY(256, 3, group_norm_given_f16, GIVEN) { normalise_given<false>(OPERANDS); }
ENTRY(256, 3, group_norm_given_silu_f16, GIVEN) { normalise_given<true>(OPERANDS); }
