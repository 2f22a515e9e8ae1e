//! The conditions of a normalisation's two halves.

use super::{Elements, evaluate};
use latent_diffusion::ops::{GroupNormalise, GroupStatistics, Op};

/// The conditions of a mean, `mean |x|`, and of the squared deviations from it, `sum (|x| + mean |x|)^2`, and over how many elements.
pub(super) fn summed(x: &Elements, op: &GroupStatistics, len: usize) -> (Vec<f64>, f64) {
    let magnitude = evaluate(&Op::from(*op), &[x.map(f32::abs)], &[], len);
    let around_zero = |i: usize| magnitude[i] + 4.0 * count(x, op) * magnitude[i - 1].powi(2);
    fn count(x: &Elements, op: &GroupStatistics) -> f64 {
        let [_, _, w, c] = x.shape.image().expect("an image");
        (op.blocks.rows * w * (c / op.blocks.parts(op.groups, c))) as f64
    }
    let condition = |i: usize| {
        if i.is_multiple_of(2) {
            magnitude[i]
        } else {
            around_zero(i)
        }
    };
    ((0..len).map(condition).collect(), count(x, op))
}

/// The condition of a normalisation by given statistics: `(|x| + |mean|) |w| / deviation + |b|`.
pub(super) fn given(inputs: &[Elements], params: &[Elements], op: &GroupNormalise) -> Vec<f64> {
    let [_, h, w, c] = inputs[0].shape.image().expect("an image");
    let parts = op.blocks.parts(op.groups, c) / op.groups;
    let blocks = parts * inputs[1].shape.dims()[2];
    let count = (op.blocks.rows * w * (c / op.groups / parts)) as f64;
    let condition = |(i, x): (usize, &f32)| {
        let (image, channel) = (i / (h * w * c), i % c);
        let group = image * op.groups + channel / (c / op.groups);
        let of_group = &inputs[1].data[group * blocks * 2..][..blocks * 2];
        let means = || of_group.iter().step_by(2).map(|&mean| f64::from(mean));
        let inside: f64 = of_group
            .iter()
            .skip(1)
            .step_by(2)
            .map(|&s| f64::from(s))
            .sum();
        let mean = means().sum::<f64>() / blocks as f64;
        let between: f64 = means().map(|own| (own - mean).powi(2)).sum();
        let variance = (inside / count + between) / blocks as f64;
        let scale = 1.0 / (variance + f64::from(op.eps)).sqrt();
        let [w, b] = [0, 1].map(|p: usize| f64::from(params[p].data[channel].abs()));
        (f64::from(x.abs()) + mean.abs()) * scale * w + b
    };
    inputs[0].data.iter().enumerate().map(condition).collect()
}
