// Elements that only move: no bit of them changes.
//
//   concat    rows of a and of b, side by side in rows of y: y[r, offset + c] = a[r, c] for c < width_a, else b[r, c - width_a]
//   assign    for each pair in its order: to[i] = from[i]; what one pair writes the next may read
//   upsample  y[n, 2i + k, 2j + l, c] = x[n, i, j, c] for k, l in {0, 1}: nearest neighbour
//   gather    y[r, :] = table[r * step + row(index[r]), :], an index outside the `rows` taking the nearest: rows of an embedding (step = 0), one
//             token of each sequence (step = rows = tokens)
//
// Tensors       dense; index [R] exact, f32
// Launch        256 threads; a thread per unit moved: 16 bytes, or one element in the `_ragged` variants
// Requirements  all widths, offsets and pitches are counted in units; the selection takes the ragged variant unless all are whole 16 bytes
// Cost          each element read once and written once (upsample: four times)
// Measured      not yet run on hardware
#include "elements.cuh"

template <typename T>
DEVICE Vector16* vectors(T* pointer) {
    return reinterpret_cast<Vector16*>(pointer);
}
template <typename T>
DEVICE const Vector16* vectors(const T* pointer) {
    return reinterpret_cast<const Vector16*>(pointer);
}

// This thread's number, or -1 beyond `count`.
DEVICE int unit_of_thread(int count) {
    const size_t unit = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    return unit < static_cast<size_t>(count) ? static_cast<int>(unit) : -1;
}

template <typename U>
DEVICE void concat(U* y, const U* a, const U* b, int width_a, int width_b, int pitch, int offset, int count) {
    wait_for_previous_grid();
    const int unit = unit_of_thread(count);
    if (unit < 0) return;
    const int width = width_a + width_b;
    const int row = unit / width;
    const int column = unit % width;
    U* to = y + static_cast<size_t>(row) * pitch + offset + column;
    if (column < width_a) {
        *to = a[static_cast<size_t>(row) * width_a + column];
    } else {
        *to = b[static_cast<size_t>(row) * width_b + column - width_a];
    }
}

// Pairs of an entry; null: there is none.
#define PAIRS 6

template <typename U>
DEVICE void assign(U* const (&to)[PAIRS], const U* const (&from)[PAIRS], int count) {
    wait_for_previous_grid();
    const int unit = unit_of_thread(count);
    if (unit < 0) return;
#pragma unroll
    for (int pair = 0; pair < PAIRS; pair++) {
        if (to[pair] != nullptr) to[pair][unit] = from[pair][unit];
    }
}

template <typename U>
DEVICE void upsample(U* y, const U* x, int image_width, int channels, int count) {
    wait_for_previous_grid();
    const int unit = unit_of_thread(count);
    if (unit < 0) return;
    const int row = image_width * channels;
    const int channel = unit % channels;
    const int column = unit % row - channel;
    U* to = y + static_cast<size_t>(unit / row) * 4 * row + 2 * column + channel;
    const U value = x[unit];
    to[0] = value;
    to[channels] = value;
    to[2 * row] = value;
    to[2 * row + channels] = value;
}

template <typename U>
DEVICE void gather(U* y, const U* table, const float* index, int rows, int step, int width, int count) {
    wait_for_previous_grid();
    const int unit = unit_of_thread(count);
    if (unit < 0) return;
    const int r = unit / width;
    const size_t row = static_cast<size_t>(r) * step + row_of(index[r], rows);
    y[unit] = table[row * width + unit % width];
}

// ---- entries ------------------------------------------------------------------------------------

#define CONCAT_F16 half* y, const half* a, const half* b, int width_a, int width_b, int pitch, int offset, int count
#define CONCAT_F32 float* y, const float* a, const float* b, int width_a, int width_b, int pitch, int offset, int count
ENTRY(256, 6, concat_f16, CONCAT_F16) {
    concat(vectors(y), vectors(a), vectors(b), width_a, width_b, pitch, offset, count);
}
ENTRY(256, 6, concat_ragged_f16, CONCAT_F16) {
    concat(y, a, b, width_a, width_b, pitch, offset, count);
}
ENTRY(256, 6, concat_f32, CONCAT_F32) {
    concat(vectors(y), vectors(a), vectors(b), width_a, width_b, pitch, offset, count);
}
ENTRY(256, 6, concat_ragged_f32, CONCAT_F32) {
    concat(y, a, b, width_a, width_b, pitch, offset, count);
}

#define ASSIGN_F16                                                                                                                     \
    half *to0, half *to1, half *to2, half *to3, half *to4, half *to5, const half *from0, const half *from1, const half *from2,         \
        const half *from3, const half *from4, const half *from5, int count
#define ASSIGN_F32                                                                                                                     \
    float *to0, float *to1, float *to2, float *to3, float *to4, float *to5, const float *from0, const float *from1,                    \
        const float *from2, const float *from3, const float *from4, const float *from5, int count
#define VECTORS                                                                                                                        \
    {vectors(to0), vectors(to1), vectors(to2), vectors(to3), vectors(to4), vectors(to5)},                                              \
        {vectors(from0), vectors(from1), vectors(from2), vectors(from3), vectors(from4), vectors(from5)}, count
#define ELEMENTS {to0, to1, to2, to3, to4, to5}, {from0, from1, from2, from3, from4, from5}, count
ENTRY(256, 6, assign_f16, ASSIGN_F16) { assign<Vector16>(VECTORS); }
ENTRY(256, 6, assign_ragged_f16, ASSIGN_F16) { assign<half>(ELEMENTS); }
ENTRY(256, 6, assign_f32, ASSIGN_F32) { assign<Vector16>(VECTORS); }
ENTRY(256, 6, assign_ragged_f32, ASSIGN_F32) { assign<float>(ELEMENTS); }

#define UPSAMPLE_F16 half* y, const half* x, int image_width, int channels, int count
#define UPSAMPLE_F32 float* y, const float* x, int image_width, int channels, int count
ENTRY(256, 6, upsample_f16, UPSAMPLE_F16) {
    upsample(vectors(y), vectors(x), image_width, channels, count);
}
ENTRY(256, 6, upsample_ragged_f16, UPSAMPLE_F16) {
    upsample(y, x, image_width, channels, count);
}
ENTRY(256, 6, upsample_f32, UPSAMPLE_F32) {
    upsample(vectors(y), vectors(x), image_width, channels, count);
}
ENTRY(256, 6, upsample_ragged_f32, UPSAMPLE_F32) {
    upsample(y, x, image_width, channels, count);
}

#define GATHER_F16 half* y, const half* table, const float* index, int rows, int step, int width, int count
#define GATHER_F32 float* y, const float* table, const float* index, int rows, int step, int width, int count
ENTRY(256, 6, gather_f16, GATHER_F16) {
    gather(vectors(y), vectors(table), index, rows, step, width, count);
}
ENTRY(256, 6, gather_ragged_f16, GATHER_F16) {
    gather(y, table, index, rows, step, width, count);
}
ENTRY(256, 6, gather_f32, GATHER_F32) {
    gather(vectors(y), vectors(table), index, rows, step, width, count);
}
ENTRY(256, 6, gather_ragged_f32, GATHER_F32) {
    gather(y, table, index, rows, step, width, count);
}
