//! Averages of two by two pixels.

use super::{Cost, Operator, Slice, exactly};
use crate::error::Result as CrateResult;
use crate::graph::{Graph, Value};
use crate::tensor::Shape;

/// `y[n, i, j, c]` is the mean of `x[n, 2i + k, 2j + l, c]` over `k, l` in `{0, 1}`; an odd last row or column is left out.
///
/// Bilinear interpolation to half the size, between pixel centres and without smoothing, is the same: each sample falls in the middle of
/// four pixels. CompVis's `SpatialRescaler` halves segmentation maps so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AveragePool2x;

impl Graph {
    /// Appends the average of each two by two pixels.
    ///
    /// # Shapes
    /// `x [N, H, W, C]` gives `[N, H / 2, W / 2, C]`, rounded down.
    ///
    /// # Errors
    /// If `x` is no image, or of less than two by two pixels.
    pub fn average_pool2x(&mut self, x: Value) -> CrateResult<Value> {
        self.push(AveragePool2x, &[x])
    }
}

impl Operator for AveragePool2x {
    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let [x] = exactly(inputs)?;
        match x.image() {
            Some([n, h, w, c]) if h >= 2 && w >= 2 => Ok([n, h / 2, w / 2, c].into()),
            _ => Err(format!("takes an image of at least 2x2 pixels, not {x}")),
        }
    }

    fn cost(&self, inputs: &[Shape], output: Shape) -> Cost {
        Cost::of(4 * output.len(), inputs, output, &[])
    }

    fn eval(&self, inputs: &[Slice], _: &[Slice], output: &mut [f32]) {
        let Some([_, h, w, c]) = inputs[0].shape.image() else {
            return;
        };
        let [rows, row] = [h / 2, w / 2 * c];
        for (i, y) in output.chunks_mut(row).enumerate() {
            let above = (i / rows * h + i % rows * 2) * w * c;
            for (j, y) in y.iter_mut().enumerate() {
                let first = above + j / c * 2 * c + j % c;
                let four = [first, first + c, first + w * c, first + (w + 1) * c];
                let sum: f64 = four.map(|at| f64::from(inputs[0].data[at])).iter().sum();
                *y = (sum / 4.0) as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_pixels_become_their_mean_and_an_odd_edge_is_left_out() {
        let data: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let x = Slice {
            shape: [2, 3, 4, 1].into(),
            data: &data,
        };
        let mut y = [0.0; 4];
        AveragePool2x.eval(&[x], &[], &mut y);
        assert_eq!(y, [2.5, 4.5, 14.5, 16.5]);
        assert_eq!(AveragePool2x.infer(&[x.shape]), Ok([2, 1, 2, 1].into()));
        assert!(AveragePool2x.infer(&[[2, 1, 4, 1].into()]).is_err());
    }
}
