//! Nearest-neighbour upsampling by two.

use super::{Cost, Operator, Slice, exactly};
use crate::error::Result as CrateResult;
use crate::graph::{Graph, Value};
use crate::tensor::Shape;

/// `y[n, i, j, c] = x[n, i / 2, j / 2, c]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upsample2x;

impl Graph {
    /// Appends nearest-neighbour upsampling by two.
    ///
    /// # Shapes
    /// `x [N, H, W, C]` gives `[N, 2H, 2W, C]`.
    ///
    /// # Errors
    /// If `x` is no image.
    pub fn upsample2x(&mut self, x: Value) -> CrateResult<Value> {
        self.push(Upsample2x, &[x])
    }
}

impl Operator for Upsample2x {
    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let [x] = exactly(inputs)?;
        let [n, h, w, c] = x
            .image()
            .ok_or_else(|| format!("takes an image, not {x}"))?;
        Ok([n, 2 * h, 2 * w, c].into())
    }

    fn cost(&self, inputs: &[Shape], output: Shape) -> Cost {
        Cost::of(0, inputs, output, &[])
    }

    fn eval(&self, inputs: &[Slice], _: &[Slice], output: &mut [f32]) {
        let Some([_, _, w, c]) = inputs[0].shape.image() else {
            return;
        };
        let row = w * c;
        for (i, y) in output.chunks_mut(2 * row).enumerate() {
            // Rows of all images follow one another and each image has an even number, so images need no case of their own.
            let x = &inputs[0].data[i / 2 * row..][..row];
            for (pair, pixel) in y.chunks_mut(2 * c).zip(x.chunks(c)) {
                pair[..c].copy_from_slice(pixel);
                pair[c..].copy_from_slice(pixel);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pixel_becomes_four() {
        let x = Slice {
            shape: [2, 1, 2, 1].into(),
            data: &[1.0, 2.0, 3.0, 4.0],
        };
        let mut y = [0.0; 16];
        Upsample2x.eval(&[x], &[], &mut y);
        let expected = [
            1., 1., 2., 2., 1., 1., 2., 2., 3., 3., 4., 4., 3., 3., 4., 4.,
        ];
        assert_eq!(y, expected);
    }
}
