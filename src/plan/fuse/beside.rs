//! The skip connection of a residual block as more channels of its last convolution.
//!
//! Where a block changes the number of channels, what it adds is a linear map of its input. Both are sums over channels for the same pixel, so
//! together they are one product, whose depth goes on with the input's channels. Three nodes change together, which is why this is no rule of a
//! node and its operand.

use super::readers;
use crate::graph::{Graph, Node, Value};
use crate::ops::{Affine, Beside, Conv2d, Epilogue, Linear, Op};
use crate::plan::{hoist, remaining};

/// What messages and tests call it.
pub(super) const NAME: &str = "linear beside conv2d";

/// The graph with every sum of a convolution and a linear map as one convolution.
pub(super) fn join(graph: &Graph) -> Graph {
    let (constants, readers) = (hoist::constants(graph), readers(graph));
    let mut nodes: Vec<Option<Node>> = graph.nodes().iter().cloned().map(Some).collect();
    for index in 0..nodes.len() {
        if let Some((parts, joined)) = found(graph, index, &constants, &readers) {
            parts.iter().for_each(|part| nodes[part.index()] = None);
            nodes[index] = Some(joined);
        }
    }
    remaining(nodes, graph)
}

/// The two operands of a sum, and the convolution that all three are.
fn found(
    graph: &Graph,
    sum: usize,
    constants: &[bool],
    readers: &[Vec<usize>],
) -> Option<([Value; 2], Node)> {
    let nodes = graph.nodes();
    let &[a, b] = &nodes[sum].inputs[..] else {
        return None;
    };
    let (Op::Add(_), true) = (&nodes[sum].op, a != b) else {
        return None;
    };
    let pairs = [(a, b), (b, a)].into_iter();
    let (first, second, conv, linear) = pairs
        .filter_map(|(first, second)| {
            let (conv, linear) = plain(graph.node(first), graph.node(second))?;
            Some((first, second, conv, linear))
        })
        .next()?;
    // What both read must be the same here, and nothing that is computed once moves to what runs every time.
    let between = &nodes[a.index().min(b.index())..sum];
    let assigned = between.iter().any(|node| matches!(node.op, Op::Assign(_)));
    let alike = [a, b]
        .iter()
        .all(|v| constants[v.index()] == constants[sum] && readers[v.index()].len() == 1);
    if assigned || !alike {
        return None;
    }
    let beside = Beside {
        sources: linear.sources,
        map: Affine {
            weight: linear.weight.clone(),
            bias: linear.bias.clone(),
        },
    };
    let op = Conv2d {
        beside: Some(beside),
        ..conv.clone()
    };
    let [own, other] = [first, second].map(|value| &graph.node(value).inputs);
    let joined = Node {
        op: op.into(),
        inputs: [&own[..], other].concat(),
        shape: nodes[sum].shape,
        name: graph.node(first).name.clone(),
    };
    Some(([a, b], joined))
}

/// A convolution and a linear map with nothing after them.
fn plain<'a>(first: &'a Node, second: &'a Node) -> Option<(&'a Conv2d, &'a Linear)> {
    let (Op::Conv2d(conv), Op::Linear(linear)) = (&first.op, &second.op) else {
        return None;
    };
    let nothing = Epilogue::default();
    let single = linear.stacked.is_empty() && linear.norm.is_none();
    let plain = conv.epilogue == nothing && linear.epilogue == nothing && single;
    (plain && conv.stride == 1).then_some((conv, linear))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Padding;

    /// A convolution plus a linear map of another image, which may be asked for or constant.
    fn graph(asked: bool, constant: bool) -> Graph {
        let mut g = Graph::new();
        let x = g.input("x", [2, 4, 4, 3]);
        let other = match constant {
            true => g.constant("other", [2, 4, 4, 5]),
            false => g.input("other", [2, 4, 4, 5]),
        };
        let skip = g.scope("skip", |g| g.linear(other, 6, true)).unwrap();
        let conv = g.scope("conv", |g| g.conv2d(x, 6, 3, 1, Padding::all(1)));
        let y = g.add(skip, conv.unwrap()).unwrap();
        g.output("y", y);
        if asked {
            g.output("skip", skip);
        }
        g
    }

    #[test]
    fn both_are_one_convolution() {
        let joined = join(&graph(false, false));
        let names: Vec<_> = joined.nodes().iter().map(|n| n.op.name()).collect();
        assert_eq!(names, ["input", "input", "conv2d"]);
        let node = &joined.nodes()[2];
        assert_eq!(
            node.op.operator().infer(&joined.operands(node)),
            Ok(node.shape)
        );
        let params: Vec<_> = joined.params().map(|p| p.name.as_str()).collect();
        let expected = ["conv.weight", "conv.bias", "skip.weight", "skip.bias"];
        assert_eq!(params, expected);
        assert_eq!(node.name, "conv");
    }

    #[test]
    fn a_map_that_is_asked_for_or_computed_once_stays() {
        for (asked, constant) in [(true, false), (false, true)] {
            let before = graph(asked, constant);
            assert_eq!(join(&before).nodes().len(), before.nodes().len());
        }
    }
}
