//! A case as JSON: what another program needs to compute the same with another library.

use crate::cases::Case;
use latent_diffusion::ops::{Epilogue, Op, Upsampling};
use serde_json::{Value, json};

/// The case number `index` of its list, which occurs `count` times in a network.
pub fn case(index: usize, case: &Case, count: usize) -> Value {
    let cost = case.cost();
    let operands = case.operands.iter();
    let operands = operands.map(|o| json!({"shape": o.shape.dims(), "exact": o.is_exact()}));
    json!({
        "index": index,
        "name": case.name,
        "op": case.op.name(),
        "count": count,
        "attributes": attributes(&case.op),
        "operands": operands.collect::<Vec<_>>(),
        "flops": cost.flops,
        "bytes": cost.bytes(size_of::<half::f16>(), size_of::<half::f16>()),
    })
}

/// What defines an operation besides its operands, where another library has it too.
fn attributes(op: &Op) -> Value {
    match op {
        Op::Linear(op) => json!({
            "out": op.features(),
            "bias": op.bias.is_some(),
            "sources": op.sources,
            "epilogue": epilogue(op.epilogue),
        }),
        Op::Conv2d(op) => json!({
            "out": op.weight.shape.batch(),
            "kernel": op.weight.shape.dims()[2..],
            "bias": op.bias.is_some(),
            "sources": op.sources,
            "stride": op.stride,
            "padding": [op.padding.top, op.padding.bottom, op.padding.left, op.padding.right],
            "beside": op.beside.as_ref().map(|beside| beside.map.weight.shape.dims()[1]),
            "upsample": op.upsampling != Upsampling::None,
            "epilogue": epilogue(op.epilogue),
        }),
        Op::Attention(op) => json!({"heads": op.heads, "causal": op.causal}),
        Op::GroupNorm(op) => json!({"groups": op.groups, "silu": op.silu, "sources": op.sources}),
        Op::Input(_)
        | Op::GroupStatistics(_)
        | Op::GroupNormalise(_)
        | Op::LayerNorm(_)
        | Op::Activate(_)
        | Op::Geglu(_)
        | Op::Add(_)
        | Op::AddChannels(_)
        | Op::ScaleShift(_)
        | Op::AddPositions(_)
        | Op::Concat(_)
        | Op::Reshape(_)
        | Op::Upsample2x(_)
        | Op::AveragePool2x(_)
        | Op::Embedding(_)
        | Op::Codebook(_)
        | Op::GatherToken(_)
        | Op::TimestepEmbedding(_)
        | Op::Guidance(_)
        | Op::Combine(_)
        | Op::Blend(_)
        | Op::Assign(_)
        | Op::CountNotFinite(_) => json!({}),
    }
}

/// For people alone: what is fused, no library times.
fn epilogue(epilogue: Epilogue) -> String {
    let parts = [
        epilogue.channels.map(|_| "channels".to_owned()),
        epilogue.activation.map(|a| format!("{a:?}").to_lowercase()),
        epilogue.gate.then(|| "geglu".to_owned()),
        epilogue.residual.then(|| "residual".to_owned()),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" + ")
}
