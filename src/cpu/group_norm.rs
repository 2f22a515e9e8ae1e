//! Normalisation over groups of channels, in two passes over blocks of pixels.
//!
//! The first sums each channel of each block in f64, where sums of squares lose nothing; the sums of a group's channels and of an image's
//! blocks are then added in order, and the second pass applies them. Blocks have a fixed number of pixels.

use super::math;
use super::simd::{self, Loop};
use crate::ops::{Activation, GroupNorm, Slice};
use crate::weights::TensorView;
use rayon::prelude::*;

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

/// Runs the operation.
pub(super) fn run(op: &GroupNorm, inputs: &[Slice], weights: &[TensorView], output: &mut [f32]) {
    let [x] = inputs else { return };
    let channels = x.shape.channels();
    let item = x.shape.len() / x.shape.batch().max(1);
    if item == 0 {
        return;
    }
    let [gain, bias] = [0, 1].map(|i| weights[i].to_f32());
    let block = PIXELS * channels;
    let images = x.data.par_chunks(item).zip(output.par_chunks_mut(item));
    images.for_each(|(x, y)| {
        let sums: Vec<Vec<f64>> = x.par_chunks(block).map(|x| sum(x, channels)).collect();
        let per_channel = normalise(op, &sums, item, &gain, &bias);
        let blocks = x.par_chunks(block).zip(y.par_chunks_mut(block));
        blocks.for_each(|(x, y)| {
            simd::vectorised(Apply {
                x,
                y,
                channels: &per_channel,
                silu: op.silu,
            });
        });
    });
}

/// The sums of each channel, then the sums of their squares.
fn sum(x: &[f32], channels: usize) -> Vec<f64> {
    let mut sums = vec![0.0; 2 * channels];
    simd::vectorised(Sum { x, sums: &mut sums });
    sums
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
}

impl Loop for Sum<'_> {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let (sums, squares) = self.sums.split_at_mut(self.sums.len() / 2);
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
        let width = mean.len();
        let (rest, scale, bias) = (&rest[..width], &scale[..width], &bias[..width]);
        for (x, y) in self
            .x
            .chunks_exact(width)
            .zip(self.y.chunks_exact_mut(width))
        {
            for c in 0..width {
                y[c] = ((x[c] - mean[c]) - rest[c]) * scale[c] + bias[c];
            }
            if self.silu {
                math::activate::<FUSED>(Activation::Silu, y);
            }
        }
    }
}
