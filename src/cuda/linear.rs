//! Matrix products with a weight.

use super::product::{Factor, Product};
use super::{Kernel, Target};
use crate::ops::Linear;
use crate::tensor::Shape;

pub(super) fn select(
    op: &Linear,
    inputs: &[Shape],
    output: Shape,
    target: &Target,
) -> Result<Kernel, String> {
    // Weights and biases take turns.
    let [maps, turn] = [1 + op.stacked.len(), 1 + usize::from(op.bias.is_some())];
    let factor = Factor {
        n: op.features(),
        k: op.weight.shape.channels(),
        matrices: (0..maps).map(|map| map * turn).collect(),
        biases: op
            .bias
            .iter()
            .flat_map(|_| (0..maps).map(|map| map * turn + 1))
            .collect(),
    };
    let sources = (inputs, op.sources);
    let product = Product::new("linear", sources, &factor, &op.epilogue, output)?;
    product.kernel(&product.source_sizes()?, target)
}
