//! Assignments that follow one another, as one.
//!
//! A sampler's step ends with copies of small tensors, each of which would be a launch. Any number of nodes change together, which is why this is no
//! rule of a node and its operand.

use crate::graph::{Graph, Node, Value};
use crate::ops::Op;

/// What messages and tests call it.
pub(super) const NAME: &str = "assign + assign";

/// The graph with one assignment for each run of them, of one shape and precision, with nothing but inputs between.
pub(super) fn join(graph: &Graph) -> Graph {
    let mut nodes: Vec<Option<Node>> = graph.nodes().iter().cloned().map(Some).collect();
    // An assigned value is what its target is by then.
    let mut now: Vec<Value> = (0..nodes.len()).map(Value::at).collect();
    for run in runs(graph).iter().filter(|run| run.len() > 1) {
        let mut pairs = vec![];
        for &index in run {
            let node = nodes[index].take();
            pairs.extend(node.into_iter().flat_map(|node| node.inputs));
            now[index] = graph.nodes()[index].inputs[0];
        }
        let (first, last) = (run[0], run[run.len() - 1]);
        nodes[last] = Some(Node {
            inputs: pairs,
            ..graph.nodes()[first].clone()
        });
    }
    let mut joined = Graph::new();
    let mut renumbered = now.clone();
    for (index, node) in nodes.into_iter().enumerate() {
        let Some(mut node) = node else { continue };
        for input in &mut node.inputs {
            *input = renumbered[now[input.index()].index()];
        }
        let value = joined.append(node);
        if now[index].index() == index {
            renumbered[index] = value;
        }
    }
    for (name, value) in graph.outputs() {
        joined.output(name, renumbered[now[value.index()].index()]);
    }
    joined
}

/// Assignments that can be made where the last of them is.
fn runs(graph: &Graph) -> Vec<Vec<usize>> {
    let mut runs: Vec<Vec<usize>> = vec![vec![]];
    for (index, node) in graph.nodes().iter().enumerate() {
        let kind = |index: usize| {
            let value = Value::at(index);
            (graph.shape(value), graph.is_exact(value))
        };
        let goes_on =
            |run: &Vec<usize>| run.first().is_none_or(|&first| kind(first) == kind(index));
        match (&node.op, runs.last_mut()) {
            (Op::Input(_), _) => {}
            (Op::Assign(_), Some(run)) if goes_on(run) => run.push(index),
            (Op::Assign(_), _) => runs.push(vec![index]),
            _ => runs.push(vec![]),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_assignments_are_one_and_results_are_their_targets() {
        let mut g = Graph::new();
        let x = g.input("x", [2, 3]);
        let other = g.input("other", [2, 3]);
        let wide = g.input("wide", [3, 3]);
        let next = g.add(x, x).unwrap();
        let long = g.add(wide, wide).unwrap();
        let before = g.input("before", [2, 3]);
        let kept = g.assign(before, x).unwrap();
        let late = g.input("late", [2, 3]);
        let assigned = g.assign(x, next).unwrap();
        let grown = g.assign(wide, long).unwrap();
        let last = g.assign(late, other).unwrap();
        let sum = g.add(assigned, kept).unwrap();
        for (name, value) in [
            ("x", assigned),
            ("wide", grown),
            ("late", last),
            ("sum", sum),
        ] {
            g.output(name, value);
        }
        let joined = join(&g);
        let names: Vec<_> = joined.nodes().iter().map(|n| n.op.name()).collect();
        let inputs = ["input"; 3];
        let rest = [
            "add", "add", "input", "input", "assign", "assign", "assign", "add",
        ];
        assert_eq!(names, [&inputs[..], &rest].concat());
        let read = |index: usize| -> Vec<&str> {
            let node = &joined.nodes()[index];
            node.inputs.iter().map(|v| &*joined.node(*v).name).collect()
        };
        assert_eq!(read(7)[..3], ["before", "x", "x"]);
        assert_eq!(read(10), ["x", "before"]);
        let results: Vec<_> = joined
            .outputs()
            .iter()
            .map(|(_, v)| &*joined.node(*v).name)
            .collect();
        assert_eq!(results[0], "x");
        let node = &joined.nodes()[7];
        assert!(node.op.operator().infer(&joined.operands(node)).is_ok());
    }
}
