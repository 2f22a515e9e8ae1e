//! Combinations that are only assigned, as part of their assignment.
//!
//! The vectors of a sampler's state are combinations of the same terms, so a step ends with several small launches that read the same, and one more
//! that copies their results. Any number of nodes change together, which is why this is no rule of a node and its operand.

use crate::graph::{Graph, Node, Value};
use crate::ops::{Assign, Op};
use crate::plan::{hoist, remaining};

/// What messages and tests call it.
pub(super) const NAME: &str = "combine + assign";

/// The graph with every assignment, whose last values are combinations of the same terms, computing these itself.
pub(super) fn fold(graph: &Graph) -> Graph {
    let mut nodes: Vec<Option<Node>> = graph.nodes().iter().cloned().map(Some).collect();
    for index in 0..nodes.len() {
        if let Some((folded, swallowed)) = folded(graph, index) {
            nodes[index] = Some(folded);
            for value in swallowed {
                nodes[value.index()] = None;
            }
        }
    }
    remaining(nodes, graph)
}

/// What the assignment at `index` becomes, and the combinations that it then computes itself.
fn folded(graph: &Graph, index: usize) -> Option<(Node, Vec<Value>)> {
    let node = &graph.nodes()[index];
    if node.op != Assign::default().into() {
        return None;
    }
    let (pairs, _) = node.inputs.as_chunks();
    let shared = |[_, value]: &[Value; 2]| shared(graph, *value, index);
    let first = pairs.iter().position(|pair| shared(pair).is_some())?;
    let (copied, combined) = pairs.split_at(first);
    let terms = shared(&combined[0])?;
    // Combinations are assigned last, so what is copied after one might be its result.
    if !combined.iter().all(|pair| shared(pair) == Some(terms)) {
        return None;
    }
    let swallowed: Vec<Value> = combined.iter().map(|[_, value]| *value).collect();
    let combined = combined.iter();
    let combined = combined.map(|[target, value]| [*target, graph.node(*value).inputs[0]]);
    let pairs = combined.chain(copied.iter().copied()).flatten();
    let op = Assign {
        combined: swallowed.len(),
        terms: terms.len() - 1,
    };
    let folded = Node {
        op: op.into(),
        inputs: pairs.chain(terms.iter().copied()).collect(),
        ..node.clone()
    };
    Some((folded, swallowed))
}

/// The row and the terms of `value`, if it is a combination that could as well be computed by the node at `index`, the only one to read it.
fn shared(graph: &Graph, value: Value, index: usize) -> Option<&[Value]> {
    let node = graph.node(value);
    let later = graph.nodes()[value.index()..index].iter();
    let read = graph.nodes().iter().flat_map(|node| &node.inputs);
    let read = read.chain(graph.outputs().iter().map(|(_, value)| value));
    let movable = matches!(node.op, Op::Combine(_))
        && !later.clone().any(|later| matches!(later.op, Op::Assign(_)))
        && !hoist::constants(graph)[value.index()]
        && read.filter(|read| **read == value).count() == 1;
    movable.then(|| &node.inputs[1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two vectors that are combined of one another, the old ones kept; the second combination is of what `change` says, or read once more.
    fn update(graph: &mut Graph, other_terms: bool, read: bool) {
        let [x, memory, before] = ["x", "memory", "before"].map(|name| graph.input(name, [2, 3]));
        let row = graph.input_exact("row", [1]);
        let table = |g: &mut Graph, name| g.constant_exact(name, [4, 2]);
        let [a, b] = ["a", "b"].map(|name| table(graph, name));
        let next = graph.combine(a, row, &[x, memory]).unwrap();
        let terms = if other_terms {
            [memory, x]
        } else {
            [x, memory]
        };
        let later = graph.combine(b, row, &terms).unwrap();
        if read {
            graph.output("later", later);
        }
        for (name, target, value) in [
            ("before", before, x),
            ("x", x, next),
            ("memory", memory, later),
        ] {
            let assigned = graph.assign(target, value).unwrap();
            graph.output(name, assigned);
        }
    }

    #[test]
    fn what_is_combined_of_the_same_terms_is_assigned_at_once() {
        for (other_terms, read) in [(false, false), (true, false), (false, true)] {
            let mut g = Graph::new();
            update(&mut g, other_terms, read);
            let joined = super::super::assignments::join(&g);
            let folded = fold(&joined);
            let last = folded.nodes().last().unwrap();
            let Op::Assign(assign) = &last.op else {
                panic!("ends with {}", last.op.name())
            };
            if other_terms || read {
                assert_eq!((assign.combined, folded.nodes().len()), (0, 9));
                continue;
            }
            let names = last.inputs.iter().map(|v| &*folded.node(*v).name);
            let names: Vec<_> = names.collect();
            let pairs = ["x", "a", "memory", "b", "before", "x"];
            assert_eq!(names, [&pairs[..], &["row", "x", "memory"]].concat());
            assert_eq!(
                last.op.operator().infer(&folded.operands(last)),
                Ok([2, 3].into())
            );
            let alone = fold(&g);
            assert_eq!(alone.nodes().len(), g.nodes().len(), "assigned in between");
        }
    }
}
