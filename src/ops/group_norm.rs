//! Normalisation over groups of channels.

use super::concat::{joined, joined_shape_repeating};
use super::scale_shift::{self, scaled};
use super::{Activation, Channels, Cost, Operator, Slice, require};
use crate::error::Result as CrateResult;
use crate::graph::{Graph, Param, Value};
use crate::tensor::Shape;

/// `y = (x - mean) / sqrt(variance + eps) * weight[c] + bias[c]`, mean and variance over the pixels and channels of one group of
/// one image; then a scale, a shift and SiLU where the fusion pass found them.
///
/// # Source
/// Wu and He, arXiv:1803.08494, equation (1).
#[derive(Clone, Debug, PartialEq)]
pub struct GroupNorm {
    /// How many operands are `x`, joined along the channels: the fusion pass folds `concat` in. A second may have fewer images, which repeat.
    pub sources: usize,
    /// Number of groups.
    pub groups: usize,
    /// Added to the variance: 1e-5 in the UNet's blocks, 1e-6 in the autoencoder and before a spatial transformer.
    pub eps: f32,
    /// `[C]`.
    pub weight: Param,
    /// `[C]`.
    pub bias: Param,
    /// Scales and shifts the result by extra operands, as `scale_shift` does.
    pub scale_shift: Option<Channels>,
    /// Applies SiLU to the result, last.
    pub silu: bool,
}

impl Graph {
    /// Appends a normalisation over `groups` groups with the scope's `weight` and `bias`.
    ///
    /// # Shapes
    /// `x [N, .., C]`; `weight [C]`, `bias [C]`.
    ///
    /// # Errors
    /// If the groups do not divide the channels.
    pub fn group_norm(&mut self, x: Value, groups: usize, eps: f32) -> CrateResult<Value> {
        let channels = self.shape(x).channels();
        let [weight, bias] = ["weight", "bias"].map(|name| self.param(name, [channels]));
        self.push(
            GroupNorm {
                sources: 1,
                groups,
                eps,
                weight,
                bias,
                scale_shift: None,
                silu: false,
            },
            &[x],
        )
    }
}

impl Operator for GroupNorm {
    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let (x, rest) = joined_shape_repeating(inputs, self.sources)?;
        let (channels, groups) = (x.channels(), self.groups);
        require(
            x.rank() >= 2 && groups > 0 && channels.is_multiple_of(groups),
            || format!("{groups} groups do not divide the channels of {x}"),
        )?;
        require(self.weight.shape == [channels].into(), || {
            format!("the weight {} does not fit {x}", self.weight.shape)
        })?;
        match self.scale_shift {
            Some(channels) => scale_shift::check(channels, x, rest)?,
            None => require(rest.is_empty(), || "has operands left over".to_owned())?,
        }
        Ok(x)
    }

    fn cost(&self, inputs: &[Shape], output: Shape) -> Cost {
        Cost::of(8 * output.len(), inputs, output, &self.params())
    }

    fn params(&self) -> Vec<&Param> {
        vec![&self.weight, &self.bias]
    }

    fn eval(&self, inputs: &[Slice], params: &[Slice], output: &mut [f32]) {
        let (sources, operands) = inputs.split_at(self.sources);
        let (shape, x) = joined(sources);
        let channels = shape.channels();
        let per_group = channels / self.groups;
        let item = shape.len() / shape.batch().max(1);
        for (image, (x, y)) in x.chunks(item).zip(output.chunks_mut(item)).enumerate() {
            let v = self.scale_shift.map(|v| v.of_image(image, operands));
            for group in 0..self.groups {
                let first = group * per_group;
                let values = || {
                    x.chunks(channels)
                        .flat_map(|p| &p[first..first + per_group])
                        .map(|&v| f64::from(v))
                };
                let count = (item / self.groups) as f64;
                let mean = values().sum::<f64>() / count;
                let variance = values().map(|v| (v - mean).powi(2)).sum::<f64>() / count;
                let scale = 1.0 / (variance + f64::from(self.eps)).sqrt();
                for (x, y) in x.chunks(channels).zip(y.chunks_mut(channels)) {
                    for c in first..first + per_group {
                        let [w, b] = [params[0].data[c], params[1].data[c]].map(f64::from);
                        let mut normal = ((f64::from(x[c]) - mean) * scale * w + b) as f32;
                        if let Some(v) = v {
                            normal = scaled(normal, v[c], v[channels + c]);
                        }
                        y[c] = if self.silu {
                            Activation::Silu.apply(normal)
                        } else {
                            normal
                        };
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_group_of_each_image_has_mean_zero_and_variance_one() {
        let shape: Shape = [2, 3, 1, 4].into();
        let mut g = Graph::new();
        let x = g.input("x", shape);
        let y = g.group_norm(x, 2, 0.0).unwrap();
        let data: Vec<f32> = (0..shape.len())
            .map(|i| ((i * 7) % 11) as f32 + 1e4)
            .collect();
        let ones = Slice {
            shape: [4].into(),
            data: &[1.0; 4],
        };
        let zeros = Slice {
            shape: [4].into(),
            data: &[0.0; 4],
        };
        let mut out = vec![0.0; shape.len()];
        g.node(y)
            .op
            .operator()
            .eval(&[Slice { shape, data: &data }], &[ones, zeros], &mut out);
        for image in out.chunks(12) {
            for group in 0..2 {
                let values: Vec<f32> = image
                    .chunks(4)
                    .flat_map(|p| p[group * 2..group * 2 + 2].to_vec())
                    .collect();
                let mean: f32 = values.iter().sum::<f32>() / 6.0;
                let variance: f32 = values.iter().map(|v| v * v).sum::<f32>() / 6.0;
                assert!(
                    mean.abs() < 1e-6 && (variance - 1.0).abs() < 1e-5,
                    "{mean} {variance}"
                );
            }
        }
    }

    #[test]
    fn groups_must_divide_channels() {
        let mut g = Graph::new();
        let x = g.input("x", [1, 2, 2, 6]);
        assert!(g.group_norm(x, 4, 1e-5).is_err());
        assert!(g.group_norm(x, 0, 1e-5).is_err());
    }
}
