//! The nearest entry of a learnt codebook: what makes a latent discrete.

use super::{Cost, Operator, Slice, exactly, require};
use crate::error::Result as CrateResult;
use crate::graph::{Graph, Param, Value};
use crate::tensor::Shape;

/// `y[..] = argmin_k |x[.., :] - codes[k, :]|`, the lowest `k` of several; NaN where `x` is not finite. The result is exact.
///
/// An [`Embedding`](super::Embedding) of the same table turns numbers into codes again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Codebook {
    /// `[K, D]`.
    pub codes: Param,
    /// Whether the operand is held in 32 bits: half of one may have another nearest code.
    pub exact: bool,
}

impl Graph {
    /// Appends the search of the scope's `weight`, a table of `codes`, for the nearest to each pixel of `x`.
    ///
    /// # Shapes
    /// `x [N, h, w, D]` gives `[N, h, w]` (exact); `weight [codes, D]`.
    ///
    /// # Errors
    /// If `x` is a scalar.
    ///
    /// # Source
    /// van den Oord et al., arXiv:1711.00937, equation (1).
    pub fn codebook(&mut self, x: Value, codes: usize) -> CrateResult<Value> {
        let codes = self.param("weight", [codes, self.shape(x).channels()]);
        let exact = self.is_exact(x);
        self.push(Codebook { codes, exact }, &[x])
    }
}

impl Operator for Codebook {
    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let [x] = exactly(inputs)?;
        require(
            x.rank() > 1 && x.channels() == self.codes.shape.channels(),
            || format!("the codes {} do not fit {x}", self.codes.shape),
        )?;
        Ok(Shape::new(&x.dims()[..x.rank() - 1]))
    }

    fn cost(&self, inputs: &[Shape], output: Shape) -> Cost {
        let flops = 2 * inputs[0].rows() * self.codes.shape.len();
        Cost::of(flops, inputs, output, &self.params())
    }

    fn params(&self) -> Vec<&Param> {
        vec![&self.codes]
    }

    fn eval(&self, inputs: &[Slice], params: &[Slice], output: &mut [f32]) {
        let width = self.codes.shape.channels();
        for (y, x) in output.iter_mut().zip(inputs[0].data.chunks(width)) {
            let mut nearest = (f64::INFINITY, f32::NAN);
            for (number, code) in params[0].data.chunks(width).enumerate() {
                let squares = x.iter().zip(code);
                let squares = squares.map(|(x, e)| (f64::from(*x) - f64::from(*e)).powi(2));
                let distance: f64 = squares.sum();
                if distance < nearest.0 {
                    nearest = (distance, number as f32);
                }
            }
            *y = nearest.1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_of_the_nearest_codes_is_found_and_what_is_no_number_has_none() {
        let op = Codebook {
            codes: Param {
                name: "weight".into(),
                shape: [4, 2].into(),
            },
            exact: true,
        };
        let codes = Slice {
            shape: op.codes.shape,
            data: &[9.0, 9.0, 1.0, 0.0, -1.0, 0.0, 1.0, 0.0],
        };
        let x = Slice {
            shape: [1, 4, 2].into(),
            data: &[0.0, 0.0, 0.9, 0.1, f32::NAN, 0.0, 0.0, f32::INFINITY],
        };
        assert_eq!(op.infer(&[x.shape]), Ok([1, 4].into()));
        assert_eq!(op.cost(&[x.shape], [1, 4].into()).flops, 64);
        let mut y = [7.0; 4];
        op.eval(&[x], &[codes], &mut y);
        assert_eq!(y[..2], [1.0, 1.0]);
        assert!(y[2].is_nan() && y[3].is_nan());
        assert!(
            op.infer(&[[1, 4, 3].into()])
                .unwrap_err()
                .contains("[4, 2]")
        );
    }
}
