//! What need not be computed at every run, brought to the front.
//!
//! A sampler asks its network some fifty times with the same prompt. What follows from constants alone (a context's keys and values, the
//! embeddings of all timesteps) is the *prologue*: it runs when a constant was set, and its results wait for all the runs that
//! follow. The rest is the *body*, which runs every time. Which is which follows from the graph; models need not know.

use super::renumbered;
use crate::graph::Graph;
use crate::ops::Op;

/// What messages and tests call it.
pub const NAME: &str = "constants once";

/// For each node, whether its value follows from constants alone.
pub fn constants(graph: &Graph) -> Vec<bool> {
    let mut constant: Vec<bool> = Vec::with_capacity(graph.nodes().len());
    for node in graph.nodes() {
        constant.push(match &node.op {
            Op::Input(input) => input.constant,
            _ => node.inputs.iter().all(|value| constant[value.index()]),
        });
    }
    constant
}

/// The same graph with its prologue first; otherwise nodes keep their order.
pub fn hoist(graph: &Graph) -> Graph {
    let constant = constants(graph);
    let (prologue, body): (Vec<_>, Vec<_>) = (graph.nodes().iter().cloned())
        .enumerate()
        .partition(|(index, _)| constant[*index]);
    renumbered(prologue.into_iter().chain(body), graph)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Activation::Silu;

    #[test]
    fn what_follows_from_constants_alone_comes_first() {
        let mut g = Graph::new();
        let x = g.input("x", [1, 4]);
        let context = g.constant("context", [1, 4]);
        let a = g.scope("a", |g| g.activate(x, Silu)).unwrap();
        let k = g.scope("k", |g| g.activate(context, Silu)).unwrap();
        let y = g.scope("y", |g| g.add(a, k)).unwrap();
        let v = g.scope("v", |g| g.add(k, context)).unwrap();
        g.output("y", y);
        g.output("v", v);
        let hoisted = hoist(&g);
        let names: Vec<_> = hoisted.nodes().iter().map(|n| n.name.as_str()).collect();
        assert_eq!(names, ["context", "k", "v", "x", "a", "y"]);
        assert_eq!(constants(&hoisted), [true, true, true, false, false, false]);
        let outputs = hoisted.outputs().iter();
        let outputs: Vec<_> = outputs.map(|(_, v)| &hoisted.node(*v).name).collect();
        assert_eq!(outputs, ["y", "v"]);
    }
}
