//! Group normalisation in two operations, for an image that is computed in bands of rows.
//!
//! Mean and variance are the whole image's, so a band alone cannot be normalised. [`GroupStatistics`] sums blocks of whole rows, and
//! [`GroupNormalise`] applies what all blocks of the image say together. On every device both work in the blocks and the order of
//! [`GroupNorm`](super::GroupNorm), so that the result is the same to the bit.

use super::{Activation, Cost, Operator, Slice, exactly, require};
use crate::error::Result as CrateResult;
use crate::graph::{Graph, Param, Value};
use crate::tensor::Shape;

/// What the statistics of an image are of, and the order in which a device sums them, which changes no more than their rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Summed {
    /// Each group, as the device sums an image that it normalises.
    Groups,
    /// Each channel, as the device's products sum what they store.
    Channels,
    /// The same, of a convolution over an upsampled image that is made in four phases.
    Phases,
}

/// The blocks in which an image is summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Blocks {
    /// Rows of a block.
    pub rows: usize,
    /// What is summed of it.
    pub summed: Summed,
}

impl Blocks {
    /// How many statistics a block has, of an image of so many groups and channels.
    pub fn parts(&self, groups: usize, channels: usize) -> usize {
        match self.summed {
            Summed::Groups => groups,
            Summed::Channels | Summed::Phases => channels,
        }
    }
}

/// The mean of each group or channel in each block of rows, and its squared deviations from it: exact on every device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupStatistics {
    /// Number of groups.
    pub groups: usize,
    /// What is summed.
    pub blocks: Blocks,
}

/// As [`GroupNorm`](super::GroupNorm), with mean and variance from statistics of all blocks of an image, of which `x` may be a part.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupNormalise {
    /// Number of groups.
    pub groups: usize,
    /// What the statistics are of.
    pub blocks: Blocks,
    /// Added to the variance.
    pub eps: f32,
    /// `[C]`.
    pub weight: Param,
    /// `[C]`.
    pub bias: Param,
    /// Applies SiLU to the result.
    pub silu: bool,
}

/// The least number of rows that divides `height` and is at least `least`; `height` where there is none.
pub fn block_rows(height: usize, least: usize) -> usize {
    let divides = |rows: &usize| height.is_multiple_of(*rows);
    (least.max(1)..height).find(divides).unwrap_or(height)
}

impl Graph {
    /// Appends the statistics of `groups` groups in `blocks`.
    ///
    /// # Shapes
    /// `x [N, H, W, C]` gives `[N, G, H / rows, 2]`, or `C` in place of `G` where they are of channels.
    ///
    /// # Errors
    /// If the groups do not divide the channels, or the blocks the rows.
    pub fn group_statistics(
        &mut self,
        x: Value,
        groups: usize,
        blocks: Blocks,
    ) -> CrateResult<Value> {
        self.push(GroupStatistics { groups, blocks }, &[x])
    }
}

/// The sizes of `x`, if blocks and groups fit.
fn image(x: Shape, groups: usize, rows: usize) -> Result<[usize; 4], String> {
    let sizes = x
        .image()
        .ok_or_else(|| format!("takes an image, not {x}"))?;
    let [_, h, _, c] = sizes;
    require(groups > 0 && c.is_multiple_of(groups), || {
        format!("{groups} groups do not divide the channels of {x}")
    })?;
    require(rows > 0 && h.is_multiple_of(rows), || {
        format!("blocks of {rows} rows do not divide {x}")
    })?;
    Ok(sizes)
}

impl Operator for GroupStatistics {
    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let [x] = exactly(inputs)?;
        let [n, h, _, c] = image(x, self.groups, self.blocks.rows)?;
        let parts = self.blocks.parts(self.groups, c);
        Ok([n, parts, h / self.blocks.rows, 2].into())
    }

    fn cost(&self, inputs: &[Shape], output: Shape) -> Cost {
        let elements: usize = inputs.iter().map(Shape::len).sum();
        Cost::of(4 * elements, inputs, output, &[])
    }

    fn eval(&self, inputs: &[Slice], _: &[Slice], output: &mut [f32]) {
        let rows = self.blocks.rows;
        let Ok([_, h, w, c]) = image(inputs[0].shape, self.groups, rows) else {
            return;
        };
        let parts = self.blocks.parts(self.groups, c);
        let (blocks, each) = (h / rows, c / parts);
        let block = rows * w * c;
        for (at, result) in output.chunks_mut(2).enumerate() {
            let [image, part, index] = [at / (parts * blocks), at / blocks % parts, at % blocks];
            let values = || {
                inputs[0].data[(image * blocks + index) * block..][..block]
                    .chunks(c)
                    .flat_map(|pixel| &pixel[part * each..][..each])
                    .map(|&x| f64::from(x))
            };
            let mean = values().sum::<f64>() / (rows * w * each) as f64;
            let squares: f64 = values().map(|x| (x - mean).powi(2)).sum();
            result.copy_from_slice(&[mean as f32, squares as f32]);
        }
    }
}

impl Operator for GroupNormalise {
    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let [x, statistics] = exactly(inputs)?;
        let [n, _, _, c] = image(x, self.groups, self.blocks.rows)?;
        let parts = self.blocks.parts(self.groups, c);
        let fits = statistics
            .image()
            .is_some_and(|[m, of, blocks, two]| [m, of, two] == [n, parts, 2] && blocks > 0);
        require(fits, || {
            format!("the statistics {statistics} do not fit {x}")
        })?;
        require(self.weight.shape == [c].into(), || {
            format!("the weight {} does not fit {x}", self.weight.shape)
        })?;
        Ok(x)
    }

    fn cost(&self, inputs: &[Shape], output: Shape) -> Cost {
        Cost::of(4 * output.len(), inputs, output, &self.params())
    }

    fn params(&self) -> Vec<&Param> {
        vec![&self.weight, &self.bias]
    }

    fn eval(&self, inputs: &[Slice], params: &[Slice], output: &mut [f32]) {
        let rows = self.blocks.rows;
        let Ok([_, h, w, c]) = image(inputs[0].shape, self.groups, rows) else {
            return;
        };
        let per_group = c / self.groups;
        // A group's statistics, in so many blocks and parts.
        let parts = self.blocks.parts(self.groups, c) / self.groups;
        let count = (rows * w * per_group / parts) as f64;
        let blocks = parts
            * inputs[1]
                .shape
                .image()
                .map_or(1, |[_, _, blocks, _]| blocks);
        for (at, (x, y)) in inputs[0].data.iter().zip(output).enumerate() {
            let (image, channel) = (at / (h * w * c), at % c);
            let group = image * self.groups + channel / per_group;
            let of_blocks = inputs[1].data[group * blocks * 2..][..blocks * 2].chunks(2);
            let blocks = || {
                of_blocks
                    .clone()
                    .map(|block| [block[0], block[1]].map(f64::from))
            };
            let all = of_blocks.len() as f64;
            let mean = blocks().map(|[mean, _]| mean).sum::<f64>() / all;
            let around = |[own, squares]: [f64; 2]| squares + count * (own - mean).powi(2);
            let variance = blocks().map(around).sum::<f64>() / (all * count);
            let scale = 1.0 / (variance + f64::from(self.eps)).sqrt();
            let [weight, bias] = [0, 1].map(|i: usize| f64::from(params[i].data[channel]));
            let normal = ((f64::from(*x) - mean) * scale * weight + bias) as f32;
            *y = if self.silu {
                Activation::Silu.apply(normal)
            } else {
                normal
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::GroupNorm;

    #[test]
    fn both_operations_together_are_a_group_normalisation() {
        let param = |name: &str| Param {
            name: name.to_owned(),
            shape: [6].into(),
        };
        let shape: Shape = [2, 4, 3, 6].into();
        let x: Vec<f32> = (0..shape.len())
            .map(|i| ((i * 31) % 17) as f32 + 40.0)
            .collect();
        let x = Slice { shape, data: &x };
        let factors = [vec![1.5; 6], vec![0.25; 6]];
        let params: Vec<Slice> = (factors.iter())
            .map(|data| Slice {
                shape: [6].into(),
                data,
            })
            .collect();
        let whole = GroupNorm {
            sources: 1,
            groups: 2,
            eps: 1e-5,
            weight: param("weight"),
            bias: param("bias"),
            scale_shift: None,
            silu: true,
        };
        let mut expected = vec![0.0; shape.len()];
        whole.eval(&[x], &params, &mut expected);
        for (summed, parts) in [(Summed::Groups, 2), (Summed::Channels, 6)] {
            let blocks = Blocks { rows: 2, summed };
            let statistics = GroupStatistics { groups: 2, blocks };
            let of_blocks = statistics.infer(&[shape]).unwrap();
            assert_eq!(of_blocks, [2, parts, 2, 2].into());
            let mut sums = vec![0.0; of_blocks.len()];
            statistics.eval(&[x], &[], &mut sums);
            let sums = Slice {
                shape: of_blocks,
                data: &sums,
            };
            let normalise = GroupNormalise {
                groups: 2,
                blocks,
                eps: 1e-5,
                weight: param("weight"),
                bias: param("bias"),
                silu: true,
            };
            assert_eq!(normalise.infer(&[shape, of_blocks]), Ok(shape));
            let mut found = vec![0.0; shape.len()];
            normalise.eval(&[x, sums], &params, &mut found);
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-5, "{found} {expected}");
            }
        }
    }

    #[test]
    fn blocks_divide_the_height() {
        assert_eq!(block_rows(64, 3), 4);
        assert_eq!(block_rows(60, 7), 10);
        assert_eq!(block_rows(23, 2), 23);
        assert_eq!(block_rows(8, 64), 8);
        assert_eq!(block_rows(8, 0), 1);
    }
}
