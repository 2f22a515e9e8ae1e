//! Attention: whole rows of weights for a few queries at a time.
//!
//! Keys and values of every head are first brought into panels, so that both products run through the kernel of all matrix products.
//! Then each task takes one head and a block of queries small enough for its rows of logits, over all keys, to stay in the second-level
//! cache: softmax needs no running maximum, no rescaling, and memory does not grow with the square of the tokens.

use super::math;
use super::simd::{self, Ahead, BLOCK, HALF, Lane, Loop, Row, Stored, Stripe, WIDTH};
use crate::ops::{Attention, Operator, Slice, Strides};
use crate::plan::depth::Depth;
use crate::tensor::Shape;
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

/// Queries in a block: a multiple of the tile's height, and so few that logits over many keys fit 1 MiB.
const TILE_ROWS: usize = 14;
const MOST_QUERIES: usize = 8 * TILE_ROWS;
const MOST_LOGIT_ROWS: usize = 780;

/// The sizes of one operation.
#[derive(Clone, Copy)]
struct Sizes {
    images: usize,
    /// Of the queries, which repeat.
    query_images: usize,
    queries: usize,
    keys: usize,
    channels: usize,
    heads: usize,
    /// Channels of a head.
    head: usize,
    strides: Strides,
}

impl Sizes {
    fn new(op: &Attention, inputs: &[Shape]) -> Option<Self> {
        let [images, queries, channels] = op.infer(inputs).ok()?.tokens()?;
        let [q, k, _] = op.roles(inputs)?;
        Some(Self {
            images,
            query_images: q.batch(),
            queries,
            keys: k.tokens()?[1],
            channels,
            heads: op.heads,
            head: channels / op.heads,
            strides: op.strides(channels),
        })
    }

    /// Lanes of one head's packed keys: panels of 32 keys, a lane per channel.
    fn key_lanes(&self) -> usize {
        self.keys.div_ceil(WIDTH) * self.head
    }

    /// Lanes of one head's packed values: panels of 32 channels, a lane per key.
    fn value_lanes(&self) -> usize {
        self.head.div_ceil(WIDTH) * self.keys
    }

    /// Where token `token` of `tokens` in image `image` keeps the channels of `head`, of its queries (part 0), keys or values.
    fn start(&self, part: usize, [image, tokens, token]: [usize; 3], head: usize) -> usize {
        let Strides {
            token: pitch,
            head: step,
            part: third,
        } = self.strides;
        (image * tokens + token) * pitch + head * step + part * third
    }

    fn key_blocks(&self) -> usize {
        self.keys.div_ceil(BLOCK)
    }

    /// Queries in a block.
    fn block_queries(&self) -> usize {
        let most = MOST_LOGIT_ROWS / self.key_blocks() / TILE_ROWS * TILE_ROWS;
        most.clamp(TILE_ROWS, MOST_QUERIES)
    }
}

/// Elements of scratch memory: every head's keys and values, packed.
pub(super) fn workspace(op: &Attention, inputs: &[Shape]) -> usize {
    Sizes::new(op, inputs).map_or(0, |sizes| {
        sizes.images * sizes.heads * (sizes.key_lanes() + sizes.value_lanes()) * WIDTH
    })
}

/// Buffers of one thread, kept from task to task.
#[derive(Default)]
struct Scratch {
    queries: Vec<Row>,
    logits: Vec<Row>,
    sums: Vec<Lane>,
    totals: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// A block of queries of one head of one image.
struct Task<'a> {
    image: usize,
    head: usize,
    first_query: usize,
    /// The head's channels of every query's result.
    output: Vec<&'a mut [f32]>,
}

/// Runs the operation.
pub(super) fn run(op: &Attention, inputs: &[Slice], workspace: &mut [f32], output: &mut [f32]) {
    let shapes: Vec<Shape> = inputs.iter().map(|x| x.shape).collect();
    let (Some([q, k, v]), Some(sizes)) = (op.roles(inputs), Sizes::new(op, &shapes)) else {
        return;
    };
    let (Some(depth), Ok(packed)) = (
        Depth::new(sizes.head, 1, BLOCK),
        bytemuck::try_cast_slice_mut::<f32, Lane>(workspace),
    ) else {
        return;
    };
    let per_head = sizes.key_lanes() + sizes.value_lanes();
    packed
        .par_chunks_mut(per_head)
        .enumerate()
        .for_each(|(i, packed)| {
            let (image, head) = (i / sizes.heads, i % sizes.heads);
            let (keys, values) = packed.split_at_mut(sizes.key_lanes());
            pack_keys(sizes, k.data, image, head, keys);
            pack_values(sizes, v.data, image, head, values);
        });
    let packed = &*packed;
    tasks(sizes, output)
        .into_par_iter()
        .with_max_len(1)
        .for_each(|mut task| {
            let packed = &packed[(task.image * sizes.heads + task.head) * per_head..][..per_head];
            SCRATCH.with_borrow_mut(|scratch| {
                attend(op, sizes, &depth, q.data, packed, &mut task, scratch);
            });
        });
}

fn pack_keys(sizes: Sizes, k: &[f32], image: usize, head: usize, packed: &mut [Lane]) {
    let order: Vec<usize> = (0..sizes.head).collect();
    packed
        .par_chunks_mut(sizes.head)
        .enumerate()
        .for_each(|(panel, packed)| {
            for half in 0..2 {
                let first = (panel * WIDTH + half * HALF).min(sizes.keys);
                let stripe = Stripe {
                    matrix: Stored::from(k),
                    pitch: sizes.strides.token,
                    start: sizes.start(1, [image, sizes.keys, first], head),
                    rows: (sizes.keys - first).min(HALF),
                    columns: sizes.head,
                };
                simd::pack(stripe, &order, packed, half, false);
            }
        });
}

fn pack_values(sizes: Sizes, v: &[f32], image: usize, head: usize, packed: &mut [Lane]) {
    packed
        .par_chunks_mut(sizes.keys)
        .enumerate()
        .for_each(|(panel, packed)| {
            let first = panel * WIDTH;
            let columns = (sizes.head - first).min(WIDTH);
            for (key, lane) in packed.iter_mut().enumerate() {
                let start = sizes.start(2, [image, sizes.keys, key], head) + first;
                lane[..columns].copy_from_slice(&v[start..start + columns]);
                lane[columns..].fill(0.0);
            }
        });
}

fn tasks(sizes: Sizes, output: &mut [f32]) -> Vec<Task<'_>> {
    let mut tasks = Vec::new();
    let block = sizes.block_queries();
    let images = output.chunks_mut(sizes.queries * sizes.channels);
    for (image, output) in images.enumerate() {
        for (i, output) in output.chunks_mut(block * sizes.channels).enumerate() {
            let first = tasks.len();
            tasks.extend((0..sizes.heads).map(|head| Task {
                image,
                head,
                first_query: i * block,
                output: Vec::with_capacity(block),
            }));
            for row in output.chunks_mut(sizes.channels) {
                for (task, piece) in tasks[first..].iter_mut().zip(row.chunks_mut(sizes.head)) {
                    task.output.push(piece);
                }
            }
        }
    }
    tasks
}

fn attend(
    op: &Attention,
    sizes: Sizes,
    depth: &Depth,
    q: &[f32],
    packed: &[Lane],
    task: &mut Task,
    scratch: &mut Scratch,
) {
    let height = task.output.len();
    let (keys, values) = packed.split_at(sizes.key_lanes());
    let Scratch {
        queries,
        logits,
        sums,
        totals,
    } = scratch;
    queries.resize(depth.blocks().len() * height, [0.0; BLOCK + 16]);
    logits.resize(sizes.key_blocks() * height, [0.0; BLOCK + 16]);
    sums.resize(height, [0.0; WIDTH]);
    totals.resize(height, 0.0);
    for (channels, queries) in depth.blocks().zip(queries.chunks_mut(height)) {
        for (i, row) in queries.iter_mut().enumerate() {
            let image = task.image % sizes.query_images;
            let token = [image, sizes.queries, task.first_query + i];
            let start = sizes.start(0, token, task.head);
            let q = &q[start..start + sizes.head][channels.clone()];
            row.iter_mut().zip(q).for_each(|(y, q)| *y = q * op.scale);
        }
    }
    for (index, panel) in keys.chunks(sizes.head).enumerate() {
        let narrow = sizes.keys - index * WIDTH <= HALF;
        for (i, (channels, queries)) in depth.blocks().zip(queries.chunks(height)).enumerate() {
            simd::product(
                queries,
                &panel[channels],
                narrow,
                sums,
                i > 0,
                &Ahead::default(),
            );
        }
        let column = index * WIDTH % BLOCK;
        let rows = &mut logits[index * WIDTH / BLOCK * height..][..height];
        for (row, sums) in rows.iter_mut().zip(&*sums) {
            row[column..column + WIDTH].copy_from_slice(sums);
        }
    }
    simd::vectorised(Softmax {
        logits,
        keys: sizes.keys,
        first_causal: op.causal.then_some(task.first_query),
        totals,
    });
    for (index, panel) in values.chunks(sizes.keys).enumerate() {
        let columns = index * WIDTH..((index + 1) * WIDTH).min(sizes.head);
        for (i, (values, logits)) in panel.chunks(BLOCK).zip(logits.chunks(height)).enumerate() {
            simd::product(
                logits,
                values,
                columns.len() <= HALF,
                sums,
                i > 0,
                &Ahead::default(),
            );
        }
        for ((output, sums), total) in task.output.iter_mut().zip(&*sums).zip(&*totals) {
            let output = &mut output[columns.clone()];
            output
                .iter_mut()
                .zip(sums)
                .for_each(|(y, s)| *y = s / total);
        }
    }
}

/// Replaces logits by the exponentials of their distances to each row's largest, and sums them.
struct Softmax<'a> {
    /// The rows of every block of keys, block after block.
    logits: &'a mut [Row],
    keys: usize,
    /// Position of the first row, where a position sees no later ones.
    first_causal: Option<usize>,
    totals: &'a mut [f32],
}

impl Loop for Softmax<'_> {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let height = self.totals.len();
        for (i, total) in self.totals.iter_mut().enumerate() {
            let seen = self.first_causal.map_or(self.keys, |first| first + i + 1);
            let mut largest = [f32::NEG_INFINITY; HALF];
            for (block, rows) in self.logits.chunks_mut(height).enumerate() {
                let (used, seen) = (part(self.keys, block), part(seen, block));
                let row = &mut rows[i][..used.end.next_multiple_of(HALF)];
                row[seen.end..].fill(f32::NEG_INFINITY);
                for chunk in row.as_chunks::<HALF>().0 {
                    for (largest, x) in largest.iter_mut().zip(chunk) {
                        *largest = if *x > *largest { *x } else { *largest };
                    }
                }
            }
            let largest = largest.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut sums = [0.0f32; HALF];
            for (block, rows) in self.logits.chunks_mut(height).enumerate() {
                let (used, seen) = (part(self.keys, block), part(seen, block));
                let row = &mut rows[i][..used.end.next_multiple_of(HALF)];
                for chunk in row.as_chunks_mut::<HALF>().0 {
                    for (sum, x) in sums.iter_mut().zip(chunk) {
                        *x = math::exp::<FUSED>(*x - largest);
                        *sum += *x;
                    }
                }
                row[seen.end..].fill(0.0);
            }
            *total = sums.iter().sum();
        }
    }
}

/// The keys of block `block` among the first `keys`.
#[inline(always)]
fn part(keys: usize, block: usize) -> Range<usize> {
    0..keys.saturating_sub(block * BLOCK).min(BLOCK)
}
