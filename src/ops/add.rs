//! Sums: of two tensors, and with a learnt value per position.

use super::{Cost, Operator, Slice, exactly, require};
use crate::error::Result as CrateResult;
use crate::graph::{Graph, Param, Value};
use crate::tensor::Shape;

/// `y = a + b`, tensors of one shape: every residual connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Add;

/// `y[n, t, c] = x[n, t, c] + table[t, c]`: learnt positions of a text encoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddPositions {
    /// The table `[T', C]`, of which the first `T` rows are used.
    pub table: Param,
}

impl Graph {
    /// Appends `a + b`.
    ///
    /// # Errors
    /// If the shapes differ.
    pub fn add(&mut self, a: Value, b: Value) -> CrateResult<Value> {
        self.push(Add, &[a, b])
    }

    /// Appends `x + table` with `positions` learnt rows, named `table` in the current scope.
    ///
    /// # Shapes
    /// `x [N, T, C]`, `table [positions, C]`, `T <= positions`.
    ///
    /// # Errors
    /// If there are more tokens than positions.
    pub fn add_positions(&mut self, x: Value, table: &str, positions: usize) -> CrateResult<Value> {
        let table = self.param(table, [positions, self.shape(x).channels()]);
        self.push(AddPositions { table }, &[x])
    }
}

impl Operator for Add {
    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let [a, b] = exactly(inputs)?;
        require(a == b, || format!("shapes differ: {a} and {b}"))?;
        Ok(a)
    }

    fn cost(&self, inputs: &[Shape], output: Shape) -> Cost {
        Cost::of(output.len(), inputs, output, &[])
    }

    fn eval(&self, inputs: &[Slice], _: &[Slice], output: &mut [f32]) {
        for ((y, a), b) in output.iter_mut().zip(inputs[0].data).zip(inputs[1].data) {
            *y = a + b;
        }
    }
}

impl Operator for AddPositions {
    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let [x] = exactly(inputs)?;
        let table = self.table.shape;
        let fits = x
            .tokens()
            .is_some_and(|[_, t, c]| t <= table.batch() && c == table.channels());
        require(fits, || {
            format!("{x} does not fit the {table} learnt positions")
        })?;
        Ok(x)
    }

    fn cost(&self, inputs: &[Shape], output: Shape) -> Cost {
        Cost::of(output.len(), inputs, output, &self.params())
    }

    fn params(&self) -> Vec<&Param> {
        vec![&self.table]
    }

    fn eval(&self, inputs: &[Slice], params: &[Slice], output: &mut [f32]) {
        let x = inputs[0];
        let item = x.shape.len() / x.shape.batch().max(1);
        for (y, x) in output.chunks_mut(item).zip(x.data.chunks(item)) {
            for ((y, x), p) in y.iter_mut().zip(x).zip(params[0].data) {
                *y = x + p;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_restart_with_each_sequence() {
        let x = Slice {
            shape: [2, 2, 1].into(),
            data: &[0.0, 0.0, 10.0, 10.0],
        };
        let table = Slice {
            shape: [3, 1].into(),
            data: &[1.0, 2.0, 3.0],
        };
        let op = AddPositions {
            table: Param {
                name: "weight".into(),
                shape: table.shape,
            },
        };
        assert_eq!(op.infer(&[x.shape]), Ok(x.shape));
        assert!(op.infer(&[[1, 4, 1].into()]).is_err());
        let mut y = [0.0; 4];
        op.eval(&[x], &[table], &mut y);
        assert_eq!(y, [1.0, 2.0, 11.0, 12.0]);
    }
}
