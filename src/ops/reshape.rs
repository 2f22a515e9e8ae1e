//! The same elements under another shape: image to tokens and back. The planner gives it its operand's memory.

use super::{Cost, Operator, Slice, exactly, require};
use crate::error::Result as CrateResult;
use crate::graph::{Graph, Value};
use crate::tensor::Shape;

/// The operand under another shape of as many elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reshape {
    /// The new shape.
    pub shape: Shape,
}

impl Graph {
    /// Appends `x` under another shape.
    ///
    /// # Errors
    /// If the number of elements differs.
    pub fn reshape(&mut self, x: Value, shape: impl Into<Shape>) -> CrateResult<Value> {
        self.push(
            Reshape {
                shape: shape.into(),
            },
            &[x],
        )
    }
}

impl Operator for Reshape {
    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let [x] = exactly(inputs)?;
        require(x.len() == self.shape.len(), || {
            format!("{x} cannot become {}", self.shape)
        })?;
        Ok(self.shape)
    }

    fn cost(&self, _: &[Shape], _: Shape) -> Cost {
        Cost::default()
    }

    fn eval(&self, inputs: &[Slice], _: &[Slice], output: &mut [f32]) {
        output.copy_from_slice(inputs[0].data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_shapes_of_equal_size() {
        let op = Reshape {
            shape: [1, 4, 2].into(),
        };
        assert_eq!(op.infer(&[[1, 2, 2, 2].into()]), Ok([1, 4, 2].into()));
        assert!(op.infer(&[[1, 2, 2, 3].into()]).is_err());
    }
}
