//! Attention by products of warpgroups, for Hopper GPUs: which tile of `attention_sm90.cu`, and the maps by which it loads and stores.
//!
//! Head size and keys alone decide the tile along the keys, and with it the order of every sum. How many warpgroups share a block changes no
//! bit, so that is chosen for the whole batch.

use super::attention::Sizes;
use super::kernel::{self, Argument, Kernel, Launch, Operand, Precision, Target};
use super::tensor_map::{Axis, Swizzle, TensorMap};

/// Queries of a warpgroup.
const ROWS: usize = 64;

/// Channels of a box, whose rows are as long as the swizzle.
const CHUNK: usize = 64;

/// Columns of ones behind the values.
const ONES: usize = 8;

/// Keys that one stage holds whole, without a ring: the 77 tokens of a text encoder, and what is fewer.
const FEW_KEYS: usize = 80;

/// One entry.
struct Tile {
    head: usize,
    groups: usize,
    keys: usize,
    stages: usize,
}

const fn tile(head: usize, groups: usize, keys: usize, stages: usize) -> Tile {
    Tile {
        head,
        groups,
        keys,
        stages,
    }
}

/// The entries, for each head size those of more groups first.
const TILES: [Tile; 11] = [
    tile(40, 3, 128, 4),
    tile(40, 2, 128, 4),
    tile(40, 2, FEW_KEYS, 1),
    tile(64, 3, 128, 3),
    tile(64, 2, 128, 3),
    tile(64, 2, FEW_KEYS, 1),
    tile(80, 2, 128, 3),
    tile(80, 1, 128, 3),
    tile(80, 2, FEW_KEYS, 1),
    tile(160, 1, 128, 2),
    tile(160, 1, FEW_KEYS, 1),
];

/// How long a block of 1, 2 or 3 groups takes, in tenths of what a group's instructions take to be issued: one group waits for its own
/// products, two and three work while others wait. A model, not a measurement.
const TIME: [usize; 3] = [15, 24, 33];

impl Tile {
    fn entry(&self) -> String {
        let Self {
            head, groups, keys, ..
        } = self;
        format!("attention_f16_{head}_{}x{keys}_sm90", groups * ROWS)
    }

    /// Queries, and keys and values for each stage.
    fn shared_bytes(&self) -> usize {
        let of_stage = self.head.div_ceil(CHUNK) + (self.head + ONES).div_ceil(CHUNK);
        let rows = self.groups * ROWS * self.head.div_ceil(CHUNK);
        (rows + self.stages * of_stage * self.keys) * CHUNK * Precision::F16.bytes()
    }

    /// Queries and keys.
    fn size(&self) -> [usize; 2] {
        [self.groups * ROWS, self.keys]
    }

    /// Blocks along x.
    fn blocks(&self, queries: usize) -> usize {
        queries.div_ceil(self.groups * ROWS)
    }

    /// How long all blocks take, one at a time on each multiprocessor.
    fn time(&self, sizes: &Sizes, target: &Target) -> usize {
        let blocks = self.blocks(sizes.queries) * sizes.heads * sizes.images;
        blocks.div_ceil(target.multiprocessors.max(1) as usize) * TIME[self.groups - 1]
    }
}

/// Queries and keys of every tile.
pub(super) fn sizes() -> impl Iterator<Item = [usize; 2]> {
    TILES.iter().map(Tile::size)
}

/// The launch, if the target is a Hopper GPU and there is a kernel for these sizes.
pub(super) fn select(sizes: &Sizes, target: &Target) -> Result<Option<Kernel>, String> {
    let hopper = target.hopper() && target.precision == Precision::F16;
    if !hopper || sizes.causal != Argument::Int(0) {
        return Ok(None);
    }
    let few = sizes.keys <= FEW_KEYS;
    let of_size = |tile: &&Tile| tile.head == sizes.head_size && (tile.keys == FEW_KEYS) == few;
    let suited = || TILES.iter().filter(of_size);
    let preferred = suited().find(|tile| target.prefer == Some(tile.size()));
    let quickest = || suited().min_by_key(|tile| tile.time(sizes, target));
    let Some(tile) = preferred.or_else(quickest) else {
        return Ok(None);
    };
    let [q, k, v] = &sizes.operands;
    let strides = &sizes.strides;
    let (part, token, head) = (strides.part, strides.token, strides.head);
    let y = [sizes.heads * sizes.head_size, sizes.head_size];
    let [queries, asked] =
        [sizes.images, sizes.query_images].map(|images| [images, sizes.queries, ROWS]);
    let keys = [sizes.images, sizes.keys, tile.keys];
    let launch = Launch {
        entry: tile.entry(),
        grid: [tile.blocks(sizes.queries), sizes.heads, sizes.images].map(|x| x as u32),
        shared_bytes: tile.shared_bytes() as u32,
        arguments: vec![
            map(sizes, Operand::Output, 0, y, queries)?,
            map(sizes, *q, 0, [token, head], asked)?,
            map(sizes, *k, part, [token, head], keys)?,
            map(sizes, *v, 2 * part, [token, head], keys)?,
            kernel::int(sizes.query_images)?,
            kernel::int(sizes.queries)?,
            kernel::int(sizes.keys)?,
            sizes.scale,
        ],
    };
    Ok(Some(Kernel::single(launch, vec![])))
}

/// The map of `tokens` tokens of an operand's images and heads, which begin `start` elements behind it; a box holds `span` tokens of one head.
fn map(
    sizes: &Sizes,
    of: Operand,
    start: usize,
    [token, head]: [usize; 2],
    [images, tokens, span]: [usize; 3],
) -> Result<Argument, String> {
    let bytes = Precision::F16.bytes();
    let axes = [
        Axis::new(sizes.head_size, bytes, CHUNK),
        Axis::new(sizes.heads, head * bytes, 1),
        Axis::new(tokens, token * bytes, span),
        Axis::new(images, tokens * token * bytes, 1),
    ];
    let map = TensorMap::new(start * bytes, &axes, Swizzle::Bytes128)?;
    Ok(Argument::Map { of, map })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::table::{self, Kind};
    use crate::ops::{Attention, Qkv};
    use crate::tensor::Shape;

    const H200: Target = Target::h200(Precision::F16);

    fn choose(
        [images, queries, keys, heads, head_size]: [usize; 5],
        operands: Qkv,
        target: &Target,
    ) -> Launch {
        let op = Attention {
            heads,
            scale: 0.125,
            causal: false,
            operands,
        };
        let width = heads * head_size;
        let q = Shape::new(&[images, queries, width]);
        let k = Shape::new(&[images, keys, width]);
        let qkv = Shape::new(&[images, queries, 3 * width]);
        let kernel = match operands {
            Qkv::Separate => super::super::attention::select(&op, &[q, k, k], q, target),
            _ => super::super::attention::select(&op, &[qkv], q, target),
        };
        kernel.unwrap().launches.remove(0)
    }

    #[test]
    fn published_networks_take_the_tiles_meant_for_them() {
        for (shape, expected) in [
            // Stable Diffusion 1 at 512 x 512, with guidance; eight images of it.
            ([2, 4096, 4096, 8, 40], "attention_f16_40_128x128_sm90"),
            ([16, 4096, 4096, 8, 40], "attention_f16_40_192x128_sm90"),
            ([2, 4096, 77, 8, 40], "attention_f16_40_128x80_sm90"),
            ([2, 1024, 1024, 8, 80], "attention_f16_80_128x128_sm90"),
            ([2, 1024, 77, 8, 80], "attention_f16_80_128x80_sm90"),
            ([2, 256, 256, 8, 160], "attention_f16_160_64x128_sm90"),
            ([2, 256, 77, 8, 160], "attention_f16_160_64x80_sm90"),
            ([2, 64, 64, 8, 160], "attention_f16_160_64x80_sm90"),
            // Stable Diffusion 2 at 768 x 768.
            ([2, 9216, 9216, 5, 64], "attention_f16_64_192x128_sm90"),
            ([2, 256, 256, 20, 64], "attention_f16_64_128x128_sm90"),
            ([2, 9216, 77, 5, 64], "attention_f16_64_128x80_sm90"),
            // The text to image model of latent diffusion at 256 x 256.
            ([2, 256, 256, 8, 80], "attention_f16_80_64x128_sm90"),
            // Others have none of their own.
            ([1, 1024, 1024, 14, 32], "attention_f16_32_64x64"),
            ([1, 4096, 4096, 1, 512], "attention_scores_f16"),
        ] {
            assert_eq!(
                choose(shape, Qkv::Separate, &H200).entry,
                expected,
                "{shape:?}"
            );
        }
        let older = Target {
            compute_capability: 89,
            ..H200
        };
        let launch = choose([2, 4096, 4096, 8, 40], Qkv::Separate, &older);
        assert_eq!(launch.entry, "attention_f16_40_128x64");
    }

    #[test]
    fn a_preferred_tile_is_taken_where_it_adds_in_the_same_order() {
        for (shape, prefer, expected) in [
            (
                [2, 4096, 4096, 8, 40],
                [192, 128],
                "attention_f16_40_192x128_sm90",
            ),
            (
                [2, 1024, 1024, 8, 80],
                [64, 128],
                "attention_f16_80_64x128_sm90",
            ),
            // No such tile of so many keys, or of this head.
            (
                [2, 4096, 4096, 8, 40],
                [128, 80],
                "attention_f16_40_128x128_sm90",
            ),
            (
                [2, 4096, 77, 8, 40],
                [192, 128],
                "attention_f16_40_128x80_sm90",
            ),
            (
                [2, 256, 256, 8, 160],
                [128, 128],
                "attention_f16_160_64x128_sm90",
            ),
        ] {
            let target = Target {
                prefer: Some(prefer),
                ..H200
            };
            assert_eq!(choose(shape, Qkv::Separate, &target).entry, expected);
        }
    }

    /// Queries and keys, with every number of each that matters, for all head sizes.
    fn shapes() -> impl Iterator<Item = [usize; 4]> {
        let tokens = [
            [1, 1],
            [64, 80],
            [65, 81],
            [192, 128],
            [200, 129],
            [4096, 4096],
        ];
        [40, 64, 80, 160]
            .into_iter()
            .flat_map(move |size| tokens.map(|[q, k]| [q, k, 1 + q % 5 * 4, size]))
    }

    #[test]
    fn launches_fit_their_entries_and_cover_all_queries() {
        for [queries, keys, heads, size] in shapes() {
            for multiprocessors in [1, 132] {
                let target = H200.with_multiprocessors(multiprocessors);
                let launch = choose([3, queries, keys, heads, size], Qkv::Separate, &target);
                let entry = table::entry(&launch.entry).expect(&launch.entry);
                let kinds: Vec<Kind> = entry.parameters.iter().map(|p| p.kind).collect();
                let maps = [Kind::Map; 4].into_iter();
                let sizes = [Kind::Int; 3].into_iter();
                let expected = maps.chain(sizes).chain([Kind::Float]);
                assert_eq!(kinds, expected.collect::<Vec<_>>());
                assert_eq!(launch.arguments.len(), kinds.len());
                // A block has a kilobyte of barriers beside what is counted here.
                assert!(launch.shared_bytes <= 226 << 10, "{launch}");
                let tile = launch.entry.trim_end_matches("_sm90").rsplit_once('_');
                let rows: usize = tile.unwrap().1.split_once('x').unwrap().0.parse().unwrap();
                let blocks = launch.grid[0] as usize;
                assert!(blocks * rows >= queries && (blocks - 1) * rows < queries);
                assert_eq!(launch.grid[1..], [heads as u32, 3]);
                assert_eq!(entry.threads as usize, [0, 192, 320, 512][rows / ROWS]);
            }
        }
    }

    #[test]
    fn a_batch_adds_in_the_order_that_each_image_alone_does() {
        let keys_of = |launch: &Launch| launch.entry.split_once('x').unwrap().1.to_owned();
        for [queries, keys, heads, size] in shapes() {
            let [alone, batch] = [1, 7].map(|images| {
                let shape = [images, queries, keys, heads, size];
                keys_of(&choose(shape, Qkv::Separate, &H200))
            });
            assert_eq!(alone, batch);
        }
    }

    #[test]
    fn maps_say_where_stacked_keys_and_values_lie() {
        for (operands, expected) in [
            (
                Qkv::Thirds,
                "x0+480[40x3x90x2 pitch 80,720,64800 box 64x1x128x1 swizzle 128]",
            ),
            (
                Qkv::HeadByHead,
                "x0+160[40x3x90x2 pitch 240,720,64800 box 64x1x128x1 swizzle 128]",
            ),
            (
                Qkv::Separate,
                "x2[40x3x90x2 pitch 80,240,21600 box 64x1x128x1 swizzle 128]",
            ),
        ] {
            let launch = choose([2, 90, 90, 3, 40], operands, &H200);
            assert_eq!(launch.arguments[3].to_string(), expected);
            let y = "y[40x3x90x2 pitch 80,240,21600 box 64x1x64x1 swizzle 128]";
            assert_eq!(launch.arguments[0].to_string(), y);
        }
    }
}
