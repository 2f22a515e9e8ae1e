//! Which tile of a product a block of a Hopper GPU computes, over how many blocks `K` is split, and how many blocks there are.
//!
//! As `tile.rs`: the number of parts follows from one image and the device, never from the batch; the tile may follow from the batch, as every
//! tile adds along `K` in the same steps. Blocks come in clusters of two, whose tiles lie one below the other and share the loads of the weight,
//! and walk over as many tiles as are left for them.
//!
//! Both are chosen by the model of the time in `cost.rs`, whose constants are planning figures and not measurements.

use super::cost::{Blocks, joined};
use super::tile::{NOMINAL_IMAGES, PARTS, worth_it};
use super::{Precision, Target};

/// Columns of the operands in one stage.
pub(super) const DEPTH: usize = 64;

/// Blocks of a cluster.
pub(super) const CLUSTER: usize = 2;

/// Bytes of a row of a stage.
const ROW_BYTES: usize = DEPTH * size_of::<half::f16>();

/// A tile that a block computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tile {
    /// Of the result.
    pub(super) rows: usize,
    /// Of the result.
    pub(super) columns: usize,
    /// Stages of the ring.
    stages: usize,
    /// Blocks that a multiprocessor holds.
    at_once: usize,
    /// What the loop reaches of the tensor cores' rate, which needs wide products.
    efficiency: f64,
}

/// Rows of the largest tile.
pub(super) const MOST_ROWS: usize = 256;

/// As the entries of `kernels/linear_sm90.cu` and `kernels/conv2d_sm90.cu`.
const TILES: [Tile; 6] = [
    tile([MOST_ROWS, 160], 3, 1, 0.90),
    tile([MOST_ROWS, 128], 3, 1, 0.90),
    tile([128, 160], 5, 1, 0.88),
    tile([128, 128], 5, 1, 0.88),
    tile([64, 160], 6, 1, 0.85),
    tile([64, 80], 5, 2, 0.80),
];

/// A part has at least as many steps, so that its ring is worth filling.
const SHORTEST_PART: usize = 4;

const fn tile([rows, columns]: [usize; 2], stages: usize, at_once: usize, efficiency: f64) -> Tile {
    Tile {
        rows,
        columns,
        stages,
        at_once,
        efficiency,
    }
}

impl Tile {
    /// Rows and columns.
    fn size(&self) -> [usize; 2] {
        [self.rows, self.columns]
    }

    /// Bytes of the tile of the result, as sums.
    pub(super) fn result_bytes(&self) -> usize {
        self.rows * self.columns * Precision::F32.bytes()
    }

    /// Bytes of shared memory: the ring, the rows that a warp lays out for the epilogue, two barriers for each stage, and a word for all.
    pub(super) fn shared_bytes(&self) -> usize {
        let warps = self.rows.min(128) / 16;
        let piece = if self.columns.is_multiple_of(80) {
            80
        } else {
            64
        };
        let laid_out = warps * 16 * (piece + 8) * Precision::F32.bytes();
        self.stages * ((self.rows + self.columns) * ROW_BYTES + 16) + laid_out + 16
    }

    /// So many tiles or parts of tiles, each over so many columns of the operands, as the model of time takes them.
    pub(super) fn blocks(&self, count: usize, depth: f64) -> Blocks {
        let bytes = (self.rows + self.columns / CLUSTER) * Precision::F16.bytes();
        Blocks {
            count,
            at_once: self.at_once,
            products: (self.rows * self.columns) as f64 * depth / self.efficiency,
            exponentials: 0.0,
            fetched: bytes as f64 * depth,
            wgmma: true,
        }
    }
}

/// The sizes of a product of halves.
pub(super) struct Problem<'a> {
    /// In the batch.
    pub(super) images: usize,
    /// Products of this size, each with a weight of its own.
    pub(super) phases: usize,
    /// Rows of tiles for so many rows of a tile and images.
    pub(super) tiles_down: &'a dyn Fn(usize, usize) -> usize,
    /// Columns of the result.
    pub(super) n: usize,
    /// Stages that the operands' columns are.
    pub(super) steps: usize,
}

/// How a product is cut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cut {
    pub(super) tile: Tile,
    /// Over how many blocks `K` is split.
    pub(super) parts: usize,
    /// Steps of each but the last.
    pub(super) part: usize,
    /// Blocks for each part of each phase.
    pub(super) blocks: usize,
    /// Tiles of a phase's result below each other, and all of them, those of whole clusters.
    pub(super) tiles_down: usize,
    pub(super) tiles: usize,
}

impl Problem<'_> {
    /// The cut that should take least time: as few parts as [`NOMINAL_IMAGES`] ask for, and the tile for these parts and the images there are;
    /// with the clocks for the nominal images, by which it is to be compared with other kernels. `None` if no tile fits.
    pub(super) fn cut(&self, target: &Target) -> Option<(Cut, f64)> {
        self.cut_in(&PARTS, target)
    }

    /// The same, with all of K to every block.
    pub(super) fn undivided(&self, target: &Target) -> Option<(Cut, f64)> {
        self.cut_in(&[1], target)
    }

    fn cut_in(&self, parts: &[usize], target: &Target) -> Option<(Cut, f64)> {
        let nominal = Problem {
            images: NOMINAL_IMAGES,
            ..*self
        };
        let weighed: Vec<(f64, usize)> = (parts.iter().copied())
            .filter(|&parts| parts == 1 || self.steps / parts >= SHORTEST_PART)
            .filter_map(|parts| Some((nominal.quickest(parts, target)?.0, parts)))
            .collect();
        let (clocks, parts) = worth_it(&weighed)?;
        let part = self.steps.div_ceil(parts);
        let parts = self.steps.div_ceil(part);
        let quickest = || Some(self.quickest(parts, target)?.1);
        let tile = preferred(target).or_else(quickest)?;
        let cut = Cut {
            tile,
            parts,
            part,
            blocks: self.blocks(&tile, parts, target),
            tiles_down: (self.tiles_down)(tile.rows, self.images),
            tiles: self.pairs(&tile) * CLUSTER,
        };
        Some((cut, clocks))
    }

    /// The quickest tile for so many parts, and its clocks.
    fn quickest(&self, parts: usize, target: &Target) -> Option<(f64, Tile)> {
        tiles(target)
            .map(|tile| (self.clocks(&tile, parts, target), tile))
            .min_by(|(a, _), (b, _)| a.total_cmp(b))
    }

    /// Clusters' turns: pairs of tiles that lie one below the other.
    fn pairs(&self, tile: &Tile) -> usize {
        let down = (self.tiles_down)(tile.rows, self.images).div_ceil(CLUSTER);
        down * self.n.div_ceil(tile.columns)
    }

    /// Blocks for each part: as few as take no more turns than all that the device holds at once.
    fn blocks(&self, tile: &Tile, parts: usize, target: &Target) -> usize {
        let held = target.multiprocessors as usize * tile.at_once / CLUSTER;
        let held = held / (parts * self.phases);
        let turns = self.pairs(tile).div_ceil(held.max(1));
        self.pairs(tile).div_ceil(turns) * CLUSTER
    }

    /// The clocks this may take: those of its tiles, and what it costs to add up the parts. What comes from memory is the same for all tiles.
    fn clocks(&self, tile: &Tile, parts: usize, target: &Target) -> f64 {
        let depth = (self.steps.div_ceil(parts) * DEPTH) as f64;
        let count = self.pairs(tile) * CLUSTER * parts * self.phases;
        let blocks = tile.blocks(count, depth);
        blocks.clocks(target) + joined(parts, tile.result_bytes())
    }
}

/// The tiles that a block of the device has memory for.
fn tiles(target: &Target) -> impl Iterator<Item = Tile> {
    let most = target.shared_bytes_per_block as usize;
    TILES
        .into_iter()
        .filter(move |tile| tile.shared_bytes() <= most)
}

/// The tile that the target prefers, if there is such a one.
fn preferred(target: &Target) -> Option<Tile> {
    tiles(target).find(|tile| target.prefer == Some(tile.size()))
}

/// Rows and columns of every tile.
pub(super) fn sizes() -> impl Iterator<Item = [usize; 2]> {
    TILES.into_iter().map(|tile| tile.size())
}

/// The tile of so many rows and columns; `None` where there is none.
pub(super) fn named(size: [usize; 2]) -> Option<Tile> {
    TILES.into_iter().find(|tile| tile.size() == size)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An H100 as it is sold for a slot, and an H200.
    fn targets() -> [Target; 2] {
        [114, 132].map(|count| Target::h200(Precision::F16).with_multiprocessors(count))
    }

    /// Rows of an image, columns and depth.
    fn cut([rows, n, k]: [usize; 3], images: usize, target: &Target) -> (Cut, f64) {
        let problem = Problem {
            images,
            phases: 1,
            tiles_down: &|tile_rows, images| (images * rows).div_ceil(tile_rows),
            n,
            steps: k.div_ceil(DEPTH),
        };
        problem.cut(target).unwrap()
    }

    const SHAPES: [[usize; 3]; 16] = [
        [4096, 320, 2880],
        [4096, 2560, 320],
        [4096, 320, 320],
        [1024, 640, 5760],
        [1024, 640, 17280],
        [1024, 640, 640],
        [256, 1280, 11520],
        [256, 1280, 23040],
        [256, 1280, 5120],
        [64, 1280, 11520],
        [64, 1280, 23040],
        [64, 10240, 1280],
        [77, 768, 3072],
        [1, 1280, 1280],
        [5, 7, 40],
        [262_144, 128, 1152],
    ];

    #[test]
    fn parts_and_family_follow_from_one_image() {
        for target in targets() {
            for shape in SHAPES {
                let (alone, clocks) = cut(shape, 1, &target);
                for images in 2..=17 {
                    let (cut, others) = cut(shape, images, &target);
                    assert_eq!(
                        [cut.parts, cut.part],
                        [alone.parts, alone.part],
                        "{shape:?}"
                    );
                    assert_eq!(others.to_bits(), clocks.to_bits(), "{shape:?}");
                }
            }
        }
    }

    #[test]
    fn parts_cover_k_and_none_is_empty() {
        for k in (1..4000).step_by(7).chain([5120, 11520, 17280, 23040]) {
            let (Cut { parts, part, .. }, _) = cut([64, 1280, k], 1, &targets()[1]);
            let steps = k.div_ceil(DEPTH);
            assert!(parts * part >= steps && (parts - 1) * part < steps, "{k}");
        }
    }

    #[test]
    fn blocks_are_whole_clusters_and_as_many_as_a_device_holds() {
        for target in targets() {
            for shape in SHAPES {
                for images in [1, 2, 3, 16] {
                    let (
                        Cut {
                            tile,
                            parts,
                            blocks,
                            ..
                        },
                        _,
                    ) = cut(shape, images, &target);
                    assert!(blocks > 0 && blocks.is_multiple_of(CLUSTER), "{shape:?}");
                    let held = target.multiprocessors as usize * tile.at_once;
                    assert!(blocks * parts <= held, "{shape:?}: {blocks} x {parts}");
                }
            }
        }
    }

    #[test]
    fn rings_fit_and_leave_room_for_as_many_blocks_as_are_meant() {
        // Of a multiprocessor's 228 KiB each block takes one for itself.
        for tile in TILES {
            assert!(tile.shared_bytes() <= 227 << 10, "{tile:?}");
            let all = tile.at_once * (tile.shared_bytes() + (1 << 10));
            assert!(all <= 228 << 10, "{tile:?}");
            assert_eq!(named([tile.rows, tile.columns]), Some(tile));
        }
    }

    #[test]
    fn the_published_widths_fill_an_h200() {
        for (shape, tile) in [
            ([4096, 320, 2880], [128, 160]),
            ([4096, 640, 5760], [256, 160]),
            ([256, 10240, 1280], [256, 160]),
            ([1024, 640, 640], [64, 160]),
            ([256, 1280, 1280], [64, 80]),
        ] {
            let (cut, _) = cut(shape, 2, &targets()[1]);
            assert_eq!([cut.tile.rows, cut.tile.columns], tile, "{shape:?}");
            assert!(cut.blocks * cut.parts >= 120, "{shape:?}: {cut:?}");
        }
    }
}
