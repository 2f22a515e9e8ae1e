//! Matrix product with a weight: linear maps and 1x1 convolutions, which are the same thing on `[N, H, W, C]`.

use super::concat::{joined, joined_shape};
use super::{Activation, Channels, Cost, LayerNorm, Operator, Slice, repeats, require};
use crate::error::Result as CrateResult;
use crate::graph::{Graph, Param, Value};
use crate::tensor::Shape;
use std::borrow::Cow;

/// The learnt tensors of a linear map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Affine {
    /// `[O, C]`; a checkpoint may hold it as a 1x1 convolution.
    pub weight: Param,
    /// `[O]`.
    pub bias: Option<Param>,
}

/// `y[.., o] = sum_c x[.., c] weight[o, c] + bias[o]`, then the epilogue.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// How many operands are `x`, joined along the channels: the fusion pass folds `concat` in.
    pub sources: usize,
    /// `[O, C]`; a checkpoint may hold it as a 1x1 convolution.
    pub weight: Param,
    /// `[O]`.
    pub bias: Option<Param>,
    /// More maps of the same operand, whose channels follow: the fusion pass joins queries, keys and values. Either all have a bias or none.
    pub stacked: Vec<Affine>,
    /// Normalises `x`, which is one tensor then: the fusion pass folds `layer_norm` in.
    pub norm: Option<LayerNorm>,
    /// What is fused after the product.
    pub epilogue: Epilogue,
}

impl Linear {
    /// Channels of the product, before the epilogue.
    pub fn features(&self) -> usize {
        let stacked = self.stacked.iter().map(|map| &map.weight);
        let weights = std::iter::once(&self.weight).chain(stacked);
        weights.map(|weight| weight.shape.batch()).sum()
    }
}

/// What a matrix product or convolution does to its result before storing it, in this order. Models never ask for it: the
/// fusion pass folds the nodes that follow into their producer, and each step is defined by the operation it replaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epilogue {
    /// Adds one value per channel, of extra operands that follow the product's own: `add_channels`.
    pub channels: Option<Channels>,
    /// Applies a non-linearity: `activation`.
    pub activation: Option<Activation>,
    /// Multiplies the first half of the channels by GELU of the second, halving them: `geglu`.
    pub gate: bool,
    /// Adds a tensor of the result's shape, or of fewer images that repeat (an extra operand, the last): `add`.
    pub residual: bool,
}

impl Epilogue {
    /// How many operands the epilogue adds.
    pub fn operands(&self) -> usize {
        self.channels.map_or(0, Channels::operands) + usize::from(self.residual)
    }

    /// The shape of the result where the product itself has shape `product`; checks the extra operands.
    pub(super) fn infer(&self, product: Shape, operands: &[Shape]) -> Result<Shape, String> {
        let operands = match self.channels {
            Some(channels) => channels.infer(product, operands)?,
            None => operands,
        };
        let shape = if self.gate {
            let channels = product.channels();
            require(channels.is_multiple_of(2), || {
                format!("{channels} channels have no halves")
            })?;
            product.with_channels(channels / 2)
        } else {
            product
        };
        let fits = match operands {
            [] => !self.residual,
            [residual] => self.residual && repeats(*residual, shape),
            _ => false,
        };
        require(fits, || {
            let expected: &[Shape] = if self.residual { &[shape] } else { &[] };
            format!("takes {expected:?} besides, not {operands:?}")
        })?;
        Ok(shape)
    }

    /// Finishes one row: `product` holds the sums with bias; `image` is the row's image.
    pub(super) fn eval_row(
        &self,
        product: &mut [f32],
        row: usize,
        image: usize,
        operands: &[Slice],
        output: &mut [f32],
    ) {
        if let Some(channels) = self.channels {
            let v = channels.of_image(image, operands);
            product.iter_mut().zip(v).for_each(|(p, v)| *p += v);
        }
        if let Some(activation) = self.activation {
            product.iter_mut().for_each(|p| *p = activation.apply(*p));
        }
        if self.gate {
            let (value, gate) = product.split_at(output.len());
            for ((y, v), g) in output.iter_mut().zip(value).zip(gate) {
                *y = v * Activation::Gelu.apply(*g);
            }
        } else {
            output.copy_from_slice(product);
        }
        if let Some(r) = operands.last().filter(|_| self.residual) {
            let row = row % r.shape.rows();
            let r = &r.data[row * output.len()..][..output.len()];
            output.iter_mut().zip(r).for_each(|(y, r)| *y += r);
        }
    }
}

impl Graph {
    /// Appends a linear map to `features` channels with the scope's `weight` and, where asked, `bias`.
    ///
    /// # Shapes
    /// `x [.., C]` gives `[.., features]`; `weight [features, C]`, `bias [features]`.
    ///
    /// # Errors
    /// None for a value of this graph.
    pub fn linear(&mut self, x: Value, features: usize, bias: bool) -> CrateResult<Value> {
        let weight = self.param("weight", [features, self.shape(x).channels()]);
        let bias = bias.then(|| self.param("bias", [features]));
        self.push(
            Linear {
                sources: 1,
                weight,
                bias,
                stacked: vec![],
                norm: None,
                epilogue: Epilogue::default(),
            },
            &[x],
        )
    }
}

impl Operator for Linear {
    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let (x, operands) = joined_shape(inputs, self.sources)?;
        let channels = self.weight.shape.channels();
        require(x.rank() >= 1 && x.channels() == channels, || {
            format!("the weight {} does not fit {x}", self.weight.shape)
        })?;
        for map in &self.stacked {
            let alike = map.weight.shape.channels() == channels;
            require(alike && map.bias.is_some() == self.bias.is_some(), || {
                format!(
                    "{} and {} are not alike",
                    self.weight.shape, map.weight.shape
                )
            })?;
        }
        if let Some(norm) = &self.norm {
            require(self.sources == 1, || "normalises one source".to_owned())?;
            norm.infer(&[x])?;
        }
        self.epilogue
            .infer(x.with_channels(self.features()), operands)
    }

    fn cost(&self, inputs: &[Shape], output: Shape) -> Cost {
        let flops = 2 * inputs[0].rows() * self.features() * self.weight.shape.channels();
        Cost::of(flops, inputs, output, &self.params())
    }

    fn params(&self) -> Vec<&Param> {
        let stacked = self.stacked.iter();
        let maps = stacked.flat_map(|map| std::iter::once(&map.weight).chain(&map.bias));
        let own = std::iter::once(&self.weight).chain(&self.bias);
        let norm = self.norm.iter().flat_map(Operator::params);
        own.chain(maps).chain(norm).collect()
    }

    fn eval(&self, inputs: &[Slice], params: &[Slice], output: &mut [f32]) {
        let (shape, mut x) = joined(&inputs[..self.sources]);
        let turn = 1 + usize::from(self.bias.is_some());
        let (maps, factors) = params.split_at((1 + self.stacked.len()) * turn);
        if let Some(norm) = &self.norm {
            let mut normalised = vec![0.0; x.len()];
            let data = &x;
            norm.eval(&[Slice { shape, data }], factors, &mut normalised);
            x = Cow::Owned(normalised);
        }
        let channels = shape.channels();
        let rows_per_image = shape.rows() / shape.batch().max(1);
        let rows: Vec<(&[f32], Option<f32>)> = maps
            .chunks(turn)
            .flat_map(|map| {
                let bias = |o: usize| map.get(1).map(|bias| bias.data[o]);
                let rows = map[0].data.chunks(channels).enumerate();
                rows.map(move |(o, row)| (row, bias(o)))
            })
            .collect();
        let mut product = vec![0.0; rows.len()];
        let width = output.len() / shape.rows().max(1);
        for (row, (x, y)) in x.chunks(channels).zip(output.chunks_mut(width)).enumerate() {
            for (p, (w, bias)) in product.iter_mut().zip(&rows) {
                let products = x.iter().zip(*w).map(|(x, w)| f64::from(*x) * f64::from(*w));
                *p = (products.sum::<f64>() + f64::from(bias.unwrap_or(0.0))) as f32;
            }
            let (image, operands) = (row / rows_per_image, &inputs[self.sources..]);
            self.epilogue
                .eval_row(&mut product, row, image, operands, y);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn param(shape: impl Into<Shape>) -> Param {
        Param {
            name: "p".into(),
            shape: shape.into(),
        }
    }

    #[test]
    fn product_bias_and_every_epilogue_step_in_order() {
        let epilogue = Epilogue {
            channels: Some(Channels::PerImage),
            activation: None,
            gate: true,
            residual: true,
        };
        let op = Linear {
            sources: 1,
            weight: param([2, 1]),
            bias: Some(param([2])),
            stacked: vec![],
            norm: None,
            epilogue,
        };
        let x = Slice {
            shape: [1, 2, 1].into(),
            data: &[1.0, 2.0],
        };
        let w = Slice {
            shape: [2, 1].into(),
            data: &[3.0, 0.0],
        };
        let b = Slice {
            shape: [2].into(),
            data: &[0.5, 0.0],
        };
        let v = Slice {
            shape: [1, 2].into(),
            data: &[0.0, 1.0],
        };
        let r = Slice {
            shape: [1, 2, 1].into(),
            data: &[100.0, 200.0],
        };
        assert_eq!(op.infer(&[x.shape, v.shape, r.shape]), Ok([1, 2, 1].into()));
        let mut y = [0.0; 2];
        op.eval(&[x, v, r], &[w, b], &mut y);
        let gelu = Activation::Gelu.apply(1.0);
        assert_eq!(y, [3.5 * gelu + 100.0, 6.5 * gelu + 200.0]);
    }

    #[test]
    fn a_weight_of_other_channels_is_refused() {
        let op = Linear {
            sources: 1,
            weight: param([2, 3]),
            bias: None,
            stacked: vec![],
            norm: None,
            epilogue: Epilogue::default(),
        };
        assert!(op.infer(&[[1, 4].into()]).unwrap_err().contains("[2, 3]"));
        assert_eq!(op.cost(&[[5, 3].into()], [5, 2].into()).flops, 60);
    }

    #[test]
    fn sources_are_joined_along_their_channels() {
        let op = Linear {
            sources: 2,
            weight: param([1, 3]),
            bias: None,
            stacked: vec![],
            norm: None,
            epilogue: Epilogue::default(),
        };
        let [a, b] =
            [([2, 1], &[1.0, 2.0][..]), ([2, 2], &[3.0, 4.0, 5.0, 6.0])].map(|(shape, data)| {
                Slice {
                    shape: shape.into(),
                    data,
                }
            });
        let w = Slice {
            shape: [1, 3].into(),
            data: &[100.0, 10.0, 1.0],
        };
        assert_eq!(op.infer(&[a.shape, b.shape]), Ok([2, 1].into()));
        let mut y = [0.0; 2];
        op.eval(&[a, b], &[w], &mut y);
        assert_eq!(y, [134.0, 256.0]);
        assert!(op.infer(&[a.shape]).is_err());
    }

    #[test]
    fn channels_of_stacked_maps_follow_one_another() {
        let map = |rows: usize| Affine {
            weight: param([rows, 2]),
            bias: Some(param([rows])),
        };
        let Affine { weight, bias } = map(1);
        let mut op = Linear {
            sources: 1,
            weight,
            bias,
            stacked: vec![map(2)],
            norm: None,
            epilogue: Epilogue::default(),
        };
        let slice = |shape: Shape, data| Slice { shape, data };
        let x = slice([1, 2].into(), &[1.0, 10.0]);
        let params = [
            slice([1, 2].into(), &[1.0, 2.0]),
            slice([1].into(), &[0.5]),
            slice([2, 2].into(), &[3.0, 4.0, 5.0, 6.0]),
            slice([2].into(), &[0.25, 0.125]),
        ];
        assert_eq!(op.infer(&[x.shape]), Ok([1, 3].into()));
        assert_eq!(op.cost(&[x.shape], [1, 3].into()).flops, 12);
        let mut y = [0.0; 3];
        op.eval(&[x], &params, &mut y);
        assert_eq!(y, [21.5, 43.25, 65.125]);
        op.stacked[0].bias = None;
        assert!(op.infer(&[x.shape]).unwrap_err().contains("not alike"));
    }

    #[test]
    fn a_row_is_normalised_before_it_is_multiplied() {
        let norm = LayerNorm {
            eps: 0.0,
            weight: param([2]),
            bias: param([2]),
        };
        let op = Linear {
            sources: 1,
            weight: param([1, 2]),
            bias: None,
            stacked: vec![],
            norm: Some(norm),
            epilogue: Epilogue::default(),
        };
        let slice = |shape: Shape, data| Slice { shape, data };
        let x = slice([1, 2].into(), &[5.0, 7.0]);
        let params = [
            slice([1, 2].into(), &[1.0, 100.0]),
            slice([2].into(), &[2.0, 3.0]),
            slice([2].into(), &[0.0, 0.5]),
        ];
        assert_eq!(op.infer(&[x.shape]), Ok([1, 1].into()));
        let mut y = [0.0];
        op.eval(&[x], &params, &mut y);
        assert_eq!(y, [-2.0 + 350.0]);
        let two = Linear { sources: 2, ..op };
        let halves = [[1, 1].into(); 2];
        assert!(two.infer(&halves).unwrap_err().contains("one source"));
    }
}
