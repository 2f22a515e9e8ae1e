//! An input's next value: how one run leaves its result where the next one finds it.

use super::{Cost, Op, Operator, Slice, require};
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assign;

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
        self.push(Assign, &[target, value])
    }
}

impl Operator for Assign {
    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let [target, rest @ ..] = inputs else {
            return Err("takes a target and a value".to_owned());
        };
        require(rest.len() % 2 == 1, || {
            format!("takes pairs of operands, not {}", inputs.len())
        })?;
        for value in rest {
            require(target == value, || {
                format!("{value} does not fit the target {target}")
            })?;
        }
        Ok(*target)
    }

    fn cost(&self, inputs: &[Shape], output: Shape) -> Cost {
        Cost {
            flops: 0,
            activations: (inputs.len() * output.len()) as u64,
            parameters: 0,
        }
    }

    fn eval(&self, inputs: &[Slice], _: &[Slice], output: &mut [f32]) {
        output.copy_from_slice(inputs[1].data);
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
        Assign.eval(&[slice(&[1.0, 2.0]), slice(&[3.0, 4.0])], &[], &mut y);
        assert_eq!(y, [3.0, 4.0]);
        assert!(Assign.infer(&[[2].into(), [3].into()]).is_err());
    }
}
