//! One element at a time: a thread for every 16 bytes of the result.

use super::kernel::{self, Argument, Kernel, Launch, Layout, Target};
use crate::ops::{Activate, Activation, AddChannels, AddPositions, Channels, ScaleShift};
use crate::tensor::Shape;

/// Threads of a block of every kernel that streams.
const THREADS: usize = 256;

/// Bytes that a thread moves by one instruction.
const PACK_BYTES: usize = 16;

/// Elements in 16 bytes.
pub(super) fn pack(target: &Target) -> usize {
    PACK_BYTES / target.precision.bytes()
}

/// The launch of `entry` with a thread per 16 bytes of `count` elements, whose number is the last argument.
pub(super) fn streaming(
    entry: &str,
    mut arguments: Vec<Argument>,
    count: usize,
    target: &Target,
) -> Result<Launch, String> {
    arguments.push(kernel::int(count)?);
    Ok(Launch {
        entry: format!("{entry}_{}", target.precision.suffix()),
        grid: [count.div_ceil(THREADS * pack(target)).max(1) as u32, 1, 1],
        shared_bytes: 0,
        arguments,
    })
}

/// `entry`, or its variant for rows of `width` elements that are not whole packs.
pub(super) fn by_rows(entry: &str, width: usize, target: &Target) -> String {
    match width.is_multiple_of(pack(target)) {
        true => entry.to_owned(),
        false => format!("{entry}_ragged"),
    }
}

pub(super) fn activation(op: &Activate, output: Shape, target: &Target) -> Result<Kernel, String> {
    let entry = match op.activation {
        Activation::Silu => "activation_silu",
        Activation::Gelu => "activation_gelu",
        Activation::QuickGelu => "activation_quick_gelu",
    };
    let arguments = vec![Argument::Output, Argument::Input(0)];
    let launch = streaming(entry, arguments, output.len(), target)?;
    Ok(Kernel::single(launch, vec![]))
}

pub(super) fn geglu(output: Shape, target: &Target) -> Result<Kernel, String> {
    let width = output.channels();
    kernel::int(2 * output.len())?;
    let arguments = vec![Argument::Output, Argument::Input(0), kernel::int(width)?];
    let entry = by_rows("geglu", width, target);
    let launch = streaming(&entry, arguments, output.len(), target)?;
    Ok(Kernel::single(launch, vec![]))
}

pub(super) fn add(output: Shape, target: &Target) -> Result<Kernel, String> {
    let arguments = vec![Argument::Output, Argument::Input(0), Argument::Input(1)];
    let launch = streaming("add", arguments, output.len(), target)?;
    Ok(Kernel::single(launch, vec![]))
}

pub(super) fn add_channels(
    op: &AddChannels,
    inputs: &[Shape],
    output: Shape,
    target: &Target,
) -> Result<Kernel, String> {
    let channels = output.channels();
    let repeated = Repeated {
        values: Argument::Input(1),
        row: match op.channels {
            Channels::PerImage => Argument::Null,
            Channels::Row => Argument::Input(2),
        },
        rows: inputs[1].batch(),
        period: channels,
        stride: channels,
    };
    let launch = repeated.added(output, target)?;
    Ok(Kernel::single(launch, vec![]))
}

/// The values that `channels` are, from operand `first` on: themselves, the row of all images, and how many rows there are.
pub(super) fn of_channels(
    channels: Channels,
    inputs: &[Shape],
    first: usize,
) -> Result<[Argument; 3], String> {
    let row = match channels {
        Channels::PerImage => Argument::Null,
        Channels::Row => Argument::Input(first + 1),
    };
    let rows = kernel::int(inputs[first].batch())?;
    Ok([Argument::Input(first), row, rows])
}

pub(super) fn scale_shift(
    op: &ScaleShift,
    inputs: &[Shape],
    output: Shape,
    target: &Target,
) -> Result<Kernel, String> {
    let channels = output.channels();
    let [values, row, rows] = of_channels(op.channels, inputs, 1)?;
    let arguments = vec![
        Argument::Output,
        Argument::Input(0),
        values,
        row,
        rows,
        kernel::int(output.len() / output.batch().max(1))?,
        kernel::int(channels)?,
    ];
    let entry = by_rows("scale_shift", channels, target);
    let launch = streaming(&entry, arguments, output.len(), target)?;
    Ok(Kernel::single(launch, vec![]))
}

pub(super) fn average_pool(
    inputs: &[Shape],
    output: Shape,
    target: &Target,
) -> Result<Kernel, String> {
    let (Some([_, height, width, channels]), Some(_)) = (inputs[0].image(), output.image()) else {
        return Err(format!("takes an image, not {}", inputs[0]));
    };
    kernel::elements(inputs[0])?;
    let sizes = [height, width, channels].map(kernel::int);
    let [height, width, size] = sizes;
    let arguments = vec![Argument::Output, Argument::Input(0), height?, width?, size?];
    let entry = by_rows("average_pool", channels, target);
    let launch = streaming(&entry, arguments, output.len(), target)?;
    Ok(Kernel::single(launch, vec![]))
}

pub(super) fn add_positions(
    _: &AddPositions,
    output: Shape,
    target: &Target,
) -> Result<Kernel, String> {
    let repeated = Repeated {
        values: Argument::Weight(0),
        row: Argument::Null,
        rows: 1,
        period: output.len() / output.batch().max(1),
        stride: 0,
    };
    let launch = repeated.added(output, target)?;
    Ok(Kernel::single(launch, vec![Layout::Table]))
}

/// Values added again and again along a tensor.
struct Repeated {
    values: Argument,
    /// Which row of `values` all images take, or nothing: then each takes its own.
    row: Argument,
    rows: usize,
    /// Elements after which they repeat.
    period: usize,
    /// Elements from one image's values to the next one's.
    stride: usize,
}

impl Repeated {
    fn added(&self, output: Shape, target: &Target) -> Result<Launch, String> {
        let arguments = vec![
            Argument::Output,
            Argument::Input(0),
            self.values,
            self.row,
            kernel::int(self.rows)?,
            kernel::int(output.len() / output.batch().max(1))?,
            kernel::int(self.period)?,
            kernel::int(self.stride)?,
        ];
        let entry = by_rows("add_repeated", self.period, target);
        streaming(&entry, arguments, output.len(), target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::Precision;

    #[test]
    fn a_thread_for_every_pack_and_few_blocks_more() {
        for precision in [Precision::F16, Precision::F32] {
            let target = Target::a100(precision);
            for count in [1, 8, 2047, 2048, 2049, 1_000_003] {
                let kernel = add([1, count].into(), &target).unwrap();
                let blocks = kernel.launches[0].grid[0] as usize;
                let elements = THREADS * pack(&target);
                assert!(blocks * elements >= count && (blocks - 1) * elements < count);
            }
        }
    }

    #[test]
    fn rows_that_are_not_whole_packs_take_the_ragged_entry() {
        let entry = |c: usize, precision| {
            let kernel = geglu([2, 3, c].into(), &Target::a100(precision)).unwrap();
            kernel.launches[0].entry.clone()
        };
        assert_eq!(entry(16, Precision::F16), "geglu_f16");
        assert_eq!(entry(12, Precision::F16), "geglu_ragged_f16");
        assert_eq!(entry(12, Precision::F32), "geglu_f32");
        assert_eq!(entry(7, Precision::F32), "geglu_ragged_f32");
    }

    #[test]
    fn more_elements_than_an_int_counts_are_refused() {
        let large: Shape = [1 << 16, 1 << 16].into();
        assert!(add(large, &Target::a100(Precision::F16)).is_err());
    }
}
