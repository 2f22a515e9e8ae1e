// The end of a product whose K was split over blocks: adds the parts and does the epilogue.
//
//   y[m, o] = epilogue(partial[0, m, o] + partial[1, m, o] + ...)
//
// Tensors      partial [parts, m, n8] f32, n8 = n rounded up to 8; the others as in epilogue.cuh.
// Arithmetic   f32, parts in their order: the sum is a function of the split alone, which no batch changes (src/cuda/product.rs).
// Launch       256 threads; a thread finishes eight columns of a row; grid x covers m * n8 / 8 of them.
// Requirements none beyond the shapes, which src/cuda/product.rs makes.
// Cost         reads 4 parts m n bytes, writes y.
// Measured     not yet run on hardware.
#include "epilogue.cuh"

// ---- kernel template --------------------------------------------------------------------------------------------------------------

template <typename T>
DEVICE void product_sum(const float* partial, int parts, const Epilogue<T>& e) {
    wait_for_previous_grid();
    let_next_grid_start();
    const int eights = (e.n + COLUMNS_TOGETHER - 1) / COLUMNS_TOGETHER;
    const size_t index = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x, all = static_cast<size_t>(e.m) * eights;
    if (index >= all) return;
    float sum[COLUMNS_TOGETHER] = {};
    for (int part = 0; part < parts; part++) {
        float v[COLUMNS_TOGETHER];
        load_columns(v, partial + (part * all + index) * COLUMNS_TOGETHER, true, COLUMNS_TOGETHER);
#pragma unroll
        for (int i = 0; i < COLUMNS_TOGETHER; i++) sum[i] += v[i];
    }
    finish(e, static_cast<int>(index / eights), static_cast<int>(index % eights) * COLUMNS_TOGETHER, sum);
}

// ---- entries ----------------------------------------------------------------------------------------------------------------------

ENTRY(256, 4, product_sum_f16, half* y, const float* partial, const float* bias, const half* channels, const float* row,
      const half* residual, int parts, int m, int n, int rows_per_image,
      int channel_rows, int activation, int gate) {
    product_sum(partial, parts, Epilogue<half>{y, bias, channels, row, residual, m, n, rows_per_image, channel_rows, activation, gate});
}
