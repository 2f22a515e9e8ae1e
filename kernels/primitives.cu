// What each primitive of gpu.cuh makes of given bits: the kernels by which the emulator and a GPU are held to one another.
//
//   shuffle            lane l receives the word of lane l ^ setting
//   reduce             sum, then largest, of a warp's values
//   vector             16 bytes to and fro, the lanes' order reversed
//   copy_async_B       two groups of copies of B bytes a lane; bit l of `setting` says whether lane l's first copy is valid, its second one is
//                      if the first is not. The first group is read once at most one is under way, the second, a neighbour's, after a barrier
//   load_matrix        four 8 x 8 matrices, each lane's row of them `setting` rows away from the one before; and transposed
//   multiply           one product of fragments: accumulated in f32 and in halves, and so for a tile of 2 x 3 fragments at once
//   last_to_arrive     several blocks, of which the last to come adds up what all have written
//   exp2, reciprocal   one number a thread; maximum   of two
//   pack, unpack, narrow, widen   floats to halves and back, `setting` numbers
//   rate               `setting` products of a tile of fragments, one after the other on registers alone: the most that any kernel can reach
//
// Tensors       words of 32 bits, whatever they stand for: x is read, y written; what lies where is said at each kernel
// Arithmetic    the primitive's own
// Launch        one warp, blocks of one warp to meet; 256 threads where an entry says so
// Requirements  none are checked: tests/primitives and, for the rate, benches/turns are the only callers; no network asks for these entries
// Cost          none to speak of; of the rate, 2 * 16^3 * RATE_ROWS * RATE_COLUMNS / 2 FLOPs per warp and round
// Measured      not yet run on hardware
#include "gpu.cuh"

#define BITS float *y, const float *x, int setting

DEVICE const uint32_t* words(const float* x) { return reinterpret_cast<const uint32_t*>(x); }
DEVICE uint32_t* words(float* y) { return reinterpret_cast<uint32_t*>(y); }

// x, y [2][32]: floats, integers.
DEVICE void shuffle(BITS) {
    wait_for_previous_grid();
    const int lane = lane_index();
    y[lane] = shuffle_xor(x[lane], setting);
    const int received = shuffle_xor(static_cast<int>(words(x)[WARP + lane]), setting);
    words(y)[WARP + lane] = static_cast<uint32_t>(received);
}

// x [32]; y [2][32]: the sum and the largest, as each lane has them.
DEVICE void reduce(float* y, const float* x) {
    wait_for_previous_grid();
    const int lane = lane_index();
    y[lane] = warp_sum(x[lane]);
    y[WARP + lane] = warp_max(x[lane]);
}

// x, y [32][4].
DEVICE void vector(float* y, const float* x) {
    wait_for_previous_grid();
    const int lane = lane_index();
    store_16(y + 4 * lane, load_16(x + 4 * (WARP - 1 - lane)));
}

template <int BYTES>
DEVICE void copy_async(void* shared, const void* global, bool valid) {
    if (BYTES == 16) copy_async_16(shared, global, valid);
    if (BYTES == 8) copy_async_8(shared, global, valid);
    if (BYTES == 4) copy_async_4(shared, global, valid);
}

// x, y [2 groups][32][BYTES / 4].
template <int BYTES>
DEVICE void copy_groups(BITS) {
    wait_for_previous_grid();
    constexpr int WORDS = BYTES / 4;
    SHARED_ARRAY(uint32_t, landed, 2 * WARP * WORDS);
    const int lane = lane_index();
    const bool first_valid = (setting >> lane & 1) != 0;
    // Zeros that were not written would show as ones.
    for (int i = lane; i < 2 * WARP * WORDS; i += WARP) landed[i] = 0xffffffffu;
    sync_warp();
    copy_async<BYTES>(landed + lane * WORDS, x + lane * WORDS, first_valid);
    copy_async_commit();
    copy_async<BYTES>(landed + (WARP + lane) * WORDS, x + (WARP + lane) * WORDS, !first_valid);
    copy_async_commit();
    copy_async_wait<1>();
    for (int i = 0; i < WORDS; i++) words(y)[lane * WORDS + i] = landed[lane * WORDS + i];
    copy_async_wait<0>();
    sync_warp();
    const int neighbour = WARP + (lane ^ 1);
    for (int i = 0; i < WORDS; i++) words(y)[neighbour * WORDS + i] = landed[neighbour * WORDS + i];
}

// x [32 rows][4 words of two halves]; y [32 lanes][4].
template <bool TRANSPOSED>
DEVICE void load_matrix(BITS) {
    wait_for_previous_grid();
    SHARED_ARRAY(uint32_t, rows, WARP * 4);
    const int lane = lane_index();
    for (int i = 0; i < 4; i++) rows[4 * lane + i] = words(x)[4 * lane + i];
    sync_warp();
    const uint32_t* row = rows + 4 * (lane * setting % WARP);
    uint32_t r[4];
    if (TRANSPOSED) {
        load_matrix_x4_transposed(r, row);
    } else {
        load_matrix_x4(r, row);
    }
    for (int i = 0; i < 4; i++) words(y)[4 * lane + i] = r[i];
}

// COUNT words from where the lane's own begin.
template <int COUNT>
DEVICE void load_words(uint32_t (&to)[COUNT], const uint32_t* from) {
    for (int i = 0; i < COUNT; i++) to[i] = from[i];
}

// x [32][4 of a, 2 of b, 4 of d]; y [32][4 of d].
DEVICE void multiply(float* y, const float* x) {
    wait_for_previous_grid();
    const int lane = lane_index();
    const float* own = x + 10 * lane;
    uint32_t a[4], b[2];
    float d[4];
    load_words(a, words(own));
    load_words(b, words(own + 4));
    for (int i = 0; i < 4; i++) d[i] = own[6 + i];
    multiply_accumulate(d, a, b);
    for (int i = 0; i < 4; i++) y[4 * lane + i] = d[i];
}

// x [32][4 of a, 2 of b, 2 of d]; y [32][2 of d].
DEVICE void multiply_half(float* y, const float* x) {
    wait_for_previous_grid();
    const int lane = lane_index();
    const float* own = x + 8 * lane;
    uint32_t a[4], b[2], d[2];
    load_words(a, words(own));
    load_words(b, words(own + 4));
    load_words(d, words(own + 6));
    multiply_accumulate_half(d, a, b);
    for (int i = 0; i < 2; i++) words(y)[2 * lane + i] = d[i];
}

// x [32][2 x 4 of a, 3 x 2 of b, 2 x 3 x 4 of d]; y [32][2 x 3 x 4 of d].
DEVICE void multiply_fragments(float* y, const float* x) {
    wait_for_previous_grid();
    const int lane = lane_index();
    const float* own = x + 38 * lane;
    uint32_t a[2][4], b[3][2];
    float d[2][3][4];
    for (int i = 0; i < 2; i++) load_words(a[i], words(own + 4 * i));
    for (int j = 0; j < 3; j++) load_words(b[j], words(own + 8 + 2 * j));
    for (int i = 0; i < 24; i++) d[i / 12][i / 4 % 3][i % 4] = own[14 + i];
    multiply_tile(d, a, b);
    for (int i = 0; i < 24; i++) y[24 * lane + i] = d[i / 12][i / 4 % 3][i % 4];
}

// x [32][2 x 4 of a, 3 x 2 of b, 2 x 3 x 2 of d]; y [32][2 x 3 x 2 of d].
DEVICE void multiply_fragments_half(float* y, const float* x) {
    wait_for_previous_grid();
    const int lane = lane_index();
    const float* own = x + 26 * lane;
    uint32_t a[2][4], b[3][2], d[2][3][2];
    for (int i = 0; i < 2; i++) load_words(a[i], words(own + 4 * i));
    for (int j = 0; j < 3; j++) load_words(b[j], words(own + 8 + 2 * j));
    for (int i = 0; i < 6; i++) load_words(d[i / 3][i % 3], words(own + 14 + 2 * i));
    multiply_tile_half(d, a, b);
    for (int i = 0; i < 12; i++) words(y)[12 * lane + i] = d[i / 6][i / 2 % 3][i % 2];
}

DEVICE int number_of_thread() { return static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); }

// x, y [setting].
DEVICE void exp2(BITS) {
    wait_for_previous_grid();
    const int i = number_of_thread();
    if (i < setting) y[i] = exp2_approximate(x[i]);
}
DEVICE void reciprocal(BITS) {
    wait_for_previous_grid();
    const int i = number_of_thread();
    if (i < setting) y[i] = reciprocal_approximate(x[i]);
}

// x [setting][2]; y [setting].
DEVICE void larger(BITS) {
    wait_for_previous_grid();
    const int i = number_of_thread();
    if (i < setting) y[i] = maximum(x[2 * i], x[2 * i + 1]);
}
DEVICE void pack(BITS) {
    wait_for_previous_grid();
    const int i = number_of_thread();
    if (i < setting) words(y)[i] = pack_halves(x[2 * i], x[2 * i + 1]);
}

// x [setting]; y [setting][2].
DEVICE void unpack(BITS) {
    wait_for_previous_grid();
    const int i = number_of_thread();
    if (i >= setting) return;
    y[2 * i] = low_half(words(x)[i]);
    y[2 * i + 1] = high_half(words(x)[i]);
}

// x [setting]; y [setting] halves.
DEVICE void narrow(BITS) {
    wait_for_previous_grid();
    const int i = number_of_thread();
    if (i < setting) reinterpret_cast<half*>(y)[i] = from_float<half>(x[i]);
}

// x [setting] halves; y [setting].
DEVICE void widen(BITS) {
    wait_for_previous_grid();
    const int i = number_of_thread();
    if (i < setting) y[i] = to_float(reinterpret_cast<const half*>(x)[i]);
}

// x, y [blocks][32], then y [32]: each block's words turned, and the sums over the blocks as the last one to arrive finds them.
DEVICE void last_arrives(float* y, const float* x, int* counter) {
    wait_for_previous_grid();
    const int lane = lane_index(), blocks = static_cast<int>(gridDim.x);
    const int own = static_cast<int>(blockIdx.x) * WARP;
    y[own + lane] = x[own + (lane ^ 1)];
    if (!last_to_arrive(counter, blocks)) return;
    float sum = 0.0f;
    for (int block = 0; block < blocks; block++) sum += y[block * WARP + lane];
    y[blocks * WARP + lane] = sum;
}

// x, y [threads]: each number of the other end and one, so that a grid reads what other multiprocessors have just written.
DEVICE void relay(float* y, const float* x) {
    wait_for_previous_grid();
    let_next_grid_start();
    const int i = number_of_thread(), last = static_cast<int>(gridDim.x * blockDim.x) - 1;
    y[i] = x[last - i] + 1.0f;
}

// Fragments of the tile of `rate`: enough sums that none waits for its own last product.
#define RATE_ROWS 4
#define RATE_COLUMNS 8

// x [32][4 of a, 2 of b]: every fragment the same; y [threads]: the sum of a thread's elements.
DEVICE void rate(BITS) {
    wait_for_previous_grid();
    const float* own = x + 6 * lane_index();
    uint32_t a[RATE_ROWS][4], b[RATE_COLUMNS][2];
    float d[RATE_ROWS][RATE_COLUMNS][4] = {};
#pragma unroll
    for (int i = 0; i < RATE_ROWS; i++) load_words(a[i], words(own));
#pragma unroll
    for (int j = 0; j < RATE_COLUMNS; j++) load_words(b[j], words(own + 4));
    for (int round = 0; round < setting; round++) multiply_tile(d, a, b);
    // Products whose sums nobody reads would be left out.
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < RATE_ROWS * RATE_COLUMNS * 4; i++) sum += d[i / 4 / RATE_COLUMNS][i / 4 % RATE_COLUMNS][i % 4];
    y[number_of_thread()] = sum;
}

// ---- entries ------------------------------------------------------------------------------------

ENTRY(32, 1, primitive_shuffle, BITS) { shuffle(y, x, setting); }
ENTRY(32, 1, primitive_reduce, float* y, const float* x) { reduce(y, x); }
ENTRY(32, 1, primitive_vector, float* y, const float* x) { vector(y, x); }
ENTRY(32, 1, primitive_copy_async_16, BITS) { copy_groups<16>(y, x, setting); }
ENTRY(32, 1, primitive_copy_async_8, BITS) { copy_groups<8>(y, x, setting); }
ENTRY(32, 1, primitive_copy_async_4, BITS) { copy_groups<4>(y, x, setting); }
ENTRY(32, 1, primitive_load_matrix, BITS) { load_matrix<false>(y, x, setting); }
ENTRY(32, 1, primitive_load_matrix_transposed, BITS) { load_matrix<true>(y, x, setting); }
ENTRY(32, 1, primitive_last_to_arrive, float* y, const float* x, int* counter) { last_arrives(y, x, counter); }
ENTRY(256, 1, primitive_relay, float* y, const float* x) { relay(y, x); }
ENTRY(32, 1, primitive_multiply, float* y, const float* x) { multiply(y, x); }
ENTRY(32, 1, primitive_multiply_half, float* y, const float* x) { multiply_half(y, x); }
ENTRY(32, 1, primitive_multiply_tile, float* y, const float* x) { multiply_fragments(y, x); }
ENTRY(32, 1, primitive_multiply_tile_half, float* y, const float* x) { multiply_fragments_half(y, x); }
ENTRY(256, 1, primitive_exp2, BITS) { exp2(y, x, setting); }
ENTRY(256, 1, primitive_reciprocal, BITS) { reciprocal(y, x, setting); }
ENTRY(256, 1, primitive_maximum, BITS) { larger(y, x, setting); }
ENTRY(256, 1, primitive_pack, BITS) { pack(y, x, setting); }
ENTRY(256, 1, primitive_unpack, BITS) { unpack(y, x, setting); }
ENTRY(256, 1, primitive_narrow, BITS) { narrow(y, x, setting); }
ENTRY(256, 1, primitive_widen, BITS) { widen(y, x, setting); }
ENTRY(256, 1, primitive_rate, BITS) { rate(y, x, setting); }
