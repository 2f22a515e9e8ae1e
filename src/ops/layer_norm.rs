//! Normalisation over channels.

use super::{Cost, Operator, Slice, exactly, require};
use crate::error::Result as CrateResult;
use crate::graph::{Graph, Param, Value};
use crate::tensor::Shape;

/// `y = (x - mean) / sqrt(variance + eps) * weight + bias`, mean and variance over the channels of one position.
///
/// # Source
/// Ba, Kiros and Hinton, arXiv:1607.06450, equation (4).
#[derive(Clone, Debug, PartialEq)]
pub struct LayerNorm {
    /// Added to the variance; 1e-5 in every network here.
    pub eps: f32,
    /// `[C]`.
    pub weight: Param,
    /// `[C]`.
    pub bias: Param,
}

impl Graph {
    /// Appends a normalisation over channels with the scope's `weight` and `bias`.
    ///
    /// # Shapes
    /// `x [.., C]`; `weight [C]`, `bias [C]`.
    ///
    /// # Errors
    /// None for a value of this graph.
    pub fn layer_norm(&mut self, x: Value, eps: f32) -> CrateResult<Value> {
        let channels = self.shape(x).channels();
        let [weight, bias] = ["weight", "bias"].map(|name| self.param(name, [channels]));
        self.push(LayerNorm { eps, weight, bias }, &[x])
    }
}

impl Operator for LayerNorm {
    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let [x] = exactly(inputs)?;
        require(self.weight.shape == [x.channels()].into(), || {
            format!("the weight {} does not fit {x}", self.weight.shape)
        })?;
        Ok(x)
    }

    fn cost(&self, inputs: &[Shape], output: Shape) -> Cost {
        Cost::of(8 * output.len(), inputs, output, &self.params())
    }

    fn params(&self) -> Vec<&Param> {
        vec![&self.weight, &self.bias]
    }

    fn eval(&self, inputs: &[Slice], params: &[Slice], output: &mut [f32]) {
        let channels = inputs[0].shape.channels();
        for (x, y) in inputs[0]
            .data
            .chunks(channels)
            .zip(output.chunks_mut(channels))
        {
            let count = channels as f64;
            let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / count;
            let variance = x
                .iter()
                .map(|&v| (f64::from(v) - mean).powi(2))
                .sum::<f64>()
                / count;
            let scale = 1.0 / (variance + f64::from(self.eps)).sqrt();
            for (c, (x, y)) in x.iter().zip(y).enumerate() {
                let [w, b] = [params[0].data[c], params[1].data[c]].map(f64::from);
                *y = ((f64::from(*x) - mean) * scale * w + b) as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answer() {
        let mut g = Graph::new();
        let x = g.input("x", [1, 2]);
        let y = g.layer_norm(x, 0.0).unwrap();
        let slice = |data| Slice {
            shape: [2].into(),
            data,
        };
        let mut out = [0.0; 2];
        let input = Slice {
            shape: [1, 2].into(),
            data: &[1.0, 3.0],
        };
        let op = g.node(y).op.operator();
        op.eval(
            &[input],
            &[slice(&[2.0, 2.0]), slice(&[0.0, 1.0])],
            &mut out,
        );
        assert_eq!(out, [-2.0, 3.0]);
    }
}
