//! Attention: flash for heads whose result a warp can hold, [`attention_sm90`] for some of them on Hopper GPUs; [`attention_large`] for others.
//!
//! The order of a sum follows from the tile along the keys, which head size and keys alone decide. The tile along the queries is derived from
//! one image's shape as well, so that a batch runs the very kernel that each of its images runs alone.

use super::kernel::{self, Argument, Kernel, Launch, MOST_BLOCKS, Operand, Precision, Target};
use super::{attention_large, attention_sm90};
use crate::ops::{Attention, Strides};
use crate::tensor::Shape;

/// Head sizes that `attention.cu` is compiled for, and the keys of its tiles. Heads are padded to the next in shared memory only.
const FLASH: [(usize, usize); 9] = [
    (16, 64),
    (32, 64),
    (40, 64),
    (48, 64),
    (64, 64),
    (80, 64),
    (96, 64),
    (128, 32),
    (160, 32),
];

/// Those that also take 128 queries at once, and read keys and values half as often.
const TALL: [usize; 3] = [32, 40, 64];

/// Those with a tile for the 77 tokens of a text encoder, and its keys: one pass, and no key loaded for nothing.
const TEXT: [usize; 4] = [40, 64, 80, 160];
const TEXT_KEYS: usize = 80;

/// What the launches are derived from.
pub(super) struct Sizes {
    pub images: usize,
    /// Of the queries, which repeat.
    pub query_images: usize,
    pub queries: usize,
    pub keys: usize,
    pub heads: usize,
    pub head_size: usize,
    /// Queries, keys and values.
    pub operands: [Operand; 3],
    pub strides: Strides,
    pub causal: Argument,
    /// Factor of the logits, as exponents of two.
    pub scale: Argument,
}

pub(super) fn select(
    op: &Attention,
    inputs: &[Shape],
    output: Shape,
    target: &Target,
) -> Result<Kernel, String> {
    let roles = op.roles(inputs);
    let tokens = roles.and_then(|[q, k, _]| Some([q.tokens()?, k.tokens()?]));
    let (Some([images, queries, channels]), Some([[query_images, ..], [_, keys, _]])) =
        (output.tokens(), tokens)
    else {
        return Err(format!("attention takes tokens [N, T, C], not {output}"));
    };
    let all: Vec<Operand> = (0..inputs.len()).map(Operand::Input).collect();
    let operands = op
        .roles(&all)
        .ok_or("attention takes three operands or one")?;
    if !(op.scale > 0.0 && op.scale.is_finite()) {
        let scale = op.scale;
        return Err(format!(
            "attention's scale is {scale}, and the kernels take positive numbers alone"
        ));
    }
    if images > MOST_BLOCKS || op.heads > MOST_BLOCKS {
        return Err(format!(
            "attention of {} heads on {output} needs more blocks than a grid has",
            op.heads
        ));
    }
    let sizes = Sizes {
        images,
        query_images,
        queries,
        keys,
        heads: op.heads,
        head_size: channels / op.heads.max(1),
        operands,
        strides: op.strides(channels),
        causal: Argument::Int(op.causal.into()),
        scale: Argument::Float((f64::from(op.scale) * std::f64::consts::LOG2_E) as f32),
    };
    // Elements are counted in 32 bits: those of queries within an image, those of keys and values in all.
    kernel::int(queries * sizes.strides.token)?;
    kernel::int(images * keys * sizes.strides.token)?;
    let portable = || match FLASH.iter().find(|(head, _)| *head >= sizes.head_size) {
        Some(&tile) if sizes.on_tensor_cores(target) => sizes.flash(tile, target),
        _ => attention_large::select(&sizes, target),
    };
    let kernel = attention_sm90::select(&sizes, target)?.map_or_else(portable, Ok)?;
    let most = target.shared_bytes_per_block;
    match kernel.launches.iter().find(|l| l.shared_bytes > most) {
        Some(launch) => Err(format!(
            "{} needs {} bytes of shared memory, and a block of this device has {most}",
            launch.entry, launch.shared_bytes
        )),
        None => Ok(kernel),
    }
}

impl Sizes {
    /// Tensor cores take halves, in rows of whole 16 bytes.
    pub fn on_tensor_cores(&self, target: &Target) -> bool {
        target.precision == Precision::F16 && self.head_size.is_multiple_of(8)
    }

    /// The strides as arguments.
    pub fn strides(&self) -> Result<[Argument; 3], String> {
        let Strides { token, head, part } = self.strides;
        Ok([kernel::int(token)?, kernel::int(head)?, kernel::int(part)?])
    }

    fn flash(&self, (head, keys): (usize, usize), target: &Target) -> Result<Kernel, String> {
        let text = TEXT.contains(&head) && self.keys > keys.max(64) && self.keys <= TEXT_KEYS;
        let keys = if text { TEXT_KEYS } else { keys };
        // Few tall tiles would leave multiprocessors idle.
        let tall = match target.prefer {
            Some([128, preferred]) if preferred == keys => true,
            Some([64, preferred]) if preferred == keys => false,
            _ => self.queries.div_ceil(128) * self.heads >= target.multiprocessors as usize,
        };
        let queries = if TALL.contains(&head) && tall && !text {
            128
        } else {
            64
        };
        let pitch = head.next_multiple_of(16) + 8;
        let stage = 2 * keys * pitch;
        let second = if self.keys > keys { stage } else { 0 };
        let halves = stage + second.max(queries * pitch);
        let launch = Launch {
            entry: format!("attention_f16_{head}_{queries}x{keys}"),
            grid: [self.queries.div_ceil(queries), self.heads, self.images].map(|x| x as u32),
            shared_bytes: (halves * Precision::F16.bytes()) as u32,
            arguments: [
                &[Argument::Output][..],
                &self.operands.map(Argument::from),
                &[
                    kernel::int(self.query_images)?,
                    kernel::int(self.queries)?,
                    kernel::int(self.keys)?,
                    kernel::int(self.head_size)?,
                ],
                &self.strides()?,
                &[self.causal, self.scale],
            ]
            .concat(),
        };
        Ok(Kernel::single(launch, vec![]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::table::{self, Kind};
    use crate::ops::Qkv;

    const A100: Target = Target::a100(Precision::F16);

    /// A GeForce RTX 3090 and an A100.
    const TARGETS: [Target; 2] = [Target::rtx_3090(Precision::F16), A100];

    fn choose(
        [images, queries, keys, heads, head_size]: [usize; 5],
        causal: bool,
        target: &Target,
    ) -> Kernel {
        let op = Attention {
            heads,
            scale: 0.125,
            causal,
            operands: Qkv::Separate,
        };
        let q = Shape::new(&[images, queries, heads * head_size]);
        let k = Shape::new(&[images, keys, heads * head_size]);
        select(&op, &[q, k, k], q, target).unwrap()
    }

    fn entry(shape: [usize; 5]) -> String {
        let kernel = choose(shape, false, &A100);
        kernel.launches[0].entry.clone()
    }

    #[test]
    fn published_networks_take_the_tiles_meant_for_them() {
        for (shape, expected) in [
            // Stable Diffusion 1 at 512 x 512, with guidance.
            ([2, 4096, 4096, 8, 40], "attention_f16_40_128x64"),
            ([2, 4096, 77, 8, 40], "attention_f16_40_64x80"),
            ([2, 1024, 1024, 8, 80], "attention_f16_80_64x64"),
            ([2, 1024, 77, 8, 80], "attention_f16_80_64x80"),
            ([2, 256, 256, 8, 160], "attention_f16_160_64x32"),
            ([2, 64, 64, 8, 160], "attention_f16_160_64x32"),
            ([2, 64, 77, 8, 160], "attention_f16_160_64x80"),
            // Its text encoder, and Stable Diffusion 2.
            ([1, 77, 77, 12, 64], "attention_f16_64_64x80"),
            ([2, 9216, 9216, 5, 64], "attention_f16_64_128x64"),
            // Unconditional and class-conditional models.
            ([1, 1024, 1024, 14, 32], "attention_f16_32_128x64"),
            ([1, 1024, 1024, 1, 384], "attention_scores_f16"),
            ([1, 256, 256, 1, 576], "attention_scores_f16"),
            ([1, 64, 64, 1, 960], "attention_scores_f16"),
            // Their autoencoders.
            ([1, 4096, 4096, 1, 512], "attention_scores_f16"),
        ] {
            assert_eq!(entry(shape), expected, "{shape:?}");
        }
        let floats = Target {
            precision: Precision::F32,
            ..TARGETS[0]
        };
        let kernel = choose([1, 4096, 4096, 1, 512], false, &floats);
        assert_eq!(kernel.launches[0].entry, "attention_scores_f32_any");
    }

    /// Head sizes, with queries and keys, that meet every entry.
    fn shapes() -> impl Iterator<Item = [usize; 4]> {
        let tokens = [
            [1, 1],
            [5, 77],
            [64, 80],
            [65, 81],
            [300, 1000],
            [4096, 4096],
        ];
        let sizes = (1..=40).map(|d| d * 8).chain([5, 33, 161]);
        sizes.flat_map(move |size| {
            tokens.map(|[queries, keys]| [queries, keys, 1 + queries % 5 * 4, size])
        })
    }

    #[test]
    fn a_batch_runs_what_each_image_runs_alone() {
        for [queries, keys, heads, size] in shapes().filter(|shape| shape[3] <= 160) {
            for target in &TARGETS {
                let alone = choose([1, queries, keys, heads, size], false, target);
                let batch = choose([7, queries, keys, heads, size], false, target);
                assert_eq!(alone.launches[0].entry, batch.launches[0].entry);
                let [x, y, _] = alone.launches[0].grid;
                assert!(batch.launches[0].grid[..2] == [x, y]);
            }
        }
    }

    #[test]
    fn launches_fit_their_entries_and_the_smallest_shared_memory() {
        for [queries, keys, heads, size] in shapes() {
            for target in &TARGETS {
                for launch in choose([2, queries, keys, heads, size], false, target).launches {
                    let entry = table::entry(&launch.entry).expect(&launch.entry);
                    let pairs = launch.arguments.iter().zip(entry.parameters);
                    for (argument, parameter) in pairs {
                        let fits = match argument {
                            Argument::Int(_) => parameter.kind == Kind::Int,
                            Argument::Float(_) => parameter.kind == Kind::Float,
                            _ => matches!(parameter.kind, Kind::Pointer { .. }),
                        };
                        assert!(fits, "{} of {}", parameter.name, entry.name);
                    }
                    assert_eq!(launch.arguments.len(), entry.parameters.len());
                    assert!(launch.shared_bytes <= 99 << 10, "{launch}");
                }
            }
        }
    }

    #[test]
    fn tiles_cover_all_queries() {
        for [queries, keys, heads, size] in shapes() {
            let kernel = choose([3, queries, keys, heads, size], false, &TARGETS[0]);
            let launch = &kernel.launches[0];
            let Some((_, tile)) = launch.entry.rsplit_once('_') else {
                continue;
            };
            let Some((tile, _)) = tile.split_once('x') else {
                continue;
            };
            let tile: usize = tile.parse().unwrap();
            let blocks = launch.grid[0] as usize;
            assert!(blocks * tile >= queries && (blocks - 1) * tile < queries);
            assert_eq!(launch.grid[1..], [heads as u32, 3]);
        }
    }

    #[test]
    fn what_no_kernel_takes_is_refused_in_a_sentence() {
        let shape = Shape::new(&[1, 4, 8]);
        let refusal = |scale, shape: Shape| {
            let op = Attention {
                heads: 1,
                scale,
                causal: false,
                operands: Qkv::Separate,
            };
            select(&op, &[shape; 3], shape, &TARGETS[0]).unwrap_err()
        };
        assert!(refusal(-1.0, shape).contains("scale is -1"));
        assert!(refusal(f32::NAN, shape).contains("scale is NaN"));
        let large = Shape::new(&[1, 1 << 20, 1 << 12]);
        assert!(refusal(1.0, large).contains("more than a kernel counts to"));
        let small = Target {
            shared_bytes_per_block: 8 << 10,
            ..TARGETS[0]
        };
        let op = Attention {
            heads: 1,
            scale: 1.0,
            causal: false,
            operands: Qkv::Separate,
        };
        let refused = select(&op, &[shape; 3], shape, &small).unwrap_err();
        assert!(refused.contains("bytes of shared memory"), "{refused}");
    }
}
