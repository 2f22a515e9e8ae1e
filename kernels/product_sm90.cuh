// The tiled product that linear_sm90.cu, linear_norm_sm90.cu and conv2d_sm90.cu share on Hopper: D[M, N] = A[M, K] W[N, K]^T of halves with f32
// sums (wgmma).
//
// A block is one warpgroup that loads and one or two that multiply. One thread of the first fills a ring of stages in shared memory by tensor
// maps, 64 columns of the tile's rows of A and W at a time; the others multiply a stage where it lies and hand it back, two stages being
// multiplied at any time. A block computes one tile after another, and the next one's stages are loaded while the last one's results are stored.
// Only the source of A differs between the two operations: linear maps read rows, convolutions boxes of pixels.
//
// Two blocks of a cluster compute tiles that lie one below the other and need the same rows of W: each loads half of them for both.
//
// Order of sums: as in product.cuh, along K, one step of 16 after the other, in every tile. Where K is split over blocks (blockIdx.y), each part
// is summed so, and the parts then in their order (split.cuh).
//
// Weights are loaded before the grid before has ended, everything else after it.
#pragma once

#include "channel_moments_sm90.cuh"
#include "epilogue.cuh"
#include "hopper.cuh"
#include "split.cuh"

// Halves of a row in one stage, and their bytes: what a swizzle of 128 bytes spans.
#define DEPTH 64
#define DEPTH_BYTES 128

// GROUPS warpgroups multiply FRAGMENTS times 64 rows each.
template <int GROUPS_, int FRAGMENTS_, int BN_, int STAGES_, int CLUSTER_>
struct Tile {
    static constexpr int GROUPS = GROUPS_, FRAGMENTS = FRAGMENTS_, BN = BN_, STAGES = STAGES_, CLUSTER = CLUSTER_;
    static constexpr int GROUP_ROWS = 64 * FRAGMENTS, BM = GROUP_ROWS * GROUPS;
    // Those that multiply.
    static constexpr int THREADS = GROUPS * WARPGROUP, WARPS = THREADS / WARP;
    static constexpr int A_BYTES = BM * DEPTH_BYTES, STAGE = A_BYTES + BN * DEPTH_BYTES;
    // Columns that a warp lays out for the epilogue at a time, and floats from a row to the next: a fragment's rows are in different banks.
    static constexpr int PIECE = BN % 80 == 0 ? 80 : 64, PITCH = PIECE + 8;
    static constexpr int ROWS = STAGES * STAGE, ROWS_BYTES = 16 * PITCH * 4;
    // Behind the barriers are words: one for all who multiply, and one for each warpgroup.
    static constexpr int BARRIERS = ROWS + WARPS * ROWS_BYTES, LAST = BARRIERS + 2 * STAGES * static_cast<int>(sizeof(Barrier));
    static_assert(BN % PIECE == 0 && BN / CLUSTER % 8 == 0, "a tile is made of whole pieces, and each block's share of W of whole swizzles");
};

// The stages as one side walks around them: the next one, and the parity of the phase of its barriers that must have ended.
template <class T>
struct Ring {
    unsigned char* stages;
    Barrier* full;     // loaded
    Barrier* empty;    // multiplied, by all who share it
    int slot;
    int parity;
};

template <class T>
DEVICE Ring<T> ring_of(unsigned char* shared, int parity) {
    Barrier* barriers = reinterpret_cast<Barrier*>(shared + T::BARRIERS);
    return Ring<T>{shared, barriers, barriers + T::STAGES, 0, parity};
}

template <class T>
DEVICE void advance(Ring<T>& ring) {
    ring.slot++;
    if (ring.slot == T::STAGES) {
        ring.slot = 0;
        ring.parity ^= 1;
    }
}

// The product's rows of tiles, its steps of 64 columns of A and W, and those of each part of K but the last.
struct Steps {
    int tiles_down;
    int all;
    int part;
};

// What a block computes: tiles of the result, `columns` of them side by side with W from `row` on, and of each the steps of 64 columns of A and W
// from `first` on. A grid along z is of several products, whose weights lie one below the other.
struct Work {
    int tiles;
    int columns;
    int row;
    int first;
    int steps;
};

// All blocks of a cluster have tiles of the same columns: a cluster's turn is CLUSTER tiles below each other.
template <class T>
DEVICE Work work_of_block(int n, const Steps& steps) {
    Work work;
    work.columns = (n + T::BN - 1) / T::BN;
    work.row = static_cast<int>(blockIdx.z) * n;
    work.tiles = (steps.tiles_down + T::CLUSTER - 1) / T::CLUSTER * work.columns;
    work.first = static_cast<int>(blockIdx.y) * steps.part;
    work.steps = min(steps.part, steps.all - work.first);
    return work;
}
template <class T>
DEVICE int first_turn() { return static_cast<int>(blockIdx.x) / T::CLUSTER; }
template <class T>
DEVICE int turns() { return static_cast<int>(gridDim.x) / T::CLUSTER; }
template <class T>
DEVICE int rank() { return T::CLUSTER == 1 ? 0 : cluster_rank(); }
template <class T>
DEVICE int tile_down(const Work& work, int turn) { return turn / work.columns * T::CLUSTER + rank<T>(); }

// ---- the warpgroup that loads -------------------------------------------------------------------------------------------------------

// Announces a stage and starts the loads of its W: this block's share of the rows, for every block of the cluster.
template <class T>
DEVICE void load_weights(const Ring<T>& ring, const TensorMap& w, int row, int step) {
    Barrier* full = ring.full + ring.slot;
    barrier_arrive_expect(full, T::STAGE);
    unsigned char* to = ring.stages + ring.slot * T::STAGE + T::A_BYTES;
    if (T::CLUSTER == 1) {
        tensor_load_2d(to, w, full, step * DEPTH, row);
    } else {
        constexpr int SHARE = T::BN / T::CLUSTER;
        tensor_load_2d_multicast(to + rank<T>() * SHARE * DEPTH_BYTES, w, full, step * DEPTH, row + rank<T>() * SHARE, (1 << T::CLUSTER) - 1);
    }
}

// One thread loads all stages of all tiles. `source.begin(place, step)` is where A is read from, and `source.load(at, stage, full)` loads 64 of its
// columns and goes on; `source.prefetch()` brings its maps while nothing can be read yet.
template <class T, class Source>
DEVICE void load_stages(unsigned char* shared, const Source& source, const TensorMap& w, const Work& work) {
    Ring<T> ring = ring_of<T>(shared, 1), ahead = ring;
    const int early = first_turn<T>() < work.tiles ? min(T::STAGES, work.steps) : 0;
#pragma unroll 1
    for (int step = 0; step < early; step++) {
        load_weights(ahead, w, work.row + first_turn<T>() % work.columns * T::BN, work.first + step);
        advance(ahead);
    }
    source.prefetch();
    wait_for_previous_grid();
    int loaded = 0;
#pragma unroll 1
    for (int turn = first_turn<T>(); turn < work.tiles; turn += turns<T>()) {
        auto at = source.begin(source.place(tile_down<T>(work, turn)), work.first);
        const int row = work.row + turn % work.columns * T::BN;
#pragma unroll 1
        for (int step = 0; step < work.steps; step++, loaded++) {
            if (loaded >= early) {
                barrier_wait(ring.empty + ring.slot, ring.parity);
                load_weights(ring, w, row, work.first + step);
            }
            source.load(at, ring.stages + ring.slot * T::STAGE, ring.full + ring.slot);
            advance(ring);
        }
    }
    let_next_grid_start();
}

// ---- the warpgroups that multiply ---------------------------------------------------------------------------------------------------

// Hands a stage back to all who load into it.
template <class T>
DEVICE void release(Barrier* empty) {
    sync_warp();
    if (T::CLUSTER == 1) {
        if (lane_index() == 0) barrier_arrive(empty);
    } else {
        if (lane_index() < T::CLUSTER) barrier_arrive_remote(empty, lane_index());
    }
}

// What looks at the rows of A beside the products, and at their sums before they are finished. Most operands ask for nothing.
struct Unseen {
    // The warpgroup's rows of a tile's stage number `step`.
    __device__ __forceinline__ void look(const unsigned char*, int) {}
    // The tile's last stage was seen. All threads of the warpgroup call.
    __device__ __forceinline__ void end(unsigned char*) {}
    // Changes sums of a tile's row.
    __device__ __forceinline__ void change(int, int, float (&)[COLUMNS_TOGETHER]) const {}
};

// The warpgroup's sums of one tile.
template <class T, class Seen>
DEVICE void multiply(float (&sum)[T::FRAGMENTS][T::BN / 2], Ring<T>& ring, int steps, Seen& seen) {
    const int rows = warpgroup_index() * T::GROUP_ROWS * DEPTH_BYTES;
    int before = 0;
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
        barrier_wait(ring.full + ring.slot, ring.parity);
        const unsigned char* stage = ring.stages + ring.slot * T::STAGE;
        const uint64_t a = matrix_descriptor(stage + rows, 16, 8 * DEPTH_BYTES);
        const uint64_t w = matrix_descriptor(stage + T::A_BYTES, 16, 8 * DEPTH_BYTES);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < DEPTH / 16; k++) {
#pragma unroll
            for (int f = 0; f < T::FRAGMENTS; f++) {
                // In descriptors addresses count sixteen bytes.
                multiply_warpgroup<T::BN>(sum[f], a + f * 64 * DEPTH_BYTES / 16 + 2 * k, w + 2 * k, step + k > 0);
            }
        }
        wgmma_commit();
        seen.look(stage + rows, step);
        wgmma_wait<1>();
        if (step > 0) release<T>(ring.empty + before);
        before = ring.slot;
        advance(ring);
    }
    wgmma_wait<0>();
    release<T>(ring.empty + before);
#pragma unroll
    for (int f = 0; f < T::FRAGMENTS; f++) hold_registers(sum[f]);
}

// Puts the sums of all of the tile's parts in the place of this block's. False: another block comes later and does it. As in product.cuh, but for
// the warpgroup that loads, which goes on meanwhile.
template <class T>
DEVICE bool add_up(float (&sum)[T::FRAGMENTS][T::BN / 2], const Split& split, unsigned char* shared, int tile, int tiles) {
    constexpr int COUNT = T::FRAGMENTS * T::BN / 2;
    float(&sums)[COUNT] = reinterpret_cast<float(&)[COUNT]>(sum);
    const int thread = static_cast<int>(threadIdx.x), parts = static_cast<int>(gridDim.y);
    const size_t step = static_cast<size_t>(tiles) * COUNT * T::THREADS;
    float* const first = split.partial + static_cast<size_t>(tile) * COUNT * T::THREADS;
    int* const last = reinterpret_cast<int*>(shared + T::LAST);
    store_part(first + blockIdx.y * step, sums, thread, T::THREADS);
    sync_named(1, T::THREADS);
    if (threadIdx.x == 0) *last = arrive(split.counters + tile, parts) ? 1 : 0;
    sync_named(1, T::THREADS);
    if (*last == 0) return false;
    add_parts(sums, first, step, parts, thread, T::THREADS);
    return true;
}

// Two floats moved by one instruction.
struct alignas(8) Floats2 {
    float x[2];
};

// Lays the warp's sums out in rows, sixteen rows of a piece at a time, and gives them away eight columns at a time: `take(row, column, v, at)`,
// both counted from the tile's first, where `at` is their place in shared memory. `then(rows, row, column)` comes after a piece, of which the
// warpgroup has 64 rows from `row` on.
template <class T, class Take, class Then>
DEVICE void each_eight_columns(const float (&sum)[T::FRAGMENTS][T::BN / 2], unsigned char* shared, const Take& take, const Then& then) {
    constexpr int EIGHTS = T::PIECE / COLUMNS_TOGETHER, PIECES = T::BN / T::PIECE;
    float* rows = reinterpret_cast<float*>(shared + T::ROWS + warp_index() * T::ROWS_BYTES);
    const int lane = lane_index();
    const int first_row = warpgroup_index() * T::GROUP_ROWS;
#pragma unroll 1
    for (int i = 0; i < T::FRAGMENTS * PIECES; i++) {
        // Registers have no index: each of the pieces is compiled, and one is taken.
#pragma unroll
        for (int piece = 0; piece < T::FRAGMENTS * PIECES; piece++) {
            if (piece != i) continue;
#pragma unroll
            for (int j = 0; j < EIGHTS; j++) {
                const int at = (piece % PIECES * EIGHTS + j) * 4;
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const Floats2 pair = {{sum[piece / PIECES][at + 2 * half], sum[piece / PIECES][at + 2 * half + 1]}};
                    *reinterpret_cast<Floats2*>(rows + (lane / 4 + half * 8) * T::PITCH + j * 8 + lane % 4 * 2) = pair;
                }
            }
        }
        sync_warp();
#pragma unroll 1
        for (int item = lane; item < 16 * EIGHTS; item += WARP) {
            const int row = item / EIGHTS, column = item % EIGHTS * COLUMNS_TOGETHER;
            float v[COLUMNS_TOGETHER];
            load_columns(v, rows + row * T::PITCH + column, true, COLUMNS_TOGETHER);
            take(first_row + i / PIECES * 64 + warp_index() % 4 * 16 + row, i % PIECES * T::PIECE + column, v, rows + row * T::PITCH + column);
        }
        sync_warp();
        then(rows, first_row + i / PIECES * 64, i % PIECES * T::PIECE);
    }
}

// Finishes the tile that begins at `place` and column `first_column`. Where somebody asks for the moments of what is stored, that goes back to the
// rows in shared memory, whose columns are then summed.
template <class T, class Source, class Place, class Seen>
DEVICE void finish_tile(const float (&sum)[T::FRAGMENTS][T::BN / 2], unsigned char* shared, const Epilogue<half>& e, const ChannelMoments& asked,
                        const Source& source, const Place& place, int first_column, const Seen& seen) {
    const bool wanted = asked.moments != nullptr;
    const auto take = [&](int row, int column, float(&v)[COLUMNS_TOGETHER], float* at) {
        seen.change(row, first_column + column, v);
        finish(e, source.row(place, row), first_column + column, v);
        if (!wanted) return;
#pragma unroll
        for (int k = 0; k < COLUMNS_TOGETHER; k++) v[k] = stored(v[k]);
        store_columns(at, v, true, COLUMNS_TOGETHER);
    };
    const auto then = [&](float* rows, int row, int column) {
        // Images are made of whole blocks: one that begins beyond the last row is of none.
        if (!wanted || source.row(place, row) >= e.m) return;
        find_moments<T::PIECE, T::PITCH>(asked, rows, source.block(place, row), first_column + column, e.n);
    };
    each_eight_columns<T>(sum, shared, take, then);
    if (!wanted) return;
    // The rows are read: the group's normalisations have them now, as they have the registers.
    Scale* const scales = reinterpret_cast<Scale*>(shared + T::ROWS + warpgroup_index() * (WARPGROUP / WARP) * T::ROWS_BYTES);
#pragma unroll 1
    for (int fragment = 0; fragment < T::FRAGMENTS; fragment++) {
        const int row = warpgroup_index() * T::GROUP_ROWS + fragment * BLOCK_ROWS;
        if (source.row(place, row) >= e.m) continue;
        bring_block(asked, source.block(place, row), first_column, T::BN, e.y, e.n, reinterpret_cast<int*>(shared + T::LAST) + 1, scales);
    }
}

// ---- the block ----------------------------------------------------------------------------------------------------------------------

// The block's tiles of D over its part of K. The block that completes a tile stores its result, and its moments if they are asked for, whose counters
// are behind those of tiles. `source.place(tile)` is where a tile begins, `row` of it the row of D that is the tile's row of this number, and
// `block` the number of the 64 rows that begin there.
template <class T, class Source, class Seen>
DEVICE void product(const Source& source, const TensorMap& w, const Split& split, const Epilogue<half>& e, ChannelMoments asked, const Steps& steps,
                    Seen seen) {
    SHARED_DYNAMIC_SWIZZLED(shared);
    if (threadIdx.x == 0) {
        Ring<T> ring = ring_of<T>(shared, 0);
#pragma unroll 1
        for (int slot = 0; slot < T::STAGES; slot++) {
            barrier_init(ring.full + slot, 1);
            barrier_init(ring.empty + slot, T::WARPS * T::CLUSTER);
        }
        barrier_init_fence();
    }
    if (T::CLUSTER == 1) {
        sync_block();
    } else {
        sync_cluster();
    }
    const Work work = work_of_block<T>(e.n, steps);
    if (warpgroup_index() == T::GROUPS) {
        if (T::GROUPS > 1) registers_decrease<40>();
        if (warp_index() == T::WARPS && elect_lane()) load_stages<T>(shared, source, w, work);
        sync_warp();
    } else {
        if (T::GROUPS > 1) registers_increase<232>();
        wait_for_previous_grid();
        const int tiles = work.tiles * T::CLUSTER, all_tiles = tiles * static_cast<int>(gridDim.z);
        asked.counters += all_tiles;
        Ring<T> ring = ring_of<T>(shared, 0);
#pragma unroll 1
        for (int turn = first_turn<T>(); turn < work.tiles; turn += turns<T>()) {
            float sum[T::FRAGMENTS][T::BN / 2];
            multiply<T>(sum, ring, work.steps, seen);
            seen.end(shared);
            const int tile = static_cast<int>(blockIdx.z) * tiles + turn * T::CLUSTER + rank<T>();
            if (split.partial != nullptr && !add_up<T>(sum, split, shared, tile, all_tiles)) continue;
            const auto place = source.place(tile_down<T>(work, turn));
            finish_tile<T>(sum, shared, e, asked, source, place, turn % work.columns * T::BN, seen);
        }
    }
    // No block ends while another still loads into it or hands stages back to it.
    if (T::CLUSTER > 1) sync_cluster();
}
