//! One value per channel, added to every pixel: how the timestep reaches a residual block.

use super::{Cost, Operator, Slice, require, row};
use crate::error::Result as CrateResult;
use crate::graph::{Graph, Value};
use crate::tensor::Shape;

/// Whose values are added to the channels of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Channels {
    /// The image's own: one operand, `[N, C]`.
    PerImage,
    /// The same for every image, a row of a table: two operands, the table `[S, C]` and the row's number `[1]` (exact). A number beyond
    /// the table means its last row. A sampler computes the table once, for all its steps, and each step reads its row.
    Row,
}

/// `y[n, .., c] = x[n, .., c] + v[c]`, where `v` is the image's own or a row of a table: the time embedding of a residual block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddChannels {
    /// Which.
    pub channels: Channels,
}

impl Channels {
    /// How many operands these are.
    pub fn operands(self) -> usize {
        match self {
            Self::PerImage => 1,
            Self::Row => 2,
        }
    }

    /// The operands left over, if the first ones fit an image batch of shape `x`.
    pub(super) fn infer(self, x: Shape, operands: &[Shape]) -> Result<&[Shape], String> {
        let (own, rest) = operands
            .split_at_checked(self.operands())
            .ok_or_else(|| format!("the channels of {x} need {} operands", self.operands()))?;
        let [n, c] = [x.batch(), x.channels()];
        match (self, own) {
            (Self::PerImage, _) => require(own[0] == [n, c].into(), || {
                format!("the channels of {x} need [{n}, {c}], not {}", own[0])
            })?,
            (Self::Row, own) => {
                let table = own[0].rank() == 2 && own[0].batch() > 0 && own[0].channels() == c;
                require(table && own[1] == [1].into(), || {
                    format!(
                        "the channels of {x} need a table [S, {c}] and a row [1], not {} and {}",
                        own[0], own[1]
                    )
                })?;
            }
        }
        Ok(rest)
    }

    /// The values for `image`, from the operands that begin with these.
    pub(crate) fn of_image<'a>(self, image: usize, operands: &[Slice<'a>]) -> &'a [f32] {
        let table = operands[0];
        let index = match self {
            Self::PerImage => image,
            Self::Row => row(operands[1], table.shape.batch()),
        };
        let channels = table.shape.channels();
        &table.data[index * channels..][..channels]
    }
}

impl Graph {
    /// Appends `x + v` with `v` repeated over positions.
    ///
    /// # Shapes
    /// `x [N, .., C]`, `v [N, C]`.
    ///
    /// # Errors
    /// If the batch or the channels differ.
    pub fn add_channels(&mut self, x: Value, v: Value) -> CrateResult<Value> {
        let channels = Channels::PerImage;
        self.push(AddChannels { channels }, &[x, v])
    }

    /// Appends `x + table[row]`, the row repeated over images and positions.
    ///
    /// # Shapes
    /// `x [N, .., C]`, `table [S, C]`, `row [1]` (exact).
    ///
    /// # Errors
    /// If the channels differ.
    pub fn add_row(&mut self, x: Value, table: Value, row: Value) -> CrateResult<Value> {
        let channels = Channels::Row;
        self.push(AddChannels { channels }, &[x, table, row])
    }
}

impl Operator for AddChannels {
    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let (x, operands) = inputs.split_first().ok_or("takes operands")?;
        require(x.rank() >= 2, || format!("{x} has no images"))?;
        let rest = self.channels.infer(*x, operands)?;
        require(rest.is_empty(), || "has operands left over".to_owned())?;
        Ok(*x)
    }

    fn cost(&self, inputs: &[Shape], output: Shape) -> Cost {
        Cost::of(output.len(), inputs, output, &[])
    }

    fn eval(&self, inputs: &[Slice], _: &[Slice], output: &mut [f32]) {
        let x = inputs[0];
        let channels = x.shape.channels();
        let rows = x.shape.rows() / x.shape.batch().max(1);
        for (row, (y, x)) in output
            .chunks_mut(channels)
            .zip(x.data.chunks(channels))
            .enumerate()
        {
            let v = self.channels.of_image(row / rows, &inputs[1..]);
            for ((y, x), v) in y.iter_mut().zip(x).zip(v) {
                *y = x + v;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(shape: impl Into<Shape>, data: &[f32]) -> Slice<'_> {
        Slice {
            shape: shape.into(),
            data,
        }
    }

    #[test]
    fn channels_are_added_to_their_own_image() {
        let x = slice([2, 1, 2, 2], &[0.0; 8]);
        let v = slice([2, 2], &[1.0, 2.0, 3.0, 4.0]);
        let op = AddChannels {
            channels: Channels::PerImage,
        };
        let mut y = [0.0; 8];
        op.eval(&[x, v], &[], &mut y);
        assert_eq!(y, [1.0, 2.0, 1.0, 2.0, 3.0, 4.0, 3.0, 4.0]);
        assert!(op.infer(&[x.shape, [1, 2].into()]).is_err());
    }

    #[test]
    fn a_row_is_added_to_every_image_and_none_lies_beyond_the_table() {
        let x = slice([2, 1, 2], &[0.0; 4]);
        let table = slice([3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let op = AddChannels {
            channels: Channels::Row,
        };
        for (row, expected) in [(1.0, [3.0, 4.0, 3.0, 4.0]), (9.0, [5.0, 6.0, 5.0, 6.0])] {
            let mut y = [0.0; 4];
            op.eval(&[x, table, slice([1], &[row])], &[], &mut y);
            assert_eq!(y, expected);
        }
        let refused = [[0, 2], [3, 1]].map(|table| op.infer(&[x.shape, table.into(), [1].into()]));
        assert!(refused.iter().all(Result::is_err));
        assert!(op.infer(&[x.shape, table.shape]).is_err());
    }
}
