// The tiled product that linear.cu, linear_norm.cu and conv2d.cu share: D[M, N] = A[M, K] W[N, K]^T of halves with f32 sums (mma.sync m16n8k16).
//
// A block owns a tile of D and walks along K in stages of BK columns. A ring of stages in shared memory is filled by cp.async: while one
// stage is multiplied, the next STAGES - 1 are on their way, with one barrier per stage. Only the loader of A differs between the
// two operations: linear maps read rows, convolutions gather pixels.
//
// Order of sums: along K, one step of 16 after the other, in every tile, so that an element's bits do not depend on the tile it was in.
// Where K is split over blocks (blockIdx.y), each part is summed so, and the parts then in their order (split.cuh).
//
// Consumer GPUs multiply twice as fast with sums in halves. Tiles for them take stages of 64 columns and sum each in halves, from zero, in four
// steps of which each rounds once; the stage's sums are then promoted, which is added to those in f32. Parts of K begin at multiples of 64, so where
// sums are promoted follows from K alone. A stage's sum beyond the range of halves is infinite, and so is then the result.
//
// Shared memory: rows of BK halves, in chunks of 8. Chunk `c` of row `r` lies where `place` says: an exclusive-or with the row's low bits, so
// that neither a copy nor a load of matrices (eight rows, one chunk) finds two of its addresses in one bank.
#pragma once

#include "channel_moments.cuh"
#include "epilogue.cuh"
#include "split.cuh"

// Halves in 16 bytes: what one asynchronous copy moves.
#define CHUNK 8

template <int BM_, int BN_, int BK_, int STAGES_, int WARPS_M_, int WARPS_N_, bool HALVES_ = false>
struct Tile {
    // Stages are summed in halves, as far as the caller lets them.
    static constexpr bool HALVES = HALVES_;
    static constexpr int BM = BM_, BN = BN_, BK = BK_, STAGES = STAGES_, WARPS_N = WARPS_N_;
    static constexpr int THREADS = WARP * WARPS_M_ * WARPS_N_;
    // What one warp computes, and the fragments of it.
    static constexpr int WARP_ROWS = BM / WARPS_M_, WARP_COLUMNS = BN / WARPS_N_;
    static constexpr int ROWS = WARP_ROWS / 16, COLUMNS = WARP_COLUMNS / 8;
    // A pass of all threads copies this many rows.
    static constexpr int CHUNKS = BK / CHUNK, PASS = THREADS / CHUNKS;
    static constexpr int A_PASSES = BM / PASS, W_PASSES = BN / PASS;
    static constexpr int STAGE = (BM + BN) * BK;
    // Floats from a row to the next where sums are laid out for the epilogue: 8 beyond a multiple of 16, so that a fragment's rows are
    // in different banks.
    static constexpr int PITCH = WARP_COLUMNS % 16 == 0 ? WARP_COLUMNS + 8 : WARP_COLUMNS;
    static_assert(BM % PASS == 0 && BN % PASS == 0 && PASS % 8 == 0 && COLUMNS % 2 == 0, "a tile is made of whole passes and fragments");
    static_assert(THREADS / WARP * 16 * PITCH * 4 <= STAGES * STAGE * 2, "the epilogue's rows fit in the ring");
    static_assert(!HALVES || BK == 64, "sums in halves are promoted every 64 columns");
};

// Where the block's tile begins in D, which has `n` columns: tiles go along them first.
template <class T>
DEVICE int first_row(int n) { return static_cast<int>(blockIdx.x) / ((n + T::BN - 1) / T::BN) * T::BM; }
template <class T>
DEVICE int first_column(int n) { return static_cast<int>(blockIdx.x) % ((n + T::BN - 1) / T::BN) * T::BN; }

// Where chunk `chunk` of row `row` of a stage lies, in halves.
template <int BK>
DEVICE int place(int row, int chunk) {
    const int turn = BK == 64 ? row % 8 : row / 2 % 4;
    return row * BK + (chunk ^ turn) * CHUNK;
}

// This thread's share of the copies of W: rows `PASS` apart, one chunk each. Rows beyond the last are the last again; nothing of them
// is stored. Rows are padded with zeros to whole stages by packing.
template <class T>
struct Weights {
    const half* at;
    int row[T::W_PASSES];
    int to;
};

template <class T>
DEVICE Weights<T> weights(const half* w, int stride, int n, int first, int k) {
    Weights<T> weights;
    const int row = static_cast<int>(threadIdx.x) / T::CHUNKS, chunk = static_cast<int>(threadIdx.x) % T::CHUNKS;
    weights.at = w + k + chunk * CHUNK;
    weights.to = T::BM * T::BK + place<T::BK>(row, chunk);
#pragma unroll
    for (int i = 0; i < T::W_PASSES; i++) {
        const int wanted = first + row + i * T::PASS;
        weights.row[i] = (wanted < n ? wanted : n - 1) * stride;
    }
    return weights;
}

template <class T>
DEVICE void copy_weights(Weights<T>& weights, half* stage) {
#pragma unroll
    for (int i = 0; i < T::W_PASSES; i++) {
        copy_async_16(stage + weights.to + i * T::PASS * T::BK, weights.at + weights.row[i]);
    }
    weights.at += T::BK;
}

// The same for A where its rows are not made of 16-byte pieces: elements one by one, through registers. `source.column(k)` finds a
// column once for all of this thread's rows, and `source.element(i, column)` reads it in the row of pass `i`, or zero.
template <class T, class Source>
struct Elements {
    Source source;
    int k;
    int to;
};

// The row, of its tile, that this thread copies in a pass.
template <class T>
DEVICE int copied_row(int pass) { return static_cast<int>(threadIdx.x) / T::CHUNKS + pass * T::PASS; }

template <class T, class Source>
DEVICE Elements<T, Source> elements(int k_part) {
    Elements<T, Source> a;
    const int chunk = static_cast<int>(threadIdx.x) % T::CHUNKS;
    a.k = static_cast<int>(blockIdx.y) * k_part + chunk * CHUNK;
    a.to = place<T::BK>(copied_row<T>(0), chunk);
    return a;
}

template <class T, class Source>
DEVICE void copy_rows(Elements<T, Source>& a, half* stage) {
    Vector16 chunk[T::A_PASSES];
#pragma unroll
    for (int e = 0; e < CHUNK; e += 2) {
        const auto low = a.source.column(a.k + e);
        const auto high = a.source.column(a.k + e + 1);
#pragma unroll
        for (int i = 0; i < T::A_PASSES; i++) chunk[i].word[e / 2] = pack_halves(a.source.element(i, low), a.source.element(i, high));
    }
#pragma unroll
    for (int i = 0; i < T::A_PASSES; i++) store_16(stage + a.to + i * T::PASS * T::BK, chunk[i]);
    a.k += T::BK;
}

// Called with every stage that lies in shared memory; most operands want nothing of it.
template <class T, class A>
DEVICE void look_at(A&, const half*) {}

// Loads what the warp multiplies in step `k` of 16 of a stage.
template <class T>
DEVICE void load_step(uint32_t (&a)[T::ROWS][4], uint32_t (&w)[T::COLUMNS][2], const half* stage, int a_place, int w_place, int k) {
    // The chunk two further on: `place` only turns the low bits, so its own bit can be turned afterwards.
    const int step = 2 * k * CHUNK;
#pragma unroll
    for (int i = 0; i < T::ROWS; i++) load_matrix_x4(a[i], stage + (a_place ^ step) + i * 16 * T::BK);
#pragma unroll
    for (int j = 0; j < T::COLUMNS; j += 2) {
        uint32_t both[4];
        load_matrix_x4(both, stage + T::BM * T::BK + (w_place ^ step) + j * 8 * T::BK);
        w[j][0] = both[0];
        w[j][1] = both[1];
        w[j + 1][0] = both[2];
        w[j + 1][1] = both[3];
    }
}

// Multiplies one stage into sums in halves, and promotes them: adds them to the warp's.
template <class T>
DEVICE void multiply_stage_half(float (&sum)[T::ROWS][T::COLUMNS][4], const half* stage, int a_place, int w_place) {
    uint32_t part[T::ROWS][T::COLUMNS][2];
#pragma unroll
    for (int i = 0; i < T::ROWS; i++) {
#pragma unroll
        for (int j = 0; j < T::COLUMNS; j++) part[i][j][0] = part[i][j][1] = 0;
    }
#pragma unroll
    for (int k = 0; k < T::BK / 16; k++) {
        uint32_t a[T::ROWS][4], w[T::COLUMNS][2];
        load_step<T>(a, w, stage, a_place, w_place, k);
        multiply_tile_half<T::ROWS, T::COLUMNS>(part, a, w);
    }
#pragma unroll
    for (int i = 0; i < T::ROWS; i++) {
#pragma unroll
        for (int j = 0; j < T::COLUMNS; j++) {
#pragma unroll
            for (int e = 0; e < 4; e++) sum[i][j][e] += e % 2 == 0 ? low_half(part[i][j][e / 2]) : high_half(part[i][j][e / 2]);
        }
    }
}

// Multiplies one stage into the warp's sums; `in_halves` is the same for the whole block.
template <class T>
DEVICE void multiply_stage(float (&sum)[T::ROWS][T::COLUMNS][4], const half* stage, int a_place, int w_place, bool in_halves) {
    if constexpr (T::HALVES) {
        if (in_halves) return multiply_stage_half<T>(sum, stage, a_place, w_place);
    }
#pragma unroll
    for (int k = 0; k < T::BK / 16; k++) {
        uint32_t a[T::ROWS][4], w[T::COLUMNS][2];
        load_step<T>(a, w, stage, a_place, w_place, k);
        multiply_tile<T::ROWS, T::COLUMNS>(sum, a, w);
    }
}

// The warp's sums over `steps` stages of the block's tile, of which the first `in_halves` may be summed in halves; `A` says how its rows are
// brought, by `copy_rows(a, stage)`.
template <class T, class A>
DEVICE void multiply(float (&sum)[T::ROWS][T::COLUMNS][4], A& a, Weights<T>& w, int steps, int in_halves, half* ring) {
#pragma unroll
    for (int i = 0; i < T::ROWS; i++) {
#pragma unroll
        for (int j = 0; j < T::COLUMNS; j++) {
#pragma unroll
            for (int e = 0; e < 4; e++) sum[i][j][e] = 0.0f;
        }
    }
    // The row and chunk whose address this lane gives to load_matrix_x4: for A, matrices go down and then right; for W, right and then down.
    const int lane = lane_index(), row = warp_index() / T::WARPS_N, column = warp_index() % T::WARPS_N;
    const int a_place = place<T::BK>(row * T::WARP_ROWS + lane % 16, lane / 16);
    const int w_place = place<T::BK>(column * T::WARP_COLUMNS + lane / 16 * 8 + lane % 8, lane / 8 % 2);

    int filled = 0;
#pragma unroll
    for (int stage = 0; stage < T::STAGES - 1; stage++) {
        if (stage < steps) {
            copy_rows(a, ring + filled);
            copy_weights(w, ring + filled);
        }
        copy_async_commit();
        filled += T::STAGE;
    }
    int read = 0;
    for (int step = 0; step < steps; step++) {
        copy_async_wait<T::STAGES - 2>();
        sync_block();
        // The stage filled now is the one that every warp has finished with before the barrier.
        if (step + T::STAGES - 1 < steps) {
            copy_rows(a, ring + filled);
            copy_weights(w, ring + filled);
        }
        copy_async_commit();
        filled = filled == (T::STAGES - 1) * T::STAGE ? 0 : filled + T::STAGE;
        look_at<T>(a, ring + read);
        multiply_stage<T>(sum, ring + read, a_place, w_place, step < in_halves);
        read = read == (T::STAGES - 1) * T::STAGE ? 0 : read + T::STAGE;
    }
    copy_async_wait<0>();
    sync_block();
}

// Lays the warp's sums out in rows, sixteen at a time, and gives them away eight columns at a time: `take(row, column, v, at)`, where `at` is
// their place in shared memory. `then(rows, i)` comes after the sixteen rows of fragments `i`.
template <class T, class Take, class Then>
DEVICE void each_eight_columns(const float (&sum)[T::ROWS][T::COLUMNS][4], int first_row, int first_column, half* ring, const Take& take,
                               const Then& then) {
    constexpr int EIGHTS = T::WARP_COLUMNS / COLUMNS_TOGETHER;
    float* rows = reinterpret_cast<float*>(ring) + warp_index() * 16 * T::PITCH;
    const int lane = lane_index();
    first_row += warp_index() / T::WARPS_N * T::WARP_ROWS;
    first_column += warp_index() % T::WARPS_N * T::WARP_COLUMNS;
#pragma unroll 1
    for (int i = 0; i < T::ROWS; i++) {
        // Registers have no index: each of the rows of fragments is compiled, and one is taken.
#pragma unroll
        for (int r = 0; r < T::ROWS; r++) {
            if (r != i) continue;
#pragma unroll
            for (int j = 0; j < T::COLUMNS; j++) {
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    rows[(lane / 4 + e / 2 * 8) * T::PITCH + j * 8 + lane % 4 * 2 + e % 2] = sum[r][j][e];
                }
            }
        }
        sync_warp();
#pragma unroll 1
        for (int item = lane; item < 16 * EIGHTS; item += WARP) {
            const int row = item / EIGHTS, column = item % EIGHTS * COLUMNS_TOGETHER;
            float v[COLUMNS_TOGETHER];
            load_columns(v, rows + row * T::PITCH + column, true, COLUMNS_TOGETHER);
            take(first_row + i * 16 + row, first_column + column, v, rows + row * T::PITCH + column);
        }
        sync_warp();
        then(rows, i);
    }
}
template <class T, class Take>
DEVICE void each_eight_columns(const float (&sum)[T::ROWS][T::COLUMNS][4], int first_row, int first_column, half* ring, const Take& take) {
    each_eight_columns<T>(
        sum, first_row, first_column, ring, [&](int row, int column, float(&v)[COLUMNS_TOGETHER], float*) { take(row, column, v); },
        [](const float*, int) {});
}

// The block of 64 rows, of those whose moments are found, that a row of D begins: an image's of all phases follow one another.
DEVICE int moments_block(int row, int rows_per_image) {
    const int own = rows_per_image / static_cast<int>(gridDim.z);
    return (row / own * rows_per_image + static_cast<int>(blockIdx.z) * own + row % own) / BLOCK_ROWS;
}

// Finishes the tile. Where somebody asks for the moments of what is stored, that goes back to the rows in shared memory, whose columns are then
// summed.
template <class T, class ResultRow>
DEVICE void finish_tile(const float (&sum)[T::ROWS][T::COLUMNS][4], half* ring, const Epilogue<half>& e, const ChannelMoments& asked,
                        const ResultRow& result_row) {
    constexpr int ROWS = T::THREADS / WARP * 16 * T::PITCH, FRAGMENTS = T::BM / FRAGMENT_ROWS;
    constexpr bool MOMENTS = T::BM % BLOCK_ROWS == 0;
    static_assert((ROWS + (MOMENTS ? 2 * FRAGMENTS * T::BN : 0)) * 4 <= T::STAGES * T::STAGE * 2, "rows and moments fit in the ring");
    float* const means = reinterpret_cast<float*>(ring) + ROWS;
    const bool wanted = MOMENTS && asked.moments != nullptr;
    const auto take = [&](int row, int column, float(&v)[COLUMNS_TOGETHER], float* at) {
        finish(e, result_row(row), column, v);
        if constexpr (MOMENTS) {
            if (!wanted) return;
#pragma unroll
            for (int k = 0; k < COLUMNS_TOGETHER; k++) v[k] = stored(v[k]);
            store_columns(at, v, true, COLUMNS_TOGETHER);
        }
    };
    const auto then = [&](const float* rows, int i) {
        if (!wanted) return;
        const int down = warp_index() / T::WARPS_N * T::ROWS + i, right = warp_index() % T::WARPS_N * T::WARP_COLUMNS;
        float* const own = means + down * T::BN + right;
        fragment_moments(rows, T::PITCH, T::WARP_COLUMNS, own, own + FRAGMENTS * T::BN);
        sync_warp();
    };
    const int n = computed_again(e.n);
    each_eight_columns<T>(sum, first_row<T>(n), first_column<T>(n), ring, take, then);
    if constexpr (MOMENTS) {
        if (!wanted) return;
        const int block = moments_block(first_row<T>(n), asked.rows_per_image);
        join_tile<T::BM, T::BN>(asked, means, means + FRAGMENTS * T::BN, block, first_column<T>(n), e.y, e.m, n);
    }
}

// Puts the sums of all of the tile's parts in the place of this block's. False: another block comes later and does it.
template <class T>
DEVICE bool add_up(float (&sum)[T::ROWS][T::COLUMNS][4], const Split& split) {
    constexpr int COUNT = T::ROWS * T::COLUMNS * 4;
    float(&sums)[COUNT] = reinterpret_cast<float(&)[COUNT]>(sum);
    const int thread = static_cast<int>(threadIdx.x), parts = static_cast<int>(gridDim.y);
    const size_t tile = blockIdx.z * gridDim.x + blockIdx.x;
    const size_t step = static_cast<size_t>(gridDim.x) * gridDim.z * COUNT * T::THREADS;
    float* const first = split.partial + tile * COUNT * T::THREADS;
    store_part(first + blockIdx.y * step, sums, thread, T::THREADS);
    if (!last_to_arrive(split.counters + tile, parts)) return false;
    add_parts(sums, first, step, parts, thread, T::THREADS);
    return true;
}

// The block's part: its tile of D over its part of K, `k_part` columns of all `k`, of which whole stages of the first `bounded` may be summed in
// halves. The block that completes the tile stores the result, and its moments if they are asked for. `result_row(row)` is the row of the result
// that row `row` of D is; a grid along z is of several such products.
template <class T, class A, class ResultRow>
DEVICE void product(A& a, const half* w, int pitch, int k, int bounded, int k_part, const Split& split, const Epilogue<half>& e, const ChannelMoments& asked,
                    const ResultRow& result_row) {
    wait_for_previous_grid();
    let_next_grid_start();
    SHARED_DYNAMIC(shared);
    half* ring = reinterpret_cast<half*>(shared);
    const int part = static_cast<int>(blockIdx.y), left = k - part * k_part, columns = left < k_part ? left : k_part;
    float sum[T::ROWS][T::COLUMNS][4];
    Weights<T> loader = weights<T>(w, pitch, e.n, first_column<T>(e.n), part * k_part);
    const int steps = (columns + T::BK - 1) / T::BK;
    // Behind the last column is nothing but zeros.
    multiply<T>(sum, a, loader, steps, bounded == k ? steps : (bounded - part * k_part) / T::BK, ring);
    if (split.partial != nullptr && !add_up<T>(sum, split)) return;
    finish_tile<T>(sum, ring, e, asked, result_row);
}
