//! A graph with its kernels and its memory: everything a session is before any weight is read.

use crate::backend::{Backend, LINK, Load, Selection};
use crate::error::Result;
use crate::graph::{Graph, Node, Param, Value};
use crate::plan::{Needs, Plan, fuse::fuse, hoist};

/// A graph planned for a device. A session is made from it, so what it says of memory is what is then used.
pub struct Program<B: Backend> {
    pub(super) plan: Plan,
    pub(super) selections: Vec<Selection<B>>,
}

impl<B: Backend> Program<B> {
    /// Plans `graph` for `backend`.
    ///
    /// # Errors
    /// If the device has no kernel for a shape.
    pub fn new(backend: &B, graph: Graph) -> Result<Self> {
        Self::with_fusion(backend, graph, |rule| backend.gains_by(rule))
    }

    /// As [`new`](Self::new), with the fusion rules that `enabled` lets through, and not those that the device gains by.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_fusion(backend: &B, graph: Graph, enabled: impl Fn(&str) -> bool) -> Result<Self> {
        let graph = fuse(graph, &enabled);
        let graph = match enabled(hoist::NAME) {
            true => hoist::hoist(&graph),
            false => graph,
        };
        let mut selections = (graph.nodes().iter())
            .map(|node| select(backend, &graph, node))
            .collect::<Result<Vec<_>>>()?;
        if enabled(LINK) {
            selections = backend.link(&graph, selections)?;
        }
        let needs = selections.iter().map(|selection| Needs {
            workspace_bytes: selection.workspace_bytes,
            tail_bytes: selection.tail_bytes,
            also: selection.also,
        });
        let needs: Vec<Needs> = needs.collect();
        let plan = Plan::of_kernels(graph, backend.element_bytes(), &needs);
        Ok(Self { plan, selections })
    }

    /// Whether kernels leave each other more than their results.
    pub fn is_linked(&self) -> bool {
        self.selections.iter().any(|s| s.tail_bytes > 0)
    }

    /// Where everything lies.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The kernel of each node of the plan's graph.
    pub fn kernels(&self) -> impl Iterator<Item = &B::Kernel> {
        self.selections.iter().map(|selection| &selection.kernel)
    }

    /// The learnt tensors that it needs, and the kernels that read them.
    pub fn loads(&self) -> Vec<Load<'_, B>> {
        (self.plan.graph.nodes().iter().zip(&self.selections))
            .map(|(node, selection)| Load {
                kernel: &selection.kernel,
                params: params(&self.plan.graph, node, selection),
            })
            .collect()
    }
}

/// The learnt tensors that a node's kernel is made of: its own, and those of a node whose result it computes too.
pub(super) fn params<'a, B: Backend>(
    graph: &'a Graph,
    node: &'a Node,
    selection: &Selection<B>,
) -> Vec<&'a Param> {
    let nodes = nodes(graph, node, selection.also);
    nodes.flat_map(|node| node.op.operator().params()).collect()
}

/// A node, and the one whose result its kernel computes too.
pub(super) fn nodes<'a>(
    graph: &'a Graph,
    node: &'a Node,
    also: Option<Value>,
) -> impl Iterator<Item = &'a Node> {
    std::iter::once(node).chain(also.map(|value| graph.node(value)))
}

/// The device's choice for a node of `graph`.
pub(super) fn select<B: Backend>(backend: &B, graph: &Graph, node: &Node) -> Result<Selection<B>> {
    backend.select(node, &graph.operands(node))
}
