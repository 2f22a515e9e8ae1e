//! Attention over a single key: whatever the queries are, its weight is one and the result is its value.
//!
//! So are classes told to a network whose context is one token. Queries, keys and what only they needed disappear, the projection behind the
//! attention is of one token per image, and what it gives is added to every position. It follows from the context alone, and a sampler
//! computes it [once](crate::plan::hoist). Three nodes change together, which is why this is no rule of a node and its operand.

use super::readers;
use crate::graph::{Graph, Node, Value};
use crate::ops::{Add, AddChannels, Attention, Channels, Epilogue, Linear, Op, Qkv, Reshape};
use crate::plan::remaining;

/// What messages and tests call it.
pub(super) const NAME: &str = "attention over one key";

/// The graph without attentions over one key whose projected result is added to something.
pub(super) fn collapse(graph: &Graph) -> Graph {
    let mut nodes: Vec<Option<Node>> = graph.nodes().iter().cloned().map(Some).collect();
    let mut readers = readers(graph);
    for index in 0..nodes.len() {
        if let Some(found) = Found::at(graph, index, &readers) {
            found.rewrite(&mut nodes);
            for value in found.unread {
                release(value, index, &mut nodes, &mut readers);
            }
        }
    }
    remaining(nodes, graph)
}

/// An attention over one key, with what is made of it.
struct Found {
    attention: usize,
    projection: usize,
    sum: usize,
    /// Queries and keys.
    unread: [Value; 2],
    value: Value,
    /// What the projection is added to.
    residual: Value,
}

impl Found {
    fn at(graph: &Graph, attention: usize, readers: &[Vec<usize>]) -> Option<Self> {
        let nodes = graph.nodes();
        let only_reader = |index: usize| match readers[index][..] {
            [reader] => nodes.get(reader).map(|node| (reader, node)),
            _ => None,
        };
        let Node {
            op: Op::Attention(Attention { operands, .. }),
            inputs,
            ..
        } = &nodes[attention]
        else {
            return None;
        };
        let &[q, k, value] = &inputs[..] else {
            return None;
        };
        let single = *operands == Qkv::Separate && graph.shape(k).dims()[1] == 1;
        let (projection, linear) = only_reader(attention).filter(|_| single)?;
        let plain = |op: &Linear| op.epilogue == Epilogue::default() && op.sources == 1;
        let (sum, add) = match &linear.op {
            Op::Linear(op) if plain(op) => only_reader(projection)?,
            _ => return None,
        };
        let &[a, b] = &add.inputs[..] else {
            return None;
        };
        let residual = if a.index() == projection { b } else { a };
        matches!(add.op, Op::Add(Add)).then_some(Self {
            attention,
            projection,
            sum,
            unread: [q, k],
            value,
            residual,
        })
    }

    fn rewrite(&self, nodes: &mut [Option<Node>]) {
        if let Some(node) = &mut nodes[self.attention] {
            let [batch, channels] = [node.shape.batch(), node.shape.channels()];
            node.shape = [batch, channels].into();
            node.op = Reshape { shape: node.shape }.into();
            node.inputs = vec![self.value];
        }
        if let Some(node) = &mut nodes[self.projection] {
            node.shape = [node.shape.batch(), node.shape.channels()].into();
        }
        if let Some(node) = &mut nodes[self.sum] {
            let channels = Channels::PerImage;
            node.op = AddChannels { channels }.into();
            node.inputs = vec![self.residual, Value::at(self.projection)];
        }
    }
}

/// Forgets that `reader` reads `value`, and drops what nobody reads any more. Inputs stay: whoever runs the graph sets them.
fn release(value: Value, reader: usize, nodes: &mut [Option<Node>], readers: &mut [Vec<usize>]) {
    let readers_left = &mut readers[value.index()];
    if let Some(at) = readers_left.iter().position(|&index| index == reader) {
        readers_left.swap_remove(at);
    }
    let unread = readers_left.is_empty();
    let dropped = nodes[value.index()].take_if(|node| unread && !matches!(node.op, Op::Input(_)));
    for operand in dropped.into_iter().flat_map(|node| node.inputs) {
        release(operand, value.index(), nodes, readers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Attention of four positions on a context, projected and added, and what else reads the attention.
    fn graph(tokens: usize, shared: bool) -> Graph {
        let mut g = Graph::new();
        let x = g.input("x", [2, 4, 6]);
        let context = g.constant("context", [2, tokens, 3]);
        let h = g.scope("norm", |g| g.layer_norm(x, 1e-5)).unwrap();
        let mut project = |name: &str, from| g.scope(name, |g| g.linear(from, 6, false)).unwrap();
        let qkv = [
            project("q", h),
            project("k", context),
            project("v", context),
        ];
        let h = g.scope("a", |g| g.attention(qkv, 2, false)).unwrap();
        let out = g.scope("out", |g| g.linear(h, 6, true)).unwrap();
        let y = g.add(out, x).unwrap();
        g.output("y", y);
        if shared {
            g.output("a", h);
        }
        g
    }

    fn names(graph: &Graph) -> Vec<&str> {
        graph.nodes().iter().map(|node| node.op.name()).collect()
    }

    #[test]
    fn queries_keys_and_their_normalisation_disappear() {
        let collapsed = collapse(&graph(1, false));
        let expected = [
            "input",
            "input",
            "linear",
            "reshape",
            "linear",
            "add_channels",
        ];
        assert_eq!(names(&collapsed), expected);
        for node in collapsed.nodes().iter().filter(|n| !n.inputs.is_empty()) {
            assert_eq!(
                node.op.operator().infer(&collapsed.operands(node)),
                Ok(node.shape)
            );
        }
        let params: Vec<_> = collapsed.params().map(|p| p.name.as_str()).collect();
        assert_eq!(params, ["v.weight", "out.weight", "out.bias"]);
    }

    #[test]
    fn two_keys_and_an_attention_that_is_asked_for_stay() {
        for (tokens, shared) in [(2, false), (1, true)] {
            let before = graph(tokens, shared);
            assert_eq!(names(&collapse(&before)), names(&before));
        }
    }
}
