// Attention for heads of more than 160 channels, whose results no warp can hold, as a product, a softmax and a product. What matters is the
// autoencoder's middle block: one head of 512 channels over every pixel of the latent.
//
//   scores[t, l] = q[t] . k[l]        p[t, l] = 2^(c scores[t, l] - c m[t] + 12), m the row's largest, c = scale log2 e; 0 for l > t if causal
//   factors[t] = 1 / sum_l p[t, l]    y[t] = factors[t] sum_l p[t, l] v[l]                        together softmax(scale q k^T) v
//
// Tensors      y [N, T, A D], q [query_images, T, ..], k and v [N, L, ..]   halves, D = head_size, with pitches as in attention.cu
//              scores [P, R, pitch] f32, probabilities [P, R, pitch] halves, factors [P, R] f32: scratch for P pairs of image and head from
//              first_pair on, and R = `rows` queries of each from first_row on. src/cuda/attention_large.rs cuts the work so that it fits.
// Arithmetic   products by mma.sync, f32 sums in steps of 16 along their depth, in ascending order; scores stay f32. A row's p are summed in
//              f32 by one warp, lane i taking four of every 128, and rounded to halves; y is rounded once. 2^12 cancels; it keeps p down
//              to 2^-26 of the largest out of the denormal halves. No sum depends on how the work was cut.
// NaN, Inf     m drops NaN, but the sum of a row's p does not, nor the product with v: they reach what the definition says they reach, and,
//              by way of 0 v, the queries from which `causal` hides them.
// Launch       scores  x: tiles of 128 keys, y: of 128 rows, z: pairs; 256 threads      softmax  x: 8 of all_rows = P R; 256 threads
//              mix     x: tiles of 64 channels, y: of 128 rows, z: pairs; 128 threads    Shared memory of the products: three stages
// Requirements D a multiple of 8; pitch a multiple of 64, at least L; scale > 0; T = L if causal. src/cuda/attention_large.rs sees to it.
//              attention_softmax_f32, whose probabilities are floats, belongs to attention_any.cu and takes any D.
// Cost         4 N A T L D FLOPs. Scratch: 4 bytes per score written and read twice, 2 per probability written, and read once per tile of
//              channels, mostly from the second-level cache. D = 512, T = L = 4096: 34.4 GFLOP, 64 and 32 MiB.
// Measured     not yet run on hardware. Of the code for sm_80, the loop of one stage: scores 124 registers, 32 HMMA, 12 LDSM.x4, 4 LDGSTS.128,
//              59 others; mix 136 registers, 32 HMMA, 12 LDSM.x4, 6 LDGSTS.128, 77 others.
#include "gpu.cuh"

namespace {

// ---- softmax ----------------------------------------------------------------------------------------------------------------------

struct alignas(16) Floats4 {
    float x[4];
};
struct alignas(8) Halves4 {
    uint32_t x[2];
};
struct alignas(8) Floats2 {
    float x[2];
};

DEVICE void store_probabilities(float* to, const Floats4& p) { *reinterpret_cast<Floats4*>(to) = p; }
DEVICE void store_probabilities(half* to, const Floats4& p) {
    *reinterpret_cast<Halves4*>(to) = {{pack_halves(p.x[0], p.x[1]), pack_halves(p.x[2], p.x[3])}};
}

constexpr float SOFTMAX_HEADROOM = 12.0f;

// A warp per row. Zeros follow the last key that the row sees, up to the pitch. What lies beyond it in `scores` may be anything.
template <typename T>
DEVICE void attention_softmax(T* probabilities, float* factors, const float* scores, int all_rows, int keys, int pitch, int first_row,
                              int rows, int causal, float scale) {
    wait_for_previous_grid();
    let_next_grid_start();
    const int row = static_cast<int>(blockIdx.x * (blockDim.x / WARP)) + warp_index();
    if (row >= all_rows) return;
    const int query = first_row + row % rows;
    const int seen = causal && query + 1 < keys ? query + 1 : keys;
    const float* from = scores + static_cast<size_t>(row) * pitch;
    T* to = probabilities + static_cast<size_t>(row) * pitch;
    float largest = -INFINITY;
    for (int i = lane_index() * 4; i < seen; i += WARP * 4) {
        const Floats4 s = *reinterpret_cast<const Floats4*>(from + i);
#pragma unroll
        for (int e = 0; e < 4; e++) largest = fmaxf(largest, i + e < seen ? s.x[e] : -INFINITY);
    }
    const float reference = SOFTMAX_HEADROOM - warp_max(largest) * scale;
    float sum = 0.0f;
    for (int i = lane_index() * 4; i < pitch; i += WARP * 4) {
        const Floats4 s = *reinterpret_cast<const Floats4*>(from + i);
        Floats4 p;
#pragma unroll
        for (int e = 0; e < 4; e++) {
            p.x[e] = i + e < seen ? exp2_approximate(s.x[e] * scale + reference) : 0.0f;
            sum += p.x[e];
        }
        store_probabilities(to + i, p);
    }
    sum = warp_sum(sum);
    if (lane_index() == 0) factors[row] = 1.0f / sum;
}

// ---- products ---------------------------------------------------------------------------------------------------------------------

constexpr int PRODUCT_ROWS = 128;
constexpr int PRODUCT_DEPTH = 32;
constexpr int PRODUCT_STAGES = 3;
constexpr int PRODUCT_PITCH = PRODUCT_DEPTH + 8;  // halves, an odd count of 16 bytes: eight rows of a fragment lie in different banks

// A block's tile: 128 rows by COLUMNS, a warp on 64 x 32 of it. The right operand's rows are the tile's columns (k of q k^T), or its rows
// run along the depth (v).
template <int COLUMNS_, bool ALONG_DEPTH_>
struct ProductTile {
    static constexpr int COLUMNS = COLUMNS_, THREADS = 2 * COLUMNS;
    static constexpr bool ALONG_DEPTH = ALONG_DEPTH_;
    static constexpr int RIGHT_ROWS = ALONG_DEPTH ? PRODUCT_DEPTH : COLUMNS;
    static constexpr int RIGHT_COLUMNS = ALONG_DEPTH ? COLUMNS : PRODUCT_DEPTH;
    static constexpr int RIGHT_PITCH = RIGHT_COLUMNS + 8;
    static constexpr int LEFT = PRODUCT_ROWS * PRODUCT_PITCH, STAGE = LEFT + RIGHT_ROWS * RIGHT_PITCH;  // halves
};

// A matrix in global memory: `rows` x `columns` halves, zeros around it.
struct Matrix {
    const half* data;
    int rows, columns, pitch;
};

// Starts the copy of ROWS x COLUMNS elements from (row, column) on, by THREADS threads.
template <int THREADS, int ROWS, int COLUMNS>
DEVICE void product_copy(half* shared, const Matrix& from, int row, int column) {
    constexpr int WIDTH = COLUMNS / 8, STEP = THREADS / WIDTH;
    const int at = static_cast<int>(threadIdx.x / WIDTH), chunk = static_cast<int>(threadIdx.x % WIDTH) * 8;
    const int left = column + chunk < from.columns ? from.rows - row - at : 0;
    const half* source = from.data + static_cast<size_t>(row + at) * from.pitch + column + chunk;
#pragma unroll
    for (int i = 0; i < ROWS; i += STEP) {
        copy_async_16(shared + (at + i) * (COLUMNS + 8) + chunk, source + static_cast<size_t>(i) * from.pitch, i < left);
    }
}

// The tile of left x right that starts at (row, column), the sum running over `depth`.
template <class Tile>
DEVICE void product(float (&sum)[4][4][4], half* shared, const Matrix& left, const Matrix& right, int row, int column, int depth) {
    const int lane = lane_index(), warp = warp_index();
    const int warp_row = warp % 2 * 64, warp_column = warp / 2 * 32;
    const int steps = (depth + PRODUCT_DEPTH - 1) / PRODUCT_DEPTH;
    auto copy = [&](int step) {
        half* stage = shared + step % PRODUCT_STAGES * Tile::STAGE;
        const int at = step * PRODUCT_DEPTH;
        if (step < steps) {
            product_copy<Tile::THREADS, PRODUCT_ROWS, PRODUCT_DEPTH>(stage, left, row, at);
            product_copy<Tile::THREADS, Tile::RIGHT_ROWS, Tile::RIGHT_COLUMNS>(stage + Tile::LEFT, right, Tile::ALONG_DEPTH ? at : column,
                                                                               Tile::ALONG_DEPTH ? column : at);
        }
        copy_async_commit();
    };
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
#pragma unroll
            for (int e = 0; e < 4; e++) sum[i][j][e] = 0.0f;
        }
    }
#pragma unroll
    for (int step = 0; step < PRODUCT_STAGES - 1; step++) copy(step);
    for (int step = 0; step < steps; step++) {
        copy_async_wait<PRODUCT_STAGES - 2>();
        sync_block();
        copy(step + PRODUCT_STAGES - 1);
        const half* a_stage = shared + step % PRODUCT_STAGES * Tile::STAGE;
        const half* b_stage = a_stage + Tile::LEFT;
#pragma unroll
        for (int k = 0; k < PRODUCT_DEPTH; k += 16) {
            uint32_t a[4][4], b[4][2];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                load_matrix_x4(a[i], a_stage + (warp_row + i * 16 + lane % 16) * PRODUCT_PITCH + k + lane / 16 * 8);
            }
#pragma unroll
            for (int j = 0; j < 4; j += 2) {
                uint32_t r[4];
                const int at = warp_column + j * 8;
                if constexpr (Tile::ALONG_DEPTH) {
                    load_matrix_x4_transposed(r, b_stage + (k + lane % 16) * Tile::RIGHT_PITCH + at + lane / 16 * 8);
                } else {
                    load_matrix_x4(r, b_stage + (at + lane % 8 + lane / 16 * 8) * Tile::RIGHT_PITCH + k + lane / 8 % 2 * 8);
                }
                b[j][0] = r[0], b[j][1] = r[1];
                b[j + 1][0] = r[2], b[j + 1][1] = r[3];
            }
            multiply_tile<4, 4>(sum, a, b);
        }
    }
}

// Where a pair of image and head starts, among tokens and heads so many elements apart.
DEVICE size_t attention_start(int pair, int heads, int tokens, int token, int token_pitch, int head_pitch) {
    return (static_cast<size_t>(pair / heads) * tokens + token) * token_pitch + static_cast<size_t>(pair % heads) * head_pitch;
}

DEVICE void attention_scores(float* scores, const half* q, const half* k, int query_images, int queries, int keys, int heads, int head_size,
                             int token_pitch, int head_pitch, int part_pitch, int pitch, int first_pair, int first_row, int rows, int causal) {
    wait_for_previous_grid();
    let_next_grid_start();
    using Tile = ProductTile<128, false>;
    SHARED_DYNAMIC(bytes);
    const int row = static_cast<int>(blockIdx.y) * PRODUCT_ROWS, column = static_cast<int>(blockIdx.x) * Tile::COLUMNS;
    if (causal && column >= first_row + row + PRODUCT_ROWS) return;  // no row here sees a key here
    const int pair = first_pair + static_cast<int>(blockIdx.z);
    q += attention_start(pair % (query_images * heads), heads, queries, first_row, token_pitch, head_pitch);
    k += part_pitch + attention_start(pair, heads, keys, 0, token_pitch, head_pitch);
    const Matrix left = {q, rows, head_size, token_pitch};
    const Matrix right = {k, keys, head_size, token_pitch};
    float sum[4][4][4];
    product<Tile>(sum, reinterpret_cast<half*>(bytes), left, right, row, column, head_size);

    const int lane = lane_index(), warp = warp_index();
    float* to = scores + static_cast<size_t>(blockIdx.z) * rows * pitch;
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int at = column + warp / 2 * 32 + j * 8 + lane % 4 * 2;
#pragma unroll
            for (int below = 0; below < 2; below++) {
                const int line = row + warp % 2 * 64 + i * 16 + below * 8 + lane / 4;
                if (line < rows && at < pitch) {
                    *reinterpret_cast<Floats2*>(to + static_cast<size_t>(line) * pitch + at) = {{sum[i][j][2 * below], sum[i][j][2 * below + 1]}};
                }
            }
        }
    }
}

DEVICE void attention_mix(half* y, const half* probabilities, const float* factors, const half* v, int queries, int keys, int heads,
                          int head_size, int token_pitch, int head_pitch, int part_pitch, int pitch, int first_pair, int first_row, int rows) {
    wait_for_previous_grid();
    let_next_grid_start();
    using Tile = ProductTile<64, true>;
    SHARED_DYNAMIC(bytes);
    half* shared = reinterpret_cast<half*>(bytes);
    const int row = static_cast<int>(blockIdx.y) * PRODUCT_ROWS, column = static_cast<int>(blockIdx.x) * Tile::COLUMNS;
    const int channels = heads * head_size;
    const Matrix left = {probabilities + static_cast<size_t>(blockIdx.z) * rows * pitch, rows, keys, pitch};
    const int pair = first_pair + static_cast<int>(blockIdx.z);
    v += 2 * static_cast<size_t>(part_pitch) + attention_start(pair, heads, keys, 0, token_pitch, head_pitch);
    const Matrix right = {v, keys, head_size, token_pitch};
    float sum[4][4][4];
    product<Tile>(sum, shared, left, right, row, column, keys);

    // Through shared memory, so that global memory sees whole 16 bytes.
    constexpr int PITCH = Tile::COLUMNS + 8;
    const int lane = lane_index(), warp = warp_index();
    sync_block();
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int below = 0; below < 2; below++) {
            const int line = warp % 2 * 64 + i * 16 + below * 8 + lane / 4;
            const float factor = row + line < rows ? factors[static_cast<size_t>(blockIdx.z) * rows + row + line] : 0.0f;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const uint32_t pair = pack_halves(sum[i][j][2 * below] * factor, sum[i][j][2 * below + 1] * factor);
                *reinterpret_cast<uint32_t*>(shared + line * PITCH + warp / 2 * 32 + j * 8 + lane % 4 * 2) = pair;
            }
        }
    }
    sync_block();
    half* to = y + attention_start(pair, heads, queries, first_row, channels, head_size);
    for (int i = static_cast<int>(threadIdx.x); i < PRODUCT_ROWS * Tile::COLUMNS / 8; i += Tile::THREADS) {
        const int line = i / (Tile::COLUMNS / 8), at = i % (Tile::COLUMNS / 8) * 8;
        if (row + line < rows && column + at < head_size) {
            store_16(to + static_cast<size_t>(row + line) * channels + column + at, load_16(shared + line * PITCH + at));
        }
    }
}

}  // namespace

// ---- entries ------------------------------------------------------------------------------------

ENTRY(256, 2, attention_scores_f16, float* scores, const half* q, const half* k, int query_images, int queries, int keys, int heads,
      int head_size, int token_pitch, int head_pitch, int part_pitch, int pitch, int first_pair, int first_row, int rows, int causal) {
    attention_scores(scores, q, k, query_images, queries, keys, heads, head_size, token_pitch, head_pitch, part_pitch, pitch, first_pair,
                     first_row, rows, causal);
}

ENTRY(256, 4, attention_softmax_f16, half* probabilities, float* factors, const float* scores, int all_rows, int keys, int pitch,
      int first_row, int rows, int causal, float scale) {
    attention_softmax(probabilities, factors, scores, all_rows, keys, pitch, first_row, rows, causal, scale);
}

ENTRY(256, 4, attention_softmax_f32, float* probabilities, float* factors, const float* scores, int all_rows, int keys, int pitch,
      int first_row, int rows, int causal, float scale) {
    attention_softmax(probabilities, factors, scores, all_rows, keys, pitch, first_row, rows, causal, scale);
}

ENTRY(128, 3, attention_mix_f16, half* y, const half* probabilities, const float* factors, const half* v, int queries, int keys, int heads,
      int head_size, int token_pitch, int head_pitch, int part_pitch, int pitch, int first_pair, int first_row, int rows) {
    attention_mix(y, probabilities, factors, v, queries, keys, heads, head_size, token_pitch, head_pitch, part_pitch, pitch, first_pair,
                  first_row, rows);
}
