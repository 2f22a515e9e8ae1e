//! The operations of Stable Diffusion 1.x at its real sizes, each distinct one once, as the fusion pass leaves them.

use super::{Case, Operand};
use latent_diffusion::Graph;
use latent_diffusion::graph::Param;
use latent_diffusion::models::config::ModelConfig;
use latent_diffusion::models::{autoencoder, unet};
use latent_diffusion::ops::{Beside, GroupNorm, GroupNormalise, LayerNorm, Op};
use latent_diffusion::plan::fuse::fuse;

/// The UNet's at 32x32 and 64x64 latents, and the decoder's at 256x256 pixels, batch 1.
pub fn real() -> Vec<Case> {
    let model = ModelConfig::stable_diffusion_1();
    let mut cases: Vec<Case> = vec![];
    if let (Some(unet), Some(first_stage)) = (&model.unet, &model.autoencoder) {
        let unets = [32, 64].map(|side| {
            let graph = unet::build(unet, 1, [side, side], 77).expect("a published network");
            distinct(&format!("unet {side}x{side}"), graph)
        });
        let decoder = autoencoder::build_decoder(first_stage, 1, [32, 32]);
        let decoder = distinct("decoder 256x256", decoder.expect("a published network"));
        for (case, _) in unets.into_iter().flatten().chain(decoder) {
            if !cases.iter().any(|known| same(known, &case)) {
                cases.push(case);
            }
        }
    }
    cases
}

/// The operations of a network, each distinct one once, with how often it occurs.
pub fn distinct(network: &str, graph: Graph) -> Vec<(Case, usize)> {
    let graph = fuse(graph, |_| true);
    let mut cases: Vec<(Case, usize)> = vec![];
    for node in graph.nodes() {
        if matches!(node.op, Op::Input(_) | Op::Reshape(_)) {
            continue;
        }
        let mut op = node.op.clone();
        rename(&mut op, "");
        let operands: Vec<Operand> = node
            .inputs
            .iter()
            .map(|&value| match graph.node(value).op {
                Op::Input(input) if input.exact => Operand::below(graph.shape(value), 1000),
                _ => Operand::normal(graph.shape(value)),
            })
            .collect();
        let shapes: Vec<_> = operands.iter().map(|o| o.shape.to_string()).collect();
        let [kind, shapes] = [op.name(), &shapes.join(" ")];
        let name = format!(
            "{kind}: {network}, {}, {shapes} to {}",
            node.name, node.shape
        );
        let case = Case { name, op, operands };
        match cases.iter_mut().find(|(known, _)| same(known, &case)) {
            Some((_, count)) => *count += 1,
            None => cases.push((case, 1)),
        }
    }
    cases
}

/// Whether two cases differ in name alone.
fn same(a: &Case, b: &Case) -> bool {
    a.op == b.op && a.operands == b.operands
}

/// Names an operation's tensors `weight` and `bias`, after `prefix`: names of their own would make equal operations differ.
pub fn rename(op: &mut Op, prefix: &str) {
    let rename = |param: &mut Param, name: &str| param.name = format!("{prefix}{name}");
    match op {
        Op::Linear(op) => {
            rename(&mut op.weight, "weight");
            op.bias.iter_mut().for_each(|bias| rename(bias, "bias"));
            for (index, map) in op.stacked.iter_mut().enumerate() {
                rename(&mut map.weight, &format!("{index}.weight"));
                let bias = map.bias.iter_mut();
                bias.for_each(|bias| rename(bias, &format!("{index}.bias")));
            }
            if let Some(norm) = &mut op.norm {
                rename(&mut norm.weight, "norm.weight");
                rename(&mut norm.bias, "norm.bias");
            }
        }
        Op::Conv2d(op) => {
            rename(&mut op.weight, "weight");
            op.bias.iter_mut().for_each(|bias| rename(bias, "bias"));
            if let Some(Beside { map, .. }) = &mut op.beside {
                rename(&mut map.weight, "beside.weight");
                let bias = map.bias.iter_mut();
                bias.for_each(|bias| rename(bias, "beside.bias"));
            }
        }
        Op::GroupNorm(GroupNorm { weight, bias, .. })
        | Op::GroupNormalise(GroupNormalise { weight, bias, .. })
        | Op::LayerNorm(LayerNorm { weight, bias, .. }) => {
            rename(weight, "weight");
            rename(bias, "bias");
        }
        Op::AddPositions(op) => rename(&mut op.table, "weight"),
        Op::Embedding(op) => rename(&mut op.table, "weight"),
        Op::Codebook(op) => rename(&mut op.codes, "weight"),
        Op::Input(_)
        | Op::GroupStatistics(_)
        | Op::Attention(_)
        | Op::Activate(_)
        | Op::Geglu(_)
        | Op::Add(_)
        | Op::AddChannels(_)
        | Op::ScaleShift(_)
        | Op::Concat(_)
        | Op::Reshape(_)
        | Op::Upsample2x(_)
        | Op::AveragePool2x(_)
        | Op::GatherToken(_)
        | Op::TimestepEmbedding(_)
        | Op::Guidance(_)
        | Op::Combine(_)
        | Op::Blend(_)
        | Op::Assign(_)
        | Op::CountNotFinite(_) => {}
    }
}
