//! Which tile of a matrix product a block computes, and over how many blocks `K` is split.
//!
//! With few rows there are fewer tiles than multiprocessors; then each tile's `K` is split over several blocks, of which the last to end adds
//! up what all have summed. That changes the order of additions, so the number of parts follows from one image's rows and from the device, never from
//! the batch: an image's bytes are the same alone and in company. The tile may follow from the batch, as every tile adds along `K` in the
//! same steps.
//!
//! Both are chosen by the model of the time in `cost.rs`, whose constants are planning figures and not measurements.

use super::cost::{Blocks, joined};
use super::{Precision, Target, moments};

/// A tile that a block computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tile {
    /// Of the result.
    pub(super) rows: usize,
    /// Of the result.
    pub(super) columns: usize,
    /// Columns of the operands in one stage of the ring.
    depth: usize,
    /// Stages of the ring.
    stages: usize,
    /// Blocks that a multiprocessor's registers hold.
    blocks: usize,
    /// What the loop reaches of the tensor cores' rate: the wider, the fewer loads from shared memory for each product.
    efficiency: f64,
}

/// Rows of the largest tile.
pub(super) const MOST_ROWS: usize = 128;

/// The tiles for operands whose rows are made of 16-byte pieces.
const ALIGNED: [Tile; 6] = [
    tile([MOST_ROWS, 160], [32, 3], 2, 0.90),
    tile([128, 128], [32, 3], 2, 0.88),
    tile([128, 64], [32, 3], 3, 0.75),
    tile([64, 160], [32, 3], 2, 0.75),
    tile([64, 64], [32, 4], 4, 0.60),
    tile([16, 64], [64, 4], 4, 0.25),
];

/// Those of them that sum 64 columns at a time in halves, where they may.
const HALVES: [Tile; 4] = [
    tile([128, 160], [64, 2], 1, 0.78),
    tile([128, 128], [64, 2], 1, 0.76),
    tile([128, 64], [64, 2], 2, 0.65),
    tile([64, 64], [64, 2], 3, 0.52),
];

/// The time that a column summed in halves takes, of that of one summed in f32: on the GPUs that are asked to sum so.
pub(super) const IN_HALVES: f64 = 0.5;

/// The tile for all other operands.
const ANY: [Tile; 1] = [tile([64, 64], [32, 4], 4, 0.10)];

/// Parts of `K`, and rows of packed weights, are multiples of this: of every tile's depth.
pub(super) const PART: usize = 64;

/// A part has at least as many columns, so that its ring is worth filling.
const SHORTEST_PART: usize = 256;

/// The numbers of parts that are weighed.
pub(super) const PARTS: [usize; 8] = [1, 2, 3, 4, 6, 8, 12, 16];

/// Splitting must save a tenth of the time: a large batch has tiles enough without it.
const WORTH: f64 = 1.1;

/// Images for which the parts are chosen: guidance evaluates two at a time.
pub(super) const NOMINAL_IMAGES: usize = 2;

const fn tile(
    [rows, columns]: [usize; 2],
    [depth, stages]: [usize; 2],
    blocks: usize,
    efficiency: f64,
) -> Tile {
    Tile {
        rows,
        columns,
        depth,
        stages,
        blocks,
        efficiency,
    }
}

impl Tile {
    /// Bytes of the tile of the result, as sums.
    pub(super) fn result_bytes(&self) -> usize {
        self.rows * self.columns * Precision::F32.bytes()
    }

    /// Rows and columns.
    pub(super) fn size(&self) -> [usize; 2] {
        [self.rows, self.columns]
    }

    /// Bytes of the ring in shared memory.
    pub(super) fn shared_bytes(&self) -> usize {
        (self.rows + self.columns) * self.depth * self.stages * Precision::F16.bytes()
    }
}

/// The sizes of a product `[m, k] x [n, k]^T` of halves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Problem {
    /// In the batch.
    pub(super) images: usize,
    /// Rows of one image, in one phase.
    pub(super) rows: usize,
    /// Products of this size, each with a weight of its own.
    pub(super) phases: usize,
    /// Columns of the result.
    pub(super) n: usize,
    /// Columns of the operands.
    pub(super) k: usize,
    /// Whether the rows of the first operand are made of 16-byte pieces.
    pub(super) aligned: bool,
    /// Whether the tile is to find moments of the result.
    pub(super) moments: bool,
    /// Columns that are summed in halves, the first of `k`.
    pub(super) in_halves: usize,
}

/// How a product is cut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cut {
    pub(super) tile: Tile,
    /// Over how many blocks `K` is split.
    pub(super) parts: usize,
    /// Columns of each but the last.
    pub(super) part: usize,
}

fn no_tile(target: &Target) -> String {
    let bytes = target.shared_bytes_per_block;
    format!("a block of this device has {bytes} bytes of shared memory, too few for any tile")
}

impl Problem {
    /// The cut that should take least time: as few parts as [`NOMINAL_IMAGES`] ask for, and the tile for these parts and the images there are.
    ///
    /// # Errors
    /// If no tile fits in the device's shared memory.
    pub(super) fn cut(&self, target: &Target) -> Result<Cut, String> {
        let cut = self.weighed(target).and_then(|(_, parts)| {
            let part = self.k.div_ceil(parts).next_multiple_of(PART);
            let parts = self.k.div_ceil(part);
            let quickest = || Some(self.quickest(parts, target)?.1);
            let tile = self.preferred(target).or_else(quickest)?;
            Some(Cut { tile, parts, part })
        });
        cut.ok_or_else(|| no_tile(target))
    }

    /// The quickest tile whose blocks have all of K, and two threads a row at most, which sum what they see of it as they do in every other.
    ///
    /// # Errors
    /// As [`cut`](Self::cut).
    pub(super) fn undivided(&self, target: &Target) -> Result<Tile, String> {
        let sums_alike = |tile: &Tile| tile.rows >= 64;
        let tiles = self.tiles(target).filter(|tile| sums_alike(tile));
        let quickest = || Some(self.among(tiles, 1, target)?.1);
        let preferred = self.preferred(target).filter(sums_alike);
        preferred.or_else(quickest).ok_or_else(|| no_tile(target))
    }

    /// As [`nominal_clocks`](Self::nominal_clocks), of [`undivided`](Self::undivided).
    pub(super) fn nominal_undivided_clocks(&self, target: &Target) -> f64 {
        let nominal = self.nominal();
        let tiles = nominal.tiles(target).filter(|tile| tile.rows >= 64);
        let quickest = nominal.among(tiles, 1, target);
        quickest.map_or(f64::INFINITY, |(clocks, _)| clocks)
    }

    fn nominal(&self) -> Self {
        Self {
            images: NOMINAL_IMAGES,
            ..*self
        }
    }

    /// The clocks with [`NOMINAL_IMAGES`], by which other kernels are weighed: no end of them if no tile fits.
    pub(super) fn nominal_clocks(&self, target: &Target) -> f64 {
        self.weighed(target)
            .map_or(f64::INFINITY, |(clocks, _)| clocks)
    }

    /// The fewest parts that are worth it with [`NOMINAL_IMAGES`], and their clocks.
    fn weighed(&self, target: &Target) -> Option<(f64, usize)> {
        let nominal = self.nominal();
        let weighed: Vec<(f64, usize)> = PARTS
            .into_iter()
            .filter(|&parts| parts == 1 || self.k / parts >= SHORTEST_PART)
            .filter_map(|parts| Some((nominal.quickest(parts, target)?.0, parts)))
            .collect();
        worth_it(&weighed)
    }

    /// The tiles that a block of the device has memory for, and that find moments if they are asked for.
    fn tiles(&self, target: &Target) -> impl Iterator<Item = &'static Tile> {
        let tiles = match (self.aligned, self.in_halves) {
            (true, 0) => &ALIGNED[..],
            (true, _) => &HALVES,
            (false, _) => &ANY,
        };
        let most = target.shared_bytes_per_block as usize;
        let fits = move |tile: &&Tile| tile.shared_bytes() <= most;
        let finds = !self.moments;
        let finds = move |tile: &&Tile| finds || moments::are_found_by(tile.rows);
        tiles.iter().filter(fits).filter(finds)
    }

    /// The tile that the target prefers, if there is such a one.
    fn preferred(&self, target: &Target) -> Option<Tile> {
        let mut tiles = self.tiles(target);
        tiles
            .find(|tile| target.prefer == Some(tile.size()))
            .copied()
    }

    /// The quickest tile for so many parts, and its clocks.
    fn quickest(&self, parts: usize, target: &Target) -> Option<(f64, Tile)> {
        self.among(self.tiles(target), parts, target)
    }

    fn among<'a>(
        &self,
        tiles: impl Iterator<Item = &'a Tile>,
        parts: usize,
        target: &Target,
    ) -> Option<(f64, Tile)> {
        tiles
            .map(|tile| (self.clocks(tile, parts, target), *tile))
            .min_by(|(a, _), (b, _)| a.total_cmp(b))
    }

    /// The clocks this may take: those of its blocks, and what it costs to add up the parts. What comes from memory is the same for all tiles.
    fn clocks(&self, tile: &Tile, parts: usize, target: &Target) -> f64 {
        let rows = self.images * self.rows;
        let tiles = rows.div_ceil(tile.rows) * self.n.div_ceil(tile.columns);
        let depth = self.k.div_ceil(parts) as f64;
        let in_halves = self.in_halves as f64 / self.k as f64;
        let multiplied = depth * (1.0 - in_halves * (1.0 - IN_HALVES));
        let bytes = (tile.rows + tile.columns) * Precision::F16.bytes();
        let blocks = Blocks {
            count: self.phases * tiles * parts,
            at_once: tile.blocks,
            products: (tile.rows * tile.columns) as f64 * multiplied / tile.efficiency,
            exponentials: 0.0,
            fetched: bytes as f64 * depth,
            wgmma: false,
        };
        blocks.clocks(target) + joined(parts, tile.result_bytes())
    }
}

/// Of clocks, each with its number of parts, the first that no other undercuts by more than [`WORTH`].
pub(super) fn worth_it(weighed: &[(f64, usize)]) -> Option<(f64, usize)> {
    let least = weighed.iter().map(|(clocks, _)| *clocks);
    let least = least.fold(f64::INFINITY, f64::min);
    let mut all = weighed.iter().copied();
    all.find(|(clocks, _)| *clocks <= WORTH * least)
}

/// Rows and columns of every tile.
pub(super) fn sizes() -> impl Iterator<Item = [usize; 2]> {
    ALIGNED.iter().map(Tile::size)
}

/// What a tile of so many rows and columns, which sums in halves or not, reaches of the tensor cores' rate; `None` where there is none.
pub(super) fn efficiency(size: [usize; 2], in_halves: bool) -> Option<f64> {
    let tiles = if in_halves { &HALVES[..] } else { &ALIGNED };
    let found = tiles.iter().find(|tile| tile.size() == size);
    found.map(|tile| tile.efficiency)
}

#[cfg(test)]
mod tests;
