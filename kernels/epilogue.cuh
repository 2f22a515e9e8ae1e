// What a product does to its sums before storing them: `Epilogue` of src/ops/linear.rs, for linear maps and convolutions alike.
//
//   v = sum + bias[o] + channels[image or row, o]
//   v = activation(v)
//   v = v[value] * gelu(v[gate])        if gated: packing lets a value (even o) and its gate (odd o) alternate
//   y = v + residual
//
// All in f32, rounded once to the tensor's type. A thread finishes eight neighbouring columns of a row at a time: 16-byte accesses where
// rows are made of them, elements one by one where they are not.
#pragma once

#include "activation.cuh"
#include "elements.cuh"

// Columns that one thread finishes together.
#define COLUMNS_TOGETHER 8

template <typename T>
struct Epilogue {
    T* y;                 // [m, n], or [m, n / 2] if gated
    const float* bias;    // [n], or null
    const T* channels;    // [images, n] or a table [channel_rows, n], or null
    const float* row;     // [1]: the table's row for all images, none beyond its last; null: each image has its own
    const T* residual;    // [residual_rows, n], as y from its first row on and then again, or null
    int m;
    int n;
    int rows_per_image;
    int channel_rows;
    int residual_rows;
    int activation;    // an Activation
    int gate;
};

// The row of the result that a row of a product is: the same.
struct SameRow {
    __device__ __forceinline__ int operator()(int row) const { return row; }
};

// Eight elements, or the first `count` and zeros; `whole` says that all are there and the address is a multiple of 16.
template <typename T>
DEVICE void load_columns(float (&v)[COLUMNS_TOGETHER], const T* from, bool whole, int count) {
    constexpr int SIZE = Pack<T>::SIZE;
#pragma unroll
    for (int first = 0; first < COLUMNS_TOGETHER; first += SIZE) {
        const Pack<T> pack = whole ? load_pack(from + first) : load_pack(from + first, count - first);
#pragma unroll
        for (int i = 0; i < SIZE; i++) v[first + i] = pack.x[i];
    }
}

// The same way back.
template <typename T>
DEVICE void store_columns(T* to, const float (&v)[COLUMNS_TOGETHER], bool whole, int count) {
    constexpr int SIZE = Pack<T>::SIZE;
    if (whole) {
#pragma unroll
        for (int first = 0; first < COLUMNS_TOGETHER; first += SIZE) {
            float part[SIZE];
#pragma unroll
            for (int i = 0; i < SIZE; i++) part[i] = v[first + i];
            store(to + first, part);
        }
    } else {
#pragma unroll
        for (int i = 0; i < COLUMNS_TOGETHER; i++) {
            if (i < count) to[i] = from_float<T>(v[i]);
        }
    }
}

// The four columns that a gate leaves of eight: at a multiple of four elements if `whole`.
struct alignas(8) FourHalves {
    uint32_t word[2];
};
DEVICE void store_four(half* to, const float (&v)[COLUMNS_TOGETHER]) {
    *reinterpret_cast<FourHalves*>(to) = FourHalves{{pack_halves(v[0], v[1]), pack_halves(v[2], v[3])}};
}
DEVICE void store_four(float* to, const float (&v)[COLUMNS_TOGETHER]) { store(to, {v[0], v[1], v[2], v[3]}); }

DEVICE float activate(float x, int activation) {
    switch (activation) {
        case SILU: return activate<SILU>(x);
        case GELU: return activate<GELU>(x);
        case QUICK_GELU: return activate<QUICK_GELU>(x);
        default: return x;
    }
}

template <typename T>
DEVICE void add_columns(float (&v)[COLUMNS_TOGETHER], const T* from, bool whole, int count) {
    float added[COLUMNS_TOGETHER];
    load_columns(added, from, whole, count);
#pragma unroll
    for (int i = 0; i < COLUMNS_TOGETHER; i++) v[i] += added[i];
}

// The mean of a row, and the inverse of its deviation.
struct RowScale {
    float mean;
    float scale;
};

// Sums of products with weights that hold the factors of a normalisation (Layout::Scaled) become those with the normalised row: `sums` are
// those of the weights' rows, and the bias holds the rest. Columns beyond the last of `n` are left as they are.
DEVICE void normalise_columns(const RowScale& row, const float* sums, int n, int column, float (&v)[COLUMNS_TOGETHER]) {
    const int count = n - column < COLUMNS_TOGETHER ? n - column : COLUMNS_TOGETHER;
    if (count <= 0) return;
    float sum[COLUMNS_TOGETHER];
    load_columns(sum, sums + column, n % COLUMNS_TOGETHER == 0, count);
#pragma unroll
    for (int i = 0; i < COLUMNS_TOGETHER; i++) v[i] = row.scale * (v[i] - row.mean * sum[i]);
}

// Adds the residual to columns `column` and on of row `row`, of `n` columns. Its images repeat where it has fewer than the result.
template <typename T>
DEVICE void add_residual(const Epilogue<T>& e, int row, int n, int column, float (&v)[COLUMNS_TOGETHER], bool whole, int count) {
    if (e.residual == nullptr) return;
    const int own = row < e.residual_rows ? row : row % e.residual_rows;
    add_columns(v, e.residual + static_cast<size_t>(own) * n + column, whole, count);
}

// Finishes the sums `v` of columns `column` to `column + 7` of row `row`; columns beyond the last are left out.
template <typename T>
DEVICE void finish(const Epilogue<T>& e, int row, int column, float (&v)[COLUMNS_TOGETHER]) {
    const int count = e.n - column < COLUMNS_TOGETHER ? e.n - column : COLUMNS_TOGETHER;
    if (row >= e.m || count <= 0) return;
    const bool whole = e.n % COLUMNS_TOGETHER == 0;
    if (e.bias != nullptr) add_columns(v, e.bias + column, whole, count);
    if (e.channels != nullptr) {
        const int index = e.row == nullptr ? row / e.rows_per_image : row_of(*e.row, e.channel_rows);
        const T* channels = e.channels + static_cast<size_t>(index) * e.n;
        if (e.gate) {
            // Operands are not packed: the gates lie behind the values.
#pragma unroll
            for (int i = 0; i < COLUMNS_TOGETHER; i++) {
                if (i < count) v[i] += to_float(channels[column / 2 + i / 2 + i % 2 * (e.n / 2)]);
            }
        } else {
            add_columns(v, channels + column, whole, count);
        }
    }
    if (e.activation != NO_ACTIVATION) {
#pragma unroll
        for (int i = 0; i < COLUMNS_TOGETHER; i++) v[i] = activate(v[i], e.activation);
    }
    if (e.gate) {
#pragma unroll
        for (int i = 0; i < COLUMNS_TOGETHER / 2; i++) v[i] = v[2 * i] * gelu(v[2 * i + 1]);
        const size_t at = static_cast<size_t>(row) * (e.n / 2) + column / 2;
        // Half of sixteen bytes is read element by element: no network has a gate with a residual.
        add_residual(e, row, e.n / 2, column / 2, v, false, count / 2);
        if (whole) {
            store_four(e.y + at, v);
        } else {
            store_columns(e.y + at, v, false, count / 2);
        }
    } else {
        const size_t at = static_cast<size_t>(row) * e.n + column;
        add_residual(e, row, e.n, column, v, whole, count);
        store_columns(e.y + at, v, whole, count);
    }
}
