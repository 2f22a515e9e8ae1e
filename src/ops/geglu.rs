//! Gated linear unit with GELU.

use super::{Activation, Cost, Operator, Slice, exactly, require};
use crate::error::Result as CrateResult;
use crate::graph::{Graph, Value};
use crate::tensor::Shape;

/// `y[.., c] = x[.., c] * gelu(x[.., C/2 + c])`: the first half of the channels is the value, the second the gate.
///
/// # Source
/// Shazeer, arXiv:2002.05202, equation (6), without the matrix products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geglu;

impl Graph {
    /// Appends the gated unit, which halves the channels.
    ///
    /// # Errors
    /// If the number of channels is odd.
    pub fn geglu(&mut self, x: Value) -> CrateResult<Value> {
        self.push(Geglu, &[x])
    }
}

impl Operator for Geglu {
    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let [x] = exactly(inputs)?;
        require(x.rank() > 0 && x.channels().is_multiple_of(2), || {
            format!("{x} has no halves")
        })?;
        Ok(x.with_channels(x.channels() / 2))
    }

    fn cost(&self, inputs: &[Shape], output: Shape) -> Cost {
        Cost::of(6 * output.len(), inputs, output, &[])
    }

    fn eval(&self, inputs: &[Slice], _: &[Slice], output: &mut [f32]) {
        let half = inputs[0].shape.channels() / 2;
        for (x, y) in inputs[0].data.chunks(2 * half).zip(output.chunks_mut(half)) {
            let (value, gate) = x.split_at(half);
            for ((y, value), gate) in y.iter_mut().zip(value).zip(gate) {
                *y = value * Activation::Gelu.apply(*gate);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_half_is_the_value() {
        let x = Slice {
            shape: [1, 4].into(),
            data: &[2.0, 3.0, 1.0, -100.0],
        };
        let mut y = [9.0; 2];
        Geglu.eval(&[x], &[], &mut y);
        assert_eq!(y, [2.0 * Activation::Gelu.apply(1.0), 0.0]);
        assert!(Geglu.infer(&[[1, 3].into()]).is_err());
    }
}
