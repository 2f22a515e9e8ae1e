// Matrix fragments: what ldmatrix and mma.sync do to the registers of a warp. The layouts stand at the head of gpu.cuh.
#pragma once

#include "block.h"

namespace emulator {

constexpr int MAX_FRAGMENTS = 32;     // along either side of a tile; of all whose sums are halves

// The operands of a product in the order in which vectors can use them: a block's scratch memory.
struct alignas(32) Operands {
    float a[MAX_FRAGMENTS][8][16][4];     // [row fragment][g][k]: row g twice, row g + 8 twice
    float b[4][16][MAX_FRAGMENTS * 4];    // [t][k][column fragment]: the two columns of quad member t, twice (for rows g and g + 8)
    float sums[WARP][MAX_FRAGMENTS * 4];  // of lanes whose own are halves
};

// Four 8 x 8 matrices: deposit.a is a row's address, deposit.result the lane's four registers.
void load_matrix(const Deposit (&lanes)[WARP], bool transposed);

// The way back: deposit.a is the lane's four registers, deposit.result a row's address.
void store_matrix(const Deposit (&lanes)[WARP], bool transposed);

// d += a b for `rows` x `columns` fragments: deposit.a, .b and .result (d, floats). Products are exact; they are added in f32, in order of k.
void multiply(Operands& scratch, const Deposit (&lanes)[WARP], int rows, int columns);

// As multiply with d in halves, rounded to nearest once, after all 16 products: infinite where it leaves their range. What a GPU's adders do
// in between is not published.
void multiply_half(Operands& scratch, const Deposit (&lanes)[WARP], int rows, int columns);

}  // namespace emulator
