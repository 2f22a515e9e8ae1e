// The two products of attention_large.cu without tensor cores: for f32 activations, and for heads whose rows are not whole 16 bytes. Published
// networks need the first where halves overflow, and the second never.
//
//   scores[t, l] = q[t] . k[l]        y[t] = factors[t] sum_l probabilities[t, l] v[l]
//
// Tensors      as in attention_large.cu, q, k, v and y of one element type, probabilities f32
// Arithmetic   products and sums in f32, each sum in ascending order, whatever the batch and however the work was cut
// Launch       scores  x: tiles of 64 keys, y: of 64 rows, z: pairs of image and head      mix  x: tiles of 64 channels, y, z as before
//              256 threads, 4 x 4 results each
// Requirements pitch at least L; T = L if causal. src/cuda/attention_large.rs sees to it.
// Cost         4 N A T L D FLOPs at the rate of plain multiply-adds, less the loads from shared memory: two of 16 bytes per 16 multiply-adds
// Measured     not yet run on hardware
#include "gpu.cuh"

namespace {

constexpr int ANY_TILE = 64;
constexpr int ANY_DEPTH = 16;
constexpr int ANY_PITCH = ANY_TILE + 4;
constexpr int ANY_THREADS = 256;

struct alignas(16) Floats4 {
    float x[4];
};

// Brings 64 rows of 16 elements into shared memory, transposed. `at(row, depth)` is an element, zero outside. Neighbouring threads read
// along the depth, or along the rows if those are what lies side by side.
template <bool BY_ROWS, class Element>
DEVICE void any_copy(float* shared, const Element& at) {
#pragma unroll
    for (int i = static_cast<int>(threadIdx.x); i < ANY_TILE * ANY_DEPTH; i += ANY_THREADS) {
        const int row = BY_ROWS ? i % ANY_TILE : i / ANY_DEPTH, depth = BY_ROWS ? i / ANY_TILE : i % ANY_DEPTH;
        shared[depth * ANY_PITCH + row] = at(row, depth);
    }
}

// The thread's 4 x 4 results of a tile of left x right, rows 4 (thread / 16).. and columns 4 (thread % 16)..
template <bool RIGHT_BY_ROWS, class Left, class Right>
DEVICE void any_product(float (&sum)[4][4], int depth, const Left& left, const Right& right) {
    SHARED_ARRAY(float, a, ANY_DEPTH * ANY_PITCH);
    SHARED_ARRAY(float, b, ANY_DEPTH * ANY_PITCH);
    const int row = static_cast<int>(threadIdx.x / 16) * 4, column = static_cast<int>(threadIdx.x % 16) * 4;
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) sum[i][j] = 0.0f;
    }
    for (int step = 0; step < depth; step += ANY_DEPTH) {
        any_copy<false>(a, [&](int at, int k) { return left(at, step + k); });
        any_copy<RIGHT_BY_ROWS>(b, [&](int at, int k) { return right(at, step + k); });
        sync_block();
#pragma unroll
        for (int k = 0; k < ANY_DEPTH; k++) {
            const Floats4 x = *reinterpret_cast<const Floats4*>(a + k * ANY_PITCH + row);
            const Floats4 w = *reinterpret_cast<const Floats4*>(b + k * ANY_PITCH + column);
#pragma unroll
            for (int i = 0; i < 4; i++) {
#pragma unroll
                for (int j = 0; j < 4; j++) sum[i][j] += x.x[i] * w.x[j];
            }
        }
        sync_block();
    }
}

// Where a pair of image and head starts, among tokens and heads so many elements apart.
DEVICE size_t any_start(int pair, int heads, int tokens, int token, int token_pitch, int head_pitch) {
    return (static_cast<size_t>(pair / heads) * tokens + token) * token_pitch + static_cast<size_t>(pair % heads) * head_pitch;
}

// ---- kernel templates ---------------------------------------------------------------------------

template <typename T>
DEVICE void any_scores(float* scores, const T* q, const T* k, int query_images, int queries, int keys, int heads, int head_size,
                       int token_pitch, int head_pitch, int part_pitch, int pitch, int first_pair, int first_row, int rows, int causal) {
    wait_for_previous_grid();
    const int row = static_cast<int>(blockIdx.y) * ANY_TILE, column = static_cast<int>(blockIdx.x) * ANY_TILE;
    if (causal && column >= first_row + row + ANY_TILE) return;  // no row here sees a key here
    const int pair = first_pair + static_cast<int>(blockIdx.z);
    const T* q_rows = q + any_start(pair % (query_images * heads), heads, queries, first_row, token_pitch, head_pitch);
    const T* k_rows = k + part_pitch + any_start(pair, heads, keys, 0, token_pitch, head_pitch);
    float sum[4][4];
    any_product<false>(
        sum, head_size,
        [&](int at, int d) {
            return row + at < rows && d < head_size ? to_float(q_rows[static_cast<size_t>(row + at) * token_pitch + d]) : 0.0f;
        },
        [&](int at, int d) {
            return column + at < keys && d < head_size ? to_float(k_rows[static_cast<size_t>(column + at) * token_pitch + d]) : 0.0f;
        });
    float* to = scores + static_cast<size_t>(blockIdx.z) * rows * pitch;
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int line = row + static_cast<int>(threadIdx.x / 16) * 4 + i, at = column + static_cast<int>(threadIdx.x % 16) * 4 + j;
            if (line < rows && at < keys) to[static_cast<size_t>(line) * pitch + at] = sum[i][j];
        }
    }
}

template <typename T>
DEVICE void any_mix(T* y, const float* probabilities, const float* factors, const T* v, int queries, int keys, int heads, int head_size,
                    int token_pitch, int head_pitch, int part_pitch, int pitch, int first_pair, int first_row, int rows) {
    wait_for_previous_grid();
    const int row = static_cast<int>(blockIdx.y) * ANY_TILE, column = static_cast<int>(blockIdx.x) * ANY_TILE;
    const int channels = heads * head_size;
    const float* weights = probabilities + static_cast<size_t>(blockIdx.z) * rows * pitch;
    const int pair = first_pair + static_cast<int>(blockIdx.z);
    const T* v_rows = v + 2 * static_cast<size_t>(part_pitch) + any_start(pair, heads, keys, 0, token_pitch, head_pitch);
    float sum[4][4];
    any_product<true>(
        sum, keys,
        [&](int at, int l) { return row + at < rows && l < keys ? weights[static_cast<size_t>(row + at) * pitch + l] : 0.0f; },
        [&](int at, int l) {
            return column + at < head_size && l < keys ? to_float(v_rows[static_cast<size_t>(l) * token_pitch + column + at]) : 0.0f;
        });
    T* to = y + any_start(pair, heads, queries, first_row, channels, head_size);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int line = row + static_cast<int>(threadIdx.x / 16) * 4 + i;
        const float factor = line < rows ? factors[static_cast<size_t>(blockIdx.z) * rows + line] : 0.0f;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int at = column + static_cast<int>(threadIdx.x % 16) * 4 + j;
            if (line < rows && at < head_size) to[static_cast<size_t>(line) * channels + at] = from_float<T>(sum[i][j] * factor);
        }
    }
}

}  // namespace

// ---- entries ------------------------------------------------------------------------------------

ENTRY(256, 2, attention_scores_f16_any, float* scores, const half* q, const half* k, int query_images, int queries, int keys, int heads,
      int head_size, int token_pitch, int head_pitch, int part_pitch, int pitch, int first_pair, int first_row, int rows, int causal) {
    any_scores(scores, q, k, query_images, queries, keys, heads, head_size, token_pitch, head_pitch, part_pitch, pitch, first_pair, first_row, rows,
               causal);
}

ENTRY(256, 2, attention_scores_f32_any, float* scores, const float* q, const float* k, int query_images, int queries, int keys, int heads,
      int head_size, int token_pitch, int head_pitch, int part_pitch, int pitch, int first_pair, int first_row, int rows, int causal) {
    any_scores(scores, q, k, query_images, queries, keys, heads, head_size, token_pitch, head_pitch, part_pitch, pitch, first_pair, first_row, rows,
               causal);
}

ENTRY(256, 2, attention_mix_f16_any, half* y, const float* probabilities, const float* factors, const half* v, int queries, int keys,
      int heads, int head_size, int token_pitch, int head_pitch, int part_pitch, int pitch, int first_pair, int first_row, int rows) {
    any_mix(y, probabilities, factors, v, queries, keys, heads, head_size, token_pitch, head_pitch, part_pitch, pitch, first_pair, first_row, rows);
}

ENTRY(256, 2, attention_mix_f32_any, float* y, const float* probabilities, const float* factors, const float* v, int queries, int keys,
      int heads, int head_size, int token_pitch, int head_pitch, int part_pitch, int pitch, int first_pair, int first_row, int rows) {
    any_mix(y, probabilities, factors, v, queries, keys, heads, head_size, token_pitch, head_pitch, part_pitch, pitch, first_pair, first_row, rows);
}
