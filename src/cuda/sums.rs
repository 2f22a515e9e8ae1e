//! Which products may be summed in halves, as consumer GPUs do at twice the rate: those of what a normalisation made, in networks that denoise.
//!
//! A sum of 64 products in halves is wrong beyond 65504, and rounded to 11 bits below. So its operand must be of moderate size, as a
//! normalisation's result is: about one, times what was learnt for its channel. What attention mixes, a gate multiplies, or a skip connection carries
//! has outliers, and is summed in f32. (A product that normalises rows itself multiplies them first: its sums are larger or smaller than the
//! normalised row's by one factor, which rounding to 11 bits does not see.) Weights are not known yet when kernels are chosen; a sum that they make
//! too large is infinite, which is counted at the end of every step, and the refusal names the node and the way out.
//!
//! Only a network that denoises is evaluated so often that it matters, and what one of its steps does not get quite right is noise to the next. It is
//! known by the timestep that it is told.

use super::Cuda;
use super::kernel::{Kernel, Launch, Precision, Sums, Target};
use super::product::HALVES;
use crate::graph::{Graph, Node, Value};
use crate::ops::Op;

/// What the kernel of each node of a graph is chosen for.
pub(super) fn targets(graph: &Graph, target: &Target) -> Vec<Target> {
    let nodes = graph.nodes();
    let denoises = denoises(graph);
    let sums = |node: &Node| match target.sums {
        Sums::Allowed if denoises && reads_normalised(graph, node) => Sums::Halves,
        Sums::Allowed => Sums::F32,
        other => other,
    };
    let own = |node: &Node| Target {
        sums: sums(node),
        ..*target
    };
    nodes.iter().map(own).collect()
}

/// Whether a network is told a timestep.
pub(super) fn denoises(graph: &Graph) -> bool {
    let mut nodes = graph.nodes().iter();
    nodes.any(|node| matches!(node.op, Op::TimestepEmbedding(_)))
}

/// Whether a node is a product of what a normalisation made, before it or in it. What is beside a convolution's image is summed apart.
fn reads_normalised(graph: &Graph, node: &Node) -> bool {
    let sources = match &node.op {
        Op::Linear(op) if op.norm.is_some() => 0,
        Op::Linear(op) => op.sources,
        Op::Conv2d(op) => op.sources,
        _ => return false,
    };
    let mut sources = node.inputs.iter().take(sources);
    sources.all(|&source| is_normalised(graph, source))
}

/// Whether `value` is a normalisation's result, perhaps in another shape or after an activation, none of which enlarges it.
fn is_normalised(graph: &Graph, value: Value) -> bool {
    let node = graph.node(value);
    match (&node.op, node.inputs.first()) {
        (Op::GroupNorm(_) | Op::GroupNormalise(_) | Op::LayerNorm(_), _) => true,
        (Op::Reshape(_) | Op::Activate(_), Some(&operand)) => is_normalised(graph, operand),
        _ => false,
    }
}

/// The order in which a kernel adds up its sums, to be compared with another's. Blocks along y divide sums, or channels; never the pixels. What only
/// one architecture has may add within a step in an order of its own, and sums in halves are others.
pub(super) fn order(kernel: &Kernel) -> Vec<([bool; 2], u32)> {
    let own = |launch: &Launch| ["_sm90", HALVES].map(|end| launch.entry.ends_with(end));
    let launches = kernel.launches.iter();
    launches
        .map(|launch| (own(launch), launch.grid[1]))
        .collect()
}

impl Cuda {
    /// The same device, with the sums of all products in f32.
    pub fn with_f32_sums(self) -> Self {
        Self {
            target: Target {
                sums: Sums::F32,
                ..self.target
            },
            ..self
        }
    }

    /// What a result's bits depend on besides the request: the kind of GPU, the precision, the sums of products, and which kernels may run.
    pub fn arithmetic(&self) -> String {
        let kind = match self.hardware() {
            Some(gpu) => gpu.name.clone(),
            None => format!("emulator of {}", self.modelled().name),
        };
        let precision = self.target.precision;
        let sums = match (precision, self.target.sums) {
            (Precision::F16, Sums::Allowed | Sums::Halves) => ", sums in f16 where they gain",
            _ => "",
        };
        format!("{kind}, {}{sums}{}", precision.suffix(), self.tier())
    }
}
