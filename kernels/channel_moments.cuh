// The moments of each channel of what a product stores, for a group normalisation that reads it: then no launch of its own has to find them.
//
//   fragments   a warp's sixteen rows of a column, as they are stored: rounded, so that values that rounding made equal have no deviation
//   blocks      four fragments, 64 rows, whose moments lie in scratch memory [m / 64, n, 2]
//   moments     eight blocks, 512 rows, or as many as the image has left: [images, pieces, n, 2], a mean and squared deviations each
//
// Neighbours are joined two and two (moments.cuh), so the bits are the same whatever the tile: it is a multiple of 64 rows, and an image one of
// the tile. Blocks of a tile are joined in shared memory, and those of 512 rows by whichever tile is the last to bring its own.
#pragma once

#include "moments.cuh"

#define FRAGMENT_ROWS 16
#define BLOCK_ROWS 64
#define PIECE_ROWS 512

// Where a product leaves moments. Null: nobody asks.
struct ChannelMoments {
    float* moments;
    float* blocks;
    int* counters;    // of each piece and column of tiles, zero
    int rows_per_image;
};

// Pieces of an image, and the rows of one of them.
DEVICE int pieces_of(int rows) { return (rows + PIECE_ROWS - 1) / PIECE_ROWS; }
DEVICE int rows_of_piece(int rows, int piece) { return min(PIECE_ROWS, rows - piece * PIECE_ROWS); }

// What is stored of a value.
DEVICE float stored(float x) { return to_float(from_float<half>(x)); }

// The moments of a fragment's columns, of which the lanes of a warp take every 32nd: sixteen rows, `pitch` floats apart.
DEVICE void fragment_moments(const float* rows, int pitch, int columns, float* means, float* squares) {
    for (int column = lane_index(); column < columns; column += WARP) {
        float x[FRAGMENT_ROWS], sum = 0.0f, deviations = 0.0f;
#pragma unroll
        for (int row = 0; row < FRAGMENT_ROWS; row++) {
            x[row] = rows[row * pitch + column];
            sum += x[row];
        }
        const float mean = sum * (1.0f / FRAGMENT_ROWS);
#pragma unroll
        for (int row = 0; row < FRAGMENT_ROWS; row++) deviations += (x[row] - mean) * (x[row] - mean);
        means[column] = mean;
        squares[column] = deviations;
    }
}

// Joins `COUNT` neighbours, a power of two of them. Those that are not there count nothing.
template <int COUNT>
DEVICE Moments join_neighbours(Moments (&part)[COUNT]) {
#pragma unroll
    for (int step = 1; step < COUNT; step *= 2) {
#pragma unroll
        for (int i = 0; i < COUNT; i += 2 * step) part[i] = join(part[i], part[i + step]);
    }
    return part[0];
}

// Joins the fragments of a tile of ROWS x COLUMNS, `means` and `squares` [ROWS / 16][COLUMNS], to blocks, and where the tile is the last of its
// piece, blocks to moments. `row` and `column` are where the tile begins in the result, of `n` columns. All threads of the block must call.
template <int ROWS, int COLUMNS>
DEVICE void join_tile(const ChannelMoments& to, const float* means, const float* squares, int row, int column, int n) {
    static_assert(ROWS % BLOCK_ROWS == 0 && PIECE_ROWS % ROWS == 0, "a piece is made of whole tiles, and a tile of whole blocks");
    constexpr int FRAGMENTS = BLOCK_ROWS / FRAGMENT_ROWS, BLOCKS = PIECE_ROWS / BLOCK_ROWS;
    const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
    const int columns = min(COLUMNS, n - column);
    sync_block();
    for (int item = thread; item < ROWS / BLOCK_ROWS * COLUMNS; item += threads) {
        const int block = item / COLUMNS, c = item % COLUMNS;
        if (c >= columns) continue;
        Moments part[FRAGMENTS];
#pragma unroll
        for (int i = 0; i < FRAGMENTS; i++) {
            const int at = (block * FRAGMENTS + i) * COLUMNS + c;
            part[i] = {static_cast<float>(FRAGMENT_ROWS), means[at], squares[at]};
        }
        const Moments all = join_neighbours(part);
        float* const at = to.blocks + 2 * (static_cast<size_t>(row / BLOCK_ROWS + block) * n + column + c);
        at[0] = all.mean;
        at[1] = all.squares;
    }
    const int image = row / to.rows_per_image, piece = row % to.rows_per_image / PIECE_ROWS, pieces = pieces_of(to.rows_per_image);
    const int rows = rows_of_piece(to.rows_per_image, piece);
    const int number = image * pieces + piece, tiles = (n + COLUMNS - 1) / COLUMNS;
    if (!last_to_arrive(to.counters + number * tiles + column / COLUMNS, rows / ROWS)) return;
    const size_t first = (static_cast<size_t>(image) * to.rows_per_image + piece * PIECE_ROWS) / BLOCK_ROWS;
    for (int c = thread; c < columns; c += threads) {
        Moments part[BLOCKS];
#pragma unroll
        for (int i = 0; i < BLOCKS; i++) {
            part[i] = {0.0f, 0.0f, 0.0f};
            if (i >= rows / BLOCK_ROWS) continue;
            const float* const from = to.blocks + 2 * ((first + i) * n + column + c);
            part[i] = {static_cast<float>(BLOCK_ROWS), from[0], from[1]};
        }
        const Moments all = join_neighbours(part);
        float* const at = to.moments + 2 * (static_cast<size_t>(number) * n + column + c);
        at[0] = all.mean;
        at[1] = all.squares;
    }
}
