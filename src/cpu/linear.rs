//! Linear maps: rows are the operand's own.

use super::epilogue::Finish;
use super::matmul::{self, Factor, Rows};
use super::simd::{BLOCK, Row, Stored};
use crate::ops::{Linear, Slice};
use crate::plan::depth::Depth;
use crate::weights::TensorView;
use std::ops::Range;

struct Dense<'a> {
    sources: &'a [Slice<'a>],
    count: usize,
}

impl Rows for Dense<'_> {
    fn count(&self) -> usize {
        self.count
    }

    fn gather(&self, _: usize, rows: Range<usize>, channels: Range<usize>, out: &mut [Row]) {
        for (source, channels, at) in matmul::parts(self.sources, &channels) {
            let pitch = source.shape.channels();
            for (row, out) in rows.clone().zip(&mut *out) {
                let x = &source.data[row * pitch..][channels.clone()];
                out[at..][..x.len()].copy_from_slice(x);
            }
        }
    }
}

/// Runs the operation, unless it is one that the CPU [gains nothing by](crate::backend::Backend::gains_by).
pub(super) fn run(
    op: &Linear,
    inputs: &[Slice],
    weights: &[TensorView],
    output: &mut [f32],
) -> bool {
    if !op.stacked.is_empty() || op.norm.is_some() {
        return false;
    }
    let (sources, operands) = inputs.split_at(op.sources);
    let x = sources[0].shape;
    let [outputs, channels] = [op.weight.shape.batch(), op.weight.shape.channels()];
    let Some(depth) = Depth::new(channels, 1, BLOCK) else {
        return false;
    };
    let factor = Factor {
        stored: Stored::from(&weights[0]),
        outputs,
        depths: vec![depth],
    };
    let bias = weights.get(1).map(TensorView::to_f32);
    let rows_per_image = x.rows() / x.batch().max(1);
    let finish = Finish::new(op.epilogue, outputs, bias, rows_per_image, operands);
    let count = x.rows();
    matmul::multiply(&Dense { sources, count }, &factor, &finish, output);
    true
}
