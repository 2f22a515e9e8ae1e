// What each primitive of hopper.cuh makes of given bits: the kernels by which the emulator and a GPU are held to one another, as primitives.cu for
// those of gpu.cuh.
//
//   tensor_load        a box, as it then lies in shared memory, swizzle and zeros included
//   multicast          the same box for both blocks of a cluster, of 2 and of 4 dimensions, each half started by one of them
//   tensor_store       a box from shared memory
//   product_N          64 x N x 64 from shared memory, B with K contiguous; _transposed: with N contiguous; _registers: A from registers
//   store_matrix       four 8 x 8 matrices, each lane's row of them `setting` rows away from the one before; and transposed
//   threads            which lane is elected, uniform values, barriers of some threads, mbarriers over several phases, registers given and taken
//   cluster            ranks, and what lies in the other block's shared memory
//   relay              what the grid before has stored, by a map or one by one, read one by one or by a map, where grids start early
//   pipeline           all of it together, as products use it: y = x w^T, 128 rows of x for each block, two blocks sharing w
//
// Tensors       y is written; x and others are read; what lies where is said at each kernel
// Arithmetic    the primitive's own
// Launch        one block or one cluster, pipeline a cluster for every 256 rows, relay one for every two boxes; dynamic shared memory as SHARED_,
//               RELAY_ or PIPELINE_ says
// Requirements  none are checked: tests/primitives and tests/emulator are the only callers; no network asks for these entries
// Cost          none to speak of
// Measured      not yet run on hardware
#include "hopper.cuh"

// ---- device helpers ---------------------------------------------------------------------------------------------------------------

// The box or the tiles of one kernel.
#define SHARED_BOX 65536

DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }

// One thread makes `barrier` for one arrival, and then everybody knows of it.
DEVICE void make_barrier(Barrier* barrier) {
    if (threadIdx.x == 0) {
        barrier_init(barrier, 1);
        barrier_init_fence();
    }
    sync_cluster();
}

DEVICE void load_box(void* shared, const TensorMap& x, Barrier* barrier, int rank, int c0, int c1, int c2, int c3, int c4) {
    if (rank == 2) tensor_load_2d(shared, x, barrier, c0, c1);
    if (rank == 3) tensor_load_3d(shared, x, barrier, c0, c1, c2);
    if (rank == 4) tensor_load_4d(shared, x, barrier, c0, c1, c2, c3);
    if (rank == 5) tensor_load_5d(shared, x, barrier, c0, c1, c2, c3, c4);
}

// `bytes` bytes of shared memory as they lie, by 128 threads.
DEVICE void dump(half* y, const unsigned char* shared, int bytes) {
    for (int i = 16 * thread_index(); i < bytes; i += 16 * WARPGROUP) store_16(y + i / 2, load_16(shared + i));
}

// ---- kernels ----------------------------------------------------------------------------------------------------------------------

// y [bytes / 2]: the box of x at (c0, .., c4).
DEVICE void tensor_load(half* y, const TensorMap& x, int rank, int c0, int c1, int c2, int c3, int c4, int bytes) {
    SHARED_DYNAMIC_SWIZZLED(shared);
    SHARED_ARRAY(Barrier, full, 1);
    make_barrier(full);
    wait_for_previous_grid();
    if (threadIdx.x == 0) {
        prefetch_map(x);
        barrier_arrive_expect(full, bytes);
        load_box(shared, x, full, rank, c0, c1, c2, c3, c4);
    }
    barrier_wait(full, 0);
    dump(y, shared, bytes);
}

// y [2 blocks][2 boxes][bytes / 2]: the boxes of x2 at (c0, c1) and of x4 at (c0, c1, c2, 0), which have as many bytes.
DEVICE void multicast(half* y, const TensorMap& x2, const TensorMap& x4, int c0, int c1, int c2, int bytes) {
    SHARED_DYNAMIC_SWIZZLED(shared);
    SHARED_ARRAY(Barrier, full, 1);
    make_barrier(full);
    wait_for_previous_grid();
    if (threadIdx.x == 0) {
        barrier_arrive_expect(full, 2 * bytes);
        if (cluster_rank() == 0) {
            tensor_load_2d_multicast(shared, x2, full, c0, c1, 3);
        } else {
            tensor_load_4d_multicast(shared + bytes, x4, full, c0, c1, c2, 0, 3);
        }
    }
    barrier_wait(full, 0);
    dump(y + cluster_rank() * bytes, shared, 2 * bytes);
    // Neither block ends before what the other sends has come.
    sync_cluster();
}

// The box of y at (c0, .., c3) from x [bytes / 2], which lies in shared memory as it is.
DEVICE void tensor_store(const TensorMap& y, const half* x, int rank, int c0, int c1, int c2, int c3, int bytes) {
    SHARED_DYNAMIC_SWIZZLED(shared);
    wait_for_previous_grid();
    for (int i = 16 * thread_index(); i < bytes; i += 16 * WARPGROUP) store_16(shared + i, load_16(x + i / 2));
    fence_async_shared();
    sync_block();
    if (threadIdx.x == 0) {
        if (rank == 2) tensor_store_2d(y, shared, c0, c1);
        if (rank == 3) tensor_store_3d(y, shared, c0, c1, c2);
        if (rank == 4) tensor_store_4d(y, shared, c0, c1, c2, c3);
        tensor_store_commit();
        tensor_store_wait_read<0>();
    }
}

enum Operands { FROM_SHARED, TRANSPOSED, REGISTERS, REGISTERS_TRANSPOSED };

// One product of 16 along K. `k` of 4 in the tile of 64.
template <int N, int OPERANDS>
DEVICE void multiply_step(float (&d)[N / 2], uint64_t a, const uint32_t (&fragment)[4], uint64_t b, int k) {
    const uint64_t along = b + 2 * k, across = b + 2 * (1024 >> 4) * k;
    if (OPERANDS == FROM_SHARED) multiply_warpgroup<N>(d, a + 2 * k, along, k > 0);
    if (OPERANDS == TRANSPOSED) multiply_warpgroup_transposed<N>(d, a + 2 * k, across, k > 0);
    if (OPERANDS == REGISTERS) multiply_warpgroup_registers<N>(d, fragment, along, k > 0);
    if (OPERANDS == REGISTERS_TRANSPOSED) multiply_warpgroup_registers_transposed<N>(d, fragment, across, k > 0);
}

// y [128 threads][N / 2]: the accumulators of a b. a [64][64] by boxes of 64 x 64; b [N][64] by boxes of 64 x N, or where transposed [64][N] by boxes
// of 64 x 64, side by side; fragments [128][4 steps][4 words] in place of a.
template <int N, int OPERANDS>
DEVICE void product(float* y, const TensorMap& a, const TensorMap& b, const half* fragments) {
    constexpr bool ACROSS = OPERANDS == TRANSPOSED || OPERANDS == REGISTERS_TRANSPOSED;
    constexpr int TILE = 64 * 64 * 2, BOXES = ACROSS ? (N + 63) / 64 : 1, B_BYTES = ACROSS ? BOXES * TILE : N * 128;
    SHARED_DYNAMIC_SWIZZLED(shared);
    SHARED_ARRAY(Barrier, full, 1);
    make_barrier(full);
    wait_for_previous_grid();
    if (threadIdx.x == 0) {
        barrier_arrive_expect(full, TILE + B_BYTES);
        tensor_load_2d(shared, a, full, 0, 0);
        for (int i = 0; i < BOXES; i++) tensor_load_2d(shared + TILE * (i + 1), b, full, 64 * i, 0);
    }
    uint32_t fragment[4][4] = {};
    if (OPERANDS == REGISTERS || OPERANDS == REGISTERS_TRANSPOSED) {
#pragma unroll
        for (int i = 0; i < 16; i++) fragment[i / 4][i % 4] = reinterpret_cast<const uint32_t*>(fragments)[16 * thread_index() + i];
    }
    barrier_wait(full, 0);
    const uint64_t left = matrix_descriptor(shared, 16, 1024), right = matrix_descriptor(shared + TILE, TILE, 1024);
    float d[N / 2];
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; k++) multiply_step<N, OPERANDS>(d, left, fragment[k], right, k);
    wgmma_commit();
    wgmma_wait<0>();
    hold_registers(d);
#pragma unroll
    for (int i = 0; i < N / 2; i++) y[N / 2 * thread_index() + i] = d[i];
}

// x [32 lanes][4 words of two halves]; y [32 rows][4].
template <bool TRANSPOSE>
DEVICE void store_matrix(half* y, const half* x, int setting) {
    SHARED_ARRAY(uint32_t, rows, WARP * 4);
    wait_for_previous_grid();
    const int lane = lane_index();
    uint32_t r[4];
    for (int i = 0; i < 4; i++) r[i] = reinterpret_cast<const uint32_t*>(x)[4 * lane + i];
    uint32_t* row = rows + 4 * (lane * setting % WARP);
    if (TRANSPOSE) {
        store_matrix_x4_transposed(row, r);
    } else {
        store_matrix_x4(row, r);
    }
    sync_warp();
    for (int i = 0; i < 4; i++) reinterpret_cast<uint32_t*>(y)[4 * lane + i] = rows[4 * lane + i];
}

// x [256]; y [256][3]: how many of the thread's warp were elected; the sum of the group's place and of the thread's number in the other warpgroup as
// that has passed it on; the sum of what that passed on in four phases.
DEVICE void threads(float* y, const float* x) {
    SHARED_ARRAY(float, passed, 2 * WARPGROUP);
    SHARED_ARRAY(Barrier, full, 1);
    SHARED_ARRAY(Barrier, empty, 1);
    if (threadIdx.x == 0) {
        barrier_init(full, WARPGROUP);
        barrier_init(empty, WARPGROUP);
        barrier_init_fence();
    }
    sync_block();
    wait_for_previous_grid();
    const int group = warpgroup_index(), own = thread_index() % WARPGROUP;
    const float value = x[threadIdx.x];
    y[3 * threadIdx.x] = warp_sum(elect_lane() ? 1.0f : 0.0f);
    float sum = 0.0f;
    if (group == 0) {
        registers_decrease<24>();
        passed[own] = value;
        arrive_named(1, 2 * WARPGROUP);
        sync_named(2, 2 * WARPGROUP);
        y[3 * threadIdx.x + 1] = passed[WARPGROUP + own];
        for (int phase = 0; phase < 4; phase++) {
            barrier_wait(empty, (phase & 1) ^ 1);
            passed[own] = value + static_cast<float>(phase);
            barrier_arrive(full);
        }
    } else {
        registers_increase<64>();
        sync_named(1, 2 * WARPGROUP);
        y[3 * threadIdx.x + 1] = passed[WARPGROUP - 1 - own] + static_cast<float>(uniform(group));
        passed[WARPGROUP + own] = value;
        sync_named(2, 2 * WARPGROUP);
        for (int phase = 0; phase < 4; phase++) {
            barrier_wait(full, phase & 1);
            sum += passed[WARPGROUP - 1 - own];
            barrier_arrive(empty);
        }
    }
    y[3 * threadIdx.x + 2] = sum;
}

// x [2 blocks][128]; y [2 blocks][128][4]: the block's place; a neighbour's number in the other block; the first and last of a neighbour's four.
DEVICE void cluster(float* y, const float* x) {
    SHARED_ARRAY(float, shared, WARPGROUP);
    wait_for_previous_grid();
    const int rank = cluster_rank(), own = thread_index();
    shared[own] = x[WARPGROUP * rank + own];
    sync_cluster();
    float* const to = y + 4 * (WARPGROUP * rank + own);
    to[0] = static_cast<float>(rank);
    to[1] = load_cluster(shared + (own + 1) % WARPGROUP, rank ^ 1);
    const Vector16 four = load_cluster_16(shared + 4 * (own / 4), rank ^ 1);
    reinterpret_cast<uint32_t*>(to)[2] = four.word[0];
    reinterpret_cast<uint32_t*>(to)[3] = four.word[3];
    sync_cluster();
}

#define PIPELINE_STAGES 3
#define PIPELINE_A (128 * 64 * 2)
#define PIPELINE_B (64 * 64 * 2)

// y [256 blocks / 2][64], x [..][K], w [64][K]: boxes of 64 x 64 of y, of 64 x 128 of x, of 64 x 32 of w. Warpgroup 0 loads, 1 and 2 multiply 64 rows
// each; each block loads half of w's tile for both.
DEVICE void pipeline(const TensorMap& y, const TensorMap& x, const TensorMap& w, int steps) {
    SHARED_DYNAMIC_SWIZZLED(shared);
    SHARED_ARRAY(Barrier, full, PIPELINE_STAGES);
    SHARED_ARRAY(Barrier, empty, PIPELINE_STAGES);
    unsigned char* const b = shared + PIPELINE_STAGES * PIPELINE_A;
    if (threadIdx.x == 0) {
        for (int i = 0; i < PIPELINE_STAGES; i++) {
            barrier_init(&full[i], 1);
            // Two warpgroups of two blocks.
            barrier_init(&empty[i], 4);
        }
        barrier_init_fence();
    }
    sync_cluster();
    wait_for_previous_grid();
    const int rank = cluster_rank(), row = static_cast<int>(blockIdx.x) * 128;
    if (warpgroup_index() == 0) {
        registers_decrease<40>();
        if (warp_index() == 0 && elect_lane()) {
            for (int step = 0; step < steps; step++) {
                const int stage = step % PIPELINE_STAGES;
                barrier_wait(&empty[stage], (step / PIPELINE_STAGES & 1) ^ 1);
                barrier_arrive_expect(&full[stage], PIPELINE_A + PIPELINE_B);
                tensor_load_2d(shared + stage * PIPELINE_A, x, &full[stage], step * 64, row);
                tensor_load_2d_multicast(b + stage * PIPELINE_B + rank * (PIPELINE_B / 2), w, &full[stage], step * 64, rank * 32, 3);
            }
        }
    } else {
        registers_increase<232>();
        const int group = warpgroup_index() - 1;
        float d[32];
        for (int step = 0; step < steps; step++) {
            const int stage = step % PIPELINE_STAGES;
            barrier_wait(&full[stage], step / PIPELINE_STAGES & 1);
            const uint64_t left = matrix_descriptor(shared + stage * PIPELINE_A + group * (PIPELINE_A / 2), 16, 1024);
            const uint64_t right = matrix_descriptor(b + stage * PIPELINE_B, 16, 1024);
            wgmma_fence();
#pragma unroll
            for (int i = 0; i < 4; i++) multiply_warpgroup<64>(d, left + 2 * i, right + 2 * i, step > 0 || i > 0);
            wgmma_commit();
            wgmma_wait<1>();
            // The stage before is free: for both blocks that write to it.
            if (step > 0 && threadIdx.x % WARPGROUP < 2) {
                barrier_arrive_remote(&empty[(step - 1) % PIPELINE_STAGES], thread_index() % 2);
            }
        }
        wgmma_wait<0>();
        hold_registers(d);
        // The result takes the place of the other warpgroup's rows of a stage.
        sync_named(1, 2 * WARPGROUP);
        unsigned char* const tile = shared + (1 - group) * (PIPELINE_A / 2);
        const int at = thread_index() % WARPGROUP / WARP * 16 + lane_index() % 16;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            uint32_t r[4];
#pragma unroll
            for (int i = 0; i < 4; i++) r[i] = pack_halves(d[8 * j + 2 * i], d[8 * j + 2 * i + 1]);
            store_matrix_x4(tile + at * 128 + ((2 * j + lane_index() / 16) ^ at % 8) * 16, r);
        }
        fence_async_shared();
        sync_named(2 + group, WARPGROUP);
        if (threadIdx.x % WARPGROUP == 0) {
            tensor_store_2d(y, tile, 0, row + group * 64);
            tensor_store_commit();
            tensor_store_wait_read<0>();
        }
    }
    // Neither block ends while the other sends to it.
    sync_cluster();
}

// A box of `relay`: rows of 64 halves.
#define RELAY_ROWS 16
#define RELAY_COLUMNS 64
#define RELAY_BOX (RELAY_ROWS * RELAY_COLUMNS * 2)

// x, y [16 blocks][64]: each number of the other end's box and one, so that a grid reads what other multiprocessors have just written. What a map
// brings threads store, and where `stores` what threads load a map takes away.
DEVICE void relay(half* y, const TensorMap& to, const half* x, const TensorMap& from, int stores) {
    SHARED_DYNAMIC_SWIZZLED(shared);
    SHARED_ARRAY(Barrier, full, 1);
    make_barrier(full);
    wait_for_previous_grid();
    let_next_grid_start();
    half* const box = reinterpret_cast<half*>(shared);
    const int row = static_cast<int>(blockIdx.x) * RELAY_ROWS, other = static_cast<int>(gridDim.x - 1 - blockIdx.x) * RELAY_ROWS;
    if (stores == 0) {
        if (threadIdx.x == 0) {
            barrier_arrive_expect(full, RELAY_BOX);
            tensor_load_2d(box, from, full, 0, other);
        }
        barrier_wait(full, 0);
    }
    for (int i = thread_index(); i < RELAY_BOX / 2; i += WARPGROUP) {
        const float one_more = to_float(stores == 0 ? box[i] : x[other * RELAY_COLUMNS + i]) + 1.0f;
        (stores == 0 ? y[row * RELAY_COLUMNS + i] : box[i]) = from_float<half>(one_more);
    }
    if (stores == 0) return;
    fence_async_shared();
    sync_block();
    if (threadIdx.x == 0) {
        tensor_store_2d(to, box, 0, row);
        tensor_store_commit();
        tensor_store_wait_read<0>();
    }
}

// ---- entries ----------------------------------------------------------------------------------------------------------------------

#define PRODUCT float *y, TENSOR_MAP a, TENSOR_MAP b, const half *fragments
#define STORE_MATRIX half *y, const half *x, int setting

ENTRY_90(128, 1, 1, primitive_tensor_load_sm90, half* y, TENSOR_MAP x, int rank, int c0, int c1, int c2, int c3, int c4, int bytes) {
    tensor_load(y, x, rank, c0, c1, c2, c3, c4, bytes);
}
ENTRY_90(128, 1, 2, primitive_multicast_sm90, half* y, TENSOR_MAP x2, TENSOR_MAP x4, int c0, int c1, int c2, int bytes) {
    multicast(y, x2, x4, c0, c1, c2, bytes);
}
ENTRY_90(128, 1, 1, primitive_tensor_store_sm90, TENSOR_MAP y, const half* x, int rank, int c0, int c1, int c2, int c3, int bytes) {
    tensor_store(y, x, rank, c0, c1, c2, c3, bytes);
}
ENTRY_90(128, 1, 1, primitive_product_8_sm90, PRODUCT) { product<8, FROM_SHARED>(y, a, b, fragments); }
ENTRY_90(128, 1, 1, primitive_product_48_sm90, PRODUCT) { product<48, FROM_SHARED>(y, a, b, fragments); }
ENTRY_90(128, 1, 1, primitive_product_160_sm90, PRODUCT) { product<160, FROM_SHARED>(y, a, b, fragments); }
ENTRY_90(128, 1, 1, primitive_product_256_sm90, PRODUCT) { product<256, FROM_SHARED>(y, a, b, fragments); }
ENTRY_90(128, 1, 1, primitive_product_48_transposed_sm90, PRODUCT) { product<48, TRANSPOSED>(y, a, b, fragments); }
ENTRY_90(128, 1, 1, primitive_product_160_transposed_sm90, PRODUCT) { product<160, TRANSPOSED>(y, a, b, fragments); }
ENTRY_90(128, 1, 1, primitive_product_80_registers_sm90, PRODUCT) { product<80, REGISTERS>(y, a, b, fragments); }
ENTRY_90(128, 1, 1, primitive_product_48_registers_transposed_sm90, PRODUCT) { product<48, REGISTERS_TRANSPOSED>(y, a, b, fragments); }
ENTRY_90(128, 1, 1, primitive_product_72_registers_transposed_sm90, PRODUCT) { product<72, REGISTERS_TRANSPOSED>(y, a, b, fragments); }
ENTRY_90(128, 1, 1, primitive_product_88_registers_transposed_sm90, PRODUCT) { product<88, REGISTERS_TRANSPOSED>(y, a, b, fragments); }
ENTRY_90(128, 1, 1, primitive_product_168_registers_transposed_sm90, PRODUCT) { product<168, REGISTERS_TRANSPOSED>(y, a, b, fragments); }
ENTRY_90(32, 1, 1, primitive_store_matrix_sm90, STORE_MATRIX) { store_matrix<false>(y, x, setting); }
ENTRY_90(32, 1, 1, primitive_store_matrix_transposed_sm90, STORE_MATRIX) { store_matrix<true>(y, x, setting); }
ENTRY_90(256, 1, 1, primitive_threads_sm90, float* y, const float* x) { threads(y, x); }
ENTRY_90(128, 1, 2, primitive_cluster_sm90, float* y, const float* x) { cluster(y, x); }
ENTRY_90(384, 1, 2, primitive_pipeline_sm90, TENSOR_MAP y, TENSOR_MAP x, TENSOR_MAP w, int steps) { pipeline(y, x, w, steps); }
ENTRY_90(128, 1, 2, primitive_relay_sm90, half* y, TENSOR_MAP to, const half* x, TENSOR_MAP from, int stores) { relay(y, to, x, from, stores); }
