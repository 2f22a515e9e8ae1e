//! The pixels of a convolution's result, as the copy engine of a Hopper GPU brings what lies under them: a box for each tile.

use crate::cuda::kernel::Precision;
use crate::cuda::moments::BLOCK_ROWS;
use crate::cuda::tensor_map::{Axis, Swizzle, TensorMap};
use crate::cuda::tile_sm90::{DEPTH, MOST_ROWS};

/// A convolution, as the copy engine is told of it.
#[derive(Clone, Copy, Debug)]
pub(in crate::cuda) struct Pixels {
    /// Sources that the filter slides over; the others lie beside it, of the result's pixels.
    pub(in crate::cuda) own: usize,
    /// Height and width of the image.
    pub(in crate::cuda) image: [usize; 2],
    /// Of the result.
    pub(in crate::cuda) output: [usize; 2],
    /// Of the filter.
    pub(in crate::cuda) filter: [usize; 2],
    /// Pixels from one result's to the next's.
    pub(in crate::cuda) stride: usize,
    /// Zeros above and to the left of the image.
    pub(in crate::cuda) padding: [usize; 2],
    /// Images of the last source, where they are fewer than the result's and repeat.
    pub(in crate::cuda) repeated: Option<usize>,
}

/// The pixels of the result that a tile's rows are: so many side by side, below each other, and in successive images. Where the images of a source
/// repeat, in one, since a box is of successive images of what it loads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Patch {
    pub(super) columns: usize,
    pub(super) rows: usize,
    images: usize,
}

impl Pixels {
    /// The patch of `tile_rows` pixels by which `images` results are covered with fewest tiles, and how many; the widest of several. Where moments
    /// are asked for, a patch is made of whole [blocks](Self::block).
    pub(super) fn patch(&self, tile_rows: usize, images: usize, moments: bool) -> (Patch, usize) {
        let powers = |limit: usize| {
            (0..)
                .map(|i| 1 << i)
                .take_while(move |&p: &usize| p <= limit)
        };
        let [height, width] = self.output;
        let widest = width.next_power_of_two().min(tile_rows).min(self.widest());
        let patches = powers(widest).flat_map(|columns| {
            let highest = height.next_power_of_two().min(tile_rows / columns);
            let patch = move |rows| Patch {
                columns,
                rows,
                images: tile_rows / columns / rows,
            };
            powers(highest.min(self.widest())).map(patch)
        });
        let [block, _] = self.block();
        let of_blocks = |patch: &Patch| {
            patch.columns.min(BLOCK_ROWS) == block && patch.columns * patch.rows >= BLOCK_ROWS
        };
        let in_one = |patch: &Patch| self.repeated.is_none() || patch.images == 1;
        let patches = patches.filter(in_one);
        let patches = patches.filter(|patch| !moments || of_blocks(patch));
        let counted = patches.map(|patch| {
            let across = width.div_ceil(patch.columns) * height.div_ceil(patch.rows);
            (patch, across * images.div_ceil(patch.images))
        });
        let least = |(best, fewest): (Patch, usize), (patch, tiles)| {
            if tiles <= fewest {
                (patch, tiles)
            } else {
                (best, fewest)
            }
        };
        let single = Patch {
            columns: 1,
            rows: 1,
            images: tile_rows,
        };
        counted.fold((single, usize::MAX), least)
    }

    /// Columns and rows of the boxes in which moments are found, so that they are the same pixels in every tile and batch: as wide as divides an
    /// image.
    fn block(&self) -> [usize; 2] {
        let [_, width] = self.output;
        let widest = BLOCK_ROWS.min(self.widest()).ilog2();
        let columns = 1 << width.trailing_zeros().min(widest);
        [columns, BLOCK_ROWS / columns]
    }

    /// Whether boxes span such blocks, of which an image is made.
    pub(super) fn has_blocks(&self) -> bool {
        let [_, rows] = self.block();
        let [height, _] = self.output;
        rows <= self.widest() && height.is_multiple_of(rows)
    }

    /// Whether a tile of any size can be pixels of one image.
    pub(super) fn holds_every_tile(&self, moments: bool) -> bool {
        let (patch, _) = self.patch(MOST_ROWS, 1, moments);
        patch.images == 1
    }

    /// The most pixels side by side that one box spans, which has at most 256 elements along an axis.
    fn widest(&self) -> usize {
        (256 / self.stride).max(1)
    }

    /// The map of the source of this number, which has `channels` channels, for patches of the result.
    pub(super) fn map(
        &self,
        source: usize,
        images: usize,
        channels: usize,
        patch: Patch,
    ) -> Result<TensorMap, String> {
        let ([height, width], stride) = match source < self.own {
            true => (self.image, self.stride),
            false => (self.output, 1),
        };
        let bytes = channels * Precision::F16.bytes();
        let strided = |extent, pitch, pixels| Axis {
            extent,
            pitch,
            span: pixels * stride,
            step: stride,
        };
        let axes = [
            Axis::new(channels, Precision::F16.bytes(), DEPTH),
            strided(width, bytes, patch.columns),
            strided(height, width * bytes, patch.rows),
            Axis::new(images, height * width * bytes, patch.images),
        ];
        TensorMap::new(0, &axes, Swizzle::Bytes128)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn pixels(output: [usize; 2], stride: usize) -> Pixels {
        Pixels {
            own: 1,
            image: output.map(|side| side * stride),
            output,
            filter: [3, 3],
            stride,
            padding: [1, 1],
            repeated: None,
        }
    }

    #[test]
    fn patches_hold_a_tile_and_cover_every_pixel() {
        for stride in [1, 2, 3] {
            for output in [
                [1, 1],
                [7, 5],
                [8, 8],
                [9, 33],
                [24, 40],
                [64, 64],
                [96, 72],
                [3, 512],
            ] {
                for (tile_rows, images) in [(64, 1), (128, 2), (256, 5)] {
                    let (patch, tiles) = pixels(output, stride).patch(tile_rows, images, false);
                    let Patch {
                        columns,
                        rows,
                        images: deep,
                    } = patch;
                    assert_eq!(columns * rows * deep, tile_rows);
                    let [height, width] = output;
                    let each = [
                        width.div_ceil(columns),
                        height.div_ceil(rows),
                        images.div_ceil(deep),
                    ];
                    assert_eq!(each.iter().product::<usize>(), tiles);
                    let map = pixels(output, stride).map(0, images, 64, patch);
                    assert!(map.is_ok(), "{output:?} {patch:?}: {map:?}");
                }
            }
        }
    }

    #[test]
    fn of_sides_that_are_powers_of_two_a_tile_is_successive_pixels() {
        for (side, tile_rows, patch) in [
            (512, 256, [256, 1, 1]),
            (64, 128, [64, 2, 1]),
            (16, 64, [16, 4, 1]),
            (8, 128, [8, 8, 2]),
            (4, 64, [4, 4, 4]),
        ] {
            let (found, tiles) = pixels([side, side], 1).patch(tile_rows, 4, false);
            assert_eq!([found.columns, found.rows, found.images], patch, "{side}");
            assert_eq!(tiles, (4 * side * side).div_ceil(tile_rows), "{side}");
        }
    }

    #[test]
    fn where_images_repeat_a_tile_is_of_one() {
        for (output, holds) in [
            ([8, 16], [false, false]),
            ([9, 16], [true, true]),
            ([16, 9], [true, false]),
            ([64, 64], [true, true]),
        ] {
            let pixels = Pixels {
                repeated: Some(3),
                ..pixels(output, 1)
            };
            for (moments, holds) in [false, true].into_iter().zip(holds) {
                assert_eq!(pixels.holds_every_tile(moments), holds, "{output:?}");
                for tile_rows in [64, 128, 256].into_iter().filter(|_| holds) {
                    assert_eq!(pixels.patch(tile_rows, 6, moments).0.images, 1);
                }
            }
        }
    }

    /// The pixels of each block of a tile's rows, as kernels/conv2d_sm90.cu walks over them.
    fn blocks(pixels: &Pixels, tile_rows: usize, images: usize) -> BTreeSet<Vec<[usize; 3]>> {
        let (patch, tiles) = pixels.patch(tile_rows, images, true);
        let [height, width] = pixels.output;
        let [across, down] = [width.div_ceil(patch.columns), height.div_ceil(patch.rows)];
        let pixel = |row: usize| {
            let tile = row / tile_rows;
            let (line, row) = (tile / across, row % tile_rows);
            [
                line / down * patch.images + row / patch.columns / patch.rows,
                line % down * patch.rows + row / patch.columns % patch.rows,
                tile % across * patch.columns + row % patch.columns,
            ]
        };
        let inside = |[image, y, x]: &[usize; 3]| *image < images && *y < height && *x < width;
        (0..tiles * tile_rows / BLOCK_ROWS)
            .map(|block| (0..BLOCK_ROWS).map(move |i| pixel(block * BLOCK_ROWS + i)))
            .map(|block| block.filter(inside).collect())
            .filter(|block: &Vec<_>| !block.is_empty())
            .collect()
    }

    #[test]
    fn moments_are_of_the_same_pixels_in_every_tile_and_batch() {
        for (output, stride) in [
            ([8, 8], 1),
            ([24, 40], 1),
            ([64, 64], 2),
            ([96, 72], 1),
            ([64, 96], 1),
            ([36, 32], 1),
            ([64, 65], 1),
            ([3, 320], 1),
            ([4, 512], 3),
            ([2, 64], 5),
        ] {
            let pixels = pixels(output, stride);
            assert!(pixels.has_blocks(), "{output:?}");
            let each = output.iter().product::<usize>() / BLOCK_ROWS;
            for images in [1, 2, 3, 5] {
                let expected = blocks(&pixels, 64, images);
                assert_eq!(expected.len(), images * each, "{output:?}");
                assert!(expected.iter().all(|block| block.len() == BLOCK_ROWS));
                for tile_rows in [128, 256] {
                    assert_eq!(blocks(&pixels, tile_rows, images), expected, "{output:?}");
                }
            }
        }
    }

    #[test]
    fn blocks_that_no_box_spans_are_refused() {
        for (output, stride) in [([64, 65], 5), ([3, 32], 1), ([64, 64], 255)] {
            assert!(!pixels(output, stride).has_blocks(), "{output:?} {stride}");
        }
    }
}
