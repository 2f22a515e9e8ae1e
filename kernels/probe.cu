// What a GPU can do at best, to be timed: a copy, and products of registers that wait for no memory.
//
//   copy       y[i] = x[i]
//   multiply   y[thread] = the sum of a thread's accumulators after `steps` products of ones in each: what it multiplies is known, so that a
//              probe that computes something else is found out
//
// Tensors       x, y [16 count bytes]; y [threads of the grid] (float)
// Arithmetic    halves multiplied on tensor cores, summed in f32; or fused multiply-adds of floats
// Launch        copy: 256 threads, any number of blocks, 16 bytes a thread and step. multiply: 128 threads, any number of blocks
// Requirements  count fits an int (checked by probe.rs)
// Cost          copy: 32 count bytes. multiply_f16: 4 x 16 x 4096 FLOP of a block and step; multiply_f32: 128 x 32 x 2 FLOP
// Measured      not yet run on hardware
#include "gpu.cuh"

#define TILE_ROWS 4     // fragments of a warp's tile: 16 products are under way at once
#define TILE_COLUMNS 4
#define CHAINS 32       // multiply-adds of a thread that wait for none of each other

DEVICE void multiply_halves(float* y, int steps) {
    wait_for_previous_grid();
    const uint32_t ones = pack_halves(1.0f, 1.0f);
    uint32_t a[TILE_ROWS][4];
    uint32_t b[TILE_COLUMNS][2];
    float d[TILE_ROWS][TILE_COLUMNS][4];
#pragma unroll
    for (int i = 0; i < TILE_ROWS; i++) {
#pragma unroll
        for (int e = 0; e < 4; e++) a[i][e] = ones;
    }
#pragma unroll
    for (int j = 0; j < TILE_COLUMNS; j++) b[j][0] = b[j][1] = ones;
#pragma unroll
    for (int i = 0; i < TILE_ROWS; i++) {
#pragma unroll
        for (int j = 0; j < TILE_COLUMNS; j++) {
#pragma unroll
            for (int e = 0; e < 4; e++) d[i][j][e] = 0.0f;
        }
    }
    for (int step = 0; step < steps; step++) multiply_tile(d, a, b);
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < TILE_ROWS; i++) {
#pragma unroll
        for (int j = 0; j < TILE_COLUMNS; j++) {
#pragma unroll
            for (int e = 0; e < 4; e++) sum += d[i][j][e];
        }
    }
    y[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

DEVICE void multiply_floats(float* y, float factor, int steps) {
    wait_for_previous_grid();
    float d[CHAINS];
#pragma unroll
    for (int i = 0; i < CHAINS; i++) d[i] = 0.0f;
    for (int step = 0; step < steps; step++) {
#pragma unroll
        for (int i = 0; i < CHAINS; i++) d[i] = fmaf(d[i], factor, 1.0f);
    }
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < CHAINS; i++) sum += d[i];
    y[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

// ---- entries ------------------------------------------------------------------------------------

ENTRY(256, 6, probe_copy, float* y, const float* x, int count) {
    wait_for_previous_grid();
    const int all = static_cast<int>(gridDim.x * blockDim.x);
    for (int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); i < count; i += all) store_16(y + 4 * i, load_16(x + 4 * i));
}
ENTRY(128, 4, probe_multiply_f16, float* y, int steps) { multiply_halves(y, steps); }
ENTRY(128, 8, probe_multiply_f32, float* y, float factor, int steps) { multiply_floats(y, factor, steps); }
