//! Linear maps: rows are the operand's own.

use super::epilogue::Finish;
use super::matmul::{self, Factor, Rows};
use super::simd::{BLOCK, Row, Stored};
use crate::ops::{Linear, Slice};
use crate::plan::pack::Depth;
use crate::weights::TensorView;
use std::ops::Range;

struct Dense<'a>(Slice<'a>);

impl Rows for Dense<'_> {
    fn count(&self) -> usize {
        self.0.shape.rows()
    }

    fn gather(&self, _: usize, rows: Range<usize>, channels: Range<usize>, out: &mut [Row]) {
        let pitch = self.0.shape.channels();
        for (row, out) in rows.zip(out) {
            let x = &self.0.data[row * pitch..][channels.clone()];
            out[..x.len()].copy_from_slice(x);
        }
    }
}

/// Runs the operation.
pub(super) fn run(op: &Linear, inputs: &[Slice], weights: &[TensorView], output: &mut [f32]) {
    let [x, operands @ ..] = inputs else { return };
    let [outputs, channels] = [op.weight.shape.batch(), x.shape.channels()];
    let Some(depth) = Depth::new(channels, 1, BLOCK) else {
        return;
    };
    let factor = Factor {
        stored: Stored::from(&weights[0]),
        outputs,
        depths: vec![depth],
    };
    let bias = weights.get(1).map(TensorView::to_f32);
    let rows_per_image = x.shape.rows() / x.shape.batch().max(1);
    let finish = Finish::new(op.epilogue, outputs, bias, rows_per_image, operands);
    matmul::multiply(&Dense(*x), &factor, &finish, output);
}
