//! The moments of each channel that a product stores behind its result, as kernels/channel_moments.cuh says.

use super::in_place::InPlace;
use super::kernel::Argument;
use crate::ops::Epilogue;
use crate::tensor::Shape;

/// Rows whose moments one tile finds by itself.
pub(super) const BLOCK_ROWS: usize = 64;

/// Rows whose moments are stored together are a multiple of these, eight blocks: then each of four phases has whole tiles of them, whatever tile is
/// chosen.
const PIECE_ROWS: usize = 512;

/// Pieces of an image at most: each block that normalises reads all of them.
const MOST_PIECES: usize = 64;

/// How far beyond the wanted size a piece of whole rows may be.
const MOST_UNEVEN: usize = 4;

/// Rows of the largest tile that must be of one phase, which is made of whole ones, whatever tile is chosen for its batch.
const MOST_ROWS: usize = 128;

/// A mean and squared deviations.
const PAIR_BYTES: usize = 2 * size_of::<f32>();

/// Rows of `x`, of an image whose pixels are its rows, that have moments of their own: as one image's shape says.
pub(super) fn piece(x: Shape) -> usize {
    match (x.image(), rows_of_piece(x)) {
        (Some([_, _, width, _]), Some(rows)) => rows * width,
        _ => wanted(x).next_multiple_of(PIECE_ROWS),
    }
}

/// Lines of an image that are such a piece, if pieces of about the size they should have are made of whole lines, and of whole blocks in them. A line
/// of two phases is two of the image's.
pub(super) fn rows_of_piece(x: Shape) -> Option<usize> {
    let [_, height, width, _] = x.image()?;
    let wanted = wanted(x);
    let fits = |rows: &usize| {
        let pixels = rows * width;
        height.is_multiple_of(*rows) && rows.is_multiple_of(2) && pixels.is_multiple_of(PIECE_ROWS)
    };
    let least = wanted.div_ceil(width.max(1));
    let rows = (least..=height).find(fits)?;
    (width.is_multiple_of(BLOCK_ROWS) && rows * width <= MOST_UNEVEN * wanted).then_some(rows)
}

/// Whether so many lines of a width, of an image made in so many phases, are a piece.
pub(super) fn are_pieces(rows: usize, width: usize, phases: usize) -> bool {
    let side = if phases == 1 { 1 } else { 2 };
    rows.is_multiple_of(side)
        && width.is_multiple_of(side * BLOCK_ROWS)
        && (rows * width).is_multiple_of(PIECE_ROWS)
}

fn wanted(x: Shape) -> usize {
    rows_of_image(x).div_ceil(MOST_PIECES).max(PIECE_ROWS)
}

/// Bytes of the moments of `x`, of pieces of so many pixels.
pub(super) fn bytes(x: Shape, piece: usize) -> usize {
    x.batch() * rows_of_image(x).div_ceil(piece) * x.channels() * PAIR_BYTES
}

/// What a product is asked for besides its result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Asked {
    /// Nothing.
    Nothing,
    /// The moments of its result.
    Moments,
    /// These, and to normalise its result, if its tile does for it.
    Normalised(InPlace),
}

/// Whether a product in so many phases can store those of its result `y`, whatever the batch.
pub(super) fn can_be_given(epilogue: &Epilogue, y: Shape, phases: usize) -> bool {
    let unit = match phases {
        1 => BLOCK_ROWS,
        _ => phases * MOST_ROWS,
    };
    !epilogue.gate && !y.is_empty() && rows_of_image(y).is_multiple_of(unit)
}

/// Whether a tile of so many rows finds the moments of blocks.
pub(super) fn are_found_by(tile_rows: usize) -> bool {
    tile_rows.is_multiple_of(BLOCK_ROWS)
}

/// What an entry is passed for the moments of `y`, of which its tiles are `columns` wide: scratch memory from `offset` on, the place behind
/// the result, and the number of counters beside its own.
pub(super) fn arguments(y: Shape, columns: usize, offset: usize) -> ([Argument; 2], usize, usize) {
    let piece = piece(y);
    let scratch = y.rows() / BLOCK_ROWS * y.channels() * PAIR_BYTES;
    let blocks = Argument::Workspace {
        offset,
        bytes: scratch,
    };
    let pieces = rows_of_image(y).div_ceil(piece);
    let counters = y.batch() * pieces * y.channels().div_ceil(columns);
    ([blocks, Argument::Tail(bytes(y, piece))], scratch, counters)
}

/// Pixels, or tokens, of one image.
pub(super) fn rows_of_image(x: Shape) -> usize {
    x.rows() / x.batch().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_few_and_whole_blocks_of_every_phase() {
        for height in 1..200 {
            for width in (1..40).chain([64, 96, 128, 192, 256, 320, 512, 1024]) {
                let x: Shape = [3, height, width, 8].into();
                assert!(piece(x).is_multiple_of(PIECE_ROWS), "{x}");
                let pieces = (height * width).div_ceil(piece(x));
                assert!(pieces <= MOST_PIECES, "{x}");
                if let Some(rows) = rows_of_piece(x) {
                    assert_eq!(pieces * rows, height, "{x}");
                    assert!(rows.is_multiple_of(2) && width.is_multiple_of(BLOCK_ROWS));
                }
            }
        }
    }

    #[test]
    fn published_images_have_pieces_of_whole_lines() {
        for (image, rows) in [
            ([64, 64], 8),
            ([128, 128], 4),
            ([256, 256], 4),
            ([512, 512], 8),
            ([1024, 1024], 16),
            ([768, 512], 12),
        ] {
            let [height, width] = image;
            let x: Shape = [1, height, width, 128].into();
            assert_eq!(rows_of_piece(x), Some(rows), "{x}");
        }
    }
}
