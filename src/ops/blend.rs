//! One tensor inside of a mask, and another outside of it.

use super::{Cost, Operator, Slice, exactly, require};
use crate::error::Result as CrateResult;
use crate::graph::{Graph, Value};
use crate::tensor::Shape;

/// `y = m a + (1 - m) b`, tensors of one shape: what sampling does with the part of an image that is known (section 4.1 of
/// arXiv:2201.09865). Where the mask is 1 or 0, one of the two comes out as it is, unless the other is not finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blend;

impl Graph {
    /// Appends `mask * inside + (1 - mask) * outside`.
    ///
    /// # Errors
    /// If the shapes differ.
    pub fn blend(&mut self, mask: Value, inside: Value, outside: Value) -> CrateResult<Value> {
        self.push(Blend, &[mask, inside, outside])
    }
}

impl Operator for Blend {
    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let [mask, inside, outside] = exactly(inputs)?;
        require(mask == inside && inside == outside, || {
            format!("shapes differ: {mask}, {inside} and {outside}")
        })?;
        Ok(mask)
    }

    fn cost(&self, inputs: &[Shape], output: Shape) -> Cost {
        Cost::of(4 * output.len(), inputs, output, &[])
    }

    fn eval(&self, inputs: &[Slice], _: &[Slice], output: &mut [f32]) {
        let [mask, inside, outside] = [0, 1, 2].map(|index| inputs[index].data);
        for (i, y) in output.iter_mut().enumerate() {
            let m = f64::from(mask[i]);
            *y = (m * f64::from(inside[i]) + (1.0 - m) * f64::from(outside[i])) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_of_ones_and_zeros_chooses() {
        let slice = |data| Slice {
            shape: [3].into(),
            data,
        };
        let operands = [
            slice(&[1.0, 0.0, 0.25]),
            slice(&[0.1, 0.2, 4.0]),
            slice(&[0.3, 0.7, 8.0]),
        ];
        let mut y = [0.0; 3];
        Blend.eval(&operands, &[], &mut y);
        assert_eq!(y, [0.1, 0.7, 7.0]);
        let other: Shape = [2].into();
        assert!(Blend.infer(&[[3].into(), [3].into(), other]).is_err());
    }
}
