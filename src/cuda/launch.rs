//! The one place that turns a choice into launches: operands, weights and scratch memory become addresses, and whatever does not fit the
//! entry's signature or the device is refused by name before anything runs.

use super::door::{Call, Memory, Span, Value};
use super::table::{self, Element, Entry, Kind};
use super::{Argument, Cuda, Launch, Precision, Target};
use crate::backend::Step;
use crate::error::{Error, Result};
use crate::plan::Place;
use std::sync::Arc;

/// What every address handed to a kernel is a multiple of: the widest access there is.
const ALIGNMENT: u64 = 16;

/// The most blocks that a launch may have along x, y and z, on every architecture.
const LARGEST_GRID: [u32; 3] = [i32::MAX as u32, 65_535, 65_535];

/// Memory with the type of what lies there.
struct Operand {
    span: Span,
    precision: Precision,
}

/// What the launches of one node act on.
struct Operands {
    output: Operand,
    inputs: Vec<Operand>,
    weights: Vec<Operand>,
    workspace: Option<Span>,
}

/// The launches of `step`, whose values lie in `arena`.
///
/// # Errors
/// If a launch does not fit its entry's signature, the memory it is given, or the device.
pub(super) fn calls(
    step: &Step<Cuda>,
    arena: &Arc<dyn Memory>,
    target: &Target,
) -> Result<Vec<Call>> {
    if step.output.shape.is_empty() {
        return Ok(Vec::new());
    }
    let place = |place: &Place| {
        let operand = operand(arena, *place, target.precision);
        operand.ok_or_else(|| refused(&step.name, "a value lies outside the arena"))
    };
    let workspace = step.workspace.map(|(offset, bytes)| {
        let span = Span::new(arena, offset, bytes);
        span.ok_or_else(|| refused(&step.name, "scratch memory lies outside the arena"))
    });
    let weights = step.weights.iter().zip(&step.kernel.layouts);
    let weights = weights.map(|(weight, layout)| Operand {
        span: Span::whole(&weight.0),
        precision: layout.precision(target.precision),
    });
    let operands = Operands {
        output: place(&step.output)?,
        inputs: step.inputs.iter().map(place).collect::<Result<_>>()?,
        weights: weights.collect(),
        workspace: workspace.transpose()?,
    };
    let launches = step.kernel.launches.iter();
    launches
        .map(|launch| {
            let entry = table::entry(&launch.entry)
                .ok_or_else(|| format!("there is no kernel `{}`", launch.entry));
            let call = entry.and_then(|entry| call(&step.name, launch, entry, &operands, target));
            call.map_err(|problem| refused(&step.name, &problem))
        })
        .collect()
}

/// The memory of a value, and its type.
fn operand(arena: &Arc<dyn Memory>, place: Place, working: Precision) -> Option<Operand> {
    let precision = super::precision(place, working);
    let bytes = place.shape.len() * precision.bytes();
    Span::new(arena, place.offset, bytes).map(|span| Operand { span, precision })
}

fn refused(node: &str, problem: &str) -> Error {
    Error::Device(format!(
        "node `{node}`: {problem}: a defect of this program, please report it"
    ))
}

/// One launch of `entry`, or why it cannot be.
fn call(
    node: &str,
    launch: &Launch,
    entry: &'static Entry,
    operands: &Operands,
    target: &Target,
) -> Result<Call, String> {
    let name = entry.name;
    let [expected, found] = [entry.parameters.len(), launch.arguments.len()];
    if expected != found {
        return Err(format!("{name} takes {expected} arguments, not {found}"));
    }
    if launch.shared_bytes > target.shared_bytes_per_block {
        return Err(format!(
            "{name} asks for {} bytes of shared memory, where a block of this device has {} at most",
            launch.shared_bytes, target.shared_bytes_per_block
        ));
    }
    let fits = |(blocks, most): (&u32, &u32)| (1..=*most).contains(blocks);
    if !launch.grid.iter().zip(&LARGEST_GRID).all(fits) {
        let [x, y, z] = launch.grid;
        return Err(format!(
            "{name} on a grid of {x} x {y} x {z} blocks, where 1 to {LARGEST_GRID:?} are possible"
        ));
    }
    let values = entry.parameters.iter().zip(&launch.arguments).enumerate();
    let values = values.map(|(index, (parameter, argument))| {
        let value = value(parameter.kind, *argument, operands);
        value.map_err(|problem| {
            let (kind, parameter) = (parameter.kind, parameter.name);
            format!("{name}, argument {index} `{parameter}` ({kind:?}), {argument:?}: {problem}")
        })
    });
    Ok(Call {
        node: node.to_owned(),
        entry,
        grid: launch.grid,
        shared_bytes: launch.shared_bytes,
        values: values.collect::<Result<_, _>>()?,
    })
}

/// What is passed for one parameter.
fn value(kind: Kind, argument: Argument, operands: &Operands) -> Result<Value, String> {
    let missing = || "the node has none of this number".to_owned();
    let Kind::Pointer { element, written } = kind else {
        return match (kind, argument) {
            (Kind::Int, Argument::Int(value)) => Ok(Value::Int(value)),
            (Kind::Float, Argument::Float(value)) => Ok(Value::Float(value)),
            _ => Err("is of another type".to_owned()),
        };
    };
    let (span, precision, only_read) = match argument {
        Argument::Output => (
            &operands.output.span,
            Some(operands.output.precision),
            false,
        ),
        Argument::Input(index) => {
            let input = operands.inputs.get(index).ok_or_else(missing)?;
            (&input.span, Some(input.precision), true)
        }
        Argument::Weight(index) => {
            let weight = operands.weights.get(index).ok_or_else(missing)?;
            (&weight.span, Some(weight.precision), true)
        }
        Argument::Workspace { offset, bytes } => {
            let workspace = operands.workspace.as_ref().ok_or_else(missing)?;
            let part = workspace.part(offset, bytes).ok_or_else(|| {
                format!("the node has {} bytes of scratch memory", workspace.bytes())
            })?;
            return pointer(part, written);
        }
        Argument::Null => return Ok(Value::Null),
        Argument::Int(_) | Argument::Float(_) => return Err("is not memory".to_owned()),
    };
    let stored = match precision {
        Some(Precision::F16) => Element::Half,
        _ => Element::Float,
    };
    if element != stored {
        return Err(format!("the elements there are {stored:?}"));
    }
    if only_read && written {
        return Err("may only be read".to_owned());
    }
    pointer(span.clone(), written)
}

fn pointer(span: Span, written: bool) -> Result<Value, String> {
    let address = span.address();
    if !address.is_multiple_of(ALIGNMENT) {
        return Err(format!(
            "the address {address:#x} is no multiple of {ALIGNMENT}"
        ));
    }
    Ok(Value::Pointer(span, written))
}

#[cfg(test)]
mod tests {
    use super::super::door::fake::Block;
    use super::super::table::Parameter;
    use super::*;

    const fn parameter(name: &'static str, kind: Kind) -> Parameter {
        Parameter { name, kind }
    }

    const fn pointer(element: Element, written: bool) -> Kind {
        Kind::Pointer { element, written }
    }

    static ENTRY: Entry = Entry {
        name: "scale_f16",
        file: "scale.cu",
        threads: 128,
        blocks_per_multiprocessor: 1,
        parameters: &[
            parameter("y", pointer(Element::Half, true)),
            parameter("x", pointer(Element::Half, false)),
            parameter("bias", pointer(Element::Float, false)),
            parameter("parts", pointer(Element::Float, true)),
            parameter("count", Kind::Int),
            parameter("factor", Kind::Float),
        ],
    };

    fn operands() -> Operands {
        let memory = |address, bytes| Span::whole(&Block::at(address, bytes));
        let operand = |address, precision| Operand {
            span: memory(address, 64),
            precision,
        };
        Operands {
            output: operand(256, Precision::F16),
            inputs: vec![
                operand(512, Precision::F16),
                operand(1028, Precision::F16),
                operand(512, Precision::F32),
            ],
            weights: vec![operand(768, Precision::F32)],
            workspace: Some(memory(2048, 128)),
        }
    }

    fn launch() -> Launch {
        Launch {
            entry: ENTRY.name.to_owned(),
            grid: [1, 2, 3],
            shared_bytes: 0,
            arguments: vec![
                Argument::Output,
                Argument::Input(0),
                Argument::Weight(0),
                Argument::Workspace {
                    offset: 64,
                    bytes: 64,
                },
                Argument::Int(7),
                Argument::Float(0.5),
            ],
        }
    }

    fn checked(launch: &Launch) -> Result<Call, String> {
        let target = Target::a100(Precision::F16);
        super::call("node", launch, &ENTRY, &operands(), &target)
    }

    #[test]
    fn a_launch_that_fits_has_every_address_and_value() {
        let call = checked(&launch()).unwrap_or_else(|problem| panic!("{problem}"));
        let factor = u64::from(0.5f32.to_bits());
        assert_eq!(call.words(), [256, 512, 768, 2112, 7, factor]);
        let written = |value: &Value| matches!(value, Value::Pointer(_, true));
        let written: Vec<bool> = call.values.iter().map(written).collect();
        assert_eq!(written, [true, false, false, true, false, false]);
    }

    /// Changes a launch that fits, and expects a refusal that holds these words.
    fn refused(change: impl Fn(&mut Launch), words: &[&str]) {
        let mut launch = launch();
        change(&mut launch);
        let problem = checked(&launch).err().unwrap_or_default();
        let named = [&["scale_f16"], words].concat();
        assert!(named.iter().all(|word| problem.contains(word)), "{problem}");
    }

    #[test]
    fn a_launch_that_does_not_fit_is_refused_by_name() {
        refused(|l| l.shared_bytes = 1 << 20, &["1048576", "166912"]);
        refused(|l| l.grid = [1, 0, 1], &["1 x 0 x 1"]);
        refused(|l| l.grid = [1, 65_536, 1], &["65536", "65535"]);
        refused(|l| l.arguments.truncate(5), &["6 arguments", "not 5"]);
        let set = |index: usize, argument| move |l: &mut Launch| l.arguments[index] = argument;
        refused(set(1, Argument::Input(2)), &["`x`", "Half", "Float"]);
        refused(set(1, Argument::Input(1)), &["`x`", "0x404", "16"]);
        refused(set(1, Argument::Input(3)), &["`x`", "none of this number"]);
        refused(set(0, Argument::Input(0)), &["`y`", "only be read"]);
        refused(set(2, Argument::Int(1)), &["`bias`", "not memory"]);
        refused(set(4, Argument::Float(1.0)), &["`count`", "another type"]);
        let beyond = Argument::Workspace {
            offset: 96,
            bytes: 64,
        };
        refused(set(3, beyond), &["`parts`", "128 bytes"]);
    }
}
