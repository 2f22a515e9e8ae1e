//! Products on Hopper GPUs: what the entries of `kernels/linear_sm90.cu` and `kernels/conv2d_sm90.cu` are passed, where they are chosen.
//!
//! They are left out, as one image's shape says and no batch, where the copy engine cannot bring the first operand (its channels are no whole
//! pieces, its image is upsampled by repetition), and where a smaller tile of the other entries takes less time: with a few rows.

use super::{EIGHT, Product, count, pitch, split};
use crate::cuda::kernel::{self, Argument, Kernel, Launch, Operand, Precision, Target};
use crate::cuda::tensor_map::{Axis, Swizzle, TensorMap};
use crate::cuda::tile_sm90::{CLUSTER, Cut, DEPTH, Problem};

/// Bytes of what becomes of a normalised row.
const ROW_SCALE: usize = 2 * size_of::<f32>();

/// What the rows of the first operand are.
#[derive(Clone, Copy, Debug)]
pub(in crate::cuda) enum Rows {
    /// The rows of a matrix.
    Matrix,
    /// The pixels under a filter's taps.
    Pixels(Pixels),
}

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
}

/// The pixels of the result that a tile's rows are: so many side by side, below each other, and in successive images.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Patch {
    columns: usize,
    rows: usize,
    images: usize,
}

impl Pixels {
    /// The patch of `tile_rows` pixels by which `images` results are covered with fewest tiles, and how many; the widest of several.
    fn patch(&self, tile_rows: usize, images: usize) -> (Patch, usize) {
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

    /// The most pixels side by side that one box spans, which has at most 256 elements along an axis.
    fn widest(&self) -> usize {
        (256 - 1) / self.stride + 1
    }

    /// The map of the source of this number, which has `channels` channels, for patches of the result.
    fn map(
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
            span: (pixels - 1) * stride + 1,
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

/// The map of a matrix, for boxes of so many rows.
fn matrix(rows: usize, columns: usize, span: usize) -> Result<TensorMap, String> {
    let bytes = Precision::F16.bytes();
    let axes = [
        Axis::new(columns, bytes, DEPTH),
        Axis::new(rows, columns * bytes, span),
    ];
    TensorMap::new(0, &axes, Swizzle::Bytes128)
}

impl Product<'_> {
    /// The launches of the entries for Hopper GPUs; `None` where others are chosen.
    pub(super) fn sm90(&self, operand: Rows, target: &Target) -> Result<Option<Kernel>, String> {
        if target.compute_capability != 90 || !self.brought(operand) {
            return Ok(None);
        }
        let tiles_down = self.tiles_down(operand);
        match self.problem_sm90(&tiles_down).cut(target) {
            Some((cut, clocks)) if clocks <= self.problem().nominal_clocks(target) => {
                self.launches_sm90(operand, &cut).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// As [`sm90`](Self::sm90), where rows are [normalised](Self::normalised) first.
    pub(super) fn normalised_sm90(
        &self,
        eps: f32,
        target: &Target,
    ) -> Result<Option<Kernel>, String> {
        if target.compute_capability != 90 || !self.brought(Rows::Matrix) {
            return Ok(None);
        }
        let tiles_down = self.tiles_down(Rows::Matrix);
        let cut = match self.problem_sm90(&tiles_down).undivided(target) {
            Some((cut, clocks)) if clocks <= self.problem().nominal_undivided_clocks(target) => cut,
            _ => return Ok(None),
        };
        let Cut { tile, .. } = cut;
        let [bias, others @ ..] = self.addends();
        let sizes = [cut.tiles_down, self.k.div_ceil(DEPTH), self.k].map(kernel::int);
        let sizes: Vec<Argument> = sizes.into_iter().collect::<Result<_, _>>()?;
        let arguments = [
            &[Argument::Output, self.source(0, &cut, None)?][..],
            &[self.weight(&cut)?, bias, Argument::Weight(2)],
            &others,
            &self.result_sizes()?,
            &sizes,
            &self.epilogue_sizes()?,
            &[Argument::Float(eps)],
        ];
        let shared_bytes = tile.shared_bytes() + tile.rows * ROW_SCALE;
        let launch = self.launch_sm90(&cut, shared_bytes, arguments.concat())?;
        Ok(Some(Kernel {
            launches: vec![launch],
            workspace_bytes: 0,
            recipes: self.recipes.clone(),
        }))
    }

    /// Rows of tiles for so many rows of a tile and images.
    fn tiles_down(&self, operand: Rows) -> impl Fn(usize, usize) -> usize {
        let [_, rows] = self.images_and_rows();
        move |tile_rows, images| match operand {
            Rows::Matrix => (images * rows).div_ceil(tile_rows),
            Rows::Pixels(pixels) => pixels.patch(tile_rows, images).1,
        }
    }

    fn problem_sm90<'a>(&self, tiles_down: &'a dyn Fn(usize, usize) -> usize) -> Problem<'a> {
        Problem {
            images: self.shape.batch(),
            phases: self.phases,
            tiles_down,
            n: self.shape.channels(),
            steps: self.k.div_ceil(DEPTH),
        }
    }

    /// Whether the copy engine can bring the first operand in stages.
    fn brought(&self, operand: Rows) -> bool {
        match (operand, &self.sources[..]) {
            (Rows::Matrix, [only]) => only.is_multiple_of(EIGHT),
            (Rows::Matrix, [first, second]) => {
                first.is_multiple_of(DEPTH) && second.is_multiple_of(EIGHT)
            }
            (Rows::Pixels(_), sources) => sources.iter().all(|c| c.is_multiple_of(DEPTH)),
            _ => false,
        }
    }

    /// The source of this number, as a tile is loaded: rows, or pixels in patches.
    fn source(
        &self,
        index: usize,
        cut: &Cut,
        pixels: Option<(Pixels, Patch)>,
    ) -> Result<Argument, String> {
        let channels = self.sources[index];
        let map = match pixels {
            None => matrix(self.shape.rows(), channels, cut.tile.rows),
            Some((pixels, patch)) => pixels.map(index, self.shape.batch(), channels, patch),
        };
        let of = Operand::Input(index);
        map.map(|map| Argument::Map { of, map })
    }

    /// The weight, as a block of a cluster loads its share.
    fn weight(&self, cut: &Cut) -> Result<Argument, String> {
        let share = cut.tile.columns / CLUSTER;
        let of = Operand::Weight(0);
        let map = matrix(self.phases * self.shape.channels(), pitch(self.k), share);
        map.map(|map| Argument::Map { of, map })
    }

    fn launch_sm90(
        &self,
        cut: &Cut,
        shared_bytes: usize,
        arguments: Vec<Argument>,
    ) -> Result<Launch, String> {
        let Cut { tile, .. } = cut;
        Ok(Launch {
            entry: format!("{}_f16_{}x{}_sm90", self.name, tile.rows, tile.columns),
            grid: [count(cut.blocks)?, count(cut.parts)?, count(self.phases)?],
            shared_bytes: count(shared_bytes)?,
            arguments,
        })
    }

    fn launches_sm90(&self, operand: Rows, cut: &Cut) -> Result<Kernel, String> {
        let Cut { tile, parts, .. } = *cut;
        let patch = match operand {
            Rows::Matrix => None,
            Rows::Pixels(pixels) => {
                let (patch, _) = pixels.patch(tile.rows, self.shape.batch());
                Some((pixels, patch))
            }
        };
        let source = |index: usize| self.source(index, cut, patch);
        let weight = self.weight(cut)?;
        // Where there is no second source, or none beside the filter, an entry takes a map that it leaves alone.
        let last = self.sources.len() - 1;
        let operands = match operand {
            Rows::Matrix => vec![source(0)?, source(last)?, weight],
            Rows::Pixels(Pixels { own, .. }) => vec![
                source(0)?,
                source(own - 1)?,
                source(own.min(last))?,
                source(last)?,
                weight,
            ],
        };
        let sizes = [cut.tiles_down, self.k.div_ceil(DEPTH), cut.part];
        let own = match patch {
            None => vec![self.sources[0]],
            Some((pixels, patch)) => {
                let [out_h, out_w] = pixels.output;
                let [top, left] = pixels.padding;
                let [columns, rows] = [patch.columns, patch.rows].map(|side| side.ilog2() as usize);
                let [filter_h, filter_w] = pixels.filter;
                let (own, beside) = self.sources.split_at(pixels.own);
                vec![
                    own[0],
                    own.iter().sum(),
                    beside.first().copied().unwrap_or(0),
                    filter_h,
                    filter_w,
                    pixels.stride,
                    top,
                    left,
                    out_h,
                    out_w,
                    columns,
                    rows,
                ]
            }
        };
        let sizes = sizes.into_iter().chain(own).map(kernel::int);
        let sizes: Vec<Argument> = sizes.collect::<Result<_, _>>()?;
        let (workspace_bytes, split) = split(parts, cut.tiles * self.phases, tile.result_bytes());
        let arguments = [
            &[Argument::Output][..],
            &split,
            &operands,
            &self.addends(),
            &self.result_sizes()?,
            &sizes,
            &self.epilogue_sizes()?,
        ];
        let launch = self.launch_sm90(cut, tile.shared_bytes(), arguments.concat())?;
        Ok(Kernel {
            launches: vec![launch],
            workspace_bytes,
            recipes: self.recipes.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixels(output: [usize; 2], stride: usize) -> Pixels {
        Pixels {
            own: 1,
            image: output.map(|side| side * stride),
            output,
            filter: [3, 3],
            stride,
            padding: [1, 1],
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
                    let (patch, tiles) = pixels(output, stride).patch(tile_rows, images);
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
            let (found, tiles) = pixels([side, side], 1).patch(tile_rows, 4);
            assert_eq!([found.columns, found.rows, found.images], patch, "{side}");
            assert_eq!(tiles, (4 * side * side).div_ceil(tile_rows), "{side}");
        }
    }
}
