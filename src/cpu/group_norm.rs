//! Normalisation over groups of channels, in two passes over blocks of pixels.
//!
//! The first sums each channel of each block in f64, where sums of squares lose nothing; the sums of a group's channels and of an image's
//! blocks are then added in order, and the second pass applies them. Blocks have a fixed number of pixels. Sources joined along the channels
//! are read where they lie, one after the other. A scale and a shift fused behind become part of what is done to each channel.

use super::math;
use super::simd::{self, Loop};
use crate::ops::{Activation, GroupNorm, Slice};
use crate::weights::TensorView;
use rayon::prelude::*;
use std::ops::Range;

/// Pixels of a block.
const PIXELS: usize = 64;

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

/// Runs the operation.
pub(super) fn run(op: &GroupNorm, inputs: &[Slice], weights: &[TensorView], output: &mut [f32]) {
    let x = inputs[0].shape;
    let channels = op.weight.shape.channels();
    let pixels = x.rows() / x.batch().max(1);
    let item = pixels * channels;
    if item == 0 {
        return;
    }
    let [gain, bias] = [0, 1].map(|i| weights[i].to_f32());
    let images = output.par_chunks_mut(item).enumerate();
    images.for_each(|(image, y)| {
        let sources: Vec<(&[f32], usize)> = inputs[..op.sources]
            .iter()
            .map(|x| {
                let channels = x.shape.channels();
                let item = pixels * channels;
                (&x.data[image * item..][..item], channels)
            })
            .collect();
        // The sources' pixels of a block.
        let block = |index: usize| {
            let first = index * PIXELS;
            let pixels = first..(first + PIXELS).min(pixels);
            sources.iter().map(move |&(x, channels)| {
                (&x[pixels.start * channels..pixels.end * channels], channels)
            })
        };
        let blocks = 0..pixels.div_ceil(PIXELS);
        let sums: Vec<Vec<f64>> = blocks
            .into_par_iter()
            .map(|index| sum(block(index), channels))
            .collect();
        let mut per_channel = normalise(op, &sums, item, &gain, &bias);
        if let Some(channels) = op.scale_shift {
            per_channel.scale_shift(channels.of_image(image, &inputs[op.sources..]));
        }
        let blocks = y.par_chunks_mut(PIXELS * channels).enumerate();
        blocks.for_each(|(index, y)| {
            let mut first = 0;
            for (x, channels) in block(index) {
                simd::vectorised(Apply {
                    x,
                    y: &mut *y,
                    own: first..first + channels,
                    channels: &per_channel,
                    silu: op.silu,
                });
                first += channels;
            }
        });
    });
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

/// Mean and deviation of every group, as what to do to each channel.
fn normalise(
    op: &GroupNorm,
    sums: &[Vec<f64>],
    item: usize,
    gain: &[f32],
    bias: &[f32],
) -> Channels {
    let channels = gain.len();
    let per_group = channels / op.groups;
    let count = (item / op.groups) as f64;
    let mut result = Channels {
        bias: bias.to_vec(),
        ..Channels::default()
    };
    for (group, gain) in gain.chunks(per_group).enumerate() {
        let total = |first: usize| -> f64 {
            sums.iter()
                .map(|sums| {
                    sums[first + group * per_group..][..per_group]
                        .iter()
                        .sum::<f64>()
                })
                .sum()
        };
        let mean = total(0) / count;
        let variance = (total(channels) / count - mean * mean).max(0.0);
        let scale = 1.0 / (variance + f64::from(op.eps)).sqrt();
        let high = mean as f32;
        for gain in gain {
            result.mean.push(high);
            result.rest.push((mean - f64::from(high)) as f32);
            result.scale.push((scale * f64::from(*gain)) as f32);
        }
    }
    result
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
