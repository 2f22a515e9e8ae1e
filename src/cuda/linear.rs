//! Matrix products with a weight.

use super::product::Product;
use super::{Kernel, Target};
use crate::ops::Linear;
use crate::tensor::Shape;

pub(super) fn select(
    op: &Linear,
    inputs: &[Shape],
    output: Shape,
    target: &Target,
) -> Result<Kernel, String> {
    let weights = (&op.weight, &op.bias);
    let product = Product::new(
        "linear",
        (inputs, op.sources),
        weights,
        &op.epilogue,
        output,
    )?;
    product.kernel(&product.source_sizes()?, target)
}
