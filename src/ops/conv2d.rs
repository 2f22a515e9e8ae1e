//! Two-dimensional convolution.

use super::concat::{joined, joined_shape, joined_shape_repeating};
use super::{Affine, Cost, Epilogue, Operator, Slice, require};
use crate::error::Result as CrateResult;
use crate::graph::{Graph, Param, Value};
use crate::tensor::Shape;

/// Zeros around an image, in pixels per side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Padding {
    /// Rows above.
    pub top: usize,
    /// Columns to the left.
    pub left: usize,
    /// Rows below.
    pub bottom: usize,
    /// Columns to the right.
    pub right: usize,
}

impl Padding {
    /// The same number of pixels on every side.
    pub fn all(pixels: usize) -> Self {
        Self {
            top: pixels,
            left: pixels,
            bottom: pixels,
            right: pixels,
        }
    }

    /// One pixel below and to the right: the autoencoder's downsampling.
    pub fn bottom_right() -> Self {
        Self {
            bottom: 1,
            right: 1,
            ..Self::default()
        }
    }
}

/// Whether the filter slides over the image or over one twice as large, by repetition of pixels: the fusion pass folds `upsample` in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Upsampling {
    /// Over the image.
    #[default]
    None,
    /// Over the large one.
    Repeated,
    /// Over the large one, computed as four convolutions of the image, one for each combination of even and odd rows and columns of the result,
    /// by 2x2 filters in which the weights of one pixel are added up. Of 3x3 filters, with a pixel of padding and no stride, and
    /// nothing beside.
    Phases,
}

/// `y[n, i, j, o] = sum_{r, s, c} x[n, i * stride + r - top, j * stride + s - left, c] weight[o, c, r, s] + bias[o]`, then the
/// epilogue. With something [beside](Beside), that is added to the sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conv2d {
    /// How many operands are `x`, joined along the channels: the fusion pass folds `concat` in.
    pub sources: usize,
    /// `[O, C, R, S]`.
    pub weight: Param,
    /// `[O]`.
    pub bias: Option<Param>,
    /// Pixels between outputs.
    pub stride: usize,
    /// Zeros around the image.
    pub padding: Padding,
    /// What is fused before the convolution.
    pub upsampling: Upsampling,
    /// A linear map added to the result: the fusion pass folds the skip connection of a residual block in.
    pub beside: Option<Beside>,
    /// What is fused after the convolution.
    pub epilogue: Epilogue,
}

/// A linear map of an image of the result's size, which follows the convolution's own operands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beside {
    /// How many operands are its image, joined along the channels. A second may have fewer images, which repeat.
    pub sources: usize,
    /// To the result's channels.
    pub map: Affine,
}

impl Conv2d {
    /// The operands of the epilogue, which follow all sources.
    fn others<'a, T>(&self, operands: &'a [T]) -> &'a [T] {
        let beside = self.beside.as_ref().map_or(0, |beside| beside.sources);
        operands.get(self.sources + beside..).unwrap_or(&[])
    }

    /// `[height, width]` of the image the filter slides over, before padding.
    pub fn source_size(&self, [_, h, w, _]: [usize; 4]) -> [usize; 2] {
        if self.upsampling != Upsampling::None {
            [2 * h, 2 * w]
        } else {
            [h, w]
        }
    }

    /// Whether it can be computed in [phases](Upsampling::Phases) over an upsampled image.
    pub fn has_phases(&self) -> bool {
        let filter = self.weight.shape.image().map(|[_, _, r, s]| [r, s]);
        let plain = self.stride == 1 && self.padding == Padding::all(1);
        filter == Some([3, 3]) && plain && self.beside.is_none()
    }

    /// The shape of the convolution itself, without the epilogue.
    fn product(&self, x: Shape) -> Result<Shape, String> {
        let image = x
            .image()
            .ok_or_else(|| format!("takes an image [N, H, W, C], not {x}"))?;
        let [o, c, r, s] = self
            .weight
            .shape
            .image()
            .ok_or("needs a weight [O, C, R, S]")?;
        require(image[3] == c, || {
            format!("the weight {} does not fit {x}", self.weight.shape)
        })?;
        let [h, w] = self.source_size(image);
        let p = self.padding;
        let size = |pixels: usize, filter: usize| {
            let positions = pixels.checked_sub(filter)? / self.stride + 1;
            Some(positions)
        };
        let height = size(h + p.top + p.bottom, r);
        let width = size(w + p.left + p.right, s);
        match (height, width) {
            (Some(height), Some(width)) => Ok([image[0], height, width, o].into()),
            _ => Err(format!(
                "the filter {r}x{s} is larger than the padded image of {x}"
            )),
        }
    }
}

impl Graph {
    /// Appends a convolution to `features` channels with the scope's `weight` and `bias`.
    ///
    /// # Shapes
    /// `x [N, H, W, C]`; `weight [features, C, filter, filter]`, `bias [features]`.
    ///
    /// # Errors
    /// If the filter is larger than the padded image.
    pub fn conv2d(
        &mut self,
        x: Value,
        features: usize,
        filter: usize,
        stride: usize,
        padding: Padding,
    ) -> CrateResult<Value> {
        let weight = self.param(
            "weight",
            [features, self.shape(x).channels(), filter, filter],
        );
        let bias = Some(self.param("bias", [features]));
        let epilogue = Epilogue::default();
        self.push(
            Conv2d {
                sources: 1,
                weight,
                bias,
                stride,
                padding,
                upsampling: Upsampling::None,
                beside: None,
                epilogue,
            },
            &[x],
        )
    }
}

impl Operator for Conv2d {
    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let (x, operands) = joined_shape(inputs, self.sources)?;
        require(self.stride > 0, || "the stride is zero".to_owned())?;
        let divided = self.upsampling == Upsampling::Phases;
        require(!divided || self.has_phases(), || {
            format!("the filter {} has no phases", self.weight.shape)
        })?;
        let product = self.product(x)?;
        if let Some(Beside { sources, map }) = &self.beside {
            let (image, _) = joined_shape_repeating(operands, *sources)?;
            let [o, c] = [map.weight.shape.batch(), map.weight.shape.channels()];
            let fits = image.channels() == c && image.with_channels(o) == product;
            require(fits, || {
                format!(
                    "{} of {image} does not fit beside {product}",
                    map.weight.shape
                )
            })?;
        }
        self.epilogue.infer(product, self.others(inputs))
    }

    fn cost(&self, inputs: &[Shape], output: Shape) -> Cost {
        let product = joined_shape(inputs, self.sources).and_then(|(x, _)| self.product(x));
        let pixels = product.map_or(0, |product| product.rows());
        let own = match self.upsampling {
            Upsampling::None | Upsampling::Repeated => self.weight.shape.len(),
            // Four taps of nine.
            Upsampling::Phases => self.weight.shape.len() / 9 * 4,
        };
        let beside = self.beside.iter().map(|beside| &beside.map.weight);
        let products = own + beside.map(|weight| weight.shape.len()).sum::<usize>();
        Cost::of(2 * pixels * products, inputs, output, &self.params())
    }

    fn params(&self) -> Vec<&Param> {
        let beside = self.beside.iter().map(|beside| &beside.map);
        let beside = beside.flat_map(|map| std::iter::once(&map.weight).chain(&map.bias));
        let own = std::iter::once(&self.weight).chain(&self.bias);
        own.chain(beside).collect()
    }

    fn eval(&self, inputs: &[Slice], params: &[Slice], output: &mut [f32]) {
        let (shape, x) = joined(&inputs[..self.sources]);
        let (Some([_, h, w, channels]), Some([o, _, r, s])) =
            (shape.image(), params[0].shape.image())
        else {
            return;
        };
        let Some([n, height, width, _]) = self.product(shape).ok().and_then(|p| p.image()) else {
            return;
        };
        let [source_h, source_w] = self.source_size([n, h, w, channels]);
        // The source pixel under filter tap (i, j) of output (y, x), unless it lies in the padding.
        let source = |out: usize, tap: usize, before: usize, size: usize| {
            let at = (out * self.stride + tap)
                .checked_sub(before)
                .filter(|&at| at < size)?;
            Some(match self.upsampling {
                Upsampling::None => at,
                Upsampling::Repeated | Upsampling::Phases => at / 2,
            })
        };
        let (own, other) = params.split_at(1 + usize::from(self.bias.is_some()));
        let beside = self
            .beside
            .as_ref()
            .map(|beside| joined(&inputs[self.sources..][..beside.sources]));
        let mut product = vec![0.0; o];
        let out_channels = output.len() / (n * height * width).max(1);
        for (row, y) in output.chunks_mut(out_channels).enumerate() {
            let (image, oy, ox) = (row / (height * width), row / width % height, row % width);
            for (k, p) in product.iter_mut().enumerate() {
                let biases = [own.get(1), other.get(1)].into_iter().flatten();
                let mut sum: f64 = biases.map(|b| f64::from(b.data[k])).sum();
                for i in 0..r {
                    let Some(sy) = source(oy, i, self.padding.top, source_h) else {
                        continue;
                    };
                    for j in 0..s {
                        let Some(sx) = source(ox, j, self.padding.left, source_w) else {
                            continue;
                        };
                        let pixel = &x[((image * h + sy) * w + sx) * channels..][..channels];
                        for (c, value) in pixel.iter().enumerate() {
                            let weight = params[0].data[((k * channels + c) * r + i) * s + j];
                            sum += f64::from(*value) * f64::from(weight);
                        }
                    }
                }
                if let (Some((shape, x)), Some(weight)) = (&beside, other.first()) {
                    let channels = shape.channels();
                    let [x, w] = [(&x[..], row), (weight.data, k)]
                        .map(|(data, index)| &data[index * channels..][..channels]);
                    let products = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
                    sum += products.sum::<f64>();
                }
                *p = sum as f32;
            }
            self.epilogue
                .eval_row(&mut product, row, image, self.others(inputs), y);
        }
    }
}

#[cfg(test)]
mod tests;
