//! Rows of a learnt table: token and class embeddings.

use super::{Cost, Operator, Slice, exactly, require};
use crate::error::Result as CrateResult;
use crate::graph::{Graph, Param, Value};
use crate::tensor::Shape;

/// `y[.., :] = table[ids[..], :]`. Ids beyond the table take its last row: callers check what users typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Embedding {
    /// `[V, D]`.
    pub table: Param,
}

impl Embedding {
    /// The row that an id held as f32 selects.
    pub fn row(&self, id: f32) -> usize {
        (id as usize).min(self.table.shape.batch().saturating_sub(1))
    }
}

impl Graph {
    /// Appends the rows of the scope's `weight` that `ids` selects.
    ///
    /// # Shapes
    /// `ids [N, ..]` (exact), of up to three sizes, gives `[N, .., features]`; `weight [rows, features]`.
    ///
    /// # Errors
    /// If `ids` has no room for another size.
    pub fn embedding(&mut self, ids: Value, rows: usize, features: usize) -> CrateResult<Value> {
        let table = self.param("weight", [rows, features]);
        self.push(Embedding { table }, &[ids])
    }
}

impl Operator for Embedding {
    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let [ids] = exactly(inputs)?;
        require((1..=3).contains(&ids.rank()), || {
            format!("takes ids [N], [N, T] or [N, h, w], not {ids}")
        })?;
        let dims = [ids.dims(), &[self.table.shape.channels()]].concat();
        Ok(Shape::new(&dims))
    }

    fn cost(&self, inputs: &[Shape], output: Shape) -> Cost {
        // Only the selected rows are read, not the table.
        let activations = (inputs[0].len() + output.len()) as u64;
        Cost {
            flops: 0,
            activations,
            parameters: output.len() as u64,
        }
    }

    fn params(&self) -> Vec<&Param> {
        vec![&self.table]
    }

    fn eval(&self, inputs: &[Slice], params: &[Slice], output: &mut [f32]) {
        let width = self.table.shape.channels();
        for (y, id) in output.chunks_mut(width).zip(inputs[0].data) {
            y.copy_from_slice(&params[0].data[self.row(*id) * width..][..width]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_select_rows_and_never_leave_the_table() {
        let table = Slice {
            shape: [2, 2].into(),
            data: &[1.0, 2.0, 3.0, 4.0],
        };
        let op = Embedding {
            table: Param {
                name: "weight".into(),
                shape: table.shape,
            },
        };
        let ids = Slice {
            shape: [1, 3].into(),
            data: &[1.0, 0.0, 7.0],
        };
        assert_eq!(op.infer(&[ids.shape]), Ok([1, 3, 2].into()));
        let mut y = [0.0; 6];
        op.eval(&[ids], &[table], &mut y);
        assert_eq!(y, [3.0, 4.0, 1.0, 2.0, 3.0, 4.0]);
    }
}
