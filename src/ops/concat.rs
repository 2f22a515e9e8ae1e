//! Tensors joined along the channels (skip connections) or along the batch (the two halves of guidance).

use super::{Cost, Operator, Slice, repeats, require};
use crate::error::Result as CrateResult;
use crate::graph::{Graph, Value};
use crate::tensor::Shape;
use std::borrow::Cow;

/// Along which axis tensors are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Axis {
    /// The innermost: `[.., C1]` and `[.., C2]` give `[.., C1 + C2]`.
    Channels,
    /// The outermost: `[N1, ..]` and `[N2, ..]` give `[N1 + N2, ..]`.
    Batch,
}

/// The operands one after another along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Concat {
    /// Along which.
    pub axis: Axis,
}

impl Graph {
    /// Appends the operands joined along `axis`.
    ///
    /// # Errors
    /// If their other sizes differ.
    pub fn concat(&mut self, values: &[Value], axis: Axis) -> CrateResult<Value> {
        self.push(Concat { axis }, values)
    }
}

impl Operator for Concat {
    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let first = *inputs.first().ok_or("takes at least one operand")?;
        let free = |shape: Shape| match self.axis {
            Axis::Channels => shape.with_channels(1),
            Axis::Batch => shape.with_batch(1),
        };
        let odd = inputs
            .iter()
            .find(|x| x.rank() == 0 || free(**x) != free(first));
        require(odd.is_none(), || format!("shapes do not fit: {inputs:?}"))?;
        Ok(match self.axis {
            Axis::Channels => first.with_channels(inputs.iter().map(Shape::channels).sum()),
            Axis::Batch => first.with_batch(inputs.iter().map(Shape::batch).sum()),
        })
    }

    fn cost(&self, inputs: &[Shape], output: Shape) -> Cost {
        Cost::of(0, inputs, output, &[])
    }

    fn eval(&self, inputs: &[Slice], _: &[Slice], output: &mut [f32]) {
        let (rows, width) = match self.axis {
            Axis::Channels => (
                inputs[0].shape.rows(),
                inputs.iter().map(|x| x.shape.channels()).sum(),
            ),
            Axis::Batch => (1, output.len()),
        };
        for (row, y) in output.chunks_mut(width).enumerate() {
            let mut y = y;
            for x in inputs {
                let piece = x.data.len() / rows;
                let (head, tail) = y.split_at_mut(piece);
                head.copy_from_slice(&x.data[row * piece..][..piece]);
                y = tail;
            }
        }
    }
}

/// The shape of the first `sources` operands joined along the channels, and the operands that follow them.
pub(super) fn joined_shape(
    operands: &[Shape],
    sources: usize,
) -> Result<(Shape, &[Shape]), String> {
    let count = operands.len();
    let (own, rest) = operands
        .split_at_checked(sources)
        .ok_or_else(|| format!("takes {sources} operands or more, not {count}"))?;
    let axis = Axis::Channels;
    Ok((Concat { axis }.infer(own)?, rest))
}

/// As [`joined_shape`], where the second source may have fewer images, which repeat.
pub(super) fn joined_shape_repeating(
    operands: &[Shape],
    sources: usize,
) -> Result<(Shape, &[Shape]), String> {
    let (mut whole, rest) = match operands.get(..sources) {
        Some(own) => (own.to_vec(), &operands[sources..]),
        None => return joined_shape(operands, sources),
    };
    if let [first, second] = &mut whole[..]
        && repeats(*second, second.with_batch(first.batch()))
    {
        *second = second.with_batch(first.batch());
    }
    Ok((joined_shape(&whole, sources)?.0, rest))
}

/// The operands joined along the channels: what the sources of an operation are to it. Those of fewer images than the first repeat.
pub(super) fn joined<'a>(operands: &[Slice<'a>]) -> (Shape, Cow<'a, [f32]>) {
    let channels = operands.iter().map(|x| x.shape.channels()).sum();
    let shape = operands[0].shape.with_channels(channels);
    if let [x] = operands {
        return (shape, Cow::Borrowed(x.data));
    }
    let mut joined = Vec::with_capacity(shape.len());
    for row in 0..shape.rows() {
        for x in operands {
            let (own, rows) = (x.shape.channels(), x.shape.rows());
            joined.extend_from_slice(&x.data[row % rows * own..][..own]);
        }
    }
    (shape, Cow::Owned(joined))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_axes_keep_the_order_of_operands() {
        let a = Slice {
            shape: [2, 1].into(),
            data: &[1.0, 2.0],
        };
        let b = Slice {
            shape: [2, 2].into(),
            data: &[3.0, 4.0, 5.0, 6.0],
        };
        let mut y = [0.0; 6];
        let op = Concat {
            axis: Axis::Channels,
        };
        assert_eq!(op.infer(&[a.shape, b.shape]), Ok([2, 3].into()));
        op.eval(&[a, b], &[], &mut y);
        assert_eq!(y, [1.0, 3.0, 4.0, 2.0, 5.0, 6.0]);

        let op = Concat { axis: Axis::Batch };
        assert!(op.infer(&[a.shape, b.shape]).is_err());
        assert_eq!(op.infer(&[a.shape, a.shape]), Ok([4, 1].into()));
        op.eval(&[a, a], &[], &mut y[..4]);
        assert_eq!(y[..4], [1.0, 2.0, 1.0, 2.0]);
    }
}
