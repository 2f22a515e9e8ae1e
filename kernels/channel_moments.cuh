// The moments of each channel of what a product stores, for a group normalisation that reads it: then no launch of its own has to find them.
//
//   fragments   a warp's sixteen rows of a column, as they are stored: rounded, so that values that rounding made equal have no deviation
//   blocks      four fragments, 64 rows, whose moments lie in scratch memory [m / 64, n, 2]
//   moments     a piece, which is eight blocks or as many as the image has left: [images, pieces, n, 2], a mean and squared deviations each
//
// An image's blocks are numbered in any order that is the image's own: along its rows, phase after phase where it is made in phases (conv2d.cu), box
// after box where a block is one (conv2d_sm90.cu). Neighbours are joined two and two (moments.cuh), so the bits are the same whatever the tile,
// which is made of whole blocks. Those of a piece are joined by whoever is the last to bring one.
#pragma once

#include "moments.cuh"

#define FRAGMENT_ROWS 16
#define BLOCK_ROWS 64
#define PIECE_ROWS 512
#define PIECE_BLOCKS (PIECE_ROWS / BLOCK_ROWS)
#define BLOCK_FRAGMENTS (BLOCK_ROWS / FRAGMENT_ROWS)

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

// A piece, by its number and its first block among those of all images.
struct Piece {
    int number;
    int first;
    int blocks;
};

// The piece that a block belongs to.
DEVICE Piece piece_of(int block, int rows_per_image) {
    const int blocks = rows_per_image / BLOCK_ROWS, image = block / blocks, piece = block % blocks / PIECE_BLOCKS;
    const int left = rows_of_piece(rows_per_image, piece) / BLOCK_ROWS;
    return {image * pieces_of(rows_per_image) + piece, image * blocks + piece * PIECE_BLOCKS, left};
}

// Joins the fragments of a block's column, of `n`: fragment i has its mean at `means[i * pitch]`, and at `squares[i * pitch]` its squared deviations.
DEVICE void join_fragments(const ChannelMoments& to, const float* means, const float* squares, int pitch, int block, int column, int n) {
    Moments part[BLOCK_FRAGMENTS];
#pragma unroll
    for (int i = 0; i < BLOCK_FRAGMENTS; i++) part[i] = {static_cast<float>(FRAGMENT_ROWS), means[i * pitch], squares[i * pitch]};
    const Moments all = join_neighbours(part);
    float* const at = to.blocks + 2 * (static_cast<size_t>(block) * n + column);
    at[0] = all.mean;
    at[1] = all.squares;
}

// The counter at which those meet who bring blocks of a piece, in `columns` columns from `column` on.
DEVICE int* meeting(const ChannelMoments& to, const Piece& piece, int column, int columns, int n) {
    return to.counters + piece.number * ((n + columns - 1) / columns) + column / columns;
}

// Joins the blocks of a piece, in `columns` columns from `column` on, which `threads` threads share.
DEVICE void join_blocks(const ChannelMoments& to, const Piece& piece, int column, int columns, int n, int thread, int threads) {
    const int end = min(column + columns, n);
    for (int c = column + thread; c < end; c += threads) {
        Moments part[PIECE_BLOCKS];
#pragma unroll
        for (int i = 0; i < PIECE_BLOCKS; i++) {
            part[i] = {0.0f, 0.0f, 0.0f};
            if (i >= piece.blocks) continue;
            const float* const from = to.blocks + 2 * (static_cast<size_t>(piece.first + i) * n + c);
            part[i] = {static_cast<float>(BLOCK_ROWS), from[0], from[1]};
        }
        const Moments all = join_neighbours(part);
        float* const at = to.moments + 2 * (static_cast<size_t>(piece.number) * n + c);
        at[0] = all.mean;
        at[1] = all.squares;
    }
}

// Joins the fragments of a tile of ROWS x COLUMNS, `means` and `squares` [ROWS / 16][COLUMNS], to blocks, and where the tile is the last of its
// piece, blocks to moments. The tile begins with block `first` and column `column` of the result, of `n` columns. All threads of the block must call.
template <int ROWS, int COLUMNS>
DEVICE void join_tile(const ChannelMoments& to, const float* means, const float* squares, int first, int column, int n) {
    static_assert(ROWS % BLOCK_ROWS == 0 && PIECE_ROWS % ROWS == 0, "a piece is made of whole tiles, and a tile of whole blocks");
    const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
    sync_block();
    for (int item = thread; item < ROWS / BLOCK_ROWS * COLUMNS; item += threads) {
        const int block = item / COLUMNS, c = item % COLUMNS, at = block * BLOCK_FRAGMENTS * COLUMNS + c;
        if (column + c < n) join_fragments(to, means + at, squares + at, COLUMNS, first + block, column + c, n);
    }
    const Piece piece = piece_of(first, to.rows_per_image);
    if (!last_to_arrive(meeting(to, piece, column, COLUMNS, n), piece.blocks * BLOCK_ROWS / ROWS)) return;
    join_blocks(to, piece, column, COLUMNS, n, thread, threads);
}
