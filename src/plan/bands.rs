//! A network over a large image, computed in bands of rows with the very result of the whole: pure functions from a graph to passes.
//!
//! What a band needs of its neighbours is a halo of rows, where convolutions reach, and of the whole image the statistics of each
//! normalisation. So the graph is cut into [passes](Pass) at its normalisations: a pass runs over all bands, and ends where the next
//! normalisation needs its statistics, which its bands contribute block by block. What later passes read is kept on the host, or computed
//! again from what was kept earlier, whichever the [schedule](schedule::Schedule) finds cheaper or the memory allows. Attention sees all
//! pixels, so it runs on the whole image, as a pass of one band.
//!
//! A band is computed with its halo as if it were an image: at its inner edges the zeros around it stand where there are pixels, and
//! the rows that this spoils, as many as convolutions reach, are computed and left out. Every kernel sums a pixel in an order that does not
//! depend on where the image ends, so the rows that are left are those of the whole, to the bit.

mod passes;
mod reach;
pub mod schedule;

use crate::error::Result;
use crate::graph::{Graph, Node, Value};
use crate::ops::{Axis, Blocks, GroupNorm, GroupNormalise, Input, Op};
use crate::tensor::Shape;
use reach::Edges;
use std::collections::BTreeMap;

/// The statistics that a normalisation needs of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Statistics {
    /// What is normalised.
    pub of: Value,
    /// Number of groups.
    pub groups: usize,
    /// What is summed.
    pub blocks: Blocks,
}

/// One walk over all bands of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pass {
    /// Nodes of the graph that are computed, in order.
    pub nodes: Vec<usize>,
    /// Inputs and kept values that are read.
    pub reads: Vec<Value>,
    /// Statistics of earlier passes that are read.
    pub given: Vec<Statistics>,
    /// Values that are kept.
    pub keeps: Vec<Value>,
    /// Statistics that are gathered.
    pub gathers: Vec<Statistics>,
    /// Rows of the whole image as bands count them: those of the smallest value, or one where the pass is not for bands.
    pub rows: usize,
    /// The rows that are computed at once.
    pub bands: Vec<Band>,
    /// Bytes of the largest arena of a band.
    pub arena_bytes: usize,
    /// Bytes of values on the host: kept ones, and those on their way.
    pub host_bytes: usize,
}

/// Some rows of an image, counted in those of a pass's smallest value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Band {
    /// The first row that is computed.
    pub first: usize,
    /// How many are.
    pub rows: usize,
    /// The first row that is wanted, and the one behind the last.
    pub wanted: [usize; 2],
}

/// The name of a value that a pass's graph takes or gives.
pub fn name(value: Value) -> String {
    format!("value.{}", value.index())
}

/// The name of the statistics that a pass's graph takes or gives.
pub fn statistics_name(statistics: &Statistics) -> String {
    format!("statistics.{}.{}", statistics.of.index(), statistics.groups)
}

/// The rows of `value`, if it is an image.
pub fn height(graph: &Graph, value: Value) -> Option<usize> {
    graph.shape(value).image().map(|[_, h, ..]| h)
}

/// A fused graph, and what a device can compute of it in bands.
pub struct Network<'a> {
    graph: &'a Graph,
    /// For each node, whether some rows of its result follow from some rows of its operands.
    local: Vec<bool>,
    /// For each normalisation that is local, what it needs.
    needs: Vec<Option<Statistics>>,
}

impl<'a> Network<'a> {
    /// `blocks` is the device's answer for a normalisation of the graph.
    pub fn new(graph: &'a Graph, blocks: impl Fn(&Node) -> Option<Blocks>) -> Self {
        let needs: Vec<Option<Statistics>> = (graph.nodes().iter())
            .map(|node| match &node.op {
                Op::GroupNorm(op) if is_alone(op) && node.shape.image().is_some() => {
                    Some(Statistics {
                        of: node.inputs[0],
                        groups: op.groups,
                        blocks: blocks(node)?,
                    })
                }
                _ => None,
            })
            .collect();
        let local = graph.nodes().iter().zip(&needs);
        let local = local.map(|(node, needs)| is_local(graph, node, needs.is_some()));
        Self {
            graph,
            local: local.collect(),
            needs,
        }
    }

    /// The rows in which a pass counts: those of its smallest value; `None` if it does not run in bands.
    fn base(&self, pass: &Pass) -> Option<usize> {
        let computed = pass.nodes.iter().map(|&index| Value::at(index));
        let values = || pass.reads.iter().copied().chain(computed.clone());
        if !pass.nodes.iter().all(|&index| self.local[index]) {
            return None;
        }
        let heights: Option<Vec<usize>> = values().map(|v| height(self.graph, v)).collect();
        let heights = heights?;
        let base = *heights.iter().min()?;
        heights
            .iter()
            .all(|h| h.is_multiple_of(base))
            .then_some(base)
    }

    /// The graph of a pass over `rows` of its `base` rows.
    ///
    /// # Errors
    /// If the rows do not fit the operations.
    pub fn part(&self, pass: &Pass, base: usize, rows: usize) -> Result<Graph> {
        part(self.graph, pass, [base, rows])
    }

    /// The rows of [`part`](Self::part)'s results that are spoilt at an inner edge above and below, in base rows.
    fn reach(&self, pass: &Pass, base: usize) -> [usize; 2] {
        let mut edges: BTreeMap<Value, Edges> = BTreeMap::new();
        for &value in &pass.reads {
            edges.insert(value, Edges::default());
        }
        for &index in &pass.nodes {
            let node = &self.graph.nodes()[index];
            let operands = node.inputs.iter().filter_map(|value| edges.get(value));
            let widest = operands.fold(Edges::default(), |a, b| a.widest(*b));
            edges.insert(Value::at(index), widest.after(&node.op));
        }
        let targets = pass.keeps.iter().copied();
        let targets = targets.chain(pass.gathers.iter().map(|statistics| statistics.of));
        targets.fold([0, 0], |most, value| {
            let factor = height(self.graph, value).unwrap_or(base) / base;
            let Edges { above, below } = edges.get(&value).copied().unwrap_or_default();
            [
                most[0].max(above.div_ceil(factor)),
                most[1].max(below.div_ceil(factor)),
            ]
        })
    }
}

/// The graph of a pass over `rows` of its `base` rows: the nodes of `graph` that it computes, on what it reads.
///
/// # Errors
/// If the rows do not fit the operations.
pub fn part(graph: &Graph, pass: &Pass, [base, rows]: [usize; 2]) -> Result<Graph> {
    let mut g = Graph::new();
    let mut values: BTreeMap<Value, Value> = BTreeMap::new();
    let mut given: BTreeMap<Statistics, Value> = BTreeMap::new();
    for &value in &pass.reads {
        let shape = rows_of(graph.shape(value), base, rows);
        let op = Op::Input(Input {
            exact: graph.is_exact(value),
            constant: false,
        });
        let node = Node {
            op,
            inputs: Vec::new(),
            shape,
            name: name(value),
        };
        values.insert(value, g.append(node));
    }
    for statistics in &pass.given {
        let shape = statistics_shape(graph, statistics);
        let input = g.input_exact(&statistics_name(statistics), shape);
        given.insert(*statistics, input);
    }
    for &index in &pass.nodes {
        let node = &graph.nodes()[index];
        let mut inputs: Vec<Value> = node.inputs.iter().map(|value| values[value]).collect();
        let mut op = node.op.clone();
        if let Op::GroupNorm(norm) = &node.op {
            let own = |s: &&Statistics| s.of == node.inputs[0] && s.groups == norm.groups;
            if let Some(statistics) = pass.given.iter().find(own) {
                inputs.push(given[statistics]);
                op = Op::GroupNormalise(GroupNormalise {
                    groups: norm.groups,
                    blocks: statistics.blocks,
                    eps: norm.eps,
                    weight: norm.weight.clone(),
                    bias: norm.bias.clone(),
                    silu: norm.silu,
                });
            }
        }
        let computed = g.scope(&node.name, |g| g.push(op, &inputs))?;
        values.insert(Value::at(index), computed);
    }
    for value in &pass.keeps {
        g.output(&name(*value), values[value]);
    }
    for statistics in &pass.gathers {
        let Statistics { of, groups, blocks } = *statistics;
        let node = &graph.node(of).name;
        let gathered = g.scope(node, |g| g.group_statistics(values[&of], groups, blocks))?;
        g.output(&statistics_name(statistics), gathered);
    }
    Ok(g)
}

/// Whether a normalisation has one operand and nothing behind it but SiLU.
pub fn is_alone(op: &GroupNorm) -> bool {
    op.sources == 1 && op.scale_shift.is_none()
}

/// The shape of an image's statistics.
pub fn statistics_shape(graph: &Graph, statistics: &Statistics) -> Shape {
    let Statistics { of, groups, blocks } = statistics;
    let shape = graph.shape(*of);
    let parts = blocks.parts(*groups, shape.channels());
    let all = height(graph, *of).unwrap_or(0) / blocks.rows;
    [shape.batch(), parts, all, 2].into()
}

/// The shape of `rows` of `base` rows of an image.
pub fn rows_of(shape: Shape, base: usize, rows: usize) -> Shape {
    match shape.image() {
        Some([n, h, w, c]) if rows < base => [n, h / base * rows, w, c].into(),
        _ => shape,
    }
}

/// Whether some rows of a node's result follow from some rows of its operands, and, for a normalisation, statistics.
fn is_local(graph: &Graph, node: &Node, has_statistics: bool) -> bool {
    let images = node
        .inputs
        .iter()
        .all(|&v| graph.shape(v).image().is_some());
    let local = match &node.op {
        Op::Conv2d(op) => op.epilogue.channels.is_none() && reach::keeps_rows(op),
        Op::Linear(op) => op.epilogue.channels.is_none(),
        Op::GroupNorm(_) => has_statistics,
        Op::Activate(_) | Op::Add(_) | Op::Geglu(_) | Op::Upsample2x(_) => true,
        Op::Concat(op) => op.axis == Axis::Channels,
        Op::Input(_)
        | Op::GroupStatistics(_)
        | Op::GroupNormalise(_)
        | Op::LayerNorm(_)
        | Op::Attention(_)
        | Op::AddChannels(_)
        | Op::ScaleShift(_)
        | Op::AveragePool2x(_)
        | Op::AddPositions(_)
        | Op::Reshape(_)
        | Op::Blend(_)
        | Op::Codebook(_)
        | Op::Embedding(_)
        | Op::GatherToken(_)
        | Op::TimestepEmbedding(_)
        | Op::Guidance(_)
        | Op::Combine(_)
        | Op::Assign(_)
        | Op::CountNotFinite(_) => false,
    };
    local && images && node.shape.image().is_some()
}
