// Rows of a matrix that lies in one tensor or two, for product.cuh: the operand of linear maps.
#pragma once

#include "product.cuh"

// The operand: `[m, first + second]`, whose first columns lie in one tensor and the others in another.
template <typename T>
struct Rows {
    const T* first;
    const T* second;
    int m;
    int columns_first;
    int columns_second;
};

// This thread's share of the copies of A: rows `PASS` apart, one chunk each. Rows beyond the last are the last again.
template <class T>
struct AlignedRows {
    Rows<half> x;
    const half* at;
    int k;
    int limit;
    int row;
    int offset[T::A_PASSES];
    int to;
};

// Turns to the tensor that holds column `k`.
template <class T>
DEVICE void turn(AlignedRows<T>& a) {
    const bool second = a.k >= a.x.columns_first;
    const int columns = second ? a.x.columns_second : a.x.columns_first;
    a.at = second ? a.x.second + (a.k - a.x.columns_first) : a.x.first + a.k;
    a.limit = second ? a.x.columns_first + a.x.columns_second : a.x.columns_first;
#pragma unroll
    for (int i = 0; i < T::A_PASSES; i++) {
        const int wanted = a.row + i * T::PASS;
        a.offset[i] = (wanted < a.x.m ? wanted : a.x.m - 1) * columns;
    }
}

template <class T>
DEVICE AlignedRows<T> aligned_rows(const Rows<half>& x, int first, int k) {
    AlignedRows<T> a;
    const int row = static_cast<int>(threadIdx.x) / T::CHUNKS, chunk = static_cast<int>(threadIdx.x) % T::CHUNKS;
    a.x = x;
    a.k = k + chunk * CHUNK;
    a.row = first + row;
    a.to = place<T::BK>(row, chunk);
    turn(a);
    return a;
}

template <class T>
DEVICE void copy_rows(AlignedRows<T>& a, half* stage) {
    const bool inside = a.k < a.limit;
#pragma unroll
    for (int i = 0; i < T::A_PASSES; i++) copy_async_16(stage + a.to + i * T::PASS * T::BK, a.at + a.offset[i], inside);
    a.k += T::BK;
    a.at += T::BK;
    if (a.k >= a.limit && a.limit < a.x.columns_first + a.x.columns_second) turn(a);
}
