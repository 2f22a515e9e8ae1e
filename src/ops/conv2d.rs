//! Two-dimensional convolution.

use super::concat::{joined, joined_shape};
use super::{Cost, Epilogue, Operator, Slice, require};
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

/// `y[n, i, j, o] = sum_{r, s, c} x[n, i * stride + r - top, j * stride + s - left, c] weight[o, c, r, s] + bias[o]`, then the
/// epilogue.
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
    /// The image is first upsampled by two (nearest neighbour): the fusion pass folds `upsample` in.
    pub upsample: bool,
    /// What is fused after the convolution.
    pub epilogue: Epilogue,
}

impl Conv2d {
    /// `[height, width]` of the image the filter slides over, before padding.
    pub fn source_size(&self, [_, h, w, _]: [usize; 4]) -> [usize; 2] {
        if self.upsample {
            [2 * h, 2 * w]
        } else {
            [h, w]
        }
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
                upsample: false,
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
        self.epilogue.infer(self.product(x)?, operands)
    }

    fn cost(&self, inputs: &[Shape], output: Shape) -> Cost {
        let product = joined_shape(inputs, self.sources).and_then(|(x, _)| self.product(x));
        let pixels = product.map_or(0, |product| product.rows());
        Cost::of(
            2 * pixels * self.weight.shape.len(),
            inputs,
            output,
            &self.params(),
        )
    }

    fn params(&self) -> Vec<&Param> {
        std::iter::once(&self.weight).chain(&self.bias).collect()
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
            Some(if self.upsample { at / 2 } else { at })
        };
        let mut product = vec![0.0; o];
        let out_channels = output.len() / (n * height * width).max(1);
        for (row, y) in output.chunks_mut(out_channels).enumerate() {
            let (image, oy, ox) = (row / (height * width), row / width % height, row % width);
            for (k, p) in product.iter_mut().enumerate() {
                let mut sum = params.get(1).map_or(0.0, |b| f64::from(b.data[k]));
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
                *p = sum as f32;
            }
            self.epilogue
                .eval_row(&mut product, row, image, &inputs[self.sources..], y);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conv(filter: usize, stride: usize, padding: Padding, upsample: bool) -> Conv2d {
        let weight = Param {
            name: "weight".into(),
            shape: [1, 1, filter, filter].into(),
        };
        Conv2d {
            sources: 1,
            weight,
            bias: None,
            stride,
            padding,
            upsample,
            epilogue: Epilogue::default(),
        }
    }

    fn run(op: &Conv2d, x: Slice, weight: &[f32]) -> (Shape, Vec<f32>) {
        let shape = op.infer(&[x.shape]).unwrap();
        let mut y = vec![0.0; shape.len()];
        op.eval(
            &[x],
            &[Slice {
                shape: op.weight.shape,
                data: weight,
            }],
            &mut y,
        );
        (shape, y)
    }

    #[test]
    fn a_shift_filter_moves_the_image() {
        let x = Slice {
            shape: [1, 2, 2, 1].into(),
            data: &[1.0, 2.0, 3.0, 4.0],
        };
        let mut right_neighbour = [0.0; 9];
        right_neighbour[5] = 1.0;
        let (shape, y) = run(&conv(3, 1, Padding::all(1), false), x, &right_neighbour);
        assert_eq!(shape, x.shape);
        assert_eq!(y, [2.0, 0.0, 4.0, 0.0]);
    }

    #[test]
    fn one_sided_padding_with_stride_two() {
        let data: Vec<f32> = (0..16).map(|i| i as f32).collect();
        let x = Slice {
            shape: [1, 4, 4, 1].into(),
            data: &data,
        };
        let mut corner = [0.0; 9];
        corner[8] = 1.0;
        let (shape, y) = run(&conv(3, 2, Padding::bottom_right(), false), x, &corner);
        assert_eq!(shape, [1, 2, 2, 1].into());
        assert_eq!(
            y,
            [10.0, 0.0, 0.0, 0.0],
            "the last row and column fall on the padding"
        );
    }

    #[test]
    fn upsampling_repeats_each_pixel() {
        let x = Slice {
            shape: [1, 1, 2, 1].into(),
            data: &[5.0, 7.0],
        };
        let (shape, y) = run(&conv(1, 1, Padding::default(), true), x, &[1.0]);
        assert_eq!(shape, [1, 2, 4, 1].into());
        assert_eq!(y, [5.0, 5.0, 7.0, 7.0, 5.0, 5.0, 7.0, 7.0]);
    }

    #[test]
    fn a_filter_larger_than_the_image_is_refused() {
        let op = conv(3, 1, Padding::default(), false);
        assert!(op.infer(&[[1, 2, 2, 1].into()]).is_err());
        assert!(op.infer(&[[1, 3, 3, 2].into()]).is_err());
    }
}
