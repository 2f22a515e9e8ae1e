//! The search for the nearest code: a warp for every four pixels.

use super::kernel::{self, Argument, Kernel, Launch, Layout, Precision, Target};
use crate::ops::Codebook;
use crate::tensor::Shape;

/// Pixels of a block.
const ROWS: usize = 32;

/// The codes stay f32 at either precision, and pixels that are exact are read as such.
pub(super) fn select(op: &Codebook, inputs: &[Shape], target: &Target) -> Result<Kernel, String> {
    kernel::elements(inputs[0])?;
    kernel::elements(op.codes.shape)?;
    let [rows, codes] = [inputs[0].rows(), op.codes.shape.batch()];
    let precision = match op.exact {
        true => Precision::F32,
        false => target.precision,
    };
    let launch = Launch {
        entry: format!("codebook_{}", precision.suffix()),
        grid: [rows.div_ceil(ROWS).max(1) as u32, 1, 1],
        shared_bytes: 0,
        arguments: vec![
            Argument::Output,
            Argument::Input(0),
            Argument::Weight(0),
            kernel::int(rows)?,
            kernel::int(codes)?,
            kernel::int(inputs[0].channels())?,
        ],
    };
    Ok(Kernel::single(launch, vec![Layout::Vector]))
}
