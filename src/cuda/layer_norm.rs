//! Layer normalisation: a warp per row, which keeps the row in registers if it is whole packs and not too long.

use super::elementwise::pack;
use super::kernel::{self, Argument, Kernel, Launch, Layout, Target};
use crate::ops::LayerNorm;
use crate::tensor::Shape;

/// Rows of a block: its warps.
const ROWS: usize = 8;

/// Channels of the entries that keep a row in registers.
const LENGTHS: [usize; 2] = [512, 1536];

pub(super) fn select(op: &LayerNorm, output: Shape, target: &Target) -> Result<Kernel, String> {
    let factors = [0, 1].map(Argument::Weight);
    let launch = launch(op, output, (Argument::Output, factors), target)?;
    Ok(Kernel::single(launch, vec![Layout::Vector; 2]))
}

/// Normalises the node's first operand, of shape `x`, to the given place by the given factors and addends.
///
/// # Errors
/// A sentence, if there are more elements than the entries count.
pub(super) fn launch(
    op: &LayerNorm,
    x: Shape,
    (to, factors): (Argument, [Argument; 2]),
    target: &Target,
) -> Result<Launch, String> {
    kernel::elements(x)?;
    let [rows, channels] = [x.rows(), x.channels()];
    let length = LENGTHS
        .into_iter()
        .find(|&length| channels <= length && channels.is_multiple_of(pack(target)));
    let length = length.map_or("any".to_owned(), |length| length.to_string());
    Ok(Launch {
        entry: format!("layer_norm_{}_{length}", target.precision.suffix()),
        grid: [rows.div_ceil(ROWS).max(1) as u32, 1, 1],
        shared_bytes: 0,
        arguments: vec![
            to,
            Argument::Input(0),
            factors[0],
            factors[1],
            kernel::int(rows)?,
            kernel::int(channels)?,
            Argument::Float(op.eps),
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::Precision;
    use crate::graph::Param;

    #[test]
    fn every_row_has_a_warp_and_long_or_odd_rows_are_read_again() {
        let entry = |rows: usize, channels: usize, precision| {
            let param = Param {
                name: String::new(),
                shape: [channels].into(),
            };
            let op = LayerNorm {
                eps: 1e-5,
                weight: param.clone(),
                bias: param,
            };
            let target = Target::a100(precision);
            let kernel = select(&op, [1, rows, channels].into(), &target).unwrap();
            let launch = &kernel.launches[0];
            assert_eq!(launch.grid[0] as usize, rows.div_ceil(8));
            launch.entry.clone()
        };
        assert_eq!(entry(77, 320, Precision::F16), "layer_norm_f16_512");
        assert_eq!(entry(4096, 1280, Precision::F16), "layer_norm_f16_1536");
        assert_eq!(entry(1, 1540, Precision::F16), "layer_norm_f16_any");
        assert_eq!(entry(9, 324, Precision::F16), "layer_norm_f16_any");
        assert_eq!(entry(9, 324, Precision::F32), "layer_norm_f32_512");
    }
}
