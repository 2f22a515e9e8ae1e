//! Convolutions.

use super::kernel::{self, Argument};
use super::product::{Factor, Product};
use super::{Kernel, Target};
use crate::ops::Conv2d;
use crate::tensor::Shape;

pub(super) fn select(
    op: &Conv2d,
    inputs: &[Shape],
    output: Shape,
    target: &Target,
) -> Result<Kernel, String> {
    let image = |shape: Option<&Shape>| shape.and_then(Shape::image).ok_or("takes images");
    let [_, h, w, _] = image(inputs.first())?;
    let [_, out_h, out_w, _] = image(Some(&output))?;
    let [_, _, filter_h, filter_w] = image(Some(&op.weight.shape))?;
    let n = op.weight.shape.batch();
    let factor = Factor {
        n,
        k: op.weight.shape.len().checked_div(n).unwrap_or(0),
        matrices: vec![0],
        biases: op.bias.iter().map(|_| 1).collect(),
    };
    let sources = (inputs, op.sources);
    let product = Product::new("conv2d", sources, &factor, &op.epilogue, output)?;
    // Lines and columns of the padded, upsampled image are counted in 32 bits too.
    let [source_h, source_w] = op.source_size([1, h, w, 1]);
    let padding = op.padding;
    kernel::int(source_h + padding.top + padding.bottom)?;
    kernel::int(source_w + padding.left + padding.right)?;
    let sizes = [
        out_h,
        out_w,
        filter_h,
        filter_w,
        op.stride,
        padding.top,
        padding.left,
        usize::from(op.upsample),
    ];
    let sizes: Vec<Argument> = (sizes.into_iter().map(kernel::int)).collect::<Result<_, _>>()?;
    let image = [kernel::int(h)?, kernel::int(w)?];
    product.kernel(
        &[&image[..], &product.source_sizes()?, &sizes].concat(),
        target,
    )
}
