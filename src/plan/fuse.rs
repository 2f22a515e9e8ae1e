//! Folding operations together: a table of local rules.
//!
//! Models are written in textbook operations; what is worth computing in one pass is decided here, once, for every device.
//! Each rule looks at a node and one of its operands and, where the pair means the same as one operation, returns that
//! operation. The pair's operand must have no other use, unless it only moves elements and the rule fits all who use it. The fused node
//! stands where the later of the two stood, so all operands exist; no pair is folded over an assignment, which would change what it reads.
//!
//! A fused operation is defined by its parts: its `eval` is their composition, and `fused == unfused` is tested for every model.

use crate::graph::{Graph, Node, Value};
use crate::ops::{Axis, Conv2d, Epilogue, GroupNorm, Linear, Op};

/// One rule: `node` reads `producer`'s result as operand number `operand`; the answer is the one operation that both are.
struct Rule {
    /// What it folds, for messages and tests.
    name: &'static str,
    /// The producer computes nothing, so several nodes may swallow it; they must all.
    shared: bool,
    fold: fn(node: &Node, operand: usize, producer: &Node) -> Option<Folded>,
}

/// What a rule found.
struct Folded {
    op: Op,
    inputs: Vec<Value>,
    /// The module whose weights are used names the fused node.
    name: String,
}

/// Every rule, in the order they are tried.
const RULES: [Rule; 7] = [
    Rule {
        name: "concat + consumers",
        shared: true,
        fold: concat_consumers,
    },
    Rule {
        name: "group_norm + silu",
        shared: false,
        fold: group_norm_silu,
    },
    Rule {
        name: "product + channels",
        shared: false,
        fold: product_channels,
    },
    Rule {
        name: "product + activation",
        shared: false,
        fold: product_activation,
    },
    Rule {
        name: "linear + geglu",
        shared: false,
        fold: linear_geglu,
    },
    Rule {
        name: "product + residual",
        shared: false,
        fold: product_residual,
    },
    Rule {
        name: "upsample + conv2d",
        shared: false,
        fold: upsample_conv2d,
    },
];

/// The names of the rules.
pub fn rules() -> impl Iterator<Item = &'static str> {
    RULES.iter().map(|rule| rule.name)
}

/// Applies every rule that `enabled` lets through wherever it fits.
pub fn fuse(graph: Graph, enabled: impl Fn(&str) -> bool) -> Graph {
    let mut nodes: Vec<Option<Node>> = graph.nodes().iter().cloned().map(Some).collect();
    let mut uses = vec![0usize; nodes.len()];
    let used = graph
        .nodes()
        .iter()
        .flat_map(|n| &n.inputs)
        .chain(graph.outputs().iter().map(|o| &o.1));
    used.for_each(|value| uses[value.index()] += 1);
    for index in 0..nodes.len() {
        while let Some((producer, folded)) = first_fold(&nodes, index, &uses, &enabled) {
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
    compact(nodes, graph.outputs())
}

/// The first rule that fits node `index`, with the operand's index it would swallow.
fn first_fold(
    nodes: &[Option<Node>],
    index: usize,
    uses: &[usize],
    enabled: &impl Fn(&str) -> bool,
) -> Option<(usize, Folded)> {
    let node = nodes[index].as_ref()?;
    let enabled = RULES.iter().filter(|rule| enabled(rule.name));
    enabled.into_iter().find_map(|rule| {
        node.inputs.iter().enumerate().find_map(|(operand, value)| {
            let producer = nodes[value.index()].as_ref()?;
            let alone = uses[value.index()] == 1;
            if !(alone || rule.shared && fits_all(rule, nodes, *value, uses)) {
                return None;
            }
            let folded = (rule.fold)(node, operand, producer)?;
            let between = nodes[value.index()..index].iter().flatten();
            let moved = |node: &Node| matches!(node.op, Op::Assign(_));
            (!between.into_iter().any(moved)).then_some((value.index(), folded))
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

/// The nodes that are left, renumbered.
fn compact(nodes: Vec<Option<Node>>, outputs: &[(String, Value)]) -> Graph {
    let mut graph = Graph::new();
    let mut renumbered = vec![None; nodes.len()];
    for (index, node) in nodes.into_iter().enumerate() {
        let Some(mut node) = node else { continue };
        for input in &mut node.inputs {
            if let Some(value) = renumbered[input.index()] {
                *input = value;
            }
        }
        renumbered[index] = Some(graph.append(node));
    }
    for (name, value) in outputs {
        if let Some(value) = renumbered[value.index()] {
            graph.output(name, value);
        }
    }
    graph
}

/// Sources joined along the channels are read where they lie: the skip connections of a UNet.
fn concat_consumers(node: &Node, operand: usize, producer: &Node) -> Option<Folded> {
    let two_sources = matches!(&producer.op, Op::Concat(concat) if concat.axis == Axis::Channels)
        && producer.inputs.len() == 2;
    let mut op = node.op.clone();
    let (Op::Linear(Linear { sources, .. })
    | Op::Conv2d(Conv2d { sources, .. })
    | Op::GroupNorm(GroupNorm { sources, .. })) = &mut op
    else {
        return None;
    };
    if !two_sources || operand != 0 || *sources != 1 {
        return None;
    }
    *sources = 2;
    let inputs = [&producer.inputs, &node.inputs[1..]].concat();
    Some(folded(op, inputs, node))
}

fn group_norm_silu(node: &Node, _: usize, producer: &Node) -> Option<Folded> {
    use crate::ops::{Activate, Activation};
    match (&node.op, &producer.op) {
        (
            Op::Activate(Activate {
                activation: Activation::Silu,
            }),
            Op::GroupNorm(norm),
        ) if !norm.silu => {
            let mut norm = norm.clone();
            norm.silu = true;
            Some(folded(norm.into(), producer.inputs.clone(), producer))
        }
        _ => None,
    }
}

/// The producer with another epilogue, if it is a matrix product and `change` allows it.
fn product(
    producer: &Node,
    extra: &[Value],
    change: impl FnOnce(&mut Epilogue) -> bool,
) -> Option<Folded> {
    let mut op = producer.op.clone();
    let epilogue = match &mut op {
        Op::Linear(Linear { epilogue, .. }) | Op::Conv2d(Conv2d { epilogue, .. }) => epilogue,
        _ => return None,
    };
    change(epilogue).then(|| {
        let inputs = [&producer.inputs, extra].concat();
        folded(op, inputs, producer)
    })
}

fn product_channels(node: &Node, operand: usize, producer: &Node) -> Option<Folded> {
    let (Op::AddChannels(add), 0) = (&node.op, operand) else {
        return None;
    };
    product(producer, &node.inputs[1..], |e| {
        let first = *e == Epilogue::default();
        e.channels = Some(add.channels);
        first
    })
}

fn product_activation(node: &Node, _: usize, producer: &Node) -> Option<Folded> {
    let Op::Activate(activate) = &node.op else {
        return None;
    };
    product(producer, &[], |e| {
        let free = e.activation.is_none() && !e.gate && !e.residual;
        e.activation = Some(activate.activation);
        free
    })
}

fn linear_geglu(node: &Node, _: usize, producer: &Node) -> Option<Folded> {
    let (Op::Geglu(_), Op::Linear(_)) = (&node.op, &producer.op) else {
        return None;
    };
    product(producer, &[], |e| {
        let free = *e == Epilogue::default();
        e.gate = true;
        free
    })
}

fn product_residual(node: &Node, operand: usize, producer: &Node) -> Option<Folded> {
    let Op::Add(_) = &node.op else { return None };
    product(producer, &[node.inputs[1 - operand]], |e| {
        let free = !e.residual;
        e.residual = true;
        free
    })
}

fn upsample_conv2d(node: &Node, operand: usize, producer: &Node) -> Option<Folded> {
    match (&node.op, &producer.op, operand) {
        (Op::Conv2d(conv), Op::Upsample2x(_), 0) if !conv.upsample && conv.sources == 1 => {
            let conv = Conv2d {
                upsample: true,
                ..conv.clone()
            };
            let inputs = [&producer.inputs, &node.inputs[1..]].concat();
            Some(folded(conv.into(), inputs, node))
        }
        _ => None,
    }
}

fn folded(op: Op, inputs: Vec<Value>, named: &Node) -> Folded {
    Folded {
        op,
        inputs,
        name: named.name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{Activation, Padding};

    /// A residual block with an upsampling, in textbook operations.
    fn block() -> Graph {
        let mut g = Graph::new();
        let halves = ["a", "b"].map(|name| g.input(name, [2, 4, 4, 4]));
        let x = g.concat(&halves, Axis::Channels).unwrap();
        let time = g.input("time", [2, 8]);
        let time = g.scope("embed", |g| g.linear(time, 8, true)).unwrap();
        let time = g.activate(time, Activation::QuickGelu).unwrap();
        let h = g.scope("norm", |g| g.group_norm(x, 4, 1e-5)).unwrap();
        let h = g
            .scope("silu", |g| g.activate(h, Activation::Silu))
            .unwrap();
        let h = g
            .scope("conv", |g| g.conv2d(h, 8, 3, 1, Padding::all(1)))
            .unwrap();
        let h = g.add_channels(h, time).unwrap();
        let skip = g.scope("skip", |g| g.linear(x, 8, true)).unwrap();
        let y = g.add(skip, h).unwrap();
        let y = g.upsample2x(y).unwrap();
        let y = g
            .scope("up", |g| g.conv2d(y, 8, 3, 1, Padding::all(1)))
            .unwrap();
        let y = g.scope("ff", |g| g.linear(y, 16, true)).unwrap();
        let y = g.geglu(y).unwrap();
        g.output("y", y);
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
                "input",
                "input",
                "linear",
                "group_norm",
                "conv2d",
                "linear",
                "conv2d",
                "linear"
            ]
        );
        let output = fused.outputs()[0].1;
        assert_eq!(fused.shape(output), [2, 8, 8, 8].into());
        let Op::Linear(skip) = &fused.nodes()[6].op else {
            panic!("the skip connection")
        };
        assert!(skip.epilogue.residual && skip.sources == 2);
        for node in fused.nodes().iter().filter(|n| !n.inputs.is_empty()) {
            let shapes: Vec<_> = node.inputs.iter().map(|&v| fused.shape(v)).collect();
            assert_eq!(
                node.op.operator().infer(&shapes),
                Ok(node.shape),
                "{}",
                node.name
            );
        }
    }

    #[test]
    fn each_rule_can_be_switched_off() {
        let all = fuse(block(), |_| true).nodes().len();
        for rule in rules() {
            assert!(
                fuse(block(), |name| name != rule).nodes().len() > all,
                "{rule} did nothing"
            );
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
