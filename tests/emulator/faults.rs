//! Faults planted in the kernels that every GPU runs.

use crate::fault::{Fault, On, are_named, fault};

/// Rescaled guidance, whose deviations take sums over a block.
const GUIDANCE: On = On::Case("guidance: scale and rescale [3.0, 0.7], [6, 16, 16, 4]");
const UPDATE: On = On::Case("assign: 2 combinations of 5, 3 copies");
const BLEND: On = On::Case("blend: [3, 32, 33, 4]");
/// Several tiles of codes, the last cut short, and some of the channels.
const CODES: On = On::Case("codebook: 300 codes of 3, exact: false");
/// One tile of rows, cut short, and several stages along K.
const ROWS: On = On::Case("linear: [3, 64, 96] to 31");
/// K split over blocks.
const SPLIT: On = On::Case("linear: [3, 1, 5000] to 9");
/// Padding on every side.
const CONVOLUTION: On = On::Case("conv2d: [3, 7, 9, 64] to 48");
/// Statistics and result in one launch.
const SMALL_IMAGE: On = On::Case("group_norm: [3, 2, 3, 160], 32 groups");
/// In two, over slices of the image.
const LARGE_IMAGE: On = On::Case("group_norm: [3, 23, 25, 120], 8 groups + silu");
/// Several tiles of keys, the last cut short.
const LONG: On = On::Case("attention: 40 on 700, 2 heads of 24, deviation 1");
/// Several blocks of queries, the last cut short.
const WIDE: On = On::Case("attention: 130 on 65, 2 heads of 56, deviation 1");
/// Tiles of queries, keys and channels cut short.
const FLOATS: On = On::Floats("attention: 33 on 130, 1 heads of 16, deviation 1");
const LARGE_HEAD: On = On::Case("attention: 5 on 77, 1 heads of 384, deviation 1");

#[rustfmt::skip]
const FAULTS: &[Fault] = &[
    // ---- one element at a time ----
    fault("elementwise.cu", "    Pack<T> sum = load_span(a, span);\n", "    Pack<T> sum = load_span(a, span);\n    store_span(const_cast<T*>(a), span, sum);\n",
        On::Case("add: [3, 5, 14]"), &["GLOBAL_READ_ONLY"]),
    fault("elementwise.cu", "int count) { activation<half, SILU>(y, x, count); }", "int count) { activation<half, SILU>(y, x, count + 1); }",
        On::Case("activation: Silu of [3, 7, 33], deviation 1"), &["GLOBAL_OUT_OF_BOUNDS"]),
    fault("elements.cuh", "left >= most ? most : left > 0 ? static_cast<int>(left) : 0", "most",
        On::Case("geglu: [3, 5, 34], deviation 1"), &["GLOBAL_OUT_OF_BOUNDS"]),
    fault("elementwise.cu", "row == nullptr ? 2 * channels : 0", "2 * channels",
        On::Case("scale_shift: [3, 5, 14] + row"), &["GLOBAL_OUT_OF_BOUNDS"]),
    fault("elementwise.cu", "shift.x[i] = i < span.count ? to_float(from[channels]) : 0.0f;", "shift.x[i] = to_float(from[channels]);",
        On::Case("scale_shift: [3, 3, 5, 7] + channels"), &["GLOBAL_OUT_OF_BOUNDS"]),
    fault("elementwise.cu", "* 2 * channels;\n    const int step = row", "* channels;\n    const int step = row",
        On::Case("scale_shift: [3, 5, 14] + row"), &[]),
    fault("elementwise.cu", "line % rows * 2;", "line % rows * 2 + 1;",
        On::Case("average_pool: [3, 8, 6, 16]"), &["GLOBAL_OUT_OF_BOUNDS"]),
    fault("elementwise.cu", "            if (i >= span.count) continue;\n            const T* from = source", "            const T* from = source",
        On::Case("average_pool: [3, 2, 2, 1]"), &["GLOBAL_OUT_OF_BOUNDS"]),
    fault("elementwise.cu", "const int row = width / 2 * channels,", "const int row = (width + 1) / 2 * channels,",
        On::Case("average_pool: [3, 7, 9, 48]"), &[]),
    // ---- movement ----
    fault("movement.cu", "static_cast<size_t>(blockIdx.x) * blockDim.x", "static_cast<size_t>(blockIdx.x / 2) * blockDim.x",
        On::Case("upsample: [3, 3, 5, 7]"), &["BLOCK_RACE"]),
    fault("movement.cu", "ENTRY(256, 6, concat_f16, CONCAT_F16) {\n    concat(vectors(y),", "ENTRY(256, 6, concat_f16, CONCAT_F16) {\n    concat(vectors(y + 1),",
        On::Case("concat: channels [64, 32]"), &["MISALIGNED", "GLOBAL_OUT_OF_BOUNDS"]), // the second at the end, with clang++
    fault("movement.cu", "row_of(index[r], rows)", "static_cast<size_t>(index[r]) + rows",
        On::Case("embedding: 50 rows of 128"), &["GLOBAL_OUT_OF_BOUNDS"]),
    // ---- the nearest code ----
    fault("codebook.cu", "    sync_block();  // the readers of the last tile are done\n", "",
        CODES, &["RACE_WRITE_AFTER_READ", "RACE_READ_AFTER_WRITE"]),
    fault("codebook.cu", "    }\n    sync_block();\n}", "    }\n}",
        CODES, &["SHARED_UNINITIALISED", "RACE_READ_AFTER_WRITE"]),
    fault("codebook.cu", "row < codes && channel < dims;", "row < codes;",
        CODES, &["GLOBAL_OUT_OF_BOUNDS"]),
    fault("codebook.cu", "first_row + r < rows && first + d < dims;", "first + d < dims;",
        CODES, &["GLOBAL_OUT_OF_BOUNDS"]),
    fault("codebook.cu", "SHARED_ARRAY(float, shared, CHANNELS * PITCH);", "SHARED_ARRAY(float, shared, CHANNELS * TILE);",
        CODES, &["SHARED_OUT_OF_BOUNDS"]),
    fault("codebook.cu", "mask > 0; mask /= 2", "mask > 1; mask /= 2",
        CODES, &[]),
    // ---- before the grid before has ended ----
    fault("layer_norm.cu", "int channels, float eps) {\n    wait_for_previous_grid();\n    let_next_grid_start();\n    constexpr", "int channels, float eps) {\n    constexpr",
        On::Case("layer_norm: [3, 3, 320]"), &["EARLY_ACCESS"]),
    fault("product.cuh", "    wait_for_previous_grid();\n", "    if (threadIdx.x != 40) wait_for_previous_grid();\n",
        ROWS, &["EARLY_ACCESS"]),
    // ---- around the network ----
    fault("moments.cuh", "    sync_block();  // the readers of an earlier sum are done\n", "",
        GUIDANCE, &["RACE_WRITE_AFTER_READ"]),
    fault("moments.cuh", "sums[warp_index()] = value;\n    sync_block();\n", "sums[warp_index()] = value;\n",
        GUIDANCE, &["SHARED_UNINITIALISED", "RACE_READ_AFTER_WRITE"]),
    fault("moments.cuh", "SHARED_ARRAY(float, sums, 1024 / WARP);", "SHARED_ARRAY(float, sums, 256 / WARP);",
        GUIDANCE, &["SHARED_OUT_OF_BOUNDS"]),
    fault("moments.cuh", "if (lane_index() == 0) sums[warp_index()] = value;", "sums[warp_index()] = value;",
        GUIDANCE, &["RACE_WRITE_AFTER_WRITE"]),
    fault("moments.cuh", "    value = warp_sum(value);\n", "    if (lane_index() != 7) value = warp_sum(value);\n",
        GUIDANCE, &["DIVERGENT_BARRIER", "DIVERGENT_COLLECTIVE"]),
    fault("sampling.cu", "if (rescale != 0.0f) factor", "if (rescale != 0.0f && threadIdx.x < 256) factor",
        GUIDANCE, &["BARRIER_AFTER_EXIT"]),
    fault("sampling.cu", "store_span<T, RAGGED>(y + static_cast<size_t>(blockIdx.y) * image, span, g);", "store_span<T, RAGGED>(y, span, g);",
        GUIDANCE, &["BLOCK_RACE"]),
    fault("sampling.cu", "copy_span(vectors.kept[i], vectors.from[i], span)", "copy_span(const_cast<T*>(vectors.from[i]), vectors.kept[i], span)",
        UPDATE, &["GLOBAL_READ_ONLY"]),
    fault("sampling.cu", "vectors.coefficients[i][first + j]", "vectors.coefficients[i][first + used + j]",
        UPDATE, &["GLOBAL_OUT_OF_BOUNDS"]),
    fault("sampling.cu", "    to[half_features] = from_float<T>(sine);", "    to[1] = from_float<T>(sine);",
        On::Case("timestep_embedding: 320 features"), &["RACE_WRITE_AFTER_WRITE"]),
    fault("sampling.cu", "m.x[i] * a.x[i] + (1.0f - m.x[i]) * b.x[i];\n    store_span(y,", "m.x[i] * a.x[i] + (1.0f - m.x[i]) * b.x[i];\n    store_span(const_cast<T*>(outside),",
        BLEND, &["GLOBAL_READ_ONLY"]),
    fault("sampling.cu", "const T* outside, int count) {\n    wait_for_previous_grid();\n", "const T* outside, int count) {\n",
        BLEND, &["EARLY_ACCESS"]),
    fault("sampling.cu", "const half* outside, int count) {\n    blend(y, mask, inside, outside, count);", "const half* outside, int count) {\n    blend(y, mask, inside, outside, count + 8);",
        BLEND, &["GLOBAL_OUT_OF_BOUNDS"]),
    // ---- products ----
    fault("product.cuh", "copy_async_wait<T::STAGES - 2>();", "copy_async_wait<T::STAGES - 1>();",
        ROWS, &["ASYNC_READ_BEFORE_WAIT"]),
    fault("product.cuh", "copy_async_wait<T::STAGES - 2>();\n        sync_block();\n", "copy_async_wait<T::STAGES - 2>();\n",
        ROWS, &["ASYNC_READ_BEFORE_WAIT", "RACE_READ_AFTER_WRITE", "SHARED_UNINITIALISED"]),
    fault("product.cuh", "filled = filled == (T::STAGES - 1) * T::STAGE ? 0", "filled = filled == T::STAGES * T::STAGE ? 0",
        SPLIT, &["SHARED_OUT_OF_BOUNDS"]),
    fault("product.cuh", "    copy_async_wait<0>();\n    sync_block();\n}", "    copy_async_wait<0>();\n}",
        On::Case("linear: [3, 1, 320] to 17"), &["RACE_WRITE_AFTER_READ"]),
    fault("product.cuh", "        sync_warp();\n#pragma unroll 1\n        for (int item", "#pragma unroll 1\n        for (int item",
        ROWS, &["RACE_READ_AFTER_WRITE", "RACE_WRITE_AFTER_READ"]),
    fault("product.cuh", "(wanted < n ? wanted : n - 1) * stride", "wanted * stride",
        ROWS, &["GLOBAL_OUT_OF_BOUNDS"]),
    fault("product.cuh", "store_part(first + blockIdx.y * step,", "store_part(first,",
        SPLIT, &["BLOCK_RACE"]),
    // ---- blocks that meet ----
    fault("product.cuh", "if (!last_to_arrive(split.counters + tile, parts)) return false;", "if (blockIdx.y > 0) return false;",
        SPLIT, &["BLOCK_RACE"]),
    fault("product.cuh", "    store_part(first + blockIdx.y * step, sums, thread, T::THREADS);\n    if (!last_to_arrive(split.counters + tile, parts)) return false;\n",
        "    const bool last = last_to_arrive(split.counters + tile, parts);\n    store_part(first + blockIdx.y * step, sums, thread, T::THREADS);\n    if (!last) return false;\n",
        SPLIT, &["BLOCK_RACE"]),
    fault("gpu.cuh", "    sync_block();\n    if (threadIdx.x == 0) last[0]", "    if (threadIdx.x == 0) last[0]",
        SPLIT, &["BLOCK_RACE"]),
    fault("gpu.cuh", "? 1 : 0;\n    sync_block();\n", "? 1 : 0;\n",
        SPLIT, &["SHARED_UNINITIALISED", "RACE_READ_AFTER_WRITE"]),
    fault("product.cuh", "last_to_arrive(split.counters + tile, parts)", "last_to_arrive(split.counters + tile, parts + 1)",
        SPLIT, &["COUNTER_LEFT"]),
    fault("product.cuh", "last_to_arrive(split.counters + tile, parts)", "last_to_arrive(split.counters + tile, parts - 1)",
        SPLIT, &["BLOCK_RACE", "COUNTER_LEFT"]),
    fault("product.cuh", "last_to_arrive(split.counters + tile, parts)", "last_to_arrive(split.counters + tile, parts + blockIdx.y)",
        SPLIT, &["COUNTER_MISUSED"]),
    fault("product.cuh", "lane / 16 * 8 + lane % 8, lane / 8 % 2);", "lane / 8 % 2 * 8 + lane % 8, lane / 16);", ROWS, &[]),
    fault("rows.cuh", "(wanted < a.x.m ? wanted : a.x.m - 1) * columns", "wanted * columns",
        On::Case("linear: [3, 13, 40] to 130"), &["GLOBAL_OUT_OF_BOUNDS"]),
    fault("linear_norm.cu", "scales[row_of_share<T>()] = own;\n    sync_block();\n", "scales[row_of_share<T>()] = own;\n",
        On::Case("linear: [3, 33, 264] to 48, normalised"), &["RACE_READ_AFTER_WRITE", "RACE_WRITE_AFTER_READ"]),
    fault("epilogue.cuh", "if (row >= e.m || count <= 0) return;", "if (count <= 0) return;",
        On::Case("linear: [3, 13, 40] to 130"), &["GLOBAL_OUT_OF_BOUNDS"]),
    fault("product_f32.cuh", "        sync_block();\n    }\n", "    }\n", On::Floats("linear: [3, 7, 33] to 5"), &["RACE_WRITE_AFTER_READ", "RACE_READ_AFTER_WRITE"]),
    fault("product_f32.cuh", "SHARED_ARRAY(float, w_columns, STEP * (SIDE + 4));", "SHARED_ARRAY(float, w_columns, STEP * SIDE);",
        On::Floats("linear: [3, 7, 33] to 5"), &["SHARED_OUT_OF_BOUNDS"]),
    fault("conv2d.cu", "(static_cast<unsigned>(y) < static_cast<unsigned>(in.h << in.upsample)) &", "",
        CONVOLUTION, &["GLOBAL_OUT_OF_BOUNDS"]),
    fault("conv2d.cu", "    if (row >= in.pixels / static_cast<int>(gridDim.z)) return Pixel{0, -(1 << 24), 0};\n", "",
        CONVOLUTION, &["GLOBAL_OUT_OF_BOUNDS"]),
    // ---- normalisations ----
    fault("group_norm.cu", "const PixelSlice slice = {0, pixels};\n    sum_column(column, slice, means, squares, width);\n    sync_block();\n",
        "const PixelSlice slice = {0, pixels};\n    sum_column(column, slice, means, squares, width);\n",
        SMALL_IMAGE, &["RACE_READ_AFTER_WRITE", "SHARED_UNINITIALISED"]),
    fault("group_norm.cuh", "    sync_block();\n    normalise_column", "    normalise_column",
        LARGE_IMAGE, &["RACE_READ_AFTER_WRITE", "SHARED_UNINITIALISED"]),
    fault("group_norm.cu", "MOST = 512 * Stored", "MOST = 64 * Stored",
        SMALL_IMAGE, &["SHARED_OUT_OF_BOUNDS"]),
    fault("group_norm.cu", "((row * slices + blockIdx.x) * tile.parts", "(row * slices * tile.parts",
        LARGE_IMAGE, &["BLOCK_RACE"]),
    fault("layer_norm.cu", "return row < rows ? row : -1;", "return row;",
        On::Case("layer_norm: [3, 3, 320]"), &["GLOBAL_OUT_OF_BOUNDS"]),
    fault("layer_norm.cu", "if (channel < channels) load(raw[i], x + channel);", "load(raw[i], x + channel);",
        On::Case("layer_norm: [3, 3, 320]"), &["GLOBAL_OUT_OF_BOUNDS"]),
    // ---- attention ----
    fault("attention.cu", "        copy_async_wait<0>();\n        sync_block();\n        if (tile", "        sync_block();\n        if (tile",
        LONG, &["ASYNC_READ_BEFORE_WAIT"]),
    fault("attention.cu", "        copy_async_wait<0>();\n        sync_block();\n        if (tile", "        copy_async_wait<0>();\n        if (tile",
        LONG, &["RACE_WRITE_AFTER_READ", "RACE_READ_AFTER_WRITE", "ASYNC_READ_BEFORE_WAIT"]),
    fault("attention.cu", "    copy(0);\n    copy_async_wait<0>();\n", "    copy(0);\n",
        LONG, &["ASYNC_READ_BEFORE_WAIT"]),
    fault("attention.cu", "shared + tile % 2 * Tile::STAGE, heads", "shared + (tile + 1) % 2 * Tile::STAGE, heads",
        LONG, &["ASYNC_WRITE_WRITE"]),
    fault("attention.cu", "    sync_warp();\n", "",
        LONG, &["RACE_READ_AFTER_WRITE", "SHARED_UNINITIALISED"]),
    fault("attention.cu", "    sync_block();\n    attention_store", "    attention_store",
        LONG, &["RACE_WRITE_AFTER_READ", "RACE_READ_AFTER_WRITE"]),
    fault("attention.cu", "row + at < queries && chunk < head_size", "chunk < head_size",
        WIDE, &["GLOBAL_OUT_OF_BOUNDS", "BLOCK_RACE"]),
    fault("attention.cu", "+ from + i * pitch, i < left);", "+ from + i * pitch);",
        LONG, &["GLOBAL_OUT_OF_BOUNDS"]),
    fault("attention.cu", "            load_matrix_x4(r, keys", "            if (lane != 3) load_matrix_x4(r, keys",
        LONG, &["DIVERGENT_COLLECTIVE"]),
    fault("attention.cu", "PITCH = DEPTH + 8;", "PITCH = DEPTH + 4;",
        LONG, &["MISALIGNED"]),
    fault("attention.cu", "k[j][0] = r[0], k[j][1] = r[1];", "k[j][0] = r[1], k[j][1] = r[0];", LONG, &[]),
    fault("attention_large.cu", "    if (row >= all_rows) return;\n", "    if (row >= all_rows || lane_index() == 31) return;\n",
        LARGE_HEAD, &["COLLECTIVE_AFTER_EXIT"]),
    fault("attention_large.cu", "        copy_async_wait<PRODUCT_STAGES - 2>();\n", "        copy_async_wait<PRODUCT_STAGES - 1>();\n",
        LARGE_HEAD, &["ASYNC_READ_BEFORE_WAIT"]),
    fault("attention_any.cu", "right(at, step + k); });\n        sync_block();\n", "right(at, step + k); });\n",
        FLOATS, &["SHARED_UNINITIALISED", "RACE_READ_AFTER_WRITE"]),
    fault("attention_any.cu", "        sync_block();\n    }\n}", "    }\n}",
        FLOATS, &["RACE_WRITE_AFTER_READ", "RACE_READ_AFTER_WRITE"]),
    fault("attention_any.cu", "column + at < keys && d < head_size", "d < head_size",
        FLOATS, &["GLOBAL_OUT_OF_BOUNDS"]),
    fault("attention_any.cu", "if (line < rows && at < keys) to[", "if (at < keys) to[",
        FLOATS, &["GLOBAL_OUT_OF_BOUNDS", "BLOCK_RACE", "RACE_WRITE_AFTER_WRITE"]),
];

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn faults_planted_in_kernels_are_named() {
    are_named(FAULTS);
}
