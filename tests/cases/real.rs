//! The operations of Stable Diffusion 1.x at its real sizes, each distinct one once, as the fusion pass leaves them.

use super::{Case, Operand};
use latent_diffusion::Graph;
use latent_diffusion::graph::Param;
use latent_diffusion::models::config::ModelConfig;
use latent_diffusion::models::{autoencoder, unet};
use latent_diffusion::ops::Op;
use latent_diffusion::plan::fuse::fuse;

/// The UNet's at 32x32 and 64x64 latents, and the decoder's at 256x256 pixels, batch 1.
pub fn real() -> Vec<Case> {
    let model = ModelConfig::stable_diffusion_1();
    let mut cases = vec![];
    if let (Some(unet), Some(first_stage)) = (&model.unet, &model.autoencoder) {
        for side in [32, 64] {
            let graph = unet::build(unet, 1, [side, side], 77).expect("a published network");
            add(&mut cases, &format!("unet {side}x{side}"), graph);
        }
        let graph = autoencoder::build_decoder(first_stage, 1, [32, 32]);
        add(
            &mut cases,
            "decoder 256x256",
            graph.expect("a published network"),
        );
    }
    cases
}

/// Adds the operations of `graph` that are not there yet.
fn add(cases: &mut Vec<Case>, network: &str, graph: Graph) {
    let graph = fuse(graph, |_| true);
    for node in graph.nodes() {
        if matches!(node.op, Op::Input(_) | Op::Reshape(_)) {
            continue;
        }
        let op = anonymous(node.op.clone());
        let operands: Vec<Operand> = node
            .inputs
            .iter()
            .map(|&value| match graph.node(value).op {
                Op::Input(input) if input.exact => Operand::below(graph.shape(value), 1000),
                _ => Operand::normal(graph.shape(value)),
            })
            .collect();
        let known = |case: &Case| case.op == op && case.operands == operands;
        if !cases.iter().any(known) {
            let shapes: Vec<_> = operands.iter().map(|o| o.shape.to_string()).collect();
            let [kind, shapes] = [op.name(), &shapes.join(" ")];
            let name = format!(
                "{kind}: {network}, {}, {shapes} to {}",
                node.name, node.shape
            );
            cases.push(Case { name, op, operands });
        }
    }
}

/// The operation without the names of its tensors, which would make equal operations differ.
fn anonymous(mut op: Op) -> Op {
    let rename = |param: &mut Param, name: &str| param.name = name.to_owned();
    match &mut op {
        Op::Linear(op) => {
            rename(&mut op.weight, "weight");
            op.bias.iter_mut().for_each(|bias| rename(bias, "bias"));
        }
        Op::Conv2d(op) => {
            rename(&mut op.weight, "weight");
            op.bias.iter_mut().for_each(|bias| rename(bias, "bias"));
        }
        Op::GroupNorm(op) => {
            rename(&mut op.weight, "weight");
            rename(&mut op.bias, "bias");
        }
        Op::LayerNorm(op) => {
            rename(&mut op.weight, "weight");
            rename(&mut op.bias, "bias");
        }
        Op::AddPositions(op) => rename(&mut op.table, "weight"),
        Op::Embedding(op) => rename(&mut op.table, "weight"),
        Op::Input(_)
        | Op::Attention(_)
        | Op::Activate(_)
        | Op::Geglu(_)
        | Op::Add(_)
        | Op::AddChannels(_)
        | Op::Concat(_)
        | Op::Reshape(_)
        | Op::Upsample2x(_)
        | Op::GatherToken(_)
        | Op::TimestepEmbedding(_)
        | Op::Guidance(_)
        | Op::Combine(_)
        | Op::Assign(_)
        | Op::CountNotFinite(_) => {}
    }
    op
}
