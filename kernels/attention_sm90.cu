// Attention on a Hopper GPU, for heads of 40, 64, 80 and 160 channels: attention.cu's, by products of warpgroups.
//
//   y[t] = softmax_l(scale q[t] . k[l]) v[l]        head by head, every query on every key
//
// FlashAttention-2's online softmax (arXiv:2307.08691, algorithm 1) in the roles of FlashAttention-3 (arXiv:2407.08608): one warp loads tiles
// of keys and values into a ring of stages, warpgroups of 64 queries each work on them. A group starts the logits of a tile and the product of
// the tile before with its values together, and makes weights of those logits while that product runs.
//
// Two things are cheaper here than they look in the formula. Behind a head's channels v has eight columns of ones, which a second warp
// writes into each tile that has arrived: so the sum of a query's weights is a column of the product, in registers of every lane, and
// needs no addition. And one fragment of weights in five is made by a polynomial: a multiprocessor makes 16 exponentials per clock, where
// it multiplies and adds 128 times, and at 40 channels exponentials take longer than products.
//
// Tensors      y [N, T, A, D], q [query_images, T, A, D] read again from its first image on, k and v [N, L, A, D]: halves, by maps with boxes of
//              64 channels, 1 head, 64 queries or KEYS keys, 1 image, in 128-byte swizzle. Maps hold the pitches, so q, k and v may lie
//              in one tensor. Channels beyond D are zeros.
// Arithmetic   q k^T by wgmma, f32 sums. A weight is 2^(s c - m c + 12) for c = scale log2 e, as in attention.cu, by ex2.approx or, for keys
//              32 to 39, 72 to 79 and 112 to 119 of a tile, by 2^n p(f) with |f| <= 1/2 and p of degree 3, whose relative error is 7.5e-5,
//              a sixth of half a unit in the last place of halves. Weights are rounded to halves; the product with v and the weights' sum,
//              both of rounded weights, are f32.
//              A query's keys are summed in ascending order, in tiles that D and L alone decide: how many groups a block has changes no bit.
// NaN, Inf     m passes NaN on, and a query whose m is not finite is NaN; so what attention.cu makes NaN is NaN here.
// Launch       x: tiles of 64 GROUPS queries, y: heads, z: images. 128 GROUPS + 64 threads: groups, the warp that loads, the warp that writes
//              ones; with three groups a fourth one, whose registers they take.
//              Shared memory: queries, then STAGES of keys and values; counted in src/cuda/attention_sm90.rs.
// Requirements sm_90a; D is HEAD; scale > 0; one stage only where L <= KEYS. src/cuda/attention_sm90.rs sees to it.
// Cost         4 N A T L D FLOPs, made 2 N A T L (D' + D + 8) by D' = D rounded up to 16 and the ones; N A T L exponentials, three of 16
//              by polynomials. Bytes: q and y once, k and v once per tile of queries, mostly from the second-level cache.
// Measured     not yet run on hardware. Of the code for sm_90a, a warp's step along the keys, hidden keys apart:
//
//                head, tile   registers  HGMMA  MUFU.EX2  FADD  others
//                40  192x128        160     11        54    38     320
//                40  128x128        151     11        54    38     308
//                64  192x128        160     12        54    38     326
//                64  128x128        159     12        54    38     322
//                80  128x128        166     13        54    38     332
//                160  64x128        212     18        54    38     388
//
//              At D = 40 a warp of each of three groups shares a scheduler: 3 x 423 clocks to issue, 3 x 432 for the exponentials, 3 x 384 for
//              the products. FADD are the polynomial's three, and two for the largest logits: none adds weights.
#include "hopper.cuh"

namespace {

// ---- device helpers -----------------------------------------------------------------------------

constexpr int FLASH_ROWS = 64;         // queries of a warpgroup
constexpr int FLASH_CHUNK = 64;        // channels of a box, 128 bytes
constexpr int FLASH_ROW_BYTES = 128;
constexpr int FLASH_EIGHT_ROWS = 1024;
constexpr int FLASH_ONES = 8;

// Below every logit that halves can make (160 * 65504^2 < 1e12), and finite.
constexpr float FLASH_LOWEST = -1e30f;
constexpr float FLASH_HEADROOM = 12.0f;
// One fragment in so many is made by the polynomial: 3 of 16. A quarter would take longer to issue than the exponentials it spares.
constexpr int FLASH_POLYNOMIAL = 5;

// The shape of a block: HEAD channels; GROUPS warpgroups; KEYS per stage; STAGES.
template <int HEAD_, int GROUPS_, int KEYS_, int STAGES_>
struct FlashTile {
    static constexpr int HEAD = HEAD_, GROUPS = GROUPS_, KEYS = KEYS_, STAGES = STAGES_;
    static constexpr int CHUNKS = (HEAD + FLASH_CHUNK - 1) / FLASH_CHUNK;
    static constexpr int VALUE_CHUNKS = (HEAD + FLASH_ONES + FLASH_CHUNK - 1) / FLASH_CHUNK;
    static constexpr int DEPTH = (HEAD + 15) / 16;  // steps along the channels
    static constexpr int OUT = HEAD + FLASH_ONES;   // columns of the product with v
    static constexpr int QUERY_CHUNK = FLASH_ROWS * FLASH_ROW_BYTES;
    static constexpr int KEY_CHUNK = KEYS * FLASH_ROW_BYTES;
    static constexpr int QUERY_BYTES = CHUNKS * QUERY_CHUNK;
    static constexpr int STAGE_BYTES = (CHUNKS + VALUE_CHUNKS) * KEY_CHUNK;
};

// What tells the roles of each other, for each stage. Keys and values are freed one after the other.
template <int STAGES>
struct FlashBarriers {
    Barrier queries;
    Barrier keys[STAGES], keys_free[STAGES];
    Barrier values[STAGES], values_complete[STAGES], values_free[STAGES];
};

// A place in the ring.
template <int STAGES>
struct FlashStage {
    int index = 0, parity = 0;
};
template <int STAGES>
DEVICE void flash_advance(FlashStage<STAGES>& stage) {
    if (++stage.index == STAGES) stage.index = 0, stage.parity ^= 1;
}

// 2^x to a relative error of 7.5e-5, by additions and multiplications alone: x is n + f with n whole and |f| <= 1/2, found by adding
// 1.5 * 2^23, whose last place is 1, and n goes into the exponent. Of all polynomials of degree 3 this one's largest error is the least.
DEVICE float flash_exp2(float x) {
    const float whole = fmaxf(x, -126.0f) + 12582912.0f;
    const float f = fmaxf(x, -126.0f) - (whole - 12582912.0f);
    const float p = ((0.05517167f * f + 0.24261113f) * f + 0.69326097f) * f + 0.99992806f;
    uint32_t bits, n;
    memcpy(&bits, &p, sizeof bits);
    memcpy(&n, &whole, sizeof n);
    bits += n << 23;
    float y;
    memcpy(&y, &bits, sizeof y);
    return y;
}

// Starts s = q k^T for one tile.
template <class Tile>
DEVICE void flash_logits(float (&s)[Tile::KEYS / 2], uint64_t queries, uint64_t keys) {
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < Tile::DEPTH; step++) {
        const int chunk = step / 4, column = step % 4 * 2;
        const uint64_t a = queries + chunk * (Tile::QUERY_CHUNK / 16) + column, b = keys + chunk * (Tile::KEY_CHUNK / 16) + column;
        multiply_warpgroup<Tile::KEYS>(s, a, b, step > 0);
    }
    wgmma_commit();
}

// Starts y += weights v for one tile.
template <class Tile>
DEVICE void flash_mix(float (&y)[Tile::OUT / 2], const uint32_t (&weights)[Tile::KEYS / 16][4], uint64_t values) {
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < Tile::KEYS / 16; step++) {
        multiply_warpgroup_registers_transposed<Tile::OUT>(y, weights[step], values + step * (2 * FLASH_EIGHT_ROWS / 16), true);
    }
    wgmma_commit();
}

// Hides keys at or beyond `seen` of the tile.
template <int KEYS>
DEVICE void flash_hide(float (&s)[KEYS / 2], int seen) {
    seen -= lane_index() % 4 * 2;
#pragma unroll
    for (int i = 0; i < KEYS / 2; i++) {
        if (i / 4 * 8 + i % 2 >= seen) s[i] = -INFINITY;
    }
}

// Turns logits into weights, and says by how much what was summed before is to be multiplied. `largest` is of rows g and g + 8.
template <int KEYS>
DEVICE void flash_weights(float (&s)[KEYS / 2], float (&largest)[2], float (&factor)[2], float scale) {
#pragma unroll
    for (int half_row = 0; half_row < 2; half_row++) {
        float most = largest[half_row];
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++) most = maximum(most, maximum(s[4 * j + 2 * half_row], s[4 * j + 2 * half_row + 1]));
        most = maximum(most, shuffle_xor(most, 1));
        most = maximum(most, shuffle_xor(most, 2));
        factor[half_row] = exp2_approximate((largest[half_row] - most) * scale);
        largest[half_row] = most;
        const float reference = FLASH_HEADROOM - most * scale;
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++) {
#pragma unroll
            for (int e = 0; e < 2; e++) {
                float& x = s[4 * j + 2 * half_row + e];
                x = x * scale + reference;
                x = j % FLASH_POLYNOMIAL == FLASH_POLYNOMIAL - 1 ? flash_exp2(x) : exp2_approximate(x);
            }
        }
    }
}

// Weights as the left operand, which is how they lie.
template <int KEYS>
DEVICE void flash_pack(uint32_t (&weights)[KEYS / 16][4], const float (&s)[KEYS / 2]) {
#pragma unroll
    for (int i = 0; i < KEYS / 4; i++) weights[i / 4][i % 4] = pack_halves(s[2 * i], s[2 * i + 1]);
}

// The warp that loads: queries, then keys and values tile by tile.
template <class Tile>
DEVICE void flash_load(unsigned char* shared, FlashBarriers<Tile::STAGES>& barriers, const TensorMap& q, const TensorMap& k,
                       const TensorMap& v, int query_images, int groups, int tiles) {
    const int head = static_cast<int>(blockIdx.y), image = static_cast<int>(blockIdx.z);
    auto load = [&](unsigned char* to, const TensorMap& map, Barrier* barrier, int first, int image, int chunk_bytes) {
#pragma unroll
        for (int chunk = 0; chunk < Tile::CHUNKS; chunk++) {
            tensor_load_4d(to + chunk * chunk_bytes, map, barrier, chunk * FLASH_CHUNK, head, first, image);
        }
    };
    barrier_arrive_expect(&barriers.queries, groups * Tile::QUERY_BYTES);
#pragma unroll 1
    for (int group = 0; group < groups; group++) {
        const int first = (static_cast<int>(blockIdx.x) * Tile::GROUPS + group) * FLASH_ROWS;
        load(shared + group * Tile::QUERY_BYTES, q, &barriers.queries, first, image % query_images, Tile::QUERY_CHUNK);
    }
    FlashStage<Tile::STAGES> stage;
#pragma unroll 1
    for (int tile = 0; tile < tiles; tile++, flash_advance(stage)) {
        unsigned char* keys = shared + Tile::GROUPS * Tile::QUERY_BYTES + stage.index * Tile::STAGE_BYTES;
        barrier_wait(&barriers.keys_free[stage.index], stage.parity ^ 1);
        barrier_arrive_expect(&barriers.keys[stage.index], Tile::CHUNKS * Tile::KEY_CHUNK);
        load(keys, k, &barriers.keys[stage.index], tile * Tile::KEYS, image, Tile::KEY_CHUNK);
        barrier_wait(&barriers.values_free[stage.index], stage.parity ^ 1);
        barrier_arrive_expect(&barriers.values[stage.index], Tile::CHUNKS * Tile::KEY_CHUNK);
        load(keys + Tile::CHUNKS * Tile::KEY_CHUNK, v, &barriers.values[stage.index], tile * Tile::KEYS, image, Tile::KEY_CHUNK);
    }
}

// The warp that writes ones behind the channels of each tile of values.
template <class Tile>
DEVICE void flash_complete(unsigned char* shared, FlashBarriers<Tile::STAGES>& barriers, int tiles) {
    constexpr uint32_t ONES = 0x3c003c00;
    const Vector16 ones = {{ONES, ONES, ONES, ONES}};
    constexpr int FIRST = Tile::GROUPS * Tile::QUERY_BYTES + (Tile::CHUNKS + Tile::HEAD / FLASH_CHUNK) * Tile::KEY_CHUNK;
    FlashStage<Tile::STAGES> stage;
#pragma unroll 1
    for (int tile = 0; tile < tiles; tile++, flash_advance(stage)) {
        barrier_wait(&barriers.values[stage.index], stage.parity);
#pragma unroll
        for (int row = lane_index(); row < Tile::KEYS; row += WARP) {
            const int piece = Tile::HEAD % FLASH_CHUNK / 8 ^ row % 8;
            store_16(shared + FIRST + stage.index * Tile::STAGE_BYTES + row * FLASH_ROW_BYTES + piece * 16, ones);
        }
        fence_async_shared();
        barrier_arrive(&barriers.values_complete[stage.index]);
    }
}

// Divides by the sums, and stores a group's rows by way of its queries' place, which nobody reads any more.
template <class Tile>
DEVICE void flash_store(unsigned char* shared, const TensorMap& map, const float (&y)[Tile::OUT / 2], const float (&largest)[2], int group,
                        int first) {
    const int lane = lane_index(), row = warp_index() % 4 * 16 + lane % 16;
    float factor[2];
#pragma unroll
    for (int half_row = 0; half_row < 2; half_row++) {
        // The difference is zero, or NaN.
        factor[half_row] = 1.0f / y[Tile::HEAD / 2 + 2 * half_row] + (largest[half_row] - largest[half_row]);
    }
    sync_named(1 + group, WARPGROUP);
#pragma unroll
    for (int j = 0; j < (Tile::HEAD + 15) / 16; j++) {
        uint32_t r[4];
#pragma unroll
        for (int i = 0; i < 4; i++) r[i] = pack_halves(y[8 * j + 2 * i] * factor[i % 2], y[8 * j + 2 * i + 1] * factor[i % 2]);
        const int piece = (j % 4 * 2 + lane / 16) ^ row % 8;
        store_matrix_x4(shared + j / 4 * Tile::QUERY_CHUNK + row * FLASH_ROW_BYTES + piece * 16, r);
    }
    fence_async_shared();
    sync_named(1 + group, WARPGROUP);
    if (warp_index() % 4 == 0 && elect_lane()) {
#pragma unroll
        for (int chunk = 0; chunk < Tile::CHUNKS; chunk++) {
            const int head = static_cast<int>(blockIdx.y), image = static_cast<int>(blockIdx.z);
            tensor_store_4d(map, shared + chunk * Tile::QUERY_CHUNK, chunk * FLASH_CHUNK, head, first, image);
        }
        tensor_store_commit();
        tensor_store_wait_read<0>();
    }
}

// A warpgroup's work.
template <class Tile>
DEVICE void flash_group(unsigned char* shared, FlashBarriers<Tile::STAGES>& barriers, const TensorMap& map, int group, int keys, int tiles,
                        float scale) {
    constexpr int KEYS = Tile::KEYS;
    unsigned char* const own = shared + group * Tile::QUERY_BYTES;
    unsigned char* const stages = shared + Tile::GROUPS * Tile::QUERY_BYTES;
    const uint64_t q = matrix_descriptor(own, FLASH_EIGHT_ROWS, FLASH_EIGHT_ROWS);
    const uint64_t k = matrix_descriptor(stages, FLASH_EIGHT_ROWS, FLASH_EIGHT_ROWS);
    const uint64_t v = matrix_descriptor(stages + Tile::CHUNKS * Tile::KEY_CHUNK, Tile::KEY_CHUNK, FLASH_EIGHT_ROWS);
    float s[KEYS / 2] = {}, y[Tile::OUT / 2] = {};
    float largest[2] = {FLASH_LOWEST, FLASH_LOWEST}, factor[2];
    uint32_t weights[KEYS / 16][4];
    auto release = [&](Barrier* barrier) {
        if (elect_lane()) barrier_arrive(barrier);
    };

    barrier_wait(&barriers.queries, 0);
    barrier_wait(&barriers.keys[0], 0);
    flash_logits<Tile>(s, q, k);
    wgmma_wait<0>();
    hold_registers(s);
    release(&barriers.keys_free[0]);
    if (keys < KEYS) flash_hide<KEYS>(s, keys);
    flash_weights<KEYS>(s, largest, factor, scale);
    flash_pack<KEYS>(weights, s);

    FlashStage<Tile::STAGES> before;
    if constexpr (Tile::STAGES > 1) {
        FlashStage<Tile::STAGES> stage;
        flash_advance(stage);
        if (tiles > 1) barrier_wait(&barriers.keys[stage.index], stage.parity);
#pragma unroll 1
        for (int tile = 1; tile < tiles; tile++) {
            flash_logits<Tile>(s, q, k + stage.index * (Tile::STAGE_BYTES / 16));
            barrier_wait(&barriers.values_complete[before.index], before.parity);
            flash_mix<Tile>(y, weights, v + before.index * (Tile::STAGE_BYTES / 16));
            wgmma_wait<1>();
            hold_registers(s);
            release(&barriers.keys_free[stage.index]);
            if ((tile + 1) * KEYS > keys) flash_hide<KEYS>(s, keys - tile * KEYS);
            flash_weights<KEYS>(s, largest, factor, scale);
            // ptxas would move the exponentials behind the wait for the product, but not past this one for the next keys.
            hold_registers(s);
            const FlashStage<Tile::STAGES> now = stage;
            flash_advance(stage);
            if (tile + 1 < tiles) barrier_wait(&barriers.keys[stage.index], stage.parity);
            wgmma_wait<0>();
            hold_registers(y);
            release(&barriers.values_free[before.index]);
#pragma unroll
            for (int i = 0; i < Tile::OUT / 2; i++) y[i] *= factor[i / 2 % 2];
            flash_pack<KEYS>(weights, s);
            before = now;
        }
    }
    barrier_wait(&barriers.values_complete[before.index], before.parity);
    flash_mix<Tile>(y, weights, v + before.index * (Tile::STAGE_BYTES / 16));
    wgmma_wait<0>();
    hold_registers(y);
    const int first = (static_cast<int>(blockIdx.x) * Tile::GROUPS + group) * FLASH_ROWS;
    flash_store<Tile>(own, map, y, largest, group, first);
}

// ---- kernel template ----------------------------------------------------------------------------

template <class Tile>
DEVICE void flash(const TensorMap& y, const TensorMap& q, const TensorMap& k, const TensorMap& v, int query_images, int queries, int keys,
                  float scale) {
    SHARED_DYNAMIC_SWIZZLED(shared);
    SHARED_ARRAY(FlashBarriers<Tile::STAGES>, all_barriers, 1);
    FlashBarriers<Tile::STAGES>& barriers = all_barriers[0];
    const int left = queries - static_cast<int>(blockIdx.x) * Tile::GROUPS * FLASH_ROWS;
    const int groups = min(Tile::GROUPS, (left + FLASH_ROWS - 1) / FLASH_ROWS);  // with queries
    const int tiles = (keys + Tile::KEYS - 1) / Tile::KEYS;
    if (threadIdx.x == 0) {
        barrier_init(&barriers.queries, 1);
        for (int stage = 0; stage < Tile::STAGES; stage++) {
            barrier_init(&barriers.keys[stage], 1);
            barrier_init(&barriers.values[stage], 1);
            barrier_init(&barriers.values_complete[stage], WARP);
            barrier_init(&barriers.keys_free[stage], groups * 4);
            barrier_init(&barriers.values_free[stage], groups * 4);
        }
        barrier_init_fence();
        prefetch_map(q);
        prefetch_map(k);
        prefetch_map(v);
        prefetch_map(y);
    }
    sync_block();
    wait_for_previous_grid();
    const int group = warpgroup_index();
    // Where three groups need more registers than a thread of four has, they take those of the fourth.
    if (group < Tile::GROUPS) {
        if constexpr (Tile::GROUPS == 3) registers_increase<160>();
        if (group < groups) flash_group<Tile>(shared, barriers, y, group, keys, tiles, scale);
        return;
    }
    if constexpr (Tile::GROUPS == 3) registers_decrease<32>();
    const int warp = warp_index() - Tile::GROUPS * 4;
    if (warp == 0 && elect_lane()) {
        flash_load<Tile>(shared, barriers, q, k, v, query_images, groups, tiles);
        let_next_grid_start();
    }
    if (warp == 1) flash_complete<Tile>(shared, barriers, tiles);
}

}  // namespace

// ---- entries ------------------------------------------------------------------------------------

#define FLASH_PARAMETERS TENSOR_MAP y, TENSOR_MAP q, TENSOR_MAP k, TENSOR_MAP v, int query_images, int queries, int keys, float scale
#define FLASH(HEAD, GROUPS, KEYS, STAGES) flash<FlashTile<HEAD, GROUPS, KEYS, STAGES>>(y, q, k, v, query_images, queries, keys, scale)

ENTRY_90(512, 1, 1, attention_f16_40_192x128_sm90, FLASH_PARAMETERS) { FLASH(40, 3, 128, 4); }
ENTRY_90(320, 1, 1, attention_f16_40_128x128_sm90, FLASH_PARAMETERS) { FLASH(40, 2, 128, 4); }
ENTRY_90(320, 2, 1, attention_f16_40_128x80_sm90, FLASH_PARAMETERS) { FLASH(40, 2, 80, 1); }
ENTRY_90(512, 1, 1, attention_f16_64_192x128_sm90, FLASH_PARAMETERS) { FLASH(64, 3, 128, 3); }
ENTRY_90(320, 1, 1, attention_f16_64_128x128_sm90, FLASH_PARAMETERS) { FLASH(64, 2, 128, 3); }
ENTRY_90(320, 2, 1, attention_f16_64_128x80_sm90, FLASH_PARAMETERS) { FLASH(64, 2, 80, 1); }
ENTRY_90(320, 1, 1, attention_f16_80_128x128_sm90, FLASH_PARAMETERS) { FLASH(80, 2, 128, 3); }
ENTRY_90(192, 1, 1, attention_f16_80_64x128_sm90, FLASH_PARAMETERS) { FLASH(80, 1, 128, 3); }
ENTRY_90(320, 2, 1, attention_f16_80_128x80_sm90, FLASH_PARAMETERS) { FLASH(80, 2, 80, 1); }
ENTRY_90(192, 1, 1, attention_f16_160_64x128_sm90, FLASH_PARAMETERS) { FLASH(160, 1, 128, 2); }
ENTRY_90(192, 2, 1, attention_f16_160_64x80_sm90, FLASH_PARAMETERS) { FLASH(160, 1, 80, 1); }
