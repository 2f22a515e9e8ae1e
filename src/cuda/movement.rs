//! Elements that only move: a thread for every 16 bytes, or for every element where rows are not whole 16 bytes.

use super::elementwise::pack;
use super::kernel::{self, Argument, Kernel, Launch, Layout, Target};
use crate::ops::{Axis, Concat, Embedding};
use crate::tensor::Shape;

/// Threads of a block of every kernel that moves.
const THREADS: usize = 256;

/// What a thread moves, and the entry for it.
struct Unit {
    entry: String,
    /// Elements.
    elements: usize,
}

impl Unit {
    /// 16 bytes, if all of `sizes` are whole multiples of them.
    fn of(op: &str, sizes: &[usize], target: &Target) -> Self {
        let pack = pack(target);
        let suffix = target.precision.suffix();
        if sizes.iter().all(|size| size.is_multiple_of(pack)) {
            Self {
                entry: format!("{op}_{suffix}"),
                elements: pack,
            }
        } else {
            Self {
                entry: format!("{op}_ragged_{suffix}"),
                elements: 1,
            }
        }
    }

    /// `elements` elements, counted in units.
    fn int(&self, elements: usize) -> Result<Argument, String> {
        kernel::int(elements / self.elements)
    }

    /// The launch with a thread for each unit of `elements` elements, whose number is the last argument.
    fn launch(self, mut arguments: Vec<Argument>, elements: usize) -> Result<Launch, String> {
        arguments.push(self.int(elements)?);
        let units = elements / self.elements;
        Ok(Launch {
            entry: self.entry,
            grid: [units.div_ceil(THREADS).max(1) as u32, 1, 1],
            shared_bytes: 0,
            arguments,
        })
    }
}

/// One launch for every two operands.
pub(super) fn concat(
    op: &Concat,
    inputs: &[Shape],
    output: Shape,
    target: &Target,
) -> Result<Kernel, String> {
    let rows = match op.axis {
        Axis::Channels => output.rows(),
        Axis::Batch => 1,
    };
    let pitch = output.len() / rows.max(1);
    let widths: Vec<usize> = inputs.iter().map(|x| x.len() / rows.max(1)).collect();
    let mut kernel = Kernel::nothing();
    let mut offset = 0;
    for (pair, widths) in widths.chunks(2).enumerate() {
        let [first, second] = [widths[0], widths.get(1).copied().unwrap_or(0)];
        let unit = Unit::of("concat", &[first, second, pitch, offset], target);
        let other = match second {
            0 => Argument::Null,
            _ => Argument::Input(2 * pair + 1),
        };
        let arguments = vec![
            Argument::Output,
            Argument::Input(2 * pair),
            other,
            unit.int(first)?,
            unit.int(second)?,
            unit.int(pitch)?,
            unit.int(offset)?,
        ];
        kernel
            .launches
            .push(unit.launch(arguments, rows * (first + second))?);
        offset += first + second;
    }
    Ok(kernel)
}

/// Pairs of target and value that one launch takes.
const PAIRS: usize = 6;

/// The values, where their targets lie, of which the first is the result's place too.
pub(super) fn assign(inputs: &[Shape], output: Shape, target: &Target) -> Result<Kernel, String> {
    let mut kernel = Kernel::nothing();
    for first in (0..inputs.len() / 2).step_by(PAIRS) {
        let unit = Unit::of("assign", &[output.len()], target);
        let operand = |index: usize| match index < inputs.len() {
            true => Argument::Input(index),
            false => Argument::Null,
        };
        let pairs = first..first + PAIRS;
        let [targets, values] = [0, 1].map(|side| pairs.clone().map(move |pair| 2 * pair + side));
        let arguments = targets.chain(values).map(operand).collect();
        kernel.launches.push(unit.launch(arguments, output.len())?);
    }
    Ok(kernel)
}

pub(super) fn upsample(inputs: &[Shape], output: Shape, target: &Target) -> Result<Kernel, String> {
    let Some([_, _, width, channels]) = inputs[0].image() else {
        return Err(format!("takes an image, not {}", inputs[0]));
    };
    kernel::elements(output)?;
    let unit = Unit::of("upsample", &[channels], target);
    let arguments = vec![
        Argument::Output,
        Argument::Input(0),
        kernel::int(width)?,
        unit.int(channels)?,
    ];
    let launch = unit.launch(arguments, inputs[0].len())?;
    Ok(Kernel::single(launch, vec![]))
}

pub(super) fn embedding(op: &Embedding, output: Shape, target: &Target) -> Result<Kernel, String> {
    let table = op.table.shape;
    let launch = rows(
        Argument::Weight(0),
        Argument::Input(0),
        [table.batch(), 0],
        output,
        target,
    )?;
    Ok(Kernel::single(launch, vec![Layout::Table]))
}

pub(super) fn gather(inputs: &[Shape], output: Shape, target: &Target) -> Result<Kernel, String> {
    let Some([_, tokens, _]) = inputs[0].tokens() else {
        return Err(format!("takes tokens, not {}", inputs[0]));
    };
    let launch = rows(
        Argument::Input(0),
        Argument::Input(1),
        [tokens, tokens],
        output,
        target,
    )?;
    Ok(Kernel::single(launch, vec![]))
}

/// The rows of `table` that `index` selects out of `rows`, of which the next index has its own `step` rows on.
fn rows(
    table: Argument,
    index: Argument,
    [rows, step]: [usize; 2],
    output: Shape,
    target: &Target,
) -> Result<Launch, String> {
    let width = output.channels();
    let unit = Unit::of("gather", &[width], target);
    let arguments = vec![
        Argument::Output,
        table,
        index,
        kernel::int(rows)?,
        kernel::int(step)?,
        unit.int(width)?,
    ];
    unit.launch(arguments, output.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::Precision;

    const TARGET: Target = Target::h200(Precision::F16);

    fn ints(launch: &Launch) -> Vec<i32> {
        let int = |argument: &Argument| match argument {
            Argument::Int(value) => Some(*value),
            _ => None,
        };
        launch.arguments.iter().filter_map(int).collect()
    }

    #[test]
    fn operands_are_joined_two_at_a_time_without_a_gap() {
        let inputs: Vec<Shape> = [64, 8, 32].map(|c| Shape::from([2, 3, c])).to_vec();
        let op = Concat {
            axis: Axis::Channels,
        };
        let kernel = concat(&op, &inputs, [2, 3, 104].into(), &TARGET).unwrap();
        let [first, second] = &kernel.launches[..] else {
            panic!("{kernel:?}");
        };
        assert_eq!(first.entry, "concat_f16");
        // Widths, pitch, offset and count, in units of 8 halves.
        assert_eq!(ints(first), [8, 1, 13, 0, 6 * 9]);
        assert_eq!(ints(second), [4, 0, 13, 9, 6 * 4]);
        assert_eq!(second.arguments[2], Argument::Null);
    }

    #[test]
    fn one_odd_size_makes_all_of_it_ragged() {
        let inputs = [[1, 5].into(), [2, 5].into()];
        let op = Concat { axis: Axis::Batch };
        let kernel = concat(&op, &inputs, [3, 5].into(), &TARGET).unwrap();
        assert_eq!(kernel.launches[0].entry, "concat_ragged_f16");
        assert_eq!(ints(&kernel.launches[0]), [5, 10, 15, 0, 15]);
    }
}
