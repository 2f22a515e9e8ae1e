//! Folding operations together: a table of local rules.
//!
//! Models are written in textbook operations; what is worth computing in one pass is decided here, once, for every device.
//! Each rule looks at a node and one of its operands and, where the pair means the same as one operation, returns that
//! operation. The pair's operand must have no other use, unless it is cheap and the rule fits all who use it. The fused node
//! stands where the later of the two stood, so all operands exist; no pair is folded over an assignment, which would change what it reads,
//! and nothing that is [computed once](super::hoist) into what is computed at every run.
//!
//! Rules that change other than two nodes have files of their own: `single_key`, `one_source` and `beside` go first, `phases`, `pair`, `assignments`
//! and `combinations` last.
//!
//! A fused operation is defined by its parts: its `eval` is their composition, and `fused == unfused` is tested for every model.

mod assignments;
mod beside;
mod combinations;
mod one_source;
mod pair;
mod phases;
mod rules;
mod single_key;

use super::{hoist, remaining};
use crate::graph::{Graph, Node, Value};
use crate::ops::Op;
use rules::{Folded, RULES, Rule};

/// Rules after which one weight is made of several learnt tensors: for devices that copy weights anyway.
pub const STACKING: [&str; 3] = [one_source::NAME, beside::NAME, rules::LAYER_NORM_LINEAR];

/// The rules that leave out work which follows from other work. A device can do [without](crate::backend::Backend::gains_by) them, to be compared
/// with programs that do it all.
pub const CUTS: [&str; 4] = [single_key::NAME, pair::NAME, phases::NAME, hoist::NAME];

/// The names of the rules.
pub fn rules() -> impl Iterator<Item = &'static str> {
    let first = [single_key::NAME, one_source::NAME, beside::NAME];
    let last = [
        phases::NAME,
        pair::NAME,
        pair::REPEATED,
        assignments::NAME,
        combinations::NAME,
    ];
    let whole = first.into_iter().chain(last);
    whole.chain(RULES.iter().map(|rule| rule.name))
}

/// Applies every rule that `enabled` lets through wherever it fits.
pub fn fuse(mut graph: Graph, enabled: impl Fn(&str) -> bool) -> Graph {
    if enabled(single_key::NAME) {
        graph = single_key::collapse(&graph);
    }
    if enabled(one_source::NAME) {
        graph = one_source::stack(&graph);
    }
    if enabled(beside::NAME) {
        graph = beside::join(&graph);
    }
    let mut nodes: Vec<Option<Node>> = graph.nodes().iter().cloned().map(Some).collect();
    let constants = hoist::constants(&graph);
    let assigns = |(index, node): (usize, &Node)| matches!(node.op, Op::Assign(_)).then_some(index);
    let assigned: Vec<usize> = (graph.nodes().iter().enumerate())
        .filter_map(assigns)
        .collect();
    let mut uses: Vec<usize> = readers(&graph).iter().map(Vec::len).collect();
    for index in 0..nodes.len() {
        let movable = |producer: usize| {
            let later_alike = !constants[producer] || constants[index];
            later_alike && !assigned.iter().any(|at| (producer..index).contains(at))
        };
        while let Some((producer, folded)) = first_fold(&nodes, index, &uses, &enabled, &movable) {
            let Some(node) = &mut nodes[index] else { break };
            let given_up = std::mem::replace(&mut node.inputs, folded.inputs);
            node.inputs.iter().for_each(|v| uses[v.index()] += 1);
            given_up.iter().for_each(|v| uses[v.index()] -= 1);
            (node.op, node.name) = (folded.op, folded.name);
            if uses[producer] == 0
                && let Some(swallowed) = nodes[producer].take()
            {
                swallowed.inputs.iter().for_each(|v| uses[v.index()] -= 1);
            }
        }
    }
    if enabled(phases::NAME) {
        nodes.iter_mut().flatten().for_each(phases::fold);
    }
    let mut fused = remaining(nodes, &graph);
    if enabled(pair::NAME) {
        fused = pair::share(&fused, enabled(pair::REPEATED));
    }
    if enabled(assignments::NAME) {
        fused = assignments::join(&fused);
    }
    if enabled(combinations::NAME) {
        fused = combinations::fold(&fused);
    }
    fused
}

/// For each node, who reads it: once for each operand, and `usize::MAX` for whoever asks for a result.
fn readers(graph: &Graph) -> Vec<Vec<usize>> {
    let mut readers: Vec<Vec<usize>> = vec![vec![]; graph.nodes().len()];
    for (index, node) in graph.nodes().iter().enumerate() {
        let operands = node.inputs.iter();
        operands.for_each(|value| readers[value.index()].push(index));
    }
    let outputs = graph.outputs().iter();
    outputs.for_each(|(_, value)| readers[value.index()].push(usize::MAX));
    readers
}

/// The first rule that fits node `index`, with the operand's index it would swallow.
fn first_fold(
    nodes: &[Option<Node>],
    index: usize,
    uses: &[usize],
    enabled: &impl Fn(&str) -> bool,
    movable: &impl Fn(usize) -> bool,
) -> Option<(usize, Folded)> {
    let node = nodes[index].as_ref()?;
    let mut rules = RULES.iter().filter(|rule| enabled(rule.name));
    rules.find_map(|rule| {
        node.inputs.iter().enumerate().find_map(|(operand, value)| {
            let producer = nodes[value.index()].as_ref()?;
            let alone = uses[value.index()] == 1;
            let free = alone || rule.shared && fits_all(rule, nodes, *value, uses);
            if !free || !movable(value.index()) {
                return None;
            }
            Some((value.index(), (rule.fold)(node, operand, producer)?))
        })
    })
}

/// Whether every use of `value` is by a node that the rule fits.
fn fits_all(rule: &Rule, nodes: &[Option<Node>], value: Value, uses: &[usize]) -> bool {
    let Some(producer) = &nodes[value.index()] else {
        return false;
    };
    let consumers = nodes[value.index() + 1..].iter().flatten();
    let operands =
        consumers.flat_map(|node| node.inputs.iter().enumerate().map(move |o| (node, o)));
    let fits = |(node, (operand, read)): (&Node, (usize, &Value))| {
        *read == value && (rule.fold)(node, operand, producer).is_some()
    };
    operands.filter(|&use_| fits(use_)).count() == uses[value.index()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{Activation, Axis, Padding};

    /// A residual block on two equal images and two others, with an upsampling, in textbook operations.
    fn block() -> Graph {
        let mut g = Graph::new();
        let a = g.input("a", [1, 4, 8, 4]);
        let pair = g.concat(&[a, a], Axis::Batch).unwrap();
        let a = g.scope("first", |g| g.linear(pair, 4, true)).unwrap();
        let b = g.input("b", [2, 4, 8, 4]);
        let b = g.scope("second", |g| g.linear(b, 4, true)).unwrap();
        let shared = g.scope("shared", |g| g.linear(pair, 4, true)).unwrap();
        let b = g.add(b, shared).unwrap();
        let x = g.concat(&[a, b], Axis::Channels).unwrap();
        let time_in = g.input("time", [2, 8]);
        let time = g.scope("embed", |g| g.linear(time_in, 8, true)).unwrap();
        let time = g.activate(time, Activation::QuickGelu).unwrap();
        let scales = g.input("scales", [2, 16]);
        let h = g.scope("norm", |g| g.group_norm(x, 4, 1e-5)).unwrap();
        let h = g
            .scope("silu", |g| g.activate(h, Activation::Silu))
            .unwrap();
        let h = g
            .scope("conv", |g| g.conv2d(h, 8, 3, 1, Padding::all(1)))
            .unwrap();
        let h = g.add_channels(h, time).unwrap();
        let h = g.scope("norm2", |g| g.group_norm(h, 4, 1e-5)).unwrap();
        let h = g.scale_shift(h, scales).unwrap();
        let skip = g.scope("skip", |g| g.linear(x, 8, true)).unwrap();
        let y = g.add(skip, h).unwrap();
        let h = g.scope("conv2", |g| g.conv2d(y, 8, 3, 1, Padding::all(1)));
        let skip = g.scope("skip2", |g| g.linear(x, 8, true)).unwrap();
        let y = g.add(h.unwrap(), skip).unwrap();
        let y = g.upsample2x(y).unwrap();
        let y = g
            .scope("up", |g| g.conv2d(y, 8, 3, 1, Padding::all(1)))
            .unwrap();
        let y = g.scope("ff", |g| g.linear(y, 16, true)).unwrap();
        let y = g.geglu(y).unwrap();
        let y = g.reshape(y, [2, 128, 8]).unwrap();
        let context = g.input("context", [2, 1, 4]);
        let mut project = |name: &str, from| g.scope(name, |g| g.linear(from, 8, true)).unwrap();
        let qkv = [
            project("q", y),
            project("k", context),
            project("v", context),
        ];
        let h = g.attention(qkv, 2, false).unwrap();
        let h = g.scope("out", |g| g.linear(h, 8, true)).unwrap();
        let y = g.add(y, h).unwrap();
        let h = g.scope("norm1", |g| g.layer_norm(y, 1e-5)).unwrap();
        let qkv = ["q1", "k1", "v1"].map(|name| g.scope(name, |g| g.linear(h, 8, true)).unwrap());
        let h = g.attention(qkv, 2, false).unwrap();
        let y = g.add(y, h).unwrap();
        g.output("y", y);
        let before = g.input("before", [2, 8]);
        let table = g.input_exact("table", [3, 2]);
        let row = g.input_exact("row", [1]);
        let next = g.combine(table, row, &[time_in, before]).unwrap();
        g.assign(before, time_in).unwrap();
        g.assign(time_in, next).unwrap();
        g
    }

    #[test]
    fn every_rule_fires_on_a_block() {
        let fused = fuse(block(), |_| true);
        let names: Vec<_> = fused.nodes().iter().map(|n| n.op.name()).collect();
        assert_eq!(
            names,
            [
                "input",
                "linear",
                "input",
                "linear",
                "linear",
                "input",
                "linear",
                "input",
                "concat",
                "group_norm",
                "conv2d",
                "group_norm",
                "linear",
                "conv2d",
                "conv2d",
                "linear",
                "reshape",
                "input",
                "linear",
                "reshape",
                "linear",
                "add_channels",
                "linear",
                "attention",
                "add",
                "input",
                "input",
                "input",
                "assign",
            ]
        );
        let output = fused.outputs()[0].1;
        assert_eq!(fused.shape(output), [2, 128, 8].into());
        let Op::Linear(skip) = &fused.nodes()[12].op else {
            panic!("the skip connection")
        };
        assert!(skip.epilogue.residual && skip.sources == 2);
        for node in fused.nodes().iter().filter(|n| !n.inputs.is_empty()) {
            assert_eq!(
                node.op.operator().infer(&fused.operands(node)),
                Ok(node.shape),
                "{}",
                node.name
            );
        }
    }

    #[test]
    fn each_rule_can_be_switched_off() {
        let work = |graph: Graph| [graph.nodes().len() as u64, graph.cost().flops];
        let all = work(fuse(block(), |_| true));
        for rule in rules() {
            let without = work(fuse(block(), |name| name != rule));
            let did = without[0] > all[0] || without[1] > all[1];
            assert!(did, "{rule} did nothing");
        }
        assert_eq!(
            fuse(block(), |_| false).nodes().len(),
            block().nodes().len()
        );
    }

    #[test]
    fn a_value_used_twice_or_asked_for_is_kept() {
        let mut g = Graph::new();
        let x = g.input("x", [1, 2, 2, 4]);
        let n = g.group_norm(x, 2, 1e-5).unwrap();
        let s = g.activate(n, Activation::Silu).unwrap();
        g.output("s", s);
        g.output("n", n);
        assert_eq!(fuse(g, |_| true).nodes().len(), 3);
    }

    #[test]
    fn a_concat_stays_where_one_reader_needs_it_whole() {
        for whole in [false, true] {
            let mut g = Graph::new();
            let halves = ["a", "b"].map(|name| g.input(name, [1, 2, 2, 4]));
            let x = g.concat(&halves, Axis::Channels).unwrap();
            let n = g.group_norm(x, 2, 1e-5).unwrap();
            g.output("n", n);
            let y = g.linear(x, 3, false).unwrap();
            g.output("y", y);
            if whole {
                let z = g.activate(x, Activation::Silu).unwrap();
                g.output("z", z);
            }
            let before = g.nodes().len();
            let after = fuse(g, |_| true).nodes().len();
            assert_eq!(after, if whole { before } else { before - 1 });
        }
    }

    #[test]
    fn nothing_is_read_later_than_it_is_assigned() {
        let mut g = Graph::new();
        let x = g.input("x", [1, 2, 2, 4]);
        let bias = g.input("bias", [1, 4]);
        let y = g.linear(x, 4, false).unwrap();
        let next = g.upsample2x(x).unwrap();
        let next = g.scope("down", |g| g.conv2d(next, 4, 2, 2, Padding::default()));
        g.assign(x, next.unwrap()).unwrap();
        let y = g.add_channels(y, bias).unwrap();
        g.output("y", y);
        let names = |g: Graph| -> Vec<_> { g.nodes().iter().map(|n| n.op.name()).collect() };
        let fused = names(fuse(g, |_| true));
        let expected = [
            "input",
            "input",
            "linear",
            "conv2d",
            "assign",
            "add_channels",
        ];
        assert_eq!(fused, expected);
    }
}
