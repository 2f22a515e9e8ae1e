//! Attention of heads that fit no warp, and of floats: a product, a softmax and a product, over planned scratch memory.
//!
//! The `T x L` scores of an image's head are held, so they are cut to a limit: into groups of whole pairs of image and head where one pair fits,
//! into blocks of a pair's queries where it does not. No sum runs across a cut.

use super::attention::Sizes;
use super::kernel::{self, Argument, Kernel, Launch, MOST_BLOCKS, Precision, Target};

/// Scratch memory, at most, unless a single row needs more: enough for an autoencoder at 512 x 512 pixels in one part.
const MOST_SCRATCH_BYTES: usize = 100 << 20;

/// Rows of scores are padded to a multiple of as many floats.
const PITCH_KEYS: usize = 64;

/// Rows of the tallest tile: parts are a multiple of it.
const TALLEST: usize = 128;

/// Scores, softmax and mixture, for as many pairs of image and head, or rows of one, as scratch memory holds.
pub(super) fn select(sizes: &Sizes, target: &Target) -> Result<Kernel, String> {
    let parts = Parts::new(sizes, target);
    let [pairs, queries] = [sizes.images * sizes.heads, sizes.queries];
    let mut launches = Vec::new();
    for pair in (0..pairs).step_by(parts.pairs) {
        for row in (0..queries).step_by(parts.rows) {
            let [pairs, rows] = [parts.pairs.min(pairs - pair), parts.rows.min(queries - row)];
            launches.extend(parts.launches([pair, pairs], [row, rows])?);
        }
    }
    Ok(Kernel {
        launches,
        workspace_bytes: parts.offsets()[3],
        recipes: vec![],
    })
}

/// The entries that work on scores.
struct Entries {
    /// Scores, softmax, mixture.
    names: [&'static str; 3],
    /// Rows and columns of a block of the two products.
    tiles: [[usize; 2]; 2],
    /// Bytes of their dynamic shared memory.
    shared_bytes: [usize; 2],
    /// Bytes of a probability.
    probability_bytes: usize,
}

/// Three stages of 32 along the depth, in padded rows of halves: 128 rows of the left operand; of the right, 128 rows or 32 of 64 columns.
const TENSOR: Entries = Entries {
    names: [
        "attention_scores_f16",
        "attention_softmax_f16",
        "attention_mix_f16",
    ],
    tiles: [[TALLEST, 128], [TALLEST, 64]],
    shared_bytes: [3 * (128 * 40 + 128 * 40) * 2, 3 * (128 * 40 + 32 * 72) * 2],
    probability_bytes: 2,
};

const HALVES: Entries = Entries {
    names: [
        "attention_scores_f16_any",
        "attention_softmax_f32",
        "attention_mix_f16_any",
    ],
    tiles: [[64, 64]; 2],
    shared_bytes: [0; 2],
    probability_bytes: 4,
};

const FLOATS: Entries = Entries {
    names: [
        "attention_scores_f32_any",
        "attention_softmax_f32",
        "attention_mix_f32_any",
    ],
    ..HALVES
};

/// How scores are cut to fit scratch memory.
struct Parts<'a> {
    sizes: &'a Sizes,
    entries: &'static Entries,
    /// Floats from one row of scores to the next.
    pitch: usize,
    /// Pairs of image and head in one part, and queries of each.
    pairs: usize,
    rows: usize,
}

impl<'a> Parts<'a> {
    fn new(sizes: &'a Sizes, target: &Target) -> Self {
        let entries = match target.precision {
            _ if sizes.on_tensor_cores(target) => &TENSOR,
            Precision::F16 => &HALVES,
            Precision::F32 => &FLOATS,
        };
        let pitch = sizes.keys.next_multiple_of(PITCH_KEYS);
        // A score and a probability for each key, and a factor for the row.
        let row_bytes = pitch * (4 + entries.probability_bytes) + 4;
        let fit = MOST_SCRATCH_BYTES / row_bytes;
        let rows = match fit {
            fit if fit >= sizes.queries => sizes.queries,
            fit if fit >= TALLEST => fit / TALLEST * TALLEST,
            fit => fit.max(1),
        };
        let pairs = (fit / sizes.queries.max(1)).min(sizes.images * sizes.heads);
        Self {
            sizes,
            entries,
            pitch,
            pairs: pairs.clamp(1, MOST_BLOCKS),
            rows: rows.max(1),
        }
    }

    /// Where scores, probabilities and factors start in scratch memory, and where they end.
    fn offsets(&self) -> [usize; 4] {
        let rows = self.pairs * self.rows;
        let probabilities = rows * self.pitch * 4;
        let factors = probabilities + rows * self.pitch * self.entries.probability_bytes;
        [0, probabilities, factors, factors + rows * 4]
    }

    fn launches(
        &self,
        [first_pair, pairs]: [usize; 2],
        [first_row, rows]: [usize; 2],
    ) -> Result<[Launch; 3], String> {
        let sizes = self.sizes;
        let offsets = self.offsets();
        let [scores, probabilities, factors] = [0, 1, 2].map(|i: usize| Argument::Workspace {
            offset: offsets[i],
            bytes: offsets[i + 1] - offsets[i],
        });
        let images = kernel::int(sizes.query_images)?;
        let keys = kernel::int(sizes.keys)?;
        let pitch = kernel::int(self.pitch)?;
        let all_rows = kernel::int(pairs * rows)?;
        let [at_row, row_count] = [kernel::int(first_row)?, kernel::int(rows)?];
        let [q, k, v] = sizes.operands.map(Argument::from);
        let [token, head, part] = sizes.strides()?;
        let shape = [
            kernel::int(sizes.queries)?,
            keys,
            kernel::int(sizes.heads)?,
            kernel::int(sizes.head_size)?,
            token,
            head,
            part,
            pitch,
            kernel::int(first_pair)?,
            at_row,
            row_count,
        ];
        let grid = |[height, width]: [usize; 2], columns: usize| {
            [columns.div_ceil(width), rows.div_ceil(height), pairs].map(|x| x as u32)
        };
        let scoring = Launch {
            entry: self.entries.names[0].to_owned(),
            grid: grid(self.entries.tiles[0], sizes.keys),
            shared_bytes: self.entries.shared_bytes[0] as u32,
            arguments: [&[scores, q, k, images][..], &shape, &[sizes.causal]].concat(),
        };
        let softmax = Launch {
            entry: self.entries.names[1].to_owned(),
            grid: [(pairs * rows).div_ceil(8) as u32, 1, 1],
            shared_bytes: 0,
            arguments: vec![
                probabilities,
                factors,
                scores,
                all_rows,
                keys,
                pitch,
                at_row,
                row_count,
                sizes.causal,
                sizes.scale,
            ],
        };
        let mixture = Launch {
            entry: self.entries.names[2].to_owned(),
            grid: grid(self.entries.tiles[1], sizes.head_size),
            shared_bytes: self.entries.shared_bytes[1] as u32,
            arguments: [&[Argument::Output, probabilities, factors, v][..], &shape].concat(),
        };
        Ok([scoring, softmax, mixture])
    }
}

#[cfg(test)]
mod tests {
    use super::super::kernel::Operand;
    use super::*;
    use crate::ops::Strides;

    fn sizes([images, queries, keys, heads, head_size]: [usize; 5]) -> Sizes {
        Sizes {
            images,
            query_images: images,
            queries,
            keys,
            heads,
            head_size,
            operands: [0, 1, 2].map(Operand::Input),
            strides: Strides {
                token: heads * head_size,
                head: head_size,
                part: 0,
            },
            causal: Argument::Int(0),
            scale: Argument::Float(1.0),
        }
    }

    /// The arguments that are numbers, in order.
    fn ints(launch: &Launch) -> Vec<usize> {
        let int = |argument: &Argument| match argument {
            Argument::Int(value) => Some(*value as usize),
            _ => None,
        };
        launch.arguments.iter().filter_map(int).collect()
    }

    const SHAPES: [[usize; 5]; 8] = [
        [1, 4096, 4096, 1, 512],
        [3, 4096, 4096, 1, 512],
        [1, 16384, 16384, 1, 512],
        [2, 1024, 1024, 1, 384],
        [8, 256, 256, 1, 576],
        [8, 64, 64, 1, 960],
        [5, 33, 77, 3, 161],
        [2, 1, 4_000_000, 1, 200],
    ];

    #[test]
    fn every_query_of_every_head_is_in_exactly_one_part() {
        for shape in SHAPES {
            for precision in [Precision::F16, Precision::F32] {
                let [images, queries, keys, heads, head_size] = shape;
                let kernel = select(&sizes(shape), &Target::rtx_3090(precision)).unwrap();
                let mut seen = vec![false; images * heads * queries];
                for [scores, softmax, mixture] in kernel.launches.as_chunks().0 {
                    let numbers = &ints(scores)[1..];
                    let [first_pair, first_row, rows] = [numbers[8], numbers[9], numbers[10]];
                    let [columns, height, pairs] = scores.grid.map(|blocks| blocks as usize);
                    assert_eq!(numbers[..11], ints(mixture)[..11]);
                    assert_eq!([pairs * rows, keys], [ints(softmax)[0], ints(softmax)[1]]);
                    assert!(columns * 128 >= keys && height * 128 >= rows);
                    assert!(mixture.grid[0] as usize * 64 >= head_size);
                    assert!(softmax.grid[0] as usize * 8 >= pairs * rows);
                    for pair in first_pair..first_pair + pairs {
                        for row in first_row..first_row + rows {
                            let at = pair * queries + row;
                            assert!(!seen[at], "pair {pair}, row {row} twice in {shape:?}");
                            seen[at] = true;
                        }
                    }
                }
                assert!(seen.iter().all(|&seen| seen), "{shape:?} is not covered");
            }
        }
    }

    #[test]
    fn scratch_memory_stays_below_its_limit_unless_one_row_is_more() {
        for shape in SHAPES {
            for precision in [Precision::F16, Precision::F32] {
                let kernel = select(&sizes(shape), &Target::rtx_3090(precision)).unwrap();
                let row = shape[2].next_multiple_of(PITCH_KEYS) * 8 + 4;
                assert!(kernel.workspace_bytes <= MOST_SCRATCH_BYTES.max(row));
                for argument in kernel.launches.iter().flat_map(|l| &l.arguments) {
                    if let Argument::Workspace { offset, bytes } = argument {
                        assert!(offset + bytes <= kernel.workspace_bytes);
                        assert!(offset.is_multiple_of(16));
                    }
                }
            }
        }
    }

    #[test]
    fn an_autoencoder_at_512_pixels_takes_one_part_per_image() {
        let launches = |images| {
            let sizes = sizes([images, 4096, 4096, 1, 512]);
            let kernel = select(&sizes, &Target::rtx_3090(Precision::F16)).unwrap();
            kernel.launches.len()
        };
        assert_eq!([launches(1), launches(2)], [3, 6]);
    }

    #[test]
    fn sums_are_cut_alike_alone_and_in_a_batch() {
        for [_, queries, keys, heads, head_size] in SHAPES {
            let entries = |images| {
                let sizes = sizes([images, queries, keys, heads, head_size]);
                let parts = Parts::new(&sizes, &Target::rtx_3090(Precision::F16));
                (parts.entries.names, parts.pitch)
            };
            assert_eq!(entries(1), entries(7));
        }
    }
}
