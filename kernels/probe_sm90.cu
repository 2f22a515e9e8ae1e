// What a Hopper GPU's own products reach at best, to be timed: warpgroups multiply what lies in shared memory from the start, and wait for no load.
//
//   y[thread] = the sum of a thread's accumulators after `steps` products of 64 x 256 x 64: what it multiplies is known, so that a probe
//               that computes something else is found out
//
// Tensors       y [256 threads of each block] (float)
// Arithmetic    halves of -15/16 to 15/16, none of them zero, as products take less power of those; summed in f32
// Launch        256 threads, two warpgroups, a block for each multiprocessor; PROBE_BYTES of dynamic shared memory
// Requirements  none
// Cost          2 x 64 x 256 x 64 x 2 FLOP of a block and step
// Measured      not yet run on hardware
#include "hopper.cuh"

// ---- device helpers ---------------------------------------------------------------------------------------------------------------

#define PROBE_COLUMNS 256
#define TILE_BYTES 128          // of a row of 64 halves
#define PROBE_BYTES ((2 * 64 + PROBE_COLUMNS) * TILE_BYTES)

// Halves of one chunk of row `row`. Every chunk of a row is the same, so that no swizzle changes what a tile holds.
DEVICE Vector16 chunk(int row) {
    Vector16 halves;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int low = row * 5 + 6 * i & 15, high = row * 5 + 6 * i + 3 & 15;
        halves.word[i] = pack_halves(static_cast<float>(2 * low - 15) * 0.0625f, static_cast<float>(2 * high - 15) * 0.0625f);
    }
    return halves;
}

// ---- kernels ----------------------------------------------------------------------------------------------------------------------

DEVICE void multiply(float* y, int steps) {
    SHARED_DYNAMIC_SWIZZLED(shared);
    for (int i = 16 * static_cast<int>(threadIdx.x); i < PROBE_BYTES; i += 16 * static_cast<int>(blockDim.x)) {
        store_16(shared + i, chunk(i / TILE_BYTES));
    }
    fence_async_shared();
    sync_block();
    const uint64_t a = matrix_descriptor(shared + 64 * TILE_BYTES * warpgroup_index(), 16, 1024);
    const uint64_t b = matrix_descriptor(shared + 2 * 64 * TILE_BYTES, 16, 1024);
    float d[PROBE_COLUMNS / 2];
#pragma unroll
    for (int i = 0; i < PROBE_COLUMNS / 2; i++) d[i] = 0.0f;
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < 4; k++) multiply_warpgroup<PROBE_COLUMNS>(d, a + 2 * k, b + 2 * k, true);
        wgmma_commit();
        // The next are started while these run.
        wgmma_wait<1>();
    }
    wgmma_wait<0>();
    hold_registers(d);
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < PROBE_COLUMNS / 2; i++) sum += d[i];
    wait_for_previous_grid();
    y[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

// ---- entries ----------------------------------------------------------------------------------------------------------------------

ENTRY_90(256, 1, 1, probe_multiply_f16_sm90, float* y, int steps) { multiply(y, steps); }
