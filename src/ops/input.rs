//! A tensor set from outside the graph.

use super::{Cost, Operator, Slice};
use crate::tensor::Shape;

/// A tensor set from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Input {
    /// Held in 32 bits on every device: ids, timesteps, coefficients.
    pub exact: bool,
    /// Set once for many runs. What follows from constants alone is computed once, too.
    pub constant: bool,
}

impl Operator for Input {
    fn infer(&self, _: &[Shape]) -> Result<Shape, String> {
        Err("is declared with Graph::input, which gives its shape".to_owned())
    }

    fn cost(&self, _: &[Shape], _: Shape) -> Cost {
        Cost::default()
    }

    /// Nothing to compute: the value is there.
    fn eval(&self, _: &[Slice], _: &[Slice], _: &mut [f32]) {}
}
