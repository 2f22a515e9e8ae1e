// Attention without the matrix of weights, for heads of up to 160 channels.
//
//   y[t] = softmax_l(scale q[t] . k[l]) v[l]        head by head; l <= t if causal
//
// FlashAttention-2 (arXiv:2307.08691, algorithm 1) with the online softmax of arXiv:1805.02867: a warp holds its queries in registers and
// passes over the keys once, tile by tile. It keeps, per query, the largest logit m so far, the sum of the weights and the unscaled result;
// where a tile raises m, the last two are multiplied by 2^(old m - new m).
//
// Tensors      y [N, T, A D], q [query_images, T, ..] read again from its first image on, k and v [N, L, ..]
//              halves, D = head_size. From a token of q, k and v to the next it is
//              `token_pitch` elements, from a head to the next `head_pitch`; keys begin `part_pitch` elements behind k and values twice as many
//              behind v, so that all three may lie in one tensor, stacked head by head or in thirds
// Arithmetic   q k^T by mma.sync, f32 sums. A weight is 2^(s c - m c + 12) for c = scale log2 e: one multiply-add, one ex2.approx. Weights
//              are summed in f32, and rounded to halves for the product with v, whose sums are f32. 2^12 cancels; it keeps weights down to
//              2^-26 of the largest out of the denormal halves. Against the definition: each logit is off by a sum over D, each weight
//              by a roundoff of halves, the result by another.
//              A query's keys are summed in ascending order, in tiles that D and L alone decide.
// NaN, Inf     m drops NaN, as comparisons do, but the sum of weights and the product with v do not: they reach what the definition says
//              they reach, and, where `causal` hides a key from some queries of a tile, those too by way of 0 v.
// Launch       x: tiles of QUERIES rows, y: heads, z: images; 128 threads, a warp on a quarter of the rows. Shared memory: two stages of keys
//              and values, or one and the queries, counted in src/cuda/attention.rs.
// Requirements D a multiple of 8, at most HEAD; scale > 0; T = L if causal; the elements of keys and values fit in 31 bits. src/cuda/attention.rs
//              sees to it.
// Cost         4 N A T L D FLOPs and N A T L exponentials, of which a multiprocessor makes 16 per clock. Bytes: q and y once, k and v once
//              per tile of rows, mostly from the second-level cache.
// Measured     not yet run on hardware. Of the code for sm_80, a warp's step along the keys, hidden keys apart:
//
//                head, tile   registers  HMMA  MUFU  LDSM.x4  LDGSTS.128  others
//                16  64x64           86    16    34        8           2     200
//                32  128x64         159    64    68       16           4     362
//                40  128x64         168    88    68       24           6     411
//                40  64x80          122    55    42       30          10     280
//                64  128x64         228   128    68       32           8     396
//                64  64x64          128    64    34       32           8     246
//                80  64x64          156    80    34       40          10     257
//                96  64x64          165    96    34       48          12     272
//                128 64x32          180    64    18       32           8     212
//                160 64x32          213    80    18       40          10     239
//
//              At D = 40 a scheduler of an A100 needs 704 clocks for 88 HMMA, 544 for the exponentials, 597 to issue it all, and has three
//              warps to overlap them: sums of weights by HMMA (a column of ones) or exponentials by polynomials would only move load.
#include "gpu.cuh"

namespace {

// ---- device helpers -----------------------------------------------------------------------------

constexpr int ATTENTION_THREADS = 128;
constexpr int ATTENTION_WARPS = ATTENTION_THREADS / WARP;

// Below every logit that halves can make (160 * 65504^2 < 1e12), and finite: a tile of hidden keys leaves m where it is.
constexpr float ATTENTION_LOWEST = -1e30f;
constexpr float ATTENTION_HEADROOM = 12.0f;

// The shape of a block: HEAD channels, rounded up to fragments; QUERIES rows; KEYS per step.
template <int HEAD_, int QUERIES_, int KEYS_>
struct AttentionTile {
    static constexpr int HEAD = HEAD_, QUERIES = QUERIES_, KEYS = KEYS_;
    static constexpr int DEPTH = (HEAD + 15) / 16 * 16;      // channels in shared memory
    static constexpr int PITCH = DEPTH + 8;                  // halves from row to row: an odd count of 16 bytes, so that no bank is hit twice
    static constexpr int ROWS = QUERIES / ATTENTION_WARPS / 16;  // fragments of a warp along the queries
    static constexpr int COLUMNS = KEYS / 8;                 // and along the keys
    static constexpr int OUT = HEAD / 8;                     // and along the channels of v
    static constexpr int STAGE = 2 * KEYS * PITCH;           // halves: keys, then values
};

// Starts the copy of COUNT rows of one head, from row `first` on, into shared memory: zeros beyond the last row and the last channel.
// A row is an even count of chunks of 16 bytes. As many columns of chunks are copied together as the largest power of two in that count,
// then the rest: neighbouring lanes read neighbouring bytes, no lane idles, and every address is a constant step from the one before.
template <class Tile, int COUNT, int TENSORS, int FIRST_CHUNK = 0>
DEVICE void attention_copy(half* shared, const half* const (&heads)[TENSORS], int first, int rows, int pitch, int head_size) {
    constexpr int CHUNKS = Tile::DEPTH / 8 - FIRST_CHUNK;
    constexpr int WIDTH = CHUNKS >= 16 ? 16 : CHUNKS >= 8 ? 8 : CHUNKS >= 4 ? 4 : 2, STEP = ATTENTION_THREADS / WIDTH;
    const int row = static_cast<int>(threadIdx.x / WIDTH), channel = static_cast<int>(threadIdx.x % WIDTH + FIRST_CHUNK) * 8;
    const int left = channel < head_size ? rows - first - row : 0;
    half* to = shared + row * Tile::PITCH + channel;
    const int from = (first + row) * pitch + channel;
#pragma unroll
    for (int i = 0; i < COUNT; i += STEP) {
        if (i + STEP > COUNT && i + row >= COUNT) break;
#pragma unroll
        for (int j = 0; j < TENSORS; j++) {
            copy_async_16(to + (j * COUNT + i) * Tile::PITCH, heads[j] + from + i * pitch, i < left);
        }
    }
    if constexpr (CHUNKS > WIDTH) {
        attention_copy<Tile, COUNT, TENSORS, FIRST_CHUNK + WIDTH>(shared, heads, first, rows, pitch, head_size);
    }
}

// What a warp keeps of its queries.
template <class Tile>
struct AttentionState {
    uint32_t q[Tile::DEPTH / 16][Tile::ROWS][4];
    float y[Tile::ROWS][Tile::OUT][4];
    float largest[Tile::ROWS][2];  // rows g and g + 8 of each fragment
    float sum[Tile::ROWS][2];      // this lane's part
};

// s = q k^T for one tile of keys.
template <class Tile>
DEVICE void attention_logits(float (&s)[Tile::ROWS][Tile::COLUMNS][4], const AttentionState<Tile>& state, const half* keys) {
    const int lane = lane_index();
    const int row = lane % 8 + lane / 16 * 8, column = lane / 8 % 2 * 8;
#pragma unroll
    for (int depth = 0; depth < Tile::DEPTH / 16; depth++) {
        uint32_t k[Tile::COLUMNS][2];
#pragma unroll
        for (int j = 0; j < Tile::COLUMNS; j += 2) {
            uint32_t r[4];
            load_matrix_x4(r, keys + (j * 8 + row) * Tile::PITCH + depth * 16 + column);
            k[j][0] = r[0], k[j][1] = r[1];
            k[j + 1][0] = r[2], k[j + 1][1] = r[3];
        }
        multiply_tile<Tile::ROWS, Tile::COLUMNS>(s, state.q[depth], k);
    }
}

// y += weights v for one tile; the weights' fragments become the left operand as they lie.
template <class Tile>
DEVICE void attention_mix(AttentionState<Tile>& state, const float (&s)[Tile::ROWS][Tile::COLUMNS][4], const half* values) {
    const int lane = lane_index();
    const int row = lane % 16, column = lane / 16 * 8;
#pragma unroll
    for (int j = 0; j < Tile::COLUMNS; j += 2) {
        uint32_t weights[Tile::ROWS][4];
#pragma unroll
        for (int i = 0; i < Tile::ROWS; i++) {
            weights[i][0] = pack_halves(s[i][j][0], s[i][j][1]);
            weights[i][1] = pack_halves(s[i][j][2], s[i][j][3]);
            weights[i][2] = pack_halves(s[i][j + 1][0], s[i][j + 1][1]);
            weights[i][3] = pack_halves(s[i][j + 1][2], s[i][j + 1][3]);
        }
        uint32_t v[Tile::OUT][2];
#pragma unroll
        for (int o = 0; o < Tile::OUT; o += 2) {
            uint32_t r[4];
            load_matrix_x4_transposed(r, values + (j * 8 + row) * Tile::PITCH + o * 8 + column);
            v[o][0] = r[0], v[o][1] = r[1];
            if (o + 1 < Tile::OUT) v[o + 1][0] = r[2], v[o + 1][1] = r[3];
        }
        multiply_tile<Tile::ROWS, Tile::OUT>(state.y, weights, v);
    }
}

// Turns logits into weights, and brings what was summed before to the new largest logit.
template <class Tile>
DEVICE void attention_weights(float (&s)[Tile::ROWS][Tile::COLUMNS][4], AttentionState<Tile>& state, float scale) {
#pragma unroll
    for (int i = 0; i < Tile::ROWS; i++) {
#pragma unroll
        for (int half_row = 0; half_row < 2; half_row++) {
            const int at = 2 * half_row;
            float largest = state.largest[i][half_row];
#pragma unroll
            for (int j = 0; j < Tile::COLUMNS; j++) largest = fmaxf(largest, fmaxf(s[i][j][at], s[i][j][at + 1]));
            largest = fmaxf(largest, shuffle_xor(largest, 1));
            largest = fmaxf(largest, shuffle_xor(largest, 2));
            const float factor = exp2_approximate((state.largest[i][half_row] - largest) * scale);
            const float reference = ATTENTION_HEADROOM - largest * scale;
            float sum = state.sum[i][half_row] * factor;
#pragma unroll
            for (int j = 0; j < Tile::COLUMNS; j++) {
                s[i][j][at] = exp2_approximate(s[i][j][at] * scale + reference);
                s[i][j][at + 1] = exp2_approximate(s[i][j][at + 1] * scale + reference);
                sum += s[i][j][at] + s[i][j][at + 1];
            }
#pragma unroll
            for (int o = 0; o < Tile::OUT; o++) state.y[i][o][at] *= factor, state.y[i][o][at + 1] *= factor;
            state.largest[i][half_row] = largest;
            state.sum[i][half_row] = sum;
        }
    }
}

// Hides keys at or beyond `keys`, and those after their query if `causal`. `row` and `first` are the first query of the warp and the first
// key of the tile.
template <class Tile>
DEVICE void attention_hide(float (&s)[Tile::ROWS][Tile::COLUMNS][4], int row, int first, int keys, int causal) {
    const int lane = lane_index();
#pragma unroll
    for (int i = 0; i < Tile::ROWS; i++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int query = row + i * 16 + lane / 4 + e / 2 * 8;
            const int seen = (causal && query + 1 < keys ? query + 1 : keys) - first - lane % 4 * 2;
#pragma unroll
            for (int j = 0; j < Tile::COLUMNS; j++) {
                if (j * 8 + e % 2 >= seen) s[i][j][e] = -INFINITY;
            }
        }
    }
}

// Divides by the sums and stores the warp's rows, through its own rows of shared memory so that global memory sees whole 16 bytes.
template <class Tile>
DEVICE void attention_store(half* y, half* shared, const AttentionState<Tile>& state, int row, int queries, int channels, int head_size) {
    const int lane = lane_index();
#pragma unroll
    for (int i = 0; i < Tile::ROWS; i++) {
#pragma unroll
        for (int half_row = 0; half_row < 2; half_row++) {
            float sum = state.sum[i][half_row];
            sum += shuffle_xor(sum, 1);
            sum += shuffle_xor(sum, 2);
            const float factor = 1.0f / sum;
            half* to = shared + (i * 16 + half_row * 8 + lane / 4) * Tile::PITCH + lane % 4 * 2;
#pragma unroll
            for (int o = 0; o < Tile::OUT; o++) {
                const float* pair = &state.y[i][o][2 * half_row];
                *reinterpret_cast<uint32_t*>(to + o * 8) = pack_halves(pair[0] * factor, pair[1] * factor);
            }
        }
    }
    sync_warp();
#pragma unroll
    for (int j = lane; j < Tile::ROWS * 16 * Tile::OUT; j += WARP) {
        const int at = j / Tile::OUT, chunk = j % Tile::OUT * 8;
        if (row + at < queries && chunk < head_size) {
            store_16(y + static_cast<size_t>(row + at) * channels + chunk, load_16(shared + at * Tile::PITCH + chunk));
        }
    }
}

// ---- kernel template ----------------------------------------------------------------------------

// Shared memory holds two stages of keys and values. Before the first pass the second stage, and afterwards the first, holds the queries
// or results.
template <class Tile>
DEVICE void attention(half* y, const half* q, const half* k, const half* v, int query_images, int queries, int keys, int head_size,
                      int token_pitch, int head_pitch, int part_pitch, int causal, float scale) {
    wait_for_previous_grid();
    let_next_grid_start();
    SHARED_DYNAMIC(bytes);
    half* shared = reinterpret_cast<half*>(bytes);
    const size_t head = static_cast<size_t>(blockIdx.y) * head_pitch;
    q += static_cast<size_t>(static_cast<int>(blockIdx.z) % query_images) * queries * token_pitch + head;
    // One register, where two pointers would be four all through the loop.
    const int of_keys = static_cast<int>(blockIdx.z) * keys * token_pitch + static_cast<int>(blockIdx.y) * head_pitch + part_pitch;
    const int block_row = static_cast<int>(blockIdx.x) * Tile::QUERIES;
    const int warp_rows = warp_index() * Tile::ROWS * 16;
    const int row = block_row + warp_rows;
    const int needed = causal && block_row + Tile::QUERIES < keys ? block_row + Tile::QUERIES : keys;
    const int tiles = (needed + Tile::KEYS - 1) / Tile::KEYS;

    auto copy = [&](int tile) {
        const half* const heads[] = {k + of_keys, v + of_keys + part_pitch};
        attention_copy<Tile, Tile::KEYS>(shared + tile % 2 * Tile::STAGE, heads, tile * Tile::KEYS, keys, token_pitch, head_size);
        copy_async_commit();
    };
    const half* const queries_only[] = {q};
    attention_copy<Tile, Tile::QUERIES>(shared + Tile::STAGE, queries_only, block_row, queries, token_pitch, head_size);
    copy(0);
    copy_async_wait<0>();
    sync_block();

    AttentionState<Tile> state;
#pragma unroll
    for (int i = 0; i < Tile::ROWS; i++) {
#pragma unroll
        for (int depth = 0; depth < Tile::DEPTH / 16; depth++) {
            const int lane = lane_index();
            const half* at = shared + Tile::STAGE + (warp_rows + i * 16 + lane % 16) * Tile::PITCH + depth * 16 + lane / 16 * 8;
            load_matrix_x4(state.q[depth][i], at);
        }
#pragma unroll
        for (int o = 0; o < Tile::OUT; o++) {
#pragma unroll
            for (int e = 0; e < 4; e++) state.y[i][o][e] = 0.0f;
        }
        state.largest[i][0] = state.largest[i][1] = ATTENTION_LOWEST;
        state.sum[i][0] = state.sum[i][1] = 0.0f;
    }

    for (int tile = 0; tile < tiles; tile++) {
        // The tile is here for everyone, and nobody reads the other stage any more.
        copy_async_wait<0>();
        sync_block();
        if (tile + 1 < tiles) copy(tile + 1);
        const int first = tile * Tile::KEYS;
        // Nothing to do for a warp beyond the last query, or before the first key.
        if (row >= queries || (causal && first >= row + Tile::ROWS * 16)) continue;
        const half* stage = shared + tile % 2 * Tile::STAGE;
        float s[Tile::ROWS][Tile::COLUMNS][4] = {};
        attention_logits<Tile>(s, state, stage);
        if (first + Tile::KEYS > keys || (causal && first + Tile::KEYS > row)) attention_hide<Tile>(s, row, first, keys, causal);
        attention_weights<Tile>(s, state, scale);
        attention_mix<Tile>(state, s, stage + Tile::STAGE / 2);
    }
    const int channels = static_cast<int>(gridDim.y) * head_size;
    y += static_cast<size_t>(blockIdx.z) * queries * channels + static_cast<size_t>(blockIdx.y) * head_size;
    sync_block();
    attention_store<Tile>(y, shared + warp_rows * Tile::PITCH, state, row, queries, channels, head_size);
}

}  // namespace

// ---- entries ------------------------------------------------------------------------------------

#define ATTENTION_PARAMETERS \
    half *y, const half *q, const half *k, const half *v, int query_images, int queries, int keys, int head_size, int token_pitch, \
        int head_pitch, int part_pitch, int causal, float scale
#define ATTENTION(HEAD, QUERIES, KEYS) \
    attention<AttentionTile<HEAD, QUERIES, KEYS>>(y, q, k, v, query_images, queries, keys, head_size, token_pitch, head_pitch, part_pitch, causal, \
                                                  scale)

ENTRY(128, 4, attention_f16_16_64x64, ATTENTION_PARAMETERS) { ATTENTION(16, 64, 64); }
ENTRY(128, 3, attention_f16_32_128x64, ATTENTION_PARAMETERS) { ATTENTION(32, 128, 64); }
ENTRY(128, 4, attention_f16_32_64x64, ATTENTION_PARAMETERS) { ATTENTION(32, 64, 64); }
ENTRY(128, 3, attention_f16_40_128x64, ATTENTION_PARAMETERS) { ATTENTION(40, 128, 64); }
ENTRY(128, 4, attention_f16_40_64x64, ATTENTION_PARAMETERS) { ATTENTION(40, 64, 64); }
ENTRY(128, 4, attention_f16_40_64x80, ATTENTION_PARAMETERS) { ATTENTION(40, 64, 80); }
ENTRY(128, 4, attention_f16_48_64x64, ATTENTION_PARAMETERS) { ATTENTION(48, 64, 64); }
ENTRY(128, 2, attention_f16_64_128x64, ATTENTION_PARAMETERS) { ATTENTION(64, 128, 64); }
ENTRY(128, 4, attention_f16_64_64x64, ATTENTION_PARAMETERS) { ATTENTION(64, 64, 64); }
ENTRY(128, 3, attention_f16_64_64x80, ATTENTION_PARAMETERS) { ATTENTION(64, 64, 80); }
ENTRY(128, 3, attention_f16_80_64x64, ATTENTION_PARAMETERS) { ATTENTION(80, 64, 64); }
ENTRY(128, 2, attention_f16_80_64x80, ATTENTION_PARAMETERS) { ATTENTION(80, 64, 80); }
ENTRY(128, 3, attention_f16_96_64x64, ATTENTION_PARAMETERS) { ATTENTION(96, 64, 64); }
ENTRY(128, 2, attention_f16_128_64x32, ATTENTION_PARAMETERS) { ATTENTION(128, 64, 32); }
ENTRY(128, 2, attention_f16_160_64x32, ATTENTION_PARAMETERS) { ATTENTION(160, 64, 32); }
ENTRY(128, 2, attention_f16_160_64x80, ATTENTION_PARAMETERS) { ATTENTION(160, 64, 80); }
