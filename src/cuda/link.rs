//! Products and the group normalisations that read them: where a product can find the moments of what it stores, the normalisation is spared
//! the launch that would read it all for its statistics.
//!
//! Nothing of this is in the graph. Which pairs there are follows from one image's shape: a product that gives moments in one batch gives them
//! in every batch, so an image's bytes do not depend on its company. Networks that may be computed in bands are left as they are, since a
//! band's rows are not those in which moments are found.

use super::kernel::{Argument, Kernel, Precision, Sums, Target};
use super::{Tuned, conv2d, group_norm, linear, moments, select, sums};
use crate::graph::{Graph, Node, Value};
use crate::ops::{Epilogue, Op};
use crate::tensor::Shape;
use std::collections::BTreeSet;

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
    if target.precision != Precision::F16 || nodes.iter().any(|node| has_bands(graph, node, target))
    {
        return Ok(());
    }
    let mut given = BTreeSet::new();
    for (index, node) in nodes.iter().enumerate() {
        let Op::GroupNorm(op) = &node.op else {
            continue;
        };
        let Some(kernel) = group_norm::given(op, &shapes(node), node.shape, target)? else {
            continue;
        };
        let sources = node.inputs[..op.sources].iter();
        let products: Option<Vec<usize>> = sources.map(|&source| product(graph, source)).collect();
        if let Some(products) = products {
            kernels[index] = kernel;
            given.extend(products);
        }
    }
    for index in given {
        let node = &nodes[index];
        kernels[index] = match &node.op {
            Op::Linear(op) => linear::select(op, &shapes(node), node.shape, &targets[index], true)?,
            Op::Conv2d(op) => conv2d::select(op, &shapes(node), node.shape, &targets[index], true)?,
            _ => continue,
        };
    }
    Ok(())
}

/// Whether a node is a normalisation that bands of its image could share.
fn has_bands(graph: &Graph, node: &Node, target: &Target) -> bool {
    let groups = match &node.op {
        Op::GroupNorm(op) => op.groups,
        Op::GroupStatistics(_) | Op::GroupNormalise(_) => return true,
        _ => return false,
    };
    let x = node.inputs.first().map_or(node.shape, |&x| graph.shape(x));
    group_norm::rows_of_block(groups, x.with_channels(node.shape.channels()), target).is_some()
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

impl Kernel {
    /// Bytes that it leaves behind its result, which live as long.
    pub fn tail_bytes(&self) -> usize {
        let arguments = self.launches.iter().flat_map(|launch| &launch.arguments);
        let tails = arguments.filter_map(|argument| match argument {
            Argument::Tail(bytes) => Some(*bytes),
            _ => None,
        });
        tails.max().unwrap_or(0)
    }
}
