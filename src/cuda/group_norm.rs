//! Group normalisation: how an image is cut into tiles of channels and slices of pixels.
//!
//! A tile is whole groups of channels, and whole 16-byte packs, if some number of groups is: then a block reads rows of whole packs, and
//! joins its statistics by itself. Small images take one launch, others two with partial statistics between them. All of it follows from
//! one image's shape, so an image's bytes do not depend on its batch.

use super::elementwise::{of_channels, pack};
use super::kernel::{self, Argument, Kernel, Launch, Layout, Target};
use crate::ops::GroupNorm;
use crate::tensor::Shape;

/// Threads of a block that normalises whole images.
const WHOLE_THREADS: usize = 512;

/// Threads of a block that takes a slice of one.
const SLICE_THREADS: usize = 256;

/// An image is small if no thread has more pixels than this: then a second launch costs more than it saves.
const PIXELS_OF_SMALL: usize = 12;

/// Pixels that a thread reads at once, and where an image is cut into slices has at least.
const PIXELS_AHEAD: usize = 4;

/// Slices at most: every block that normalises reads the partial statistics of all.
const MOST_SLICES: usize = 256;

/// Blocks per multiprocessor that one image should give: as many as fit at once.
const BLOCKS: usize = 3;

/// Groups of a tile at most, as the kernel has room for.
const MOST_GROUPS: usize = 256;

/// Blocks along y and z that a grid may have.
const MOST_BLOCKS: usize = 65_535;

/// One image's shape as the kernels see it.
#[derive(Clone, Copy, Debug)]
struct Image {
    pixels: usize,
    channels: usize,
    /// Channels per group.
    group: usize,
}

/// The channels of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    channels: usize,
    /// Rows of whole packs, or single channels.
    packed: bool,
    /// Pixels that a block's threads cover at once.
    rows: usize,
}

impl Image {
    /// The best tile for blocks of `threads`, of at least `bytes` per pixel where there are as many.
    fn tile(self, packed: bool, bytes: usize, threads: usize, target: &Target) -> Tile {
        let width = if packed { pack(target) } else { 1 };
        let unit = lcm(self.group, width);
        if unit / width > threads {
            // Of the packed tiles there is none; a group of single channels is cut.
            return match packed {
                true => self.tile(false, bytes, threads, target),
                false => Tile {
                    channels: threads,
                    packed,
                    rows: 1,
                },
            };
        }
        let size = target.precision.bytes();
        let fits = |&channels: &usize| {
            channels <= self.channels
                && channels / width <= threads
                && (channels == unit || channels / self.group <= MOST_GROUPS)
                && (channels == unit || channels * size <= 4 * bytes)
        };
        let candidates: Vec<usize> = (1..).map(|k| k * unit).take_while(fits).collect();
        let wide = candidates.iter().position(|c| c * size >= bytes);
        let first = wide.unwrap_or(candidates.len().saturating_sub(1));
        let mut best = (0.0, unit);
        for &channels in candidates.get(first..).unwrap_or_default() {
            let value = self.efficiency(channels, width, threads, size);
            if value > best.0 {
                best = (value, channels);
            }
        }
        Tile {
            channels: best.1,
            packed,
            rows: threads / (best.1 / width),
        }
    }

    /// The share of threads with work, times the share of the fetched 32-byte sectors that belongs to the tile.
    fn efficiency(self, channels: usize, width: usize, threads: usize, size: usize) -> f64 {
        let columns = channels / width;
        let busy = (threads / columns * columns) as f64 / threads as f64;
        let covered = self.channels.div_ceil(channels) * channels;
        let bytes = channels * size;
        let fetched = match bytes.is_multiple_of(32) {
            true => bytes,
            false => bytes.div_ceil(32) * 32 + 16,
        };
        busy * self.channels as f64 / covered as f64 * bytes as f64 / fetched as f64
    }

    /// Blocks that cover the channels.
    fn tiles(self, tile: Tile) -> usize {
        match self.parts(tile) {
            1 => self.channels.div_ceil(tile.channels),
            parts => self.channels / self.group * parts,
        }
    }

    /// Tiles that share a group, if one is wider than a tile.
    fn parts(self, tile: Tile) -> usize {
        match self.group > tile.channels {
            true => self.group.div_ceil(tile.channels),
            false => 1,
        }
    }

    /// Slices of the pixels, none of them empty.
    fn slices(self, tile: Tile, target: &Target) -> usize {
        let wanted = (BLOCKS * target.multiprocessors as usize).div_ceil(self.tiles(tile));
        let least = self.pixels.div_ceil(wanted.min(MOST_SLICES));
        let batch = PIXELS_AHEAD * tile.rows;
        self.pixels.div_ceil(least.div_ceil(batch) * batch).max(1)
    }
}

fn lcm(a: usize, b: usize) -> usize {
    let gcd = |mut a: usize, mut b: usize| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    a / gcd(a, b) * b
}

pub(super) fn select(
    op: &GroupNorm,
    inputs: &[Shape],
    output: Shape,
    target: &Target,
) -> Result<Kernel, String> {
    kernel::elements(output)?;
    let channels = output.channels();
    let batch = output.batch();
    let image = Image {
        pixels: output.rows() / batch.max(1),
        channels,
        group: channels / op.groups,
    };
    let sources = match &inputs[..op.sources] {
        [x] => [x.channels(), 0],
        [x, beside] => [x.channels(), beside.channels()],
        _ => return Err(format!("joins at most 2 operands, not {}", op.sources)),
    };
    let packed = sources.iter().all(|c| c.is_multiple_of(pack(target)));
    let whole = image.tile(packed, 64, WHOLE_THREADS, target);
    let in_one = image.parts(whole) == 1 && image.pixels <= PIXELS_OF_SMALL * whole.rows;
    let tile = match in_one {
        true => whole,
        false => image.tile(packed, 128, SLICE_THREADS, target),
    };
    let tiles = image.tiles(tile);
    if batch > MOST_BLOCKS || tiles > MOST_BLOCKS {
        return Err(format!(
            "takes at most {MOST_BLOCKS} images and as many tiles of channels, not {batch} and {tiles}"
        ));
    }
    let second = match sources[1] {
        0 => Argument::Null,
        _ => Argument::Input(1),
    };
    let operands = [Argument::Input(0), second];
    let factors = [Argument::Weight(0), Argument::Weight(1)];
    let scale_shift = match op.scale_shift {
        Some(channels) => of_channels(channels, inputs, op.sources)?,
        None => [Argument::Null, Argument::Null, Argument::Int(0)],
    };
    let sizes = [
        kernel::int(image.pixels)?,
        kernel::int(sources[0])?,
        kernel::int(sources[1])?,
        kernel::int(image.group)?,
        kernel::int(tile.channels)?,
    ];
    let launch = |stage: &str, slices: usize, parts: &[&[Argument]]| {
        let silu = match op.silu && stage != "statistics" {
            true => "_silu",
            false => "",
        };
        let ragged = if tile.packed { "" } else { "_ragged" };
        Launch {
            entry: format!(
                "group_norm_{stage}{silu}{ragged}_{}",
                target.precision.suffix()
            ),
            grid: [slices as u32, tiles.max(1) as u32, batch.max(1) as u32],
            shared_bytes: 0,
            arguments: parts.concat(),
        }
    };
    let eps = [Argument::Float(op.eps)];
    let layouts = vec![Layout::Vector; 2];
    if in_one {
        let arguments = [
            &[Argument::Output],
            &operands[..],
            &factors,
            &scale_shift,
            &sizes,
            &eps,
        ];
        return Ok(Kernel::single(launch("whole", 1, &arguments), layouts));
    }
    let slices = image.slices(tile, target);
    let workspace_bytes = batch * op.groups * slices * image.parts(tile) * 2 * 4;
    let partials = [Argument::Workspace {
        offset: 0,
        bytes: workspace_bytes,
    }];
    let launches = vec![
        launch("statistics", slices, &[&partials, &operands, &sizes]),
        launch(
            "normalise",
            slices,
            &[
                &[Argument::Output],
                &operands,
                &factors,
                &scale_shift,
                &partials,
                &sizes,
                &eps,
            ],
        ),
    ];
    Ok(Kernel {
        launches,
        workspace_bytes,
        layouts,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::Precision;
    use crate::graph::Param;

    const TARGET: Target = Target {
        precision: Precision::F16,
        compute_capability: 90,
        multiprocessors: 132,
        shared_bytes_per_block: 227 << 10,
    };

    fn kernel(shape: impl Into<Shape>, groups: usize) -> Kernel {
        let shape = shape.into();
        let param = Param {
            name: String::new(),
            shape: [shape.channels()].into(),
        };
        let op = GroupNorm {
            sources: 1,
            groups,
            eps: 1e-5,
            weight: param.clone(),
            bias: param,
            scale_shift: None,
            silu: true,
        };
        select(&op, &[shape], shape, &TARGET).unwrap()
    }

    #[test]
    fn tiles_hold_whole_groups_and_packs_and_fit_a_block() {
        for group in 1..=300 {
            for groups in [1, 3, 32] {
                let image = Image {
                    pixels: 4096,
                    channels: group * groups,
                    group,
                };
                let packed = image.channels.is_multiple_of(8);
                for threads in [WHOLE_THREADS, SLICE_THREADS] {
                    let tile = image.tile(packed, 128, threads, &TARGET);
                    let width = if tile.packed { 8 } else { 1 };
                    assert!(tile.channels.is_multiple_of(width), "{image:?} {tile:?}");
                    assert!(tile.channels / width * tile.rows <= threads && tile.rows > 0);
                    let whole = tile.channels.is_multiple_of(group);
                    assert!(whole || (!tile.packed && group > tile.channels));
                    assert!(tile.channels / group <= MOST_GROUPS);
                }
            }
        }
    }

    #[test]
    fn the_published_networks_keep_their_threads_busy() {
        // Channels of Stable Diffusion's blocks and of the autoencoder.
        for channels in [128, 256, 320, 512, 640, 960, 1280, 1920, 2560] {
            let image = Image {
                pixels: 4096,
                channels,
                group: channels / 32,
            };
            let tile = image.tile(true, 128, SLICE_THREADS, &TARGET);
            let value = image.efficiency(tile.channels, 8, SLICE_THREADS, 2);
            assert!(tile.packed && value > 0.9, "{channels}: {tile:?} {value}");
        }
    }

    #[test]
    fn slices_are_fixed_by_one_image_and_never_empty() {
        for side in [40, 64, 65, 512] {
            let single = kernel([1, side, side, 320], 32);
            let batch = kernel([5, side, side, 320], 32);
            let [a, b] = [&single, &batch].map(|k| &k.launches);
            assert_eq!(a.len(), 2);
            assert_eq!(a[0].grid[..2], b[0].grid[..2]);
            assert_eq!(batch.workspace_bytes, 5 * single.workspace_bytes);
            let slices = a[0].grid[0] as usize;
            let each = (side * side).div_ceil(slices);
            assert!((slices - 1) * each < side * side);
        }
    }

    #[test]
    fn small_images_take_one_launch_and_odd_channels_the_ragged_one() {
        assert_eq!(
            kernel([2, 8, 8, 1280], 32).launches[0].entry,
            "group_norm_whole_silu_f16"
        );
        assert_eq!(
            kernel([2, 3, 3, 33], 3).launches[0].entry,
            "group_norm_whole_silu_ragged_f16"
        );
        let wide = kernel([1, 1, 2, 2002], 2);
        assert_eq!(wide.launches[0].grid, [1, 8, 1]);
    }
}
