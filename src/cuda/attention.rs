//! Attention: flash for heads whose result a warp can hold, three launches over planned scratch memory for those it cannot.
//!
//! Whatever decides the order of a sum (tiles along the keys, steps of a product) is derived from the head size and the number of keys alone, and
//! everything else from one image's shape, so that an image's bits do not depend on its batch.

use super::kernel::{self, Argument, Kernel, Launch, Precision, Target};
use crate::ops::Attention;
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

/// Scratch memory of a large head's scores, at most, unless a single row needs more: all queries of an autoencoder at 512 x 512 pixels at once.
const MOST_SCRATCH_BYTES: usize = 100 << 20;

/// Rows of scores are padded to as many floats.
const PITCH_KEYS: usize = 64;

/// Blocks along y and z of a grid.
const MOST_BLOCKS: usize = 65535;

/// What the launches are derived from.
struct Sizes {
    images: usize,
    queries: usize,
    keys: usize,
    heads: usize,
    head_size: usize,
    causal: Argument,
    /// Factor of the logits as powers of two.
    scale: Argument,
}

pub(super) fn select(
    op: &Attention,
    inputs: &[Shape],
    output: Shape,
    target: &Target,
) -> Result<Kernel, String> {
    let (Some([images, queries, channels]), Some([_, keys, _])) =
        (output.tokens(), inputs.get(1).and_then(Shape::tokens))
    else {
        return Err(format!("attention takes tokens [N, T, C], not {output}"));
    };
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
        queries,
        keys,
        heads: op.heads,
        head_size: channels / op.heads.max(1),
        causal: Argument::Int(op.causal.into()),
        scale: Argument::Float((f64::from(op.scale) * std::f64::consts::LOG2_E) as f32),
    };
    // Within an image, elements are counted in 32 bits.
    kernel::int(queries.max(keys) * channels)?;
    let kernel = match FLASH.iter().find(|(head, _)| *head >= sizes.head_size) {
        Some(&tile) if sizes.on_tensor_cores(target) => sizes.flash(tile, target)?,
        _ => sizes.in_parts(target)?,
    };
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
    fn on_tensor_cores(&self, target: &Target) -> bool {
        target.precision == Precision::F16 && self.head_size.is_multiple_of(8)
    }

    fn flash(&self, (head, keys): (usize, usize), target: &Target) -> Result<Kernel, String> {
        let text = TEXT.contains(&head) && (PITCH_KEYS + 1..=TEXT_KEYS).contains(&self.keys);
        let keys = if text { TEXT_KEYS } else { keys };
        // Few tall tiles would leave multiprocessors idle.
        let tall = self.queries.div_ceil(128) * self.heads >= target.multiprocessors as usize;
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
            arguments: vec![
                Argument::Output,
                Argument::Input(0),
                Argument::Input(1),
                Argument::Input(2),
                kernel::int(self.queries)?,
                kernel::int(self.keys)?,
                kernel::int(self.head_size)?,
                self.causal,
                self.scale,
            ],
        };
        Ok(Kernel::single(launch, vec![]))
    }

    /// Scores, softmax and mixture, for as many pairs of image and head, or rows of one, as scratch memory holds.
    fn in_parts(&self, target: &Target) -> Result<Kernel, String> {
        let parts = Parts::new(self, target);
        let [pairs, queries] = [self.images * self.heads, self.queries];
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
            layouts: vec![],
        })
    }
}

/// How scores are cut to fit scratch memory, and which entries work on them.
struct Parts<'a> {
    sizes: &'a Sizes,
    /// Entries of the scores, the softmax and the mixture.
    entries: [&'static str; 3],
    /// Rows and columns of their tiles.
    tiles: [[usize; 2]; 2],
    /// Bytes of dynamic shared memory of the two products.
    shared_bytes: [u32; 2],
    /// Bytes of a probability.
    probability_bytes: usize,
    /// Floats from one row of scores to the next.
    pitch: usize,
    /// Pairs of image and head in one part, and queries of each.
    pairs: usize,
    rows: usize,
}

impl<'a> Parts<'a> {
    fn new(sizes: &'a Sizes, target: &Target) -> Self {
        let tensor = sizes.on_tensor_cores(target);
        // Three stages of 32 along the depth, padded rows of halves: 128 rows on the left, 128 on the right or 64 columns.
        let shared = |right: usize| (3 * 2 * (128 * 40 + right)) as u32;
        let (entries, tiles, shared_bytes, probability_bytes) = match (tensor, target.precision) {
            (true, _) => (
                [
                    "attention_scores_f16",
                    "attention_softmax_f16",
                    "attention_mix_f16",
                ],
                [[128, 128], [128, 64]],
                [shared(128 * 40), shared(32 * 72)],
                2,
            ),
            (false, Precision::F16) => (
                [
                    "attention_scores_f16_any",
                    "attention_softmax_f32",
                    "attention_mix_f16_any",
                ],
                [[64, 64]; 2],
                [0; 2],
                4,
            ),
            (false, Precision::F32) => (
                [
                    "attention_scores_f32_any",
                    "attention_softmax_f32",
                    "attention_mix_f32_any",
                ],
                [[64, 64]; 2],
                [0; 2],
                4,
            ),
        };
        let pitch = sizes.keys.next_multiple_of(PITCH_KEYS);
        // A score, a probability; and a factor for the row.
        let rows = MOST_SCRATCH_BYTES / (pitch * (4 + probability_bytes) + 4);
        let whole = rows / sizes.queries.max(1);
        let rows = match rows {
            rows if rows >= sizes.queries => sizes.queries,
            rows if rows >= 128 => rows / 128 * 128,
            rows => rows.max(1),
        };
        Self {
            sizes,
            entries,
            tiles,
            shared_bytes,
            probability_bytes,
            pitch,
            pairs: whole.clamp(1, (sizes.images * sizes.heads).clamp(1, MOST_BLOCKS)),
            rows,
        }
    }

    /// Where scores, probabilities and factors start in scratch memory, and where they end.
    fn offsets(&self) -> [usize; 4] {
        let rows = self.pairs * self.rows;
        let scores = (rows * self.pitch * 4).next_multiple_of(256);
        let probabilities = (rows * self.pitch * self.probability_bytes).next_multiple_of(256);
        let factors = scores + probabilities;
        [0, scores, factors, factors + rows * 4]
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
        let [tokens, keys, heads, head_size, pitch] = [
            sizes.queries,
            sizes.keys,
            sizes.heads,
            sizes.head_size,
            self.pitch,
        ]
        .map(|size| Argument::Int(size as i32));
        let all_rows = kernel::int(pairs * rows)?;
        let [first_pair, first_row, row_count] =
            [first_pair, first_row, rows].map(|size| kernel::int(size));
        let (first_pair, first_row, row_count) = (first_pair?, first_row?, row_count?);
        let grid = |[height, width]: [usize; 2], columns: usize| {
            [columns.div_ceil(width), rows.div_ceil(height), pairs].map(|x| x as u32)
        };
        let sizes_of = [
            tokens, keys, heads, head_size, pitch, first_pair, first_row, row_count,
        ];
        let scoring = Launch {
            entry: self.entries[0].to_owned(),
            grid: grid(self.tiles[0], sizes.keys),
            shared_bytes: self.shared_bytes[0],
            arguments: [
                &[scores, Argument::Input(0), Argument::Input(1)][..],
                &sizes_of,
                &[sizes.causal],
            ]
            .concat(),
        };
        let softmax = Launch {
            entry: self.entries[1].to_owned(),
            grid: [(pairs * rows).div_ceil(8) as u32, 1, 1],
            shared_bytes: 0,
            arguments: vec![
                probabilities,
                factors,
                scores,
                all_rows,
                keys,
                pitch,
                first_row,
                row_count,
                sizes.causal,
                sizes.scale,
            ],
        };
        let mixture = Launch {
            entry: self.entries[2].to_owned(),
            grid: grid(self.tiles[1], sizes.head_size),
            shared_bytes: self.shared_bytes[1],
            arguments: [
                &[Argument::Output, probabilities, factors, Argument::Input(2)][..],
                &sizes_of,
            ]
            .concat(),
        };
        Ok([scoring, softmax, mixture])
    }
}
