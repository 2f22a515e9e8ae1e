//! Matrix products with a weight, and the normalisation before one.
//!
//! A product of halves takes the statistics of its rows while they pass, and has the rest of the normalisation in its weights. Where it cannot
//! (in f32, or where rows are not whole vectors), rows are normalised to scratch memory first.

use super::moments::Asked;
use super::product::{self, Factor, Product, Rows, Sources};
use super::{Argument, Kernel, Layout, Operand, Precision, Recipe, Target, layer_norm};
use crate::ops::{LayerNorm, Linear};
use crate::tensor::Shape;

/// The launches, and what is asked for besides the result.
pub(super) fn select(
    op: &Linear,
    inputs: &[Shape],
    output: Shape,
    target: &Target,
    asked: Asked,
) -> Result<Kernel, String> {
    let (shapes, others) = inputs
        .split_at_checked(op.sources)
        .filter(|(shapes, _)| !shapes.is_empty())
        .ok_or("takes one or two sources")?;
    let product = |name, recipes| {
        let sources = Sources {
            shapes,
            pointers: product::pair(0, shapes.len()).to_vec(),
            others,
        };
        let factor = Factor {
            n: op.features(),
            k: op.weight.shape.channels(),
            phases: 1,
            bounded: op.weight.shape.channels(),
            recipes,
        };
        Product::new(name, sources, factor, &op.epilogue, output)
    };
    let aligned = target.precision == Precision::F16 && product::is_aligned(shapes);
    if let Some(norm) = op.norm.as_ref().filter(|_| aligned) {
        return product("linear_norm", folded(op))?.normalised(norm.eps, target);
    }
    let widths = product::widths(shapes)?;
    let kernel =
        product("linear", plain(op))?
            .and(asked)
            .kernel(&widths, Some(Rows::Matrix), target)?;
    match &op.norm {
        Some(norm) => after(norm, op, shapes[0], kernel, target),
        None => Ok(kernel),
    }
}

/// Which of the node's tensors are weights, and which biases: they take turns.
fn maps(op: &Linear) -> [Vec<usize>; 2] {
    let [maps, turn] = [1 + op.stacked.len(), 1 + usize::from(op.bias.is_some())];
    [0, 1].map(|first| {
        let there = if first < turn { maps } else { 0 };
        (0..there).map(|map| map * turn + first).collect()
    })
}

/// The number of the normalisation's factors among the node's tensors; its addends follow.
fn factors(op: &Linear) -> usize {
    maps(op).iter().map(Vec::len).sum()
}

/// The maps' rows one after another, and so their biases.
fn plain(op: &Linear) -> Vec<Recipe> {
    let [weights, biases] = maps(op);
    let gated = op.epilogue.gate;
    let matrix = Layout::Matrix {
        rows: op.features(),
        columns: product::pitch(op.weight.shape.channels()),
        gated,
    };
    let bias = match gated {
        true => Layout::GatedVector,
        false => Layout::Vector,
    };
    let recipe = |layout, params| Recipe { layout, params };
    let bias = op.bias.is_some().then(|| recipe(bias, biases));
    let weight = recipe(matrix, weights);
    std::iter::once(weight).chain(bias).collect()
}

/// The same with the normalisation folded in, and the sums of the weight's rows.
fn folded(op: &Linear) -> Vec<Recipe> {
    let [weights, biases] = maps(op);
    let (gated, factors) = (op.epilogue.gate, factors(op));
    let matrix = Layout::Scaled {
        rows: op.features(),
        columns: product::pitch(op.weight.shape.channels()),
        gated,
    };
    let bias = Layout::Addends {
        matrices: weights.len(),
        gated,
    };
    let scaled = [&[factors][..], &weights].concat();
    let added = [&[factors + 1][..], &weights, &biases].concat();
    let all = [
        (matrix, scaled.clone()),
        (bias, added),
        (Layout::ScaledSums { gated }, scaled),
    ];
    all.map(|(layout, params)| Recipe { layout, params }).into()
}

/// `kernel`, on the rows of `x` as `norm` leaves them in scratch memory.
fn after(
    norm: &LayerNorm,
    op: &Linear,
    x: Shape,
    mut kernel: Kernel,
    target: &Target,
) -> Result<Kernel, String> {
    if kernel.launches.is_empty() {
        return Ok(kernel);
    }
    let offset = kernel.workspace_bytes.next_multiple_of(256);
    let bytes = x.len() * target.precision.bytes();
    let rows = Operand::Workspace { offset, bytes };
    let arguments = kernel.launches.iter_mut().flat_map(|l| &mut l.arguments);
    for argument in arguments {
        match argument {
            Argument::Input(0) => *argument = rows.into(),
            Argument::Map { of, .. } if *of == Operand::Input(0) => *of = rows,
            _ => {}
        }
    }
    let first = kernel.recipes.len();
    let weights = [first, first + 1].map(Argument::Weight);
    let launch = layer_norm::launch(norm, x, (rows.into(), weights), target)?;
    kernel.launches.insert(0, launch);
    kernel.workspace_bytes = offset + bytes;
    kernel.recipes.extend([0, 1].map(|param| Recipe {
        layout: Layout::Vector,
        params: vec![factors(op) + param],
    }));
    Ok(kernel)
}
