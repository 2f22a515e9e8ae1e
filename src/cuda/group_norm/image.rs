//! How an image is cut for group normalisation: tiles of channels, slices of pixels.

use super::super::elementwise::pack;
use super::super::kernel::Target;
use crate::tensor::Shape;

/// Threads of a block that normalises whole images.
const WHOLE_THREADS: usize = 512;

/// Threads of a block that takes a slice of one.
pub(super) const SLICE_THREADS: usize = 256;

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

/// Pixels of the largest image that is not for bands: its slices are as long as threads take in whole batches, and need be no whole rows.
const PIXELS_OF_UNCUT: usize = 4096;

/// How far beyond the wanted size a slice of whole rows may be.
const MOST_UNEVEN: usize = 4;

/// One image's shape as the kernels see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Image {
    pub(super) pixels: usize,
    /// Rows, of as many pixels each.
    pub(super) height: usize,
    pub(super) channels: usize,
    /// Channels per group.
    pub(super) group: usize,
}

/// The channels of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tile {
    pub(super) channels: usize,
    /// Rows of whole packs, or single channels.
    pub(super) packed: bool,
    /// Pixels that a block's threads cover at once.
    rows: usize,
}

impl Image {
    /// The best tile for blocks of `threads`, of at least `bytes` per pixel where there are as many.
    pub(super) fn tile(self, packed: bool, bytes: usize, threads: usize, target: &Target) -> Tile {
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
    pub(super) fn tiles(self, tile: Tile) -> usize {
        match self.parts(tile) {
            1 => self.channels.div_ceil(tile.channels),
            parts => self.channels / self.group * parts,
        }
    }

    /// Tiles that share a group, if one is wider than a tile.
    pub(super) fn parts(self, tile: Tile) -> usize {
        match self.group > tile.channels {
            true => self.group.div_ceil(tile.channels),
            false => 1,
        }
    }

    /// Slices of the pixels, none of them empty.
    pub(super) fn slices(self, tile: Tile, target: &Target) -> usize {
        match self.rows_of_slice(tile, target) {
            Some(rows) => self.height / rows,
            None => self
                .pixels
                .div_ceil(self.pixels_of_slice(tile, target))
                .max(1),
        }
    }

    /// Pixels that a slice should have.
    fn pixels_of_slice(self, tile: Tile, target: &Target) -> usize {
        let wanted = (BLOCKS * target.multiprocessors as usize).div_ceil(self.tiles(tile));
        let least = self.pixels.div_ceil(wanted.min(MOST_SLICES)).max(1);
        let batch = PIXELS_AHEAD * tile.rows;
        least.div_ceil(batch) * batch
    }

    /// Rows of a slice, if slices of about the size they should have are made of whole rows.
    fn rows_of_slice(self, tile: Tile, target: &Target) -> Option<usize> {
        let width = self.pixels / self.height.max(1);
        let each = self.pixels_of_slice(tile, target);
        let least = self.height.div_ceil(MOST_SLICES).max(1);
        if self.pixels <= PIXELS_OF_UNCUT {
            return None;
        }
        let mut fitting = (least..self.height).filter(|rows| self.height.is_multiple_of(*rows));
        let first = fitting
            .next()
            .filter(|rows| rows * width <= MOST_UNEVEN * each)?;
        let larger = fitting.take_while(|rows| rows * width <= each);
        Some(larger.last().unwrap_or(first))
    }
}

/// The image or tokens `x` in `groups` groups; tokens are one column.
pub(super) fn image(x: Shape, groups: usize) -> Image {
    let (pixels, channels) = (x.rows() / x.batch().max(1), x.channels());
    Image {
        pixels,
        height: x.image().map_or(pixels, |[_, h, _, _]| h),
        channels,
        group: channels / groups,
    }
}

/// How blocks take an image whose rows consist of whole packs, or not.
pub(super) struct Choice {
    pub(super) tile: Tile,
    /// Rows of a slice; `None` if one block takes all pixels, or slices are no whole rows.
    rows: Option<usize>,
    /// Whether one block takes all pixels.
    pub(super) in_one: bool,
}

pub(super) fn choose(image: Image, packed: bool, target: &Target) -> Choice {
    let whole = image.tile(packed, 64, WHOLE_THREADS, target);
    let in_one = image.parts(whole) == 1 && image.pixels <= PIXELS_OF_SMALL * whole.rows;
    let tile = match in_one {
        true => whole,
        false => image.tile(packed, 128, SLICE_THREADS, target),
    };
    let rows = match in_one {
        true => None,
        false => image.rows_of_slice(tile, target),
    };
    Choice { tile, rows, in_one }
}

/// Rows of the blocks in which an image `x` is summed, if it can be computed in bands and get the same bits.
pub(in crate::cuda) fn rows_of_block(groups: usize, x: Shape, target: &Target) -> Option<usize> {
    let image = image(x, groups);
    let choice = choose(image, x.channels().is_multiple_of(pack(target)), target);
    let alone = image.parts(choice.tile) == 1;
    choice.rows.filter(|_| alone)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::Precision;

    const TARGET: Target = Target::h200(Precision::F16);

    #[test]
    fn tiles_hold_whole_groups_and_packs_and_fit_a_block() {
        for group in 1..=300 {
            for groups in [1, 3, 32] {
                let image = image([1, 64, 64, group * groups].into(), groups);
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
            let image = image([1, 64, 64, channels].into(), 32);
            let tile = image.tile(true, 128, SLICE_THREADS, &TARGET);
            let value = image.efficiency(tile.channels, 8, SLICE_THREADS, 2);
            assert!(tile.packed && value > 0.9, "{channels}: {tile:?} {value}");
        }
    }
}
