//! Matrix products with a weight.

use super::product::{self, Factor, Product, Rows, Sources};
use super::{Kernel, Layout, Recipe, Target};
use crate::ops::Linear;
use crate::tensor::Shape;

pub(super) fn select(
    op: &Linear,
    inputs: &[Shape],
    output: Shape,
    target: &Target,
) -> Result<Kernel, String> {
    let (shapes, others) = inputs
        .split_at_checked(op.sources)
        .ok_or("takes one or two sources")?;
    let sources = Sources {
        shapes,
        pointers: product::pair(0, shapes.len()).to_vec(),
        others,
    };
    let product = Product::new("linear", sources, factor(op), &op.epilogue, output)?;
    product.kernel(&product::widths(shapes)?, Some(Rows::Matrix), target)
}

/// The maps' rows one after another, and their biases.
fn factor(op: &Linear) -> Factor {
    let [n, k] = [op.features(), op.weight.shape.channels()];
    // Weights and biases take turns.
    let [maps, turn] = [1 + op.stacked.len(), 1 + usize::from(op.bias.is_some())];
    let all = |first: usize| (0..maps).map(|map| map * turn + first).collect();
    let gated = op.epilogue.gate;
    let matrix = Layout::Matrix {
        rows: n,
        columns: product::pitch(k),
        gated,
    };
    let bias = match gated {
        true => Layout::GatedVector,
        false => Layout::Vector,
    };
    let recipe = |layout, params| Recipe { layout, params };
    let bias = op.bias.is_some().then(|| recipe(bias, all(1)));
    let recipes = std::iter::once(recipe(matrix, all(0))).chain(bias);
    Factor {
        n,
        k,
        recipes: recipes.collect(),
    }
}
