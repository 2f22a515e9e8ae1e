//! The moments of each channel that a product stores behind its result, as kernels/channel_moments.cuh says.

use super::kernel::Argument;
use crate::ops::Epilogue;
use crate::tensor::Shape;

/// Rows whose moments one tile finds by itself.
pub(super) const BLOCK_ROWS: usize = 64;

/// Rows of an image whose moments are stored together.
const PIECE_ROWS: usize = 512;

/// Rows of the largest tile that must be of one image: each phase of it is made of whole ones, whatever tile is chosen for its batch. Tiles of
/// Hopper GPUs need whole blocks only.
const MOST_ROWS: usize = 128;

/// A mean and squared deviations.
const PAIR_BYTES: usize = 2 * size_of::<f32>();

/// Bytes of the moments of `x`.
pub(super) fn bytes(x: Shape) -> usize {
    x.batch() * pieces(x) * x.channels() * PAIR_BYTES
}

/// Whether a product in so many phases can store those of its result `y`, whatever the batch.
pub(super) fn can_be_given(epilogue: &Epilogue, y: Shape, phases: usize) -> bool {
    !epilogue.gate && !y.is_empty() && rows_of_image(y).is_multiple_of(phases * MOST_ROWS)
}

/// Whether a tile of so many rows finds the moments of blocks.
pub(super) fn are_found_by(tile_rows: usize) -> bool {
    tile_rows.is_multiple_of(BLOCK_ROWS)
}

/// What an entry is passed for the moments of `y`, of which its tiles are `columns` wide: scratch memory from `offset` on, the place behind
/// the result, and the number of counters beside its own.
pub(super) fn arguments(y: Shape, columns: usize, offset: usize) -> ([Argument; 2], usize, usize) {
    let scratch = y.rows() / BLOCK_ROWS * y.channels() * PAIR_BYTES;
    let blocks = Argument::Workspace {
        offset,
        bytes: scratch,
    };
    let counters = y.batch() * pieces(y) * y.channels().div_ceil(columns);
    ([blocks, Argument::Tail(bytes(y))], scratch, counters)
}

fn rows_of_image(x: Shape) -> usize {
    x.rows() / x.batch().max(1)
}

fn pieces(x: Shape) -> usize {
    rows_of_image(x).div_ceil(PIECE_ROWS)
}
