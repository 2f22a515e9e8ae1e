//! Normalisation over groups of channels, in two passes over blocks of whole rows.
//!
//! The first sums each channel of each block in f64, where sums of squares lose nothing, and leaves of each group its mean and squared
//! deviations, an image's statistics; these are joined in order, and the second pass applies them. Blocks follow from the image's size, and
//! a band of an image has blocks of the whole, so an image that is computed in bands gets the same bits. Sources joined along the channels
//! are read where they lie, one after the other. A scale and a shift fused behind become part of what is done to each channel.

use super::math;
use super::simd::{self, Loop};
use crate::ops::{Activation, GroupNorm, GroupNormalise, GroupStatistics, Slice, block_rows};
use crate::tensor::Shape;
use crate::weights::TensorView;
use rayon::prelude::*;
use std::ops::Range;

/// Pixels of a block at least, where an image has as many.
const PIXELS: usize = 64;

/// Of a group in a block: its mean, and its squared deviations from it.
type Moments = [f32; 2];

/// What the second pass does to a channel: `((x - mean) - rest) * scale + bias`. The mean is split in two so that subtracting it is exact.
#[derive(Clone, Default)]
struct Channels {
    mean: Vec<f32>,
    rest: Vec<f32>,
    scale: Vec<f32>,
    bias: Vec<f32>,
}

impl Channels {
    /// Scales and shifts what comes out, by one of each for every channel.
    fn scale_shift(&mut self, v: &[f32]) {
        let (scales, shifts) = v.split_at(self.scale.len());
        let channels = self.scale.iter_mut().zip(&mut self.bias);
        for ((scale, bias), (by, shift)) in channels.zip(scales.iter().zip(shifts)) {
            *scale *= 1.0 + by;
            *bias = *bias * (1.0 + by) + shift;
        }
    }
}

/// Rows of the blocks in which an image or tokens `x` are summed.
pub(super) fn rows_of_block(x: Shape) -> usize {
    let [height, width] = sides(x);
    block_rows(height, PIXELS.div_ceil(width.max(1)))
}

/// Rows and columns of an image; tokens are one column.
fn sides(x: Shape) -> [usize; 2] {
    let pixels = x.rows() / x.batch().max(1);
    x.image().map_or([pixels, 1], |[_, h, w, _]| [h, w])
}

/// Runs the operation.
pub(super) fn run(op: &GroupNorm, inputs: &[Slice], weights: &[TensorView], output: &mut [f32]) {
    let x = inputs[0].shape;
    let channels = op.weight.shape.channels();
    if output.is_empty() {
        return;
    }
    let pixels = rows_of_block(x) * sides(x)[1];
    let factors = Factors::new(op.eps, weights);
    let images = output.par_chunks_mut(output.len() / x.batch()).enumerate();
    images.for_each(|(index, y)| {
        let image = Image::new(&inputs[..op.sources], index, pixels);
        let moments = image.moments(channels, op.groups);
        let count = pixels * (channels / op.groups);
        let mut per_channel = factors.channels(&moments, op.groups, count);
        if let Some(channels) = op.scale_shift {
            per_channel.scale_shift(channels.of_image(index, &inputs[op.sources..]));
        }
        image.normalise(&per_channel, op.silu, y);
    });
}

/// Runs the first half for the blocks that there are.
pub(super) fn statistics(op: &GroupStatistics, inputs: &[Slice], output: &mut [f32]) {
    let x = inputs[0].shape;
    let pixels = op.blocks.rows * sides(x)[1];
    let images = output.par_chunks_mut(output.len() / x.batch()).enumerate();
    images.for_each(|(image, y)| {
        let moments = Image::new(inputs, image, pixels).moments(x.channels(), op.groups);
        let blocks = y.len() / 2 / op.groups;
        for (at, y) in y.chunks_mut(2).enumerate() {
            y.copy_from_slice(&moments[at % blocks][at / blocks]);
        }
    });
}

/// Runs the second half with the statistics of all blocks of the whole image.
pub(super) fn normalise(
    op: &GroupNormalise,
    inputs: &[Slice],
    weights: &[TensorView],
    output: &mut [f32],
) {
    let x = inputs[0].shape;
    let pixels = op.blocks.rows * sides(x)[1];
    let count = pixels * (x.channels() / op.groups);
    let factors = Factors::new(op.eps, weights);
    let given = inputs[1].data.chunks(inputs[1].data.len() / x.batch());
    let images = output.par_chunks_mut(output.len() / x.batch());
    let images = images.zip(given.collect::<Vec<_>>()).enumerate();
    images.for_each(|(image, (y, given))| {
        let blocks = given.len() / 2 / op.groups;
        let moments: Vec<Vec<Moments>> = (0..blocks)
            .map(|block| {
                let groups = (0..op.groups).map(|group| 2 * (group * blocks + block));
                groups.map(|at| [given[at], given[at + 1]]).collect()
            })
            .collect();
        let channels = factors.channels(&moments, op.groups, count);
        Image::new(&inputs[..1], image, pixels).normalise(&channels, op.silu, y);
    });
}

/// One image, cut into blocks.
struct Image<'a> {
    /// Each source's elements and channels.
    sources: Vec<(&'a [f32], usize)>,
    /// Pixels of a block.
    pixels: usize,
    /// Number of blocks.
    blocks: usize,
}

impl<'a> Image<'a> {
    fn new(inputs: &[Slice<'a>], index: usize, pixels: usize) -> Self {
        let all = |x: &Slice| x.shape.rows() / x.shape.batch();
        let source = |x: &Slice<'a>| {
            let channels = x.shape.channels();
            let item = all(x) * channels;
            (&x.data[index % x.shape.batch() * item..][..item], channels)
        };
        Self {
            sources: inputs.iter().map(source).collect(),
            pixels,
            blocks: inputs.first().map_or(0, all) / pixels,
        }
    }

    /// The sources' pixels of a block.
    fn block(&self, index: usize) -> impl Iterator<Item = (&'a [f32], usize)> {
        let pixels = self.pixels;
        self.sources.iter().map(move |&(x, channels)| {
            let block = pixels * channels;
            (&x[index * block..][..block], channels)
        })
    }

    /// Of every block, the moments of each group.
    fn moments(&self, channels: usize, groups: usize) -> Vec<Vec<Moments>> {
        let per_group = channels / groups;
        let count = (self.pixels * per_group) as f64;
        let of_block = |index| {
            let all = sum(self.block(index), channels);
            let (sums, squares) = all.split_at(channels);
            let group = |group: usize| {
                let own = group * per_group..(group + 1) * per_group;
                let [sum, square] = [sums, squares].map(|of| of[own.clone()].iter().sum::<f64>());
                // Rounding may leave less than nothing; NaN stays.
                let around = square - sum * (sum / count);
                let around = if around < 0.0 { 0.0 } else { around };
                [(sum / count) as f32, around as f32]
            };
            (0..groups).map(group).collect()
        };
        (0..self.blocks).into_par_iter().map(of_block).collect()
    }

    fn normalise(&self, channels: &Channels, silu: bool, y: &mut [f32]) {
        let all = channels.mean.len();
        let blocks = y.par_chunks_mut(self.pixels * all).enumerate();
        blocks.for_each(|(index, y)| {
            let mut first = 0;
            for (x, width) in self.block(index) {
                simd::vectorised(Apply {
                    x,
                    y: &mut *y,
                    own: first..first + width,
                    channels,
                    silu,
                });
                first += width;
            }
        });
    }
}

/// The sums of each channel, then the sums of their squares.
fn sum<'a>(sources: impl Iterator<Item = (&'a [f32], usize)>, channels: usize) -> Vec<f64> {
    let mut all = vec![0.0; 2 * channels];
    let (mut sums, mut squares) = all.split_at_mut(channels);
    for (x, channels) in sources {
        let (own_sums, own_squares);
        (own_sums, sums) = sums.split_at_mut(channels);
        (own_squares, squares) = squares.split_at_mut(channels);
        simd::vectorised(Sum {
            x,
            sums: own_sums,
            squares: own_squares,
        });
    }
    all
}

/// What a normalisation has learnt.
struct Factors {
    eps: f64,
    gain: Vec<f32>,
    bias: Vec<f32>,
}

impl Factors {
    fn new(eps: f32, weights: &[TensorView]) -> Self {
        let [gain, bias] = [0, 1].map(|index| weights[index].to_f32());
        let eps = f64::from(eps);
        Self { eps, gain, bias }
    }

    /// Mean and deviation of every group, from the moments of its blocks of `count` elements each, as what to do to each channel.
    fn channels(&self, moments: &[Vec<Moments>], groups: usize, count: usize) -> Channels {
        let mut result = Channels {
            bias: self.bias.clone(),
            ..Channels::default()
        };
        let (count, blocks) = (count as f64, moments.len() as f64);
        for (group, gain) in self.gain.chunks(self.gain.len() / groups).enumerate() {
            let of_blocks = || moments.iter().map(|block| block[group].map(f64::from));
            let mean = of_blocks().map(|[mean, _]| mean).sum::<f64>() / blocks;
            let around = |[own, squares]: [f64; 2]| squares + count * (own - mean).powi(2);
            let variance = of_blocks().map(around).sum::<f64>() / (blocks * count);
            let scale = 1.0 / (variance + self.eps).sqrt();
            let high = mean as f32;
            for gain in gain {
                result.mean.push(high);
                result.rest.push((mean - f64::from(high)) as f32);
                result.scale.push((scale * f64::from(*gain)) as f32);
            }
        }
        result
    }
}

struct Sum<'a> {
    x: &'a [f32],
    sums: &'a mut [f64],
    squares: &'a mut [f64],
}

impl Loop for Sum<'_> {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let (sums, squares) = (self.sums, self.squares);
        for pixel in self.x.chunks_exact(sums.len()) {
            for ((sum, square), x) in sums.iter_mut().zip(&mut *squares).zip(pixel) {
                let x = f64::from(*x);
                *sum += x;
                *square += x * x;
            }
        }
    }
}

struct Apply<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
    /// The source's channels among all.
    own: Range<usize>,
    channels: &'a Channels,
    silu: bool,
}

impl Loop for Apply<'_> {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let Channels {
            mean,
            rest,
            scale,
            bias,
        } = self.channels;
        let (first, width, all) = (self.own.start, self.own.len(), mean.len());
        let [mean, rest, scale, bias] = [mean, rest, scale, bias].map(|of| &of[first..][..width]);
        for (x, y) in self.x.chunks_exact(width).zip(self.y.chunks_exact_mut(all)) {
            let y = &mut y[first..][..width];
            for c in 0..width {
                y[c] = ((x[c] - mean[c]) - rest[c]) * scale[c] + bias[c];
            }
            if self.silu {
                math::activate::<FUSED>(Activation::Silu, y);
            }
        }
    }
}
