//! Queries, keys and values of attention of a sequence on itself, as one product.
//!
//! Three linear maps read one value, and one attention reads them: stacked, they are one map, whose result the attention reads where the three
//! parts of every token lie. What is read three times is read once, and two launches less. Four nodes change together, which is why this is no
//! rule of a node and its operand.

use super::readers;
use crate::graph::{Graph, Node, Value};
use crate::ops::{Affine, Attention, Epilogue, Linear, Op, Qkv};
use crate::plan::remaining;

/// What messages and tests call it.
pub(super) const NAME: &str = "linears of one source";

/// The graph with one linear map before each attention of a sequence on itself.
pub(super) fn stack(graph: &Graph) -> Graph {
    let mut nodes: Vec<Option<Node>> = graph.nodes().iter().cloned().map(Some).collect();
    let readers = readers(graph);
    for index in 0..nodes.len() {
        if let Some((parts, stacked)) = found(graph, index, &readers) {
            let [first, second, last] = parts;
            (nodes[first], nodes[second]) = (None, None);
            nodes[last] = Some(stacked);
            if let Some(Node {
                op: Op::Attention(op),
                inputs,
                ..
            }) = &mut nodes[index]
            {
                op.operands = Qkv::Thirds;
                *inputs = vec![Value::at(last)];
            }
        }
    }
    remaining(nodes, graph)
}

/// The three maps before an attention, in the graph's order, and the one that they are together.
fn found(graph: &Graph, attention: usize, readers: &[Vec<usize>]) -> Option<([usize; 3], Node)> {
    let nodes = graph.nodes();
    let Op::Attention(Attention {
        operands: Qkv::Separate,
        ..
    }) = &nodes[attention].op
    else {
        return None;
    };
    let read = &nodes[attention].inputs;
    let maps: Vec<(&Node, &Linear)> = read.iter().filter_map(|v| plain(graph.node(*v))).collect();
    let [(node, q), (_, k), (_, v)] = maps[..] else {
        return None;
    };
    let alike = maps.iter().all(|(other, map)| {
        let same = other.inputs == node.inputs && other.shape == node.shape;
        same && map.bias.is_some() == q.bias.is_some()
    });
    let mut parts = [read[0], read[1], read[2]].map(Value::index);
    parts.sort_unstable();
    // The source must be the same for the last as for the first.
    let between = &nodes[parts[0]..parts[2]];
    let assigned = between.iter().any(|node| matches!(node.op, Op::Assign(_)));
    if !alike || assigned || read.iter().any(|value| readers[value.index()].len() != 1) {
        return None;
    }
    let map = |map: &Linear| Affine {
        weight: map.weight.clone(),
        bias: map.bias.clone(),
    };
    let op = Linear {
        stacked: vec![map(k), map(v)],
        ..q.clone()
    };
    let stacked = Node {
        shape: node.shape.with_channels(op.features()),
        op: op.into(),
        ..node.clone()
    };
    Some((parts, stacked))
}

/// A linear map of one source with nothing after it.
fn plain(node: &Node) -> Option<(&Node, &Linear)> {
    match &node.op {
        Op::Linear(op) if op.sources == 1 && op.stacked.is_empty() && op.norm.is_none() => {
            (op.epilogue == Epilogue::default()).then_some((node, op))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Attention on keys of the same sequence or another, whose queries may be asked for as well.
    fn graph(other: bool, asked: bool) -> Graph {
        let mut g = Graph::new();
        let x = g.input("x", [2, 4, 6]);
        let context = if other {
            g.input("context", [2, 4, 6])
        } else {
            x
        };
        let mut project = |name: &str, from| g.scope(name, |g| g.linear(from, 6, true)).unwrap();
        let qkv = [project("q", x), project("k", context), project("v", x)];
        let y = g.scope("a", |g| g.attention(qkv, 2, false)).unwrap();
        g.output("y", y);
        if asked {
            g.output("q", qkv[0]);
        }
        g
    }

    #[test]
    fn attention_of_a_sequence_on_itself_has_one_product() {
        let stacked = stack(&graph(false, false));
        let names: Vec<_> = stacked.nodes().iter().map(|n| n.op.name()).collect();
        assert_eq!(names, ["input", "linear", "attention"]);
        let params: Vec<_> = stacked.params().map(|p| p.name.as_str()).collect();
        let expected = [
            "q.weight", "q.bias", "k.weight", "k.bias", "v.weight", "v.bias",
        ];
        assert_eq!(params, expected);
        for node in stacked.nodes().iter().filter(|n| !n.inputs.is_empty()) {
            assert_eq!(
                node.op.operator().infer(&stacked.operands(node)),
                Ok(node.shape)
            );
        }
    }

    #[test]
    fn keys_of_another_sequence_and_queries_that_are_asked_for_stay() {
        for (other, asked) in [(true, false), (false, true)] {
            let before = graph(other, asked);
            assert_eq!(stack(&before).nodes().len(), before.nodes().len());
        }
    }
}
