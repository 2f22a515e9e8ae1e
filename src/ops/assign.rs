//! An input's next value: how one run leaves its result where the next one finds it.

use super::{Combine, Cost, Op, Operator, Slice, require};
use crate::error::{Error, Result as CrateResult};
use crate::graph::{Graph, Value};
use crate::tensor::Shape;

/// `target = value`, at this point of the order. The result is the target's new value and lies in the target's place, so the next run
/// begins with it; a sampler's state needs no way through the host.
///
/// What reads the old value must come before, and [`Graph::push`] refuses to append a reader of it after.
///
/// Of several pairs of target and value, all of one shape, which the fusion pass makes of assignments that follow one another, the result is the
/// first target's new value; the others are given theirs, in their order, by the device that [runs](crate::backend::Backend::run) the operation.
///
/// Where it folds [combinations](Combine) in, each of the first `combined` pairs is a target and its coefficients, and after all pairs come what
/// these combinations share: the row, and the terms as they are before anything is assigned. Their targets are assigned last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Assign {
    /// How many targets, the first, are given combinations.
    pub combined: usize,
    /// How many terms these have.
    pub terms: usize,
}

impl Assign {
    /// How many of `operands` operands, the first, are targets each with its value or coefficients.
    pub fn paired(&self, operands: usize) -> usize {
        match self.combined {
            0 => operands,
            _ => operands.saturating_sub(1 + self.terms),
        }
    }
}

impl Graph {
    /// Appends `target = value`.
    ///
    /// # Errors
    /// If `target` is no input of `value`'s shape and precision, is a constant, or was assigned before.
    pub fn assign(&mut self, target: Value, value: Value) -> CrateResult<Value> {
        let refuse = |problem: &str| Err(Error::shape(self.path(""), format!("assign: {problem}")));
        match self.node(target).op {
            Op::Input(input) if input.constant => {
                return refuse("the target is a constant, and what follows from it would be stale");
            }
            Op::Input(_) => {}
            _ => return refuse("the target is no input"),
        }
        if self.is_exact(target) != self.is_exact(value) {
            return refuse("the target and the value are not held at the same precision");
        }
        self.push(Assign::default(), &[target, value])
    }
}

impl Operator for Assign {
    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let (paired, shared) = inputs.split_at(self.paired(inputs.len()));
        let (pairs, odd) = paired.as_chunks();
        let Some(&[first, _]) = pairs.first() else {
            return Err("takes a target and a value".to_owned());
        };
        require(odd.is_empty() && self.combined <= pairs.len(), || {
            format!("takes pairs of operands, not {}", paired.len())
        })?;
        for (index, &[target, value]) in pairs.iter().enumerate() {
            let value = match index < self.combined {
                true => Combine.infer(&[&[value], shared].concat())?,
                false => value,
            };
            require([target, value] == [first; 2], || {
                format!("{value} does not fit the target {target}, or that the first, {first}")
            })?;
        }
        Ok(first)
    }

    fn cost(&self, inputs: &[Shape], output: Shape) -> Cost {
        let touched: usize = inputs.iter().map(Shape::len).sum();
        Cost {
            flops: (2 * self.combined * self.terms * output.len()) as u64,
            activations: touched as u64,
            parameters: 0,
        }
    }

    fn eval(&self, inputs: &[Slice], params: &[Slice], output: &mut [f32]) {
        if self.combined == 0 {
            return output.copy_from_slice(inputs[1].data);
        }
        let shared = &inputs[self.paired(inputs.len())..];
        Combine.eval(&[&inputs[1..2], shared].concat(), params, output);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_inputs_take_values_and_the_old_one_is_read_before() {
        let mut g = Graph::new();
        let x = g.input("x", [2, 3]);
        let fixed = g.constant("fixed", [2, 3]);
        let exact = g.input_exact("exact", [2, 3]);
        let seen = g.reshape(x, [6]).unwrap();
        let y = g.add(x, x).unwrap();
        for target in [y, fixed, exact] {
            assert!(g.assign(target, y).is_err());
        }
        let next = g.assign(x, y).unwrap();
        assert_eq!(g.shape(next), [2, 3].into());
        assert!(g.add(next, y).is_ok(), "the new value may be read");
        for old in [x, seen] {
            let error = g.reshape(old, [3, 2]).unwrap_err().to_string();
            assert!(error.contains("`x`"), "{error}");
        }
        assert!(g.assign(x, y).is_err(), "one value a run");
    }

    #[test]
    fn the_value_is_copied() {
        let slice = |data| Slice {
            shape: [2].into(),
            data,
        };
        let mut y = [0.0; 2];
        let assign = Assign::default();
        assign.eval(&[slice(&[1.0, 2.0]), slice(&[3.0, 4.0])], &[], &mut y);
        assert_eq!(y, [3.0, 4.0]);
        assert!(assign.infer(&[[2].into(), [3].into()]).is_err());
    }

    #[test]
    fn combinations_come_first_and_what_they_share_last() {
        let assign = Assign {
            combined: 1,
            terms: 2,
        };
        let latent: Shape = [2, 3].into();
        let shared: [Shape; 3] = [[1].into(), latent, latent];
        let with = |pairs: &[Shape]| assign.infer(&[pairs, &shared].concat());
        let table = [4, 2].into();
        assert_eq!(with(&[latent, table]), Ok(latent));
        assert_eq!(with(&[latent, table, latent, latent]), Ok(latent));
        assert!(with(&[latent, latent]).is_err(), "no coefficients");
        assert!(with(&[latent, table, [3, 2].into(), [3, 2].into()]).is_err());
        assert!(with(&[latent, table, latent]).is_err() && with(&[]).is_err());
        assert_eq!(assign.paired(7), 4);
    }
}
