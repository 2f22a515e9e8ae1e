//! Products and the group normalisations that read them: where a product can find the moments of what it stores, the normalisation is spared
//! the launch that would read it all for its statistics.
//!
//! Nothing of this is in the graph. Which pairs there are follows from one image's shape: a product that gives moments in one batch gives them
//! in every batch, so an image's bytes do not depend on its company. Nor on bands: in networks that may be computed in them, which are all but
//! those that denoise, a pair is linked only where a band can find the very moments in what was stored.

use super::kernel::{Kernel, Precision, Sums, Target};
use super::moments::{self, Asked};
use super::{Tuned, conv2d, group_norm, in_place, linear, select, sums};
use crate::graph::{Graph, Node, Value};
use crate::ops::{Blocks, Epilogue, Op, Summed};
use crate::plan::bands::is_alone;
use crate::tensor::Shape;
use std::collections::{BTreeMap, BTreeSet};

/// Changes the kernels of a graph's nodes so that those which read one another's results spare what can be spared, and products of what
/// normalisations made sum as the target allows.
///
/// # Errors
/// A sentence, if the device cannot hold what is chosen then.
pub fn link(graph: &Graph, kernels: &mut [Kernel], target: &Target) -> Result<(), String> {
    link_tuned(graph, kernels, target, &Tuned::default())
}

/// As [`link`], with the tiles of a table.
pub(super) fn link_tuned(
    graph: &Graph,
    kernels: &mut [Kernel],
    target: &Target,
    tuned: &Tuned,
) -> Result<(), String> {
    let nodes = graph.nodes();
    let shapes = |node: &Node| {
        node.inputs
            .iter()
            .map(|&v| graph.shape(v))
            .collect::<Vec<_>>()
    };
    let allowed = sums::targets(graph, target).into_iter().zip(nodes);
    let targets: Vec<Target> = allowed
        .map(|(own, node)| tuned.target(&own, &node.op, &shapes(node), node.shape))
        .collect();
    for (index, node) in nodes.iter().enumerate() {
        if targets[index].sums == Sums::Halves {
            kernels[index] = select(&node.op, &shapes(node), node.shape, &targets[index])?;
        }
    }
    let mut asked = BTreeMap::new();
    for (index, node) in nodes.iter().enumerate() {
        let Some(pair) = linked(graph, node, target)? else {
            continue;
        };
        kernels[index] = pair.kernel;
        for product in pair.products {
            let asked = asked.entry(product).or_insert(Asked::Moments);
            if let (Asked::Moments, Some(norm)) = (&asked, in_place::asked(graph, index, product)) {
                *asked = Asked::Normalised(norm);
            }
        }
    }
    for (index, asked) in asked {
        let (node, target) = (&nodes[index], &targets[index]);
        kernels[index] = match &node.op {
            Op::Linear(op) => linear::select(op, &shapes(node), node.shape, target, asked)?,
            Op::Conv2d(op) => conv2d::select(op, &shapes(node), node.shape, target, asked)?,
            _ => continue,
        };
        if let Some(norm) = kernels[index].also() {
            kernels[norm.index()] = Kernel::nothing();
        }
    }
    Ok(())
}

/// A normalisation by moments that products leave it.
struct Linked {
    kernel: Kernel,
    /// Nodes that find them.
    products: Vec<usize>,
    /// What a band would have to find, unless the network is never in bands.
    blocks: Option<Blocks>,
}

/// How a node is linked; `None` for those that are not.
fn linked(graph: &Graph, node: &Node, target: &Target) -> Result<Option<Linked>, String> {
    let Op::GroupNorm(op) = &node.op else {
        return Ok(None);
    };
    let sources = node.inputs[..op.sources].iter();
    let products: Option<Vec<usize>> = sources.map(|&source| product(graph, source)).collect();
    let Some(products) = products.filter(|_| target.precision == Precision::F16) else {
        return Ok(None);
    };
    let pieces: BTreeSet<usize> = products
        .iter()
        .map(|&index| moments::piece(graph.nodes()[index].shape))
        .collect();
    let blocks = match is_alone(op) {
        true => blocks_of(graph, node.inputs[0], products[0]),
        false => None,
    };
    let (Some(piece), 1) = (pieces.first(), pieces.len()) else {
        return Ok(None);
    };
    let shapes: Vec<Shape> = node.inputs.iter().map(|&v| graph.shape(v)).collect();
    // What is one launch in either way is spared none, and bands of it would have to be gathered.
    let spared = blocks.is_some() && !group_norm::in_one(op, &shapes, node.shape, target);
    if !spared && !sums::denoises(graph) {
        return Ok(None);
    }
    let kernel = group_norm::given(op, &shapes, node.shape, (*piece, target))?;
    Ok(kernel.map(|kernel| Linked {
        kernel,
        products,
        blocks,
    }))
}

/// The blocks of whole rows in which the node `product` finds the moments of the image `x`, if they are such.
fn blocks_of(graph: &Graph, x: Value, product: usize) -> Option<Blocks> {
    let (x, node) = (graph.shape(x), &graph.nodes()[product]);
    let [_, _, width, _] = x.image()?;
    let (phases, stride) = match &node.op {
        Op::Conv2d(op) => (conv2d::phases(op), op.stride),
        _ => (1, 1),
    };
    let rows = moments::rows_of_piece(x)?;
    let alike = rows * width == moments::piece(node.shape);
    // Of pixels further apart the copy engine's boxes are narrower than a block.
    let fits = moments::are_pieces(rows, width, phases) && stride <= 4;
    let summed = match phases {
        1 => Summed::Channels,
        _ => Summed::Phases,
    };
    (alike && fits).then_some(Blocks { rows, summed })
}

/// The blocks in which the normalisation `norm` is summed, if a band of the image can be summed to the same bits.
pub(super) fn blocks(graph: &Graph, norm: &Node, target: &Target) -> Option<Blocks> {
    let Op::GroupNorm(op) = &norm.op else {
        return None;
    };
    if sums::denoises(graph) {
        return None;
    }
    match linked(graph, norm, target) {
        Ok(Some(pair)) => pair.blocks,
        _ => group_norm::rows_of_block(op.groups, norm.shape, target).map(|rows| Blocks {
            rows,
            summed: Summed::Groups,
        }),
    }
}

/// The node that computes `value` and can give its moments; a reshape is what it reshapes.
fn product(graph: &Graph, value: Value) -> Option<usize> {
    let shape = graph.shape(value);
    let mut value = value;
    while let Op::Reshape(_) = graph.node(value).op {
        value = *graph.node(value).inputs.first()?;
    }
    let node = graph.node(value);
    let (epilogue, phases): (&Epilogue, usize) = match &node.op {
        Op::Linear(op) if op.norm.is_none() => (&op.epilogue, 1),
        Op::Conv2d(op) => (&op.epilogue, conv2d::phases(op)),
        _ => return None,
    };
    let sizes = |x: Shape| [x.batch(), x.rows(), x.channels()];
    let alike = sizes(shape) == sizes(node.shape);
    (alike && moments::can_be_given(epilogue, node.shape, phases)).then_some(value.index())
}
