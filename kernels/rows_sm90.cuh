// The first operand of linear_sm90.cu and linear_norm_sm90.cu: rows of a matrix, by tensor maps.
#pragma once

#include "product_sm90.cuh"

// The operand: `[m, columns]`, whose first columns lie in one tensor and the others in another.
template <class T>
struct Rows {
    const TensorMap& first;
    const TensorMap& second;
    int columns_first;

    __device__ __forceinline__ void prefetch() const {
        prefetch_map(first);
        prefetch_map(second);
    }
    // The first row of a tile.
    __device__ __forceinline__ int place(int tile) const { return tile * T::BM; }
    __device__ __forceinline__ int row(int place, int tile_row) const { return place + tile_row; }
    __device__ __forceinline__ int block(int place, int tile_row) const { return (place + tile_row) / BLOCK_ROWS; }

    // What comes next.
    struct At {
        int row;
        int column;
    };
    __device__ __forceinline__ At begin(int place, int step) const { return At{place, step * DEPTH}; }
    __device__ __forceinline__ void load(At& at, unsigned char* stage, Barrier* full) const {
        if (at.column < columns_first) {
            tensor_load_2d(stage, first, full, at.column, at.row);
        } else {
            tensor_load_2d(stage, second, full, at.column - columns_first, at.row);
        }
        at.column += DEPTH;
    }
};
