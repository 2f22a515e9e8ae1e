// The moments of each channel of what a product of a Hopper GPU stores (channel_moments.cuh). A warpgroup has whole blocks of 64 rows, of which each
// of its warps lays out one fragment: so it needs no other for a block's moments, and no shared memory but the rows they were found in.
#pragma once

#include "channel_moments.cuh"
#include "hopper.cuh"

// Waits for all threads of this warpgroup, of two at most. Barrier 1 is of all who multiply.
DEVICE void sync_group() {
    if (warpgroup_index() == 0) {
        sync_named(2, WARPGROUP);
    } else {
        sync_named(3, WARPGROUP);
    }
}

// The moments of a block's columns `column` to `column + COLUMNS - 1` of `n`: `rows` are this warp's sixteen, PITCH floats apart, those of the
// warpgroup's warps one behind the other. They are not what they were afterwards. All threads of the warpgroup must call.
template <int COLUMNS, int PITCH>
DEVICE void find_moments(const ChannelMoments& to, float* rows, int block, int column, int n) {
    static_assert(COLUMNS <= WARPGROUP, "each column has a thread");
    // A lane has read all of a column when it leaves the column's moments in the first two rows.
    fragment_moments(rows, PITCH, COLUMNS, rows, rows + PITCH);
    sync_group();
    const int thread = static_cast<int>(threadIdx.x) % WARPGROUP;
    const float* const means = rows - warp_index() % BLOCK_FRAGMENTS * FRAGMENT_ROWS * PITCH + thread;
    if (thread < COLUMNS && column + thread < n) join_fragments(to, means, means + PITCH, FRAGMENT_ROWS * PITCH, block, column + thread, n);
    sync_group();
}

// A block has the moments of `columns` columns from `column` on: where it is the last of its piece, blocks are joined, and more (finish_piece).
// `last` is a word of shared memory for each warpgroup, `scales` its rows. All threads of the warpgroup must call.
DEVICE void bring_block(const ChannelMoments& to, int block, int column, int columns, const half* x, int n, int* last, Scale* scales) {
    const Piece piece = piece_of(to, block);
    const Meeting at = meeting(to, piece, column, columns, n);
    const int thread = static_cast<int>(threadIdx.x) % WARPGROUP, others = piece.blocks * at.tiles - 1;
    if (others > 0) {
        last += warpgroup_index();
        sync_group();  // all have read what became of the block before
        if (thread == 0) *last = arrive(at.counter, others + 1) ? 1 : 0;
        sync_group();
        if (*last == 0) return;
    }
    finish_piece(to, piece, at, x, n, thread, WARPGROUP, scales, [] { sync_group(); });
}
