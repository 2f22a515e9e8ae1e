//! Inputs' next values: the one operation that writes where its operands lie.

use super::arena::Arena;
use crate::error::Result;
use crate::ops::{Assign, Combine, Operator, Slice};
use crate::plan::Place;

/// Combinations are computed before anything is assigned, so what is assigned may be one of their terms.
pub(super) fn run(op: &Assign, arena: &mut Arena, operands: &[Place]) -> Result<()> {
    let (paired, shared) = operands.split_at(op.paired(operands.len()));
    let (pairs, _) = paired.as_chunks();
    let (combined, copied) = pairs.split_at(op.combined);
    let combine = |[target, coefficients]: &[Place; 2]| {
        let read = |place: &Place| {
            Ok(Slice {
                shape: place.shape,
                data: arena.slice(*place)?,
            })
        };
        let operands = std::iter::once(coefficients).chain(shared).map(read);
        let mut values = vec![0.0; target.shape.len()];
        Combine.eval(&operands.collect::<Result<Vec<_>>>()?, &[], &mut values);
        Ok(values)
    };
    let results = combined.iter().map(combine).collect::<Result<Vec<_>>>()?;
    for [target, value] in copied {
        arena.copy(*value, *target)?;
    }
    for ([target, _], values) in combined.iter().zip(results) {
        arena.slice_mut(*target)?.copy_from_slice(&values);
    }
    Ok(())
}
