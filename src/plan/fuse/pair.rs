//! Guidance asks the network about the same latent twice: what follows from equal halves is computed for one of them.
//!
//! The copies of a [batch](crate::ops::Axis::Batch) are moved behind every operation that treats images one by one, until something differs: a
//! context, or classes. No image's bytes depend on its batch, so the result is the same to the bit. Operands that operations read again for further
//! images are given once; what needs all images otherwise reads a copy, made before its first reader. It comes after the rules that fold operations
//! together, and so parts none of what they join.

use crate::graph::{Graph, Node, Value};
use crate::ops::{
    AddChannels, Axis, Channels, Concat, Conv2d, Linear, Op, Qkv, Reshape, ScaleShift,
};
use std::ops::Range;

/// What messages and tests call it.
pub(super) const NAME: &str = "guided pair";

/// What messages and tests call giving operands once.
pub(super) const REPEATED: &str = "repeated operands";

/// The graph with what is equal in the copies of a batch computed once; where asked, operands that may repeat are not copied.
pub(super) fn share(graph: &Graph, repeat: bool) -> Graph {
    let mut shared = Shared {
        graph: Graph::new(),
        once: vec![None; graph.nodes().len()],
        whole: vec![None; graph.nodes().len()],
        copies: copies(graph, repeat),
    };
    for (index, node) in graph.nodes().iter().enumerate() {
        match shared.copies[index] {
            Some(_) => shared.once[index] = Some(shared.computed_once(node)),
            None => {
                let operands = node.inputs.iter().enumerate();
                let inputs = operands.map(|(operand, &value)| match shared.once[value.index()] {
                    Some(once) if repeat && may_repeat(node, operand) => once,
                    _ => shared.whole(value),
                });
                let inputs = inputs.collect();
                let node = node.clone();
                shared.whole[index] = Some(shared.graph.append(Node { inputs, ..node }));
            }
        }
    }
    for (name, value) in graph.outputs() {
        let value = shared.whole(*value);
        shared.graph.output(name, value);
    }
    shared.graph
}

/// For each node that is computed once, of how many equal batches its result is made.
fn copies(graph: &Graph, repeat: bool) -> Vec<Option<usize>> {
    let mut copies: Vec<Option<usize>> = vec![];
    for (node, late) in graph.nodes().iter().zip(late(graph)) {
        let found = match &node.op {
            _ if late => None,
            Op::Concat(Concat { axis: Axis::Batch }) => {
                let first = node.inputs[0];
                let equal = node.inputs.len() > 1 && node.inputs.iter().all(|&v| v == first);
                equal.then_some(node.inputs.len())
            }
            _ => common(node).and_then(|common| {
                let operands = node.inputs.iter().enumerate();
                let mut own = operands.filter(|(index, _)| !common.contains(index));
                let number = copies[own.clone().next()?.1.index()]?;
                let fits = |(_, &value): (usize, &Value)| {
                    let images = graph.shape(value).batch();
                    copies[value.index()] == Some(number) && images == node.shape.batch()
                };
                own.all(fits).then_some(number)
            }),
        };
        copies.push(found);
    }
    // What computes little is not worth a copy that its operands could have instead.
    let [mut read_once, mut copied] = [(); 2].map(|()| vec![false; graph.nodes().len()]);
    let asked_for = graph.outputs().iter();
    asked_for.for_each(|(_, value)| copied[value.index()] = true);
    for (index, node) in graph.nodes().iter().enumerate().rev() {
        let product = matches!(node.op, Op::Linear(_) | Op::Conv2d(_) | Op::Attention(_));
        if !product && copied[index] && !read_once[index] {
            copies[index] = None;
        }
        for (operand, value) in node.inputs.iter().enumerate() {
            match copies[index] {
                Some(_) => read_once[value.index()] = true,
                None if repeat && may_repeat(node, operand) => {}
                None => copied[value.index()] = true,
            }
        }
    }
    copies
}

/// For each node, whether something reads it after the first assignment: a copy made there could be of other elements.
fn late(graph: &Graph) -> Vec<bool> {
    let mut late = vec![false; graph.nodes().len()];
    let assigns = |node: &Node| matches!(node.op, Op::Assign(_));
    let begin = graph.nodes().iter().position(assigns);
    let Some(begin) = begin else {
        return late;
    };
    let read = graph.nodes()[begin..].iter().flat_map(|node| &node.inputs);
    let asked_for = graph.outputs().iter().map(|(_, value)| value);
    read.chain(asked_for).for_each(|v| late[v.index()] = true);
    late
}

/// The new graph, and where it has the values of the old one.
struct Shared {
    graph: Graph,
    once: Vec<Option<Value>>,
    whole: Vec<Option<Value>>,
    copies: Vec<Option<usize>>,
}

impl Shared {
    /// The result of `node` for one of its equal batches.
    fn computed_once(&mut self, node: &Node) -> Value {
        // The copies themselves are of one value.
        let Some(common) = common(node) else {
            return self.whole(node.inputs[0]);
        };
        let mut once = node.clone();
        let mut images = node.shape.batch();
        for (index, value) in once.inputs.iter_mut().enumerate() {
            *value = match self.once[value.index()] {
                Some(own) if !common.contains(&index) => {
                    images = self.graph.shape(own).batch();
                    own
                }
                _ => self.whole(*value),
            };
        }
        once.shape = node.shape.with_batch(images);
        if let Op::Reshape(Reshape { shape }) = &mut once.op {
            *shape = once.shape;
        }
        self.graph.append(once)
    }

    /// All images of `value`.
    fn whole(&mut self, value: Value) -> Value {
        let index = value.index();
        if let Some(whole) = self.whole[index] {
            return whole;
        }
        // What was not computed whole was computed once, and operands come before their readers.
        let (Some(once), Some(copies)) = (self.once[index], self.copies[index]) else {
            return value;
        };
        let node = self.graph.node(once);
        let copy = Node {
            op: Concat { axis: Axis::Batch }.into(),
            inputs: vec![once; copies],
            shape: node.shape.with_batch(copies * node.shape.batch()),
            name: node.name.clone(),
        };
        let whole = self.graph.append(copy);
        self.whole[index] = Some(whole);
        whole
    }
}

/// Whether an operation reads an operand of fewer images than its others again, image after image.
fn may_repeat(node: &Node, operand: usize) -> bool {
    match &node.op {
        Op::Conv2d(Conv2d {
            sources,
            beside: Some(beside),
            ..
        }) if beside.sources == 2 && operand == sources + 1 => true,
        Op::Linear(Linear { epilogue, .. }) | Op::Conv2d(Conv2d { epilogue, .. }) => {
            epilogue.residual && operand + 1 == node.inputs.len()
        }
        Op::GroupNorm(norm) => norm.sources == 2 && operand == 1,
        Op::Attention(op) => op.operands == Qkv::Separate && operand == 0,
        _ => false,
    }
}

/// Which operands are the same for all images, of an operation that makes a result of each image of the others; `None` for other operations.
fn common(node: &Node) -> Option<Range<usize>> {
    let rows = |channels: Option<Channels>, at: usize| match channels {
        Some(Channels::Row) => at..at + Channels::Row.operands(),
        Some(Channels::PerImage) | None => 0..0,
    };
    match &node.op {
        Op::Linear(Linear { epilogue, .. }) | Op::Conv2d(Conv2d { epilogue, .. }) => {
            let at = node.inputs.len() - epilogue.operands();
            Some(rows(epilogue.channels, at))
        }
        Op::GroupNorm(norm) => Some(rows(norm.scale_shift, norm.sources)),
        Op::AddChannels(AddChannels { channels }) | Op::ScaleShift(ScaleShift { channels }) => {
            Some(rows(Some(*channels), 1))
        }
        Op::Concat(Concat { axis }) => (*axis == Axis::Channels).then_some(0..0),
        Op::LayerNorm(_)
        | Op::Attention(_)
        | Op::Activate(_)
        | Op::Geglu(_)
        | Op::Reshape(_)
        | Op::Add(_)
        | Op::AddPositions(_)
        | Op::Upsample2x(_)
        | Op::AveragePool2x(_)
        | Op::Blend(_) => Some(0..0),
        // Inputs; what joins images or counts them; what no network computes from a latent.
        Op::Input(_)
        | Op::GroupStatistics(_)
        | Op::GroupNormalise(_)
        | Op::Embedding(_)
        | Op::Codebook(_)
        | Op::GatherToken(_)
        | Op::TimestepEmbedding(_)
        | Op::Guidance(_)
        | Op::Combine(_)
        | Op::Assign(_)
        | Op::CountNotFinite(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Activation::Silu;

    fn names(graph: &Graph) -> Vec<(&str, usize)> {
        let named = |node: &'_ Node| (node.op.name(), node.shape.batch());
        graph.nodes().iter().map(named).collect()
    }

    #[test]
    fn what_follows_from_equal_halves_is_computed_for_one() {
        let mut g = Graph::new();
        let x = g.input("x", [3, 4, 6]);
        let context = g.input("context", [6, 5, 6]);
        let pair = g.concat(&[x, x], Axis::Batch).unwrap();
        let h = g.scope("h", |g| g.linear(pair, 6, true)).unwrap();
        let h = g.reshape(h, [6, 2, 2, 6]).unwrap();
        let h = g.scope("n", |g| g.group_norm(h, 2, 1e-5)).unwrap();
        let h = g.reshape(h, [6, 4, 6]).unwrap();
        let h = g.scope("q", |g| g.linear(h, 6, true)).unwrap();
        let a = g.attention([h, context, context], 2, false).unwrap();
        let y = g.add(a, h).unwrap();
        g.output("y", y);
        let shared = share(&g, true);
        let expected = [
            ("input", 3),
            ("input", 6),
            ("linear", 3),
            ("reshape", 3),
            ("group_norm", 3),
            ("reshape", 3),
            ("linear", 3),
            ("attention", 6),
            ("concat", 6),
            ("add", 6),
        ];
        assert_eq!(names(&shared), expected);
        let copied = share(&g, false);
        assert_eq!(names(&copied)[7..9], [("concat", 6), ("attention", 6)]);
        for node in shared.nodes().iter().filter(|n| !n.inputs.is_empty()) {
            assert_eq!(
                node.op.operator().infer(&shared.operands(node)),
                Ok(node.shape)
            );
        }
    }

    #[test]
    fn what_computes_little_is_not_copied_instead_of_its_operand() {
        let mut g = Graph::new();
        let x = g.input("x", [1, 4, 6]);
        let each = g.input("each", [2, 6]);
        let pair = g.concat(&[x, x], Axis::Batch).unwrap();
        let h = g.scope("h", |g| g.linear(pair, 6, true)).unwrap();
        let a = g.scope("n", |g| g.layer_norm(h, 1e-5)).unwrap();
        let a = g.add_channels(a, each).unwrap();
        let y = g.add(a, h).unwrap();
        g.output("y", y);
        let expected = [
            ("input", 1),
            ("input", 2),
            ("linear", 1),
            ("concat", 2),
            ("layer_norm", 2),
            ("add_channels", 2),
            ("add", 2),
        ];
        assert_eq!(names(&share(&g, true)), expected);
    }

    #[test]
    fn what_differs_or_is_read_after_an_assignment_stays() {
        let mut g = Graph::new();
        let [x, z] = ["x", "z"].map(|name| g.input(name, [1, 4]));
        let both = g.concat(&[x, z], Axis::Batch).unwrap();
        let pair = g.concat(&[x, x], Axis::Batch).unwrap();
        let y = g.activate(both, Silu).unwrap();
        g.assign(x, z).unwrap();
        let late = g.activate(pair, Silu).unwrap();
        g.output("y", y);
        g.output("late", late);
        assert_eq!(names(&share(&g, true)), names(&g));
    }
}
