//! Products on Hopper GPUs: what the entries of `kernels/linear_sm90.cu` and `kernels/conv2d_sm90.cu` are passed, where they are chosen.
//!
//! They are left out, as one image's shape says and no batch, where the copy engine cannot bring the first operand (its channels are no whole
//! pieces, its image is upsampled by repetition), and where a smaller tile of the other entries takes less time: with a few rows.

use super::pixels::{Patch, Pixels};
use super::{EIGHT, Product, count, pitch};
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
        if !target.hopper() || !self.brought(operand) {
            return Ok(None);
        }
        let tiles_down = self.tiles_down(operand);
        match self.problem_sm90(&tiles_down).cut(target) {
            Some((cut, clocks)) if clocks <= self.problem().nominal_clocks(target) => {
                self.launches_sm90(operand, &cut, target).map(Some)
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
        if !target.hopper() || !self.brought(Rows::Matrix) {
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
            Rows::Pixels(pixels) => pixels.patch(tile_rows, images, self.finds_moments()).1,
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
            (Rows::Pixels(pixels), sources) => {
                let blocks = !self.finds_moments() || pixels.has_blocks();
                let held =
                    pixels.repeated.is_none() || pixels.holds_every_tile(self.finds_moments());
                blocks && held && sources.iter().all(|c| c.is_multiple_of(DEPTH))
            }
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
            Some((pixels, patch)) => {
                let last = index + 1 == self.sources.len();
                let repeated = pixels.repeated.filter(|_| last);
                let images = repeated.unwrap_or(self.shape.batch());
                pixels.map(index, images, channels, patch)
            }
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

    fn launches_sm90(&self, operand: Rows, cut: &Cut, target: &Target) -> Result<Kernel, String> {
        let Cut { tile, parts, .. } = *cut;
        let patch = match operand {
            Rows::Matrix => None,
            Rows::Pixels(pixels) => {
                let (patch, _) = pixels.patch(tile.rows, self.shape.batch(), self.finds_moments());
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
                    pixels.repeated.unwrap_or(self.shape.batch()),
                ]
            }
        };
        let sizes = sizes.into_iter().chain(own).map(kernel::int);
        let sizes: Vec<Argument> = sizes.collect::<Result<_, _>>()?;
        let together = self.together(parts, cut.tiles, [tile.rows, tile.columns], target)?;
        let arguments = [
            &[Argument::Output][..],
            &together.arguments,
            &operands,
            &self.addends(),
            &self.result_sizes()?,
            &sizes,
            &self.epilogue_sizes()?,
        ];
        let launch = self.launch_sm90(cut, tile.shared_bytes(), arguments.concat())?;
        Ok(Kernel {
            launches: vec![launch],
            workspace_bytes: together.workspace_bytes,
            recipes: together.recipes,
        })
    }
}
