//! A scale and a shift for each channel: the other way in which the timestep reaches a residual block.

use super::{Channels, Cost, Operator, Slice, require};
use crate::error::Result as CrateResult;
use crate::graph::{Graph, Value};
use crate::tensor::Shape;

/// `y[n, .., c] = x[n, .., c] (1 + v[c]) + v[C + c]`, where `v` is the image's own or a row of a table: `[N, 2C]` or `[S, 2C]`, scales first.
///
/// # Source
/// Adaptive group normalisation of Dhariwal and Nichol, arXiv:2105.05233, section 3; `use_scale_shift_norm` in CompVis's `openaimodel.py`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScaleShift {
    /// Which.
    pub channels: Channels,
}

impl Graph {
    /// Appends `x (1 + scale) + shift`, each repeated over positions.
    ///
    /// # Shapes
    /// `x [N, .., C]`, `v [N, 2C]`: scales, then shifts.
    ///
    /// # Errors
    /// If the batch or the channels do not fit.
    pub fn scale_shift(&mut self, x: Value, v: Value) -> CrateResult<Value> {
        let channels = Channels::PerImage;
        self.push(ScaleShift { channels }, &[x, v])
    }

    /// Appends `x (1 + scale) + shift` of a table's row, which is repeated over images and positions.
    ///
    /// # Shapes
    /// `x [N, .., C]`, `table [S, 2C]`, `row [1]` (exact).
    ///
    /// # Errors
    /// If the channels do not fit.
    pub fn scale_shift_row(&mut self, x: Value, table: Value, row: Value) -> CrateResult<Value> {
        let channels = Channels::Row;
        self.push(ScaleShift { channels }, &[x, table, row])
    }
}

/// One element.
pub(super) fn scaled(x: f32, scale: f32, shift: f32) -> f32 {
    (f64::from(x) * (1.0 + f64::from(scale)) + f64::from(shift)) as f32
}

/// Refuses operands that are not scales and shifts of `x`.
pub(super) fn check(channels: Channels, x: Shape, operands: &[Shape]) -> Result<(), String> {
    let rest = channels.infer(x.with_channels(2 * x.channels()), operands)?;
    require(rest.is_empty(), || "has operands left over".to_owned())
}

impl Operator for ScaleShift {
    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let (x, operands) = inputs.split_first().ok_or("takes operands")?;
        require(x.rank() >= 2, || format!("{x} has no images"))?;
        check(self.channels, *x, operands)?;
        Ok(*x)
    }

    fn cost(&self, inputs: &[Shape], output: Shape) -> Cost {
        Cost::of(2 * output.len(), inputs, output, &[])
    }

    fn eval(&self, inputs: &[Slice], _: &[Slice], output: &mut [f32]) {
        let x = inputs[0];
        let channels = x.shape.channels();
        let rows = x.shape.rows() / x.shape.batch().max(1);
        let pixels = output.chunks_mut(channels).zip(x.data.chunks(channels));
        for (row, (y, x)) in pixels.enumerate() {
            let v = self.channels.of_image(row / rows, &inputs[1..]);
            for (c, (y, x)) in y.iter_mut().zip(x).enumerate() {
                *y = scaled(*x, v[c], v[channels + c]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_come_before_shifts_and_zero_changes_nothing() {
        let x = Slice {
            shape: [2, 1, 2].into(),
            data: &[1.0, 2.0, 3.0, 4.0],
        };
        let own = Slice {
            shape: [2, 4].into(),
            data: &[1.0, 2.0, 10.0, 20.0, 0.0, 0.0, 0.0, 0.0],
        };
        let row = Slice {
            shape: [1].into(),
            data: &[0.0],
        };
        let mut y = [0.0; 4];
        let channels = Channels::PerImage;
        ScaleShift { channels }.eval(&[x, own], &[], &mut y);
        assert_eq!(y, [12.0, 26.0, 3.0, 4.0]);
        let channels = Channels::Row;
        ScaleShift { channels }.eval(&[x, own, row], &[], &mut y);
        assert_eq!(y, [12.0, 26.0, 16.0, 32.0]);
        let narrow = [x.shape, [2, 2].into()];
        let channels = Channels::PerImage;
        assert!(ScaleShift { channels }.infer(&narrow).is_err());
    }
}
