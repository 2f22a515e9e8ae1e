//! How much of an image is no number: so little to read that every step of a sampler can be watched.

use super::{Cost, Operator, Slice, exactly, require};
use crate::error::Result as CrateResult;
use crate::graph::{Graph, Value};
use crate::tensor::Shape;

/// `y[n]` is the number of elements of `x[n, ..]` that are NaN or infinite. The result is exact; a count beyond 2^24 is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CountNotFinite;

impl Graph {
    /// Appends the count of NaN and infinity in each image.
    ///
    /// # Shapes
    /// `x [N, ..]` gives `[N]` (exact).
    ///
    /// # Errors
    /// If `x` is a scalar.
    pub fn count_not_finite(&mut self, x: Value) -> CrateResult<Value> {
        self.push(CountNotFinite, &[x])
    }
}

impl Operator for CountNotFinite {
    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let [x] = exactly(inputs)?;
        require(x.rank() > 0, || "takes images, not a scalar".to_owned())?;
        Ok([x.batch()].into())
    }

    fn cost(&self, inputs: &[Shape], output: Shape) -> Cost {
        Cost::of(inputs[0].len(), inputs, output, &[])
    }

    fn eval(&self, inputs: &[Slice], _: &[Slice], output: &mut [f32]) {
        let item = (inputs[0].data.len() / output.len().max(1)).max(1);
        output.fill(0.0);
        for (y, x) in output.iter_mut().zip(inputs[0].data.chunks(item)) {
            *y = x.iter().filter(|x| !x.is_finite()).count() as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_infinities_and_nan_are_counted_in_their_own_image() {
        let x = Slice {
            shape: [3, 2].into(),
            data: &[
                f32::NAN,
                f32::INFINITY,
                1.0,
                f32::MAX,
                f32::NEG_INFINITY,
                0.0,
            ],
        };
        assert_eq!(CountNotFinite.infer(&[x.shape]), Ok([3].into()));
        let mut y = [9.0; 3];
        CountNotFinite.eval(&[x], &[], &mut y);
        assert_eq!(y, [2.0, 0.0, 1.0]);
    }
}
