//! The rules: which operation a node and its operand are together.

use crate::graph::{Node, Value};
use crate::ops::{
    Activate, Activation, Axis, Conv2d, Epilogue, GroupNorm, Linear, Op, ScaleShift, Upsampling,
};

/// One rule: `node` reads `producer`'s result as operand number `operand`; the answer is the one operation that both are.
pub(super) struct Rule {
    /// What it folds, for messages and tests.
    pub(super) name: &'static str,
    /// The producer computes nothing, or little, so several nodes may swallow it; they must all.
    pub(super) shared: bool,
    pub(super) fold: fn(node: &Node, operand: usize, producer: &Node) -> Option<Folded>,
}

/// What a rule found.
pub(super) struct Folded {
    pub(super) op: Op,
    pub(super) inputs: Vec<Value>,
    /// The module whose weights are used names the fused node.
    pub(super) name: String,
}

/// The name of the rule that scales weights by the factors of a normalisation.
pub(super) const LAYER_NORM_LINEAR: &str = "layer_norm + linear";

/// Every rule, in the order they are tried.
pub(super) const RULES: [Rule; 9] = [
    Rule {
        name: "concat + consumers",
        shared: true,
        fold: concat_consumers,
    },
    Rule {
        name: LAYER_NORM_LINEAR,
        shared: true,
        fold: layer_norm_linear,
    },
    Rule {
        name: "group_norm + scale_shift",
        shared: false,
        fold: group_norm_scale_shift,
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

/// Sources joined along the channels are read where they lie: the skip connections of a UNet.
fn concat_consumers(node: &Node, operand: usize, producer: &Node) -> Option<Folded> {
    let two_sources = matches!(&producer.op, Op::Concat(concat) if concat.axis == Axis::Channels)
        && producer.inputs.len() == 2;
    let mut op = node.op.clone();
    let sources = match &mut op {
        Op::Conv2d(Conv2d {
            sources,
            beside: Some(beside),
            ..
        }) if operand == *sources => &mut beside.sources,
        Op::Linear(Linear {
            sources,
            norm: None,
            ..
        })
        | Op::Conv2d(Conv2d { sources, .. })
        | Op::GroupNorm(GroupNorm { sources, .. })
            if operand == 0 =>
        {
            sources
        }
        _ => return None,
    };
    if !two_sources || *sources != 1 {
        return None;
    }
    *sources = 2;
    let mut inputs = node.inputs.clone();
    inputs.splice(operand..=operand, producer.inputs.iter().copied());
    Some(folded(op, inputs, node))
}

/// A row's mean and deviation are a small part of what it is multiplied for.
fn layer_norm_linear(node: &Node, operand: usize, producer: &Node) -> Option<Folded> {
    match (&node.op, &producer.op, operand) {
        (Op::Linear(linear), Op::LayerNorm(norm), 0)
            if linear.norm.is_none() && linear.sources == 1 =>
        {
            let linear = Linear {
                norm: Some(norm.clone()),
                ..linear.clone()
            };
            let inputs = [&producer.inputs, &node.inputs[1..]].concat();
            Some(folded(linear.into(), inputs, node))
        }
        _ => None,
    }
}

fn group_norm_scale_shift(node: &Node, operand: usize, producer: &Node) -> Option<Folded> {
    match (&node.op, &producer.op, operand) {
        (Op::ScaleShift(ScaleShift { channels }), Op::GroupNorm(norm), 0)
            if norm.scale_shift.is_none() && !norm.silu =>
        {
            let mut norm = norm.clone();
            norm.scale_shift = Some(*channels);
            let inputs = [&producer.inputs, &node.inputs[1..]].concat();
            Some(folded(norm.into(), inputs, producer))
        }
        _ => None,
    }
}

fn group_norm_silu(node: &Node, _: usize, producer: &Node) -> Option<Folded> {
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
    let mut both = product(producer, &[], |e| {
        let only_sums = e.channels.is_none() && e.activation.is_none() && !e.gate;
        e.channels = Some(add.channels);
        only_sums
    })?;
    // A residual stays the last operand.
    let residual = matches!(
        &both.op,
        Op::Linear(Linear {
            epilogue: Epilogue { residual: true, .. },
            ..
        }) | Op::Conv2d(Conv2d {
            epilogue: Epilogue { residual: true, .. },
            ..
        })
    );
    let at = both.inputs.len() - usize::from(residual);
    both.inputs.splice(at..at, node.inputs[1..].iter().copied());
    Some(both)
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
        (Op::Conv2d(conv), Op::Upsample2x(_), 0)
            if conv.upsampling == Upsampling::None && conv.sources == 1 =>
        {
            let conv = Conv2d {
                upsampling: Upsampling::Repeated,
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
