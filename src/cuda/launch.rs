//! The one place that turns a choice into launches: operands, weights and scratch memory become addresses, and whatever does not fit the
//! entry's signature or the device is refused by name before anything runs.

use super::counters::Counters;
use super::door::{Call, Door, Memory, Span, Touched, Value};
use super::kernel::MOST_BLOCKS;
use super::table::{self, Element, Entry, Kind};
use super::{Argument, Cuda, Launch, Precision, Target};
use crate::backend::Step;
use crate::error::{Error, Result};
use crate::ops::Op;
use crate::plan::{Place, memory};
use std::sync::Arc;

/// What every address handed to a kernel is a multiple of: the widest access there is.
const ALIGNMENT: u64 = 16;

/// The most blocks that a launch may have along x, y and z, on every architecture.
const LARGEST_GRID: [u32; 3] = [i32::MAX as u32, MOST_BLOCKS as u32, MOST_BLOCKS as u32];

/// Memory with the type of what lies there.
struct Operand {
    span: Span,
    precision: Precision,
    /// What lies behind it, of a value.
    behind: Option<Span>,
}

/// What the launches of one node act on.
struct Operands {
    output: Operand,
    inputs: Vec<Operand>,
    /// Another node's result.
    also: Option<Operand>,
    /// Of so many inputs, the first, every second one is a target and may be written.
    assigned: usize,
    weights: Vec<Operand>,
    workspace: Option<Span>,
    counters: Option<Span>,
}

/// The launches of `step`, whose values lie in `arena`; `counters` gives as many as are asked for.
///
/// # Errors
/// If there are no counters, or a launch does not fit its entry's signature, the memory it is given, or the device.
pub(super) fn calls(
    step: &Step<Cuda>,
    arena: &Arc<dyn Memory>,
    target: &Target,
    (door, counters): (&dyn Door, &Counters),
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
    let weights = step.weights.iter().zip(&step.kernel.recipes);
    let weights = weights.map(|(weight, recipe)| Operand {
        span: Span::whole(&weight.0),
        precision: recipe.layout.precision(target.precision),
        behind: None,
    });
    let arguments = step.kernel.launches.iter().flat_map(|l| &l.arguments);
    let counted = arguments.filter_map(|argument| match argument {
        Argument::Counters(count) => Some(*count),
        _ => None,
    });
    let operands = Operands {
        counters: (counted.max())
            .map(|count| counters.take(door, count))
            .transpose()?,
        output: place(&step.output)?,
        inputs: step.inputs.iter().map(place).collect::<Result<_>>()?,
        also: step.also.as_ref().map(place).transpose()?,
        assigned: match &step.op {
            Op::Assign(op) => op.paired(step.inputs.len()),
            _ => 0,
        },
        weights: weights.collect(),
        workspace: workspace.transpose()?,
    };
    let launches = step.kernel.launches.iter();
    launches
        .map(|launch| {
            let entry = table::entry(&launch.entry)
                .ok_or_else(|| format!("there is no kernel `{}`", launch.entry));
            let call =
                entry.and_then(|entry| call(&step.name, launch, entry, &operands, target, door));
            call.map_err(|problem| refused(&step.name, &problem))
        })
        .collect()
}

/// The memory of a value, and its type.
fn operand(arena: &Arc<dyn Memory>, place: Place, working: Precision) -> Option<Operand> {
    let precision = super::precision(place, working);
    let bytes = place.shape.len() * precision.bytes();
    let end = place.offset + bytes.next_multiple_of(memory::ALIGNMENT);
    let behind = Span::new(arena, end, arena.bytes().saturating_sub(end));
    Span::new(arena, place.offset, bytes).map(|span| Operand {
        span,
        precision,
        behind,
    })
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
    door: &dyn Door,
) -> Result<Call, String> {
    let name = entry.name;
    if let Some(only) = entry.only_on()
        && only != target.compute_capability
    {
        return Err(format!(
            "{name} is for sm_{only} alone, and this device is sm_{}",
            target.compute_capability
        ));
    }
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
    if !launch.grid[0].is_multiple_of(entry.cluster) {
        return Err(format!(
            "{name} on {} blocks along x, which are no whole clusters of {}",
            launch.grid[0], entry.cluster
        ));
    }
    let values = entry.parameters.iter().zip(&launch.arguments).enumerate();
    let values = values.map(|(index, (parameter, argument))| {
        let value = value(parameter.kind, *argument, operands, door);
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
        early: target.hopper(),
        values: values.collect::<Result<_, _>>()?,
    })
}

/// What is passed for one parameter.
fn value(
    kind: Kind,
    argument: Argument,
    operands: &Operands,
    door: &dyn Door,
) -> Result<Value, String> {
    match (kind, argument) {
        (Kind::Int, Argument::Int(value)) => Ok(Value::Int(value)),
        (Kind::Float, Argument::Float(value)) => Ok(Value::Float(value)),
        (Kind::Pointer { .. }, Argument::Null) => Ok(Value::Null),
        (Kind::Pointer { element, written }, argument) => {
            let mut memory = memory(argument, element, operands)?;
            if written && !memory.written {
                return Err("may only be read".to_owned());
            }
            memory.written = written;
            Ok(Value::Pointer(memory))
        }
        (Kind::Map, Argument::Map { of, map }) => {
            let memory = memory(of.into(), Element::Half, operands)?;
            let bytes = memory.span.bytes();
            if map.end() > bytes {
                return Err(format!("ends at byte {} of {bytes}", map.end()));
            }
            let encoded = door.encode(&map, memory.span.address());
            let encoded = encoded.map_err(|error| error.to_string())?;
            Ok(Value::Map(memory, encoded))
        }
        (Kind::Int | Kind::Float | Kind::Map, _) => Err("is of another type".to_owned()),
    }
}

/// The memory that an argument names, which is to hold elements of that kind; written where the node may.
fn memory(argument: Argument, element: Element, operands: &Operands) -> Result<Touched, String> {
    let missing = || "the node has none of this number".to_owned();
    let (span, precision) = match argument {
        Argument::Output => (
            operands.output.span.clone(),
            Some(operands.output.precision),
        ),
        Argument::Input(index) => {
            let input = operands.inputs.get(index).ok_or_else(missing)?;
            (input.span.clone(), Some(input.precision))
        }
        Argument::Also(_) => {
            let also = operands.also.as_ref().ok_or_else(missing)?;
            (also.span.clone(), Some(also.precision))
        }
        Argument::Weight(index) => {
            let weight = operands.weights.get(index).ok_or_else(missing)?;
            (weight.span.clone(), Some(weight.precision))
        }
        Argument::Workspace { offset, bytes } => {
            let workspace = operands.workspace.as_ref().ok_or_else(missing)?;
            let part = workspace.part(offset, bytes).ok_or_else(|| {
                format!("the node has {} bytes of scratch memory", workspace.bytes())
            })?;
            (part, None)
        }
        Argument::Tail(_) | Argument::InputTail(..) => {
            let (operand, bytes) = match argument {
                Argument::InputTail(index, bytes) => (operands.inputs.get(index), bytes),
                Argument::Tail(bytes) => (Some(&operands.output), bytes),
                _ => (None, 0),
            };
            let behind = operand.ok_or_else(missing)?.behind.as_ref();
            let tail = behind.and_then(|behind| behind.part(0, bytes));
            let tail = tail.ok_or_else(|| format!("there are no {bytes} bytes behind it"))?;
            (tail, Some(Precision::F32))
        }
        Argument::Counters(count) => {
            let all = operands.counters.as_ref().ok_or_else(missing)?;
            let part = all.part(0, count * size_of::<i32>());
            if element != Element::Int {
                return Err("counters are integers".to_owned());
            }
            (part.ok_or_else(missing)?, None)
        }
        Argument::Map { .. } | Argument::Null | Argument::Int(_) | Argument::Float(_) => {
            return Err("is not memory".to_owned());
        }
    };
    let stored = match precision {
        Some(Precision::F16) => Element::Half,
        Some(Precision::F32) => Element::Float,
        None => element,
    };
    if element != stored {
        return Err(format!("the elements there are {stored:?}"));
    }
    let address = span.address();
    if !address.is_multiple_of(ALIGNMENT) {
        return Err(format!(
            "the address {address:#x} is no multiple of {ALIGNMENT}"
        ));
    }
    Ok(Touched {
        span,
        written: match argument {
            Argument::Output
            | Argument::Also(_)
            | Argument::Workspace { .. }
            | Argument::Tail(_)
            | Argument::Counters(_) => true,
            Argument::Input(index) => index < operands.assigned && index % 2 == 0,
            _ => false,
        },
        weight: matches!(argument, Argument::Weight(_)),
    })
}

#[cfg(test)]
mod tests;
