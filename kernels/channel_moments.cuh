// The moments of each channel of what a product stores, for a group normalisation that reads it: then no launch of its own has to find them.
//
//   fragments   a warp's sixteen rows of a column, as they are stored: rounded, so that values that rounding made equal have no deviation
//   blocks      four fragments, 64 rows, whose moments lie in scratch memory [m / 64, n, 2]
//   moments     a piece, which is `piece_rows` rows or as many as the image has left: [images, n, pieces, 2], a mean and squared deviations each
//
// An image's blocks are numbered in any order that is the image's own: along its rows, phase after phase where it is made in phases (conv2d.cu),
// box after box where a block is one (conv2d_sm90.cu). A piece has as many blocks of each phase, so that it can be rows of the image: those of the
// first phase, then those of the next. Neighbours are joined two and two (moments.cuh), eight of them, and then one eight after another, so the bits
// are the same whatever the tile, which is made of whole blocks. Those of a piece are joined by whoever is the last to bring one; of what is stored
// already, channel_statistics.cu finds the same moments.
#pragma once

#include "in_place.cuh"

#define FRAGMENT_ROWS 16
#define BLOCK_ROWS 64
#define BLOCK_FRAGMENTS (BLOCK_ROWS / FRAGMENT_ROWS)
#define JOINED_BLOCKS 8

// Where a product leaves moments. Null: nobody asks.
struct ChannelMoments {
    float* moments;
    float* blocks;
    int* counters;    // of each piece and column of tiles, zero
    int rows_per_image;
    int piece_rows;
    InPlace in_place;    // of images of one piece
};

// Pieces of an image, and the rows of one of them.
DEVICE int pieces_of(int rows, int piece_rows) { return (rows + piece_rows - 1) / piece_rows; }
DEVICE int rows_of_piece(int rows, int piece_rows, int piece) { return min(piece_rows, rows - piece * piece_rows); }

// What is stored of a value.
DEVICE float stored(float x) { return to_float(from_float<half>(x)); }

// The moments of sixteen values. What is multiplied and added is written as one instruction, so that every kernel's bits are the same.
DEVICE Moments moments_of_fragment(const float (&x)[FRAGMENT_ROWS]) {
    float sum = 0.0f, deviations = 0.0f;
#pragma unroll
    for (int row = 0; row < FRAGMENT_ROWS; row++) sum += x[row];
    const float mean = sum * (1.0f / FRAGMENT_ROWS);
#pragma unroll
    for (int row = 0; row < FRAGMENT_ROWS; row++) {
        const float distance = x[row] - mean;
        deviations = fmaf(distance, distance, deviations);
    }
    return {static_cast<float>(FRAGMENT_ROWS), mean, deviations};
}

// The moments of a fragment's columns, of which the lanes of a warp take every 32nd: sixteen rows, `pitch` floats apart.
DEVICE void fragment_moments(const float* rows, int pitch, int columns, float* means, float* squares) {
    for (int column = lane_index(); column < columns; column += WARP) {
        float x[FRAGMENT_ROWS];
#pragma unroll
        for (int row = 0; row < FRAGMENT_ROWS; row++) x[row] = rows[row * pitch + column];
        const Moments own = moments_of_fragment(x);
        means[column] = own.mean;
        squares[column] = own.squares;
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

// A piece, by its number among those of all images: its first block, those it has of a phase and of all, and from a phase's first to the next's.
struct Piece {
    int number;
    int first;
    int run;
    int blocks;
    int step;

    __device__ __forceinline__ int block(int i) const { return first + i / run * step + i % run; }
};

// The piece that a block belongs to.
DEVICE Piece piece_of(const ChannelMoments& to, int block) {
    const int phases = static_cast<int>(gridDim.z), all = to.rows_per_image / BLOCK_ROWS, own = all / phases;
    const int most = to.piece_rows / BLOCK_ROWS / phases, piece = block % own / most, image = block / all;
    const int run = min(most, own - piece * most);
    return {image * pieces_of(to.rows_per_image, to.piece_rows) + piece, image * all + piece * most, run, run * phases, own};
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

// Where those meet who bring blocks of a piece in tiles of `columns` columns: each column of tiles by itself, or as many as are whole groups where
// these are normalised in place.
struct Meeting {
    int* counter;
    int tiles;     // side by side
    int first;     // column
    int columns;
};
DEVICE Meeting meeting(const ChannelMoments& to, const Piece& piece, int column, int columns, int n) {
    const int width = to.in_place.y == nullptr ? columns : to.in_place.columns;
    const int index = column / width, own = min(width, n - index * width);
    return {to.counters + piece.number * ((n + width - 1) / width) + index, (own + columns - 1) / columns, index * width, own};
}

// Joins the blocks of a piece, in the columns of a meeting, which `threads` threads share.
DEVICE void join_blocks(const ChannelMoments& to, const Piece& piece, const Meeting& at, int n, int thread, int threads) {
    const int pieces = pieces_of(to.rows_per_image, to.piece_rows);
    for (int c = at.first + thread; c < at.first + at.columns; c += threads) {
        Moments all = {0.0f, 0.0f, 0.0f};
#pragma unroll 1
        for (int first = 0; first < piece.blocks; first += JOINED_BLOCKS) {
            Moments part[JOINED_BLOCKS];
#pragma unroll
            for (int i = 0; i < JOINED_BLOCKS; i++) {
                part[i] = {0.0f, 0.0f, 0.0f};
                if (first + i >= piece.blocks) continue;
                const float* const from = to.blocks + 2 * (static_cast<size_t>(piece.block(first + i)) * n + c);
                part[i] = {static_cast<float>(BLOCK_ROWS), from[0], from[1]};
            }
            all = join(all, join_neighbours(part));
        }
        const size_t row = static_cast<size_t>(piece.number / pieces) * n + c;
        float* const moments = to.moments + 2 * (row * pieces + piece.number % pieces);
        moments[0] = all.mean;
        moments[1] = all.squares;
    }
}

// What is left to those who were the last at a meeting: blocks become moments, and an image is normalised, of the product's result `x`, where that is
// asked for. Otherwise as normalise_in_place.
template <class Sync>
DEVICE void finish_piece(const ChannelMoments& to, const Piece& piece, const Meeting& at, const half* x, int n, int thread, int threads,
                         Scale* scales, const Sync& sync) {
    join_blocks(to, piece, at, n, thread, threads);
    if (to.in_place.y == nullptr) return;
    sync();
    normalise_in_place(to.in_place, x, to.moments, piece.number, to.rows_per_image, at.first, at.columns, n, thread, threads, scales, sync);
    sync();
}

// Joins the fragments of a tile of ROWS x COLUMNS, `means` and `squares` [ROWS / 16][COLUMNS], to blocks, and where the tile is the last of a
// piece, blocks to moments. The tile begins with block `first` and column `column` of the result `x`, [m, n]. All threads of the block must call.
template <int ROWS, int COLUMNS>
DEVICE void join_tile(const ChannelMoments& to, float* means, const float* squares, int first, int column, const half* x, int m, int n) {
    static_assert(ROWS % BLOCK_ROWS == 0, "a tile is made of whole blocks");
    const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x), blocks = min(ROWS, m - first * BLOCK_ROWS) / BLOCK_ROWS;
    sync_block();
    for (int item = thread; item < blocks * COLUMNS; item += threads) {
        const int block = item / COLUMNS, c = item % COLUMNS, at = block * BLOCK_FRAGMENTS * COLUMNS + c;
        if (column + c < n) join_fragments(to, means + at, squares + at, COLUMNS, first + block, column + c, n);
    }
    // Of images that are not made of whole tiles each block is brought by itself.
    const int together = to.rows_per_image % ROWS == 0 ? ROWS / BLOCK_ROWS : 1;
#pragma unroll 1
    for (int block = 0; block < blocks; block += together) {
        const Piece piece = piece_of(to, first + block);
        const Meeting at = meeting(to, piece, column, COLUMNS, n);
        const int others = piece.blocks / together * at.tiles - 1;
        if (others == 0) {
            sync_block();
        } else if (!last_to_arrive(at.counter, others + 1)) {
            continue;
        }
        // The fragments are read: their place is free.
        finish_piece(to, piece, at, x, n, thread, threads, reinterpret_cast<Scale*>(means), [] { sync_block(); });
    }
}
