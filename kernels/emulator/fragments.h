// Matrix fragments: what ldmatrix and mma.sync do to the registers of a warp. The layouts stand at the head of gpu.cuh.
#pragma once

#include "block.h"

namespace emulator {

// Four 8 x 8 matrices: deposit.a is a row's address, deposit.result the lane's four registers.
void load_matrix(const Deposit (&lanes)[WARP], bool transposed);

// d += a b for `rows` x `columns` fragments: deposit.a, .b and .result (d, floats). Products are exact; they are added in f32, in order of k.
void multiply(const Deposit (&lanes)[WARP], int rows, int columns);

// As multiply for one fragment with d in halves, rounded once, after all 16 products.
void multiply_half(const Deposit (&lanes)[WARP]);

}  // namespace emulator
