// The moments of each channel of rows of an image that is stored already, as the product that stored it would have left them for the whole image
// (channel_moments.cuh): for images that are computed in bands, whose products have other tiles than those of the whole.
//
//   moments[n, c, p] = mean and squared deviations of x[n, piece p, c]
//
// Tensors       x: [N, pieces piece_rows, channels], pixels in rows of `width`; moments: [N, channels, pieces, 2] f32
// Arithmetic    f32, in the very order of a product: sixteen pixels one after another, four of these and eight of those two and two, and one
//               eight after another. Of an image made in phases (conv2d.cu) those of each phase after those of the phase before
// Launch        256 threads, blocks (pieces, channels / 32, N): of eight blocks of 64 pixels each warp takes one, and each of its lanes a channel
// Requirements  a piece is rows of the image, of each phase as many, and a multiple of 512 pixels; rows of a phase are multiples of 64 pixels
//               (src/cuda/moments.rs sees to both)
// Cost          x read once, 64 bytes of a row at a time; 4 instructions per element
// Measured      not yet run on hardware
#include "channel_moments.cuh"
#include "elements.cuh"

// ---- device helpers ---------------------------------------------------------------------------------------------------------------

// The first pixel of a piece's block, from the piece's first on, and pixels from one of its rows to the next.
struct Walk {
    int first;
    int step;
};
DEVICE Walk walk(int block, int blocks, int width, int phases) {
    if (phases == 1) return {block * BLOCK_ROWS, 1};
    const int run = blocks / phases, phase = block / run, pixel = block % run * BLOCK_ROWS, line = width / 2;
    return {(2 * (pixel / line) + phase / 2) * width + 2 * (pixel % line) + phase % 2, 2};
}

// The moments of a block's 64 pixels, `pitch` elements apart.
template <typename T>
DEVICE Moments moments_of_block(const T* x, size_t pitch) {
    Moments part[BLOCK_FRAGMENTS];
#pragma unroll
    for (int i = 0; i < BLOCK_FRAGMENTS; i++) {
        float values[FRAGMENT_ROWS];
#pragma unroll
        for (int row = 0; row < FRAGMENT_ROWS; row++) values[row] = to_float(x[(i * FRAGMENT_ROWS + row) * pitch]);
        part[i] = moments_of_fragment(values);
    }
    return join_neighbours(part);
}

// ---- kernel template --------------------------------------------------------------------------------------------------------------

template <typename T>
DEVICE void channel_statistics(float* moments, const T* x, int channels, int width, int piece_rows, int phases) {
    wait_for_previous_grid();
    let_next_grid_start();
    SHARED_ARRAY(float, means, JOINED_BLOCKS * WARP);
    SHARED_ARRAY(float, squares, JOINED_BLOCKS * WARP);
    const int lane = lane_index(), warp = warp_index(), channel = static_cast<int>(blockIdx.y) * WARP + lane;
    const int pieces = static_cast<int>(gridDim.x), blocks = piece_rows / BLOCK_ROWS;
    const size_t piece = static_cast<size_t>(blockIdx.z) * pieces + blockIdx.x;
    x += piece * piece_rows * channels + channel;
    Moments all = {0.0f, 0.0f, 0.0f};
#pragma unroll 1
    for (int first = 0; first < blocks; first += JOINED_BLOCKS) {
        if (channel < channels) {
            const Walk at = walk(first + warp, blocks, width, phases);
            const Moments own = moments_of_block(x + static_cast<size_t>(at.first) * channels, static_cast<size_t>(at.step) * channels);
            means[warp * WARP + lane] = own.mean;
            squares[warp * WARP + lane] = own.squares;
        }
        sync_block();
        if (warp == 0 && channel < channels) {
            Moments part[JOINED_BLOCKS];
#pragma unroll
            for (int i = 0; i < JOINED_BLOCKS; i++) part[i] = {static_cast<float>(BLOCK_ROWS), means[i * WARP + lane], squares[i * WARP + lane]};
            all = join(all, join_neighbours(part));
        }
        sync_block();
    }
    if (warp != 0 || channel >= channels) return;
    float* const at = moments + 2 * ((static_cast<size_t>(blockIdx.z) * channels + channel) * pieces + blockIdx.x);
    at[0] = all.mean;
    at[1] = all.squares;
}

// ---- entries ----------------------------------------------------------------------------------------------------------------------

ENTRY(256, 3, channel_statistics_f16, float* moments, const half* x, int channels, int width, int piece_rows, int phases) {
    channel_statistics(moments, x, channels, width, piece_rows, phases);
}
ENTRY(256, 3, channel_statistics_f32, float* moments, const float* x, int channels, int width, int piece_rows, int phases) {
    channel_statistics(moments, x, channels, width, piece_rows, phases);
}
