//! Operations that move or change each element alone. They cost the reading and writing of memory, so each is cut into blocks that
//! all threads share.

use super::math;
use super::simd::{self, Loop};
use crate::ops::{
    Activate, Activation, AddChannels, Axis, Channels, Concat, Embedding, ScaleShift, Slice,
};
use crate::weights::TensorView;
use rayon::prelude::*;

/// Elements of a task, about.
const ELEMENTS: usize = 1 << 14;

/// `rows` of `width` elements each, about a task's worth.
fn block(width: usize) -> usize {
    ELEMENTS.div_ceil(width.max(1)) * width.max(1)
}

struct Activated<'a> {
    activation: Activation,
    y: &'a mut [f32],
}

impl Loop for Activated<'_> {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        math::activate::<FUSED>(self.activation, self.y);
    }
}

pub(super) fn activation(op: &Activate, inputs: &[Slice], output: &mut [f32]) {
    let x = inputs[0].data.par_chunks(ELEMENTS);
    x.zip(output.par_chunks_mut(ELEMENTS)).for_each(|(x, y)| {
        y.copy_from_slice(x);
        simd::vectorised(Activated {
            activation: op.activation,
            y,
        });
    });
}

pub(super) fn geglu(inputs: &[Slice], output: &mut [f32]) {
    let half = inputs[0].shape.channels() / 2;
    let (from, to) = (block(2 * half), block(2 * half) / 2);
    let x = inputs[0].data.par_chunks(from);
    x.zip(output.par_chunks_mut(to)).for_each(|(x, y)| {
        let rows = || x.chunks_exact(2 * half).map(|row| row.split_at(half));
        for (y, (_, gate)) in y.chunks_exact_mut(half).zip(rows()) {
            y.copy_from_slice(gate);
        }
        simd::vectorised(Activated {
            activation: Activation::Gelu,
            y,
        });
        for (y, (value, _)) in y.chunks_exact_mut(half).zip(rows()) {
            y.iter_mut().zip(value).for_each(|(y, v)| *y *= v);
        }
    });
}

pub(super) fn add(inputs: &[Slice], output: &mut [f32]) {
    let a = inputs[0].data.par_chunks(ELEMENTS);
    let b = inputs[1].data.par_chunks(ELEMENTS);
    let y = output.par_chunks_mut(ELEMENTS);
    y.zip(a).zip(b).for_each(|((y, a), b)| {
        y.iter_mut()
            .zip(a)
            .zip(b)
            .for_each(|((y, a), b)| *y = a + b);
    });
}

pub(super) fn add_channels(op: &AddChannels, inputs: &[Slice], output: &mut [f32]) {
    each_row(op.channels, inputs, output, |y, x, values| {
        for ((y, x), value) in y.iter_mut().zip(x).zip(values) {
            *y = x + value;
        }
    });
}

pub(super) fn scale_shift(op: &ScaleShift, inputs: &[Slice], output: &mut [f32]) {
    each_row(op.channels, inputs, output, |y, x, values| {
        let (scales, shifts) = values.split_at(x.len());
        for (((y, x), scale), shift) in y.iter_mut().zip(x).zip(scales).zip(shifts) {
            *y = x * (1.0 + scale) + shift;
        }
    });
}

/// Every row of a result, with that of the first operand and its image's values for channels.
fn each_row(
    values: Channels,
    inputs: &[Slice],
    output: &mut [f32],
    change: impl Fn(&mut [f32], &[f32], &[f32]) + Sync,
) {
    let (x, channels) = (inputs[0], inputs[0].shape.channels());
    let rows_per_image = (x.shape.rows() / x.shape.batch().max(1)).max(1);
    let rows = output
        .par_chunks_mut(channels)
        .zip(x.data.par_chunks(channels));
    rows.enumerate()
        .with_min_len(ELEMENTS / channels)
        .for_each(|(row, (y, x))| {
            change(y, x, values.of_image(row / rows_per_image, &inputs[1..]));
        });
}

pub(super) fn concat(op: &Concat, inputs: &[Slice], output: &mut [f32]) {
    let (rows, width) = match op.axis {
        Axis::Channels => (
            inputs[0].shape.rows(),
            inputs.iter().map(|x| x.shape.channels()).sum(),
        ),
        Axis::Batch => (1, output.len()),
    };
    let y = output.par_chunks_mut(width).enumerate();
    y.with_min_len(ELEMENTS / width.max(1))
        .for_each(|(row, mut y)| {
            for x in inputs {
                let piece = x.data.len() / rows;
                let (head, tail) = y.split_at_mut(piece);
                head.copy_from_slice(&x.data[row * piece..][..piece]);
                y = tail;
            }
        });
}

pub(super) fn upsample(inputs: &[Slice], output: &mut [f32]) {
    let Some([_, _, w, c]) = inputs[0].shape.image() else {
        return;
    };
    let x = inputs[0].data.par_chunks(w * c);
    x.zip(output.par_chunks_mut(4 * w * c)).for_each(|(x, y)| {
        let (first, second) = y.split_at_mut(2 * w * c);
        for (x, y) in x.chunks_exact(c).zip(first.chunks_exact_mut(2 * c)) {
            y[..c].copy_from_slice(x);
            y[c..].copy_from_slice(x);
        }
        second.copy_from_slice(first);
    });
}

pub(super) fn average_pool(inputs: &[Slice], output: &mut [f32]) {
    let Some([_, h, w, c]) = inputs[0].shape.image() else {
        return;
    };
    let rows = h / 2;
    let lines = output.par_chunks_mut(w / 2 * c).enumerate();
    lines.for_each(|(i, y)| {
        let first = (i / rows * h + i % rows * 2) * w * c;
        let (above, below) = inputs[0].data[first..][..2 * w * c].split_at(w * c);
        let pairs = above.chunks_exact(2 * c).zip(below.chunks_exact(2 * c));
        for (y, (above, below)) in y.chunks_exact_mut(c).zip(pairs) {
            for (k, y) in y.iter_mut().enumerate() {
                *y = 0.25 * ((above[k] + above[c + k]) + (below[k] + below[c + k]));
            }
        }
    });
}

/// Reads the selected rows alone: a table may be most of a text encoder.
pub(super) fn embedding(
    op: &Embedding,
    inputs: &[Slice],
    weights: &[TensorView],
    output: &mut [f32],
) {
    let width = op.table.shape.channels();
    for (y, id) in output.chunks_mut(width).zip(inputs[0].data) {
        weights[0].read_f32(op.row(*id) * width, y);
    }
}
