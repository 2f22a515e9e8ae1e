//! Normalisation over channels: a row at a time, its mean and variance in f64.

use super::simd::{self, Loop};
use crate::ops::{LayerNorm, Slice};
use crate::weights::TensorView;
use rayon::prelude::*;

/// Elements of a task, about.
const ELEMENTS: usize = 1 << 14;

/// Partial sums that run side by side.
const LANES: usize = 8;

/// Runs the operation.
pub(super) fn run(op: &LayerNorm, inputs: &[Slice], weights: &[TensorView], output: &mut [f32]) {
    let [x] = inputs else { return };
    let channels = x.shape.channels();
    let [gain, bias] = [0, 1].map(|i| weights[i].to_f32());
    let block = ELEMENTS.div_ceil(channels) * channels;
    let blocks = x.data.par_chunks(block).zip(output.par_chunks_mut(block));
    blocks.for_each(|(x, y)| {
        simd::vectorised(Normalise {
            x,
            y,
            gain: &gain,
            bias: &bias,
            eps: f64::from(op.eps),
        });
    });
}

struct Normalise<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
    gain: &'a [f32],
    bias: &'a [f32],
    eps: f64,
}

impl Loop for Normalise<'_> {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let width = self.gain.len();
        let count = width as f64;
        for (x, y) in self
            .x
            .chunks_exact(width)
            .zip(self.y.chunks_exact_mut(width))
        {
            let mean = sum(x, |x| x) / count;
            let variance = sum(x, |x| (x - mean) * (x - mean)) / count;
            let scale = 1.0 / (variance + self.eps).sqrt();
            for (((y, x), gain), bias) in y.iter_mut().zip(x).zip(self.gain).zip(self.bias) {
                *y = ((f64::from(*x) - mean) * scale * f64::from(*gain) + f64::from(*bias)) as f32;
            }
        }
    }
}

#[inline(always)]
fn sum(x: &[f32], of: impl Fn(f64) -> f64) -> f64 {
    let mut sums = [0.0; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += of(f64::from(*x));
        }
    }
    sums.iter().sum::<f64>() + rest.iter().map(|x| of(f64::from(*x))).sum::<f64>()
}
