//! One token of each sequence: the pooled output of a text encoder.

use super::{Cost, Operator, Slice, exactly, require};
use crate::error::Result as CrateResult;
use crate::graph::{Graph, Value};
use crate::tensor::Shape;

/// `y[n, c] = x[n, index[n], c]`. An index beyond the sequence takes its last token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatherToken;

impl Graph {
    /// Appends token `index[n]` of each sequence.
    ///
    /// # Shapes
    /// `x [N, T, C]`, `index [N]` (exact) give `[N, C]`.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn gather_token(&mut self, x: Value, index: Value) -> CrateResult<Value> {
        self.push(GatherToken, &[x, index])
    }
}

impl Operator for GatherToken {
    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let [x, index] = exactly(inputs)?;
        let [n, t, c] = x
            .tokens()
            .ok_or_else(|| format!("takes tokens [N, T, C], not {x}"))?;
        require(index == [n].into() && t > 0, || {
            format!("{x} needs an index [{n}], not {index}")
        })?;
        Ok([n, c].into())
    }

    fn cost(&self, _: &[Shape], output: Shape) -> Cost {
        Cost {
            flops: 0,
            activations: 2 * output.len() as u64,
            parameters: 0,
        }
    }

    fn eval(&self, inputs: &[Slice], _: &[Slice], output: &mut [f32]) {
        let Some([_, t, c]) = inputs[0].shape.tokens() else {
            return;
        };
        for (n, (y, index)) in output.chunks_mut(c).zip(inputs[1].data).enumerate() {
            let token = (*index as usize).min(t - 1);
            y.copy_from_slice(&inputs[0].data[(n * t + token) * c..][..c]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sequence_its_own_token() {
        let x = Slice {
            shape: [2, 2, 1].into(),
            data: &[1.0, 2.0, 3.0, 4.0],
        };
        let index = Slice {
            shape: [2].into(),
            data: &[1.0, 0.0],
        };
        let mut y = [0.0; 2];
        GatherToken.eval(&[x, index], &[], &mut y);
        assert_eq!(y, [2.0, 3.0]);
        assert!(GatherToken.infer(&[x.shape, [3].into()]).is_err());
    }
}
