// The product of product.cuh in f32 on the plain cores: the fallback for what leaves the range of halves. One tile, no splits, sums along K one
// element after the other.
#pragma once

#include "epilogue.cuh"

// A block's tile is SIDE x SIDE and goes STEP columns along K at a time; a thread sums two rows of eight columns.
#define SIDE 64
#define STEP 16
#define F32_THREADS 256
#define F32_PASSES (SIDE * STEP / F32_THREADS)

// The rows, of its block's tile, in which a thread reads A and W: `first`, `first + 16`, ...
DEVICE int f32_row(int pass) { return static_cast<int>(threadIdx.x) / STEP + pass * (F32_THREADS / STEP); }
DEVICE int f32_tiles(int n) { return (n + SIDE - 1) / SIDE; }

// `source` and `result_row` as in product.cuh, for F32_PASSES rows.
template <class Source, class ResultRow>
DEVICE void product_f32(const Source& source, const float* w, int w_stride, int k, const Epilogue<float>& e, const ResultRow& result_row) {
    wait_for_previous_grid();
    let_next_grid_start();
    // Four floats beyond the side: a column's writes are spread over the banks.
    SHARED_ARRAY(float, a_columns, STEP * (SIDE + 4));
    SHARED_ARRAY(float, w_columns, STEP * (SIDE + 4));
    const int first_row = static_cast<int>(blockIdx.x) / f32_tiles(e.n) * SIDE;
    const int first_column = static_cast<int>(blockIdx.x) % f32_tiles(e.n) * SIDE;
    const int thread = static_cast<int>(threadIdx.x), mine = thread % STEP;
    const int row = thread / (SIDE / COLUMNS_TOGETHER) * 2, column = thread % (SIDE / COLUMNS_TOGETHER) * COLUMNS_TOGETHER;
    float sum[2][COLUMNS_TOGETHER] = {};
    for (int begin = 0; begin < k; begin += STEP) {
        const auto at = source.column(begin + mine);
#pragma unroll
        for (int i = 0; i < F32_PASSES; i++) {
            const int wanted = first_column + f32_row(i);
            a_columns[mine * (SIDE + 4) + f32_row(i)] = source.element(i, at);
            w_columns[mine * (SIDE + 4) + f32_row(i)] = w[static_cast<size_t>(wanted < e.n ? wanted : e.n - 1) * w_stride + begin + mine];
        }
        sync_block();
#pragma unroll
        for (int step = 0; step < STEP; step++) {
            float factor[COLUMNS_TOGETHER];
            load_columns(factor, w_columns + step * (SIDE + 4) + column, true, COLUMNS_TOGETHER);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const float x = a_columns[step * (SIDE + 4) + row + i];
#pragma unroll
                for (int j = 0; j < COLUMNS_TOGETHER; j++) sum[i][j] = fmaf(x, factor[j], sum[i][j]);
            }
        }
        sync_block();
    }
#pragma unroll
    for (int i = 0; i < 2; i++) finish(e, result_row(first_row + row + i), first_column + column, sum[i]);
}
