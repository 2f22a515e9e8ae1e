//! From a graph to a program's layout: pure functions that need no device.
//!
//! [`fuse`](fuse::fuse) folds textbook operations together, [`hoist`](hoist::hoist) brings what runs once before what runs every time, and
//! [`memory`] decides where every value lives; a [`Plan`] is what comes of these three. [`bands`] cuts a network over a large image into parts that
//! fit, and [`depth`] says in which order a product sums and reads its weights.

pub mod bands;
pub mod depth;
pub mod fuse;
pub mod hoist;
pub mod memory;

use crate::graph::{Graph, Node, Value};
use crate::ops::Op;
use crate::tensor::Shape;
use memory::Interval;

/// Where a tensor lies in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Bytes from the arena's start.
    pub offset: usize,
    /// The sizes.
    pub shape: Shape,
    /// Held in 32 bits whatever the device's working precision.
    pub exact: bool,
}

/// What the kernel of a node needs besides its operands and its result.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needs {
    /// Bytes of scratch memory while it runs.
    pub workspace_bytes: usize,
    /// Bytes that it leaves behind its result, at the next multiple of [`ALIGNMENT`](memory::ALIGNMENT), and that live as long.
    pub tail_bytes: usize,
    /// A later node whose result it computes too, so that it lives from here on.
    pub also: Option<Value>,
}

/// A fused graph with a place for every value.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The graph that runs.
    pub graph: Graph,
    /// How many nodes, the first of the graph, follow from constants alone. What later ones read of them lives to the end.
    pub prologue: usize,
    /// A place per node. A reshape shares its operand's, and an assignment its target's.
    pub places: Vec<Place>,
    /// Offset in bytes of each node's scratch memory, where it has any.
    pub workspaces: Vec<Option<usize>>,
    /// Bytes of the arena.
    pub arena_bytes: usize,
    /// Bytes that all values would take side by side.
    pub sum_bytes: usize,
    /// Bytes alive at once at the worst moment: no arena can be smaller.
    pub lower_bound_bytes: usize,
}

impl Plan {
    /// Lays out `graph` for a device whose elements have `element_bytes` bytes and whose kernel for node `i` needs
    /// `workspace_bytes[i]` bytes of scratch memory.
    ///
    /// Inputs keep their place for the whole run, so that they may be set once and used by many runs; outputs live to the end. So does what
    /// the body of a [hoisted](hoist::hoist) graph reads of its prologue.
    pub fn new(graph: Graph, element_bytes: usize, workspace_bytes: &[usize]) -> Self {
        let needs = workspace_bytes.iter().map(|&workspace_bytes| Needs {
            workspace_bytes,
            ..Needs::default()
        });
        Self::of_kernels(graph, element_bytes, &needs.collect::<Vec<_>>())
    }

    /// As [`new`](Self::new), for kernels that need `needs[i]`.
    pub fn of_kernels(graph: Graph, element_bytes: usize, needs: &[Needs]) -> Self {
        let nodes = graph.nodes();
        let end = nodes.len();
        let roots = roots(&graph);
        let constants = hoist::constants(&graph);
        let prologue = constants.iter().take_while(|constant| **constant).count();
        let exact = |index: usize| graph.is_exact(Value::at(index));
        let bytes = |index: usize| {
            let element = if exact(index) { 4 } else { element_bytes };
            let bytes = nodes[index].shape.len() * element;
            match needs.get(index) {
                Some(&Needs { tail_bytes, .. }) if tail_bytes > 0 => {
                    bytes.next_multiple_of(memory::ALIGNMENT) + tail_bytes
                }
                _ => bytes,
            }
        };
        let mut intervals = lifetimes(&graph, &roots, prologue, bytes);
        for (index, needs) in needs.iter().enumerate() {
            if let Some(early) = needs.also {
                intervals[roots[early.index()]].first = index;
            }
        }
        intervals.extend(needs.iter().enumerate().map(|(index, needs)| Interval {
            bytes: needs.workspace_bytes,
            first: index,
            last: index,
        }));
        let layout = memory::lay_out(&intervals);
        let places = (0..end)
            .map(|index| Place {
                offset: layout.offsets[roots[index]],
                shape: nodes[index].shape,
                exact: exact(roots[index]),
            })
            .collect();
        let workspaces = (needs.iter().zip(&layout.offsets[end..]))
            .map(|(needs, &offset)| (needs.workspace_bytes > 0).then_some(offset))
            .collect();
        Self {
            prologue,
            places,
            workspaces,
            arena_bytes: layout.bytes,
            sum_bytes: layout.sum_bytes,
            lower_bound_bytes: layout.lower_bound_bytes,
            graph,
        }
    }

    /// Where `value` lies.
    pub fn place(&self, value: Value) -> Place {
        self.places[value.index()]
    }
}

/// How long each node's value lives, by the node whose place it has (`roots`); a value that has another's takes no bytes.
fn lifetimes(
    graph: &Graph,
    roots: &[usize],
    prologue: usize,
    bytes: impl Fn(usize) -> usize,
) -> Vec<Interval> {
    let nodes = graph.nodes();
    let end = nodes.len();
    let mut intervals: Vec<Interval> = (nodes.iter().zip(roots).enumerate())
        .map(|(index, (node, &root))| {
            let (first, last) = match node.op {
                Op::Input(_) => (0, end),
                _ => (index, index),
            };
            let bytes = if root == index { bytes(index) } else { 0 };
            Interval { bytes, first, last }
        })
        .collect();
    for (index, node) in nodes.iter().enumerate() {
        for input in &node.inputs {
            let root = roots[input.index()];
            let kept = root < prologue && prologue <= index;
            let interval = &mut intervals[root];
            interval.last = interval.last.max(if kept { end } else { index });
        }
    }
    for (_, value) in graph.outputs() {
        intervals[roots[value.index()]].last = end;
    }
    intervals
}

/// The graph of those `nodes` of `graph` that are left, some of them perhaps changed.
fn remaining(nodes: Vec<Option<Node>>, graph: &Graph) -> Graph {
    let left = nodes.into_iter().enumerate();
    renumbered(left.filter_map(|(index, node)| Some((index, node?))), graph)
}

/// The graph of `nodes`, each with its index in `graph`, whose outputs it keeps: a choice of its nodes, in another order.
fn renumbered(nodes: impl IntoIterator<Item = (usize, Node)>, graph: &Graph) -> Graph {
    let mut chosen = Graph::new();
    let mut renumbered = vec![None; graph.nodes().len()];
    for (index, mut node) in nodes {
        for input in &mut node.inputs {
            if let Some(value) = renumbered[input.index()] {
                *input = value;
            }
        }
        renumbered[index] = Some(chosen.append(node));
    }
    for (name, value) in graph.outputs() {
        if let Some(value) = renumbered[value.index()] {
            chosen.output(name, value);
        }
    }
    chosen
}

/// For each node, the node whose memory it shares: itself, or what a chain of reshapes and assignments starts from.
fn roots(graph: &Graph) -> Vec<usize> {
    let mut roots: Vec<usize> = Vec::with_capacity(graph.nodes().len());
    for (index, node) in graph.nodes().iter().enumerate() {
        roots.push(match (&node.op, node.inputs.first()) {
            (Op::Reshape(_) | Op::Assign(_), Some(operand)) => roots[operand.index()],
            _ => index,
        });
    }
    roots
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Activation;

    #[test]
    fn what_is_computed_early_lives_from_there_on() {
        let mut g = Graph::new();
        let x = g.input("x", [1, 4, 4, 8]);
        let a = g.activate(x, Activation::Silu).unwrap();
        let b = g.activate(a, Activation::Silu).unwrap();
        let c = g.activate(a, Activation::Silu).unwrap();
        let d = g.add(b, c).unwrap();
        g.output("d", d);
        let arena = |needs: &[Needs]| Plan::of_kernels(g.clone(), 2, needs).arena_bytes;
        let mut needs = [Needs::default(); 5];
        let late = arena(&needs);
        needs[a.index()].also = Some(d);
        assert_eq!(arena(&needs), late + 256, "d has a place from a on");
    }

    #[test]
    fn reshapes_share_memory_and_inputs_keep_theirs() {
        let mut g = Graph::new();
        let x = g.input("x", [1, 4, 4, 8]);
        let t = g.input_exact("t", [3]);
        let a = g.activate(x, Activation::Silu).unwrap();
        let b = g.reshape(a, [1, 16, 8]).unwrap();
        let c = g.activate(b, Activation::Silu).unwrap();
        let d = g.activate(c, Activation::Silu).unwrap();
        g.output("d", d);
        let plan = Plan::new(g, 2, &[0, 0, 0, 0, 64, 0]);
        assert_eq!(plan.place(a).offset, plan.place(b).offset);
        assert!(plan.place(t).exact && !plan.place(a).exact);
        assert_ne!(
            plan.place(b).offset,
            plan.place(c).offset,
            "an operand outlives its use"
        );
        assert_eq!(
            plan.place(d).offset,
            plan.place(a).offset,
            "dead memory is used again"
        );
        assert!(
            [a, c, d]
                .iter()
                .all(|v| plan.place(*v).offset != plan.place(x).offset)
        );
        assert!(plan.workspaces[4].is_some() && plan.workspaces[3].is_none());
        assert!(plan.lower_bound_bytes <= plan.arena_bytes && plan.arena_bytes <= plan.sum_bytes);
    }
}
