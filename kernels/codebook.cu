// The nearest code of every pixel: what makes a latent discrete (arXiv:1711.00937, equation 1).
//
//   y[r] = argmin_k (|x_r|^2 + |e_k|^2) - 2 x_r e_k     the lowest k of several; NaN if no distance is a finite number
//
// Tensors       x [rows, dims] (half or float), e [codes, dims] and y [rows] (float)
// Arithmetic    f32, in the order of the published quantiser's formula: where codes lie so close together that its rounding decides between
//               them, it decides here as there. Distances are never stored
// Launch        256 threads for 32 rows. A warp has 4 rows; its lanes share the codes. 256 codes at a time lie in shared memory, 4 channels of
//               them at once, so that any number of channels fits; each thread multiplies 4 rows by 8 codes in registers
// Requirements  elements fit an int (checked by select)
// Cost          2 rows codes dims FLOP; a block reads all codes once, from L2
// Measured      not yet run on hardware
#include "gpu.cuh"

#define WARPS 8
#define ROWS 4       // of a warp
#define TILE 256     // codes in shared memory
#define CHANNELS 4   // of them
#define PER_LANE (TILE / WARP)
// A row of shared memory: the padding keeps the four channels of a code in different banks while they are written.
#define PITCH (TILE + 8)

// Channels `first` to `first + 3` of codes `code` to `code + 255`; zero where there are none. All threads of the block must call.
DEVICE void stage(float* shared, const float* table, int code, int first, int codes, int dims) {
    sync_block();  // the readers of the last tile are done
#pragma unroll
    for (int step = 0; step < TILE * CHANNELS; step += WARPS * WARP) {
        const int i = step + static_cast<int>(threadIdx.x);
        const int row = code + i / CHANNELS;
        const int channel = first + i % CHANNELS;
        const bool there = row < codes && channel < dims;
        shared[i % CHANNELS * PITCH + i / CHANNELS] = there ? table[static_cast<size_t>(row) * dims + channel] : 0.0f;
    }
    sync_block();
}

template <typename T>
DEVICE void codebook(float* y, const T* x, const float* table, int rows, int codes, int dims) {
    wait_for_previous_grid();
    SHARED_ARRAY(float, shared, CHANNELS * PITCH);
    const int lane = lane_index();
    const int first_row = (static_cast<int>(blockIdx.x) * WARPS + warp_index()) * ROWS;
    float least[ROWS];
    int nearest[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        least[r] = INFINITY;
        nearest[r] = -1;
    }
    for (int code = 0; code < codes; code += TILE) {
        float product[ROWS][PER_LANE];
        float code_square[PER_LANE];
        float row_square[ROWS];
#pragma unroll
        for (int c = 0; c < PER_LANE; c++) {
            code_square[c] = 0.0f;
#pragma unroll
            for (int r = 0; r < ROWS; r++) product[r][c] = 0.0f;
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) row_square[r] = 0.0f;
        for (int first = 0; first < dims; first += CHANNELS) {
            stage(shared, table, code, first, codes, dims);
#pragma unroll
            for (int d = 0; d < CHANNELS; d++) {
                float value[ROWS];
#pragma unroll
                for (int r = 0; r < ROWS; r++) {
                    const bool there = first_row + r < rows && first + d < dims;
                    value[r] = there ? to_float(x[static_cast<size_t>(first_row + r) * dims + first + d]) : 0.0f;
                    row_square[r] = fmaf(value[r], value[r], row_square[r]);
                }
#pragma unroll
                for (int c = 0; c < PER_LANE; c++) {
                    const float e = shared[d * PITCH + c * WARP + lane];
                    code_square[c] = fmaf(e, e, code_square[c]);
#pragma unroll
                    for (int r = 0; r < ROWS; r++) product[r][c] = fmaf(value[r], e, product[r][c]);
                }
            }
        }
#pragma unroll
        for (int c = 0; c < PER_LANE; c++) {
            const int k = code + c * WARP + lane;
            if (k >= codes) continue;
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                const float distance = fmaf(-2.0f, product[r][c], row_square[r] + code_square[c]);
                if (distance < least[r]) {
                    least[r] = distance;
                    nearest[r] = k;
                }
            }
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
#pragma unroll
        for (int mask = WARP / 2; mask > 0; mask /= 2) {
            const float other = shuffle_xor(least[r], mask);
            const int at = shuffle_xor(nearest[r], mask);
            if (other < least[r] || (other == least[r] && at < nearest[r])) {
                least[r] = other;
                nearest[r] = at;
            }
        }
        if (lane == 0 && first_row + r < rows) y[first_row + r] = nearest[r] < 0 ? NAN : static_cast<float>(nearest[r]);
    }
}

// ---- entries ------------------------------------------------------------------------------------

ENTRY(256, 2, codebook_f16, float* y, const half* x, const float* table, int rows, int codes, int dims) {
    codebook(y, x, table, rows, codes, dims);
}
ENTRY(256, 2, codebook_f32, float* y, const float* x, const float* table, int rows, int codes, int dims) {
    codebook(y, x, table, rows, codes, dims);
}
