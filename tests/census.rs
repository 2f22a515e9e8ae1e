//! The work of the networks as they are run, in products (two operations per multiply-add), to the 10 million: what PyTorch counted for
//! CompVis's and diffusers' modules of the published sizes (`torch.utils.flop_counter`, meta device). Fusing, or a change to a model,
//! neither adds a product nor loses one.

#[allow(dead_code, reason = "the benchmarks use the rest")]
#[path = "cases/networks.rs"]
mod networks;

use latent_diffusion::Graph;
use latent_diffusion::models::config::ModelConfig;
use latent_diffusion::ops::Op;
use latent_diffusion::plan::fuse::fuse;

/// GFLOP of the products of a network after fusion.
fn gflop(graph: Graph) -> f64 {
    let graph = fuse(graph, |_| true);
    let products = graph
        .nodes()
        .iter()
        .filter(|node| matches!(node.op, Op::Linear(_) | Op::Conv2d(_) | Op::Attention(_)));
    let flops = products.map(|node| {
        let inputs: Vec<_> = node.inputs.iter().map(|&v| graph.shape(v)).collect();
        node.op.operator().cost(&inputs, node.shape).flops
    });
    flops.sum::<u64>() as f64 / 1e9
}

/// The networks of Stable Diffusion 1, with a context of so many features.
fn counts(context: usize, batch: usize, latent: [usize; 2]) -> Vec<(&'static str, f64)> {
    let mut model = ModelConfig::stable_diffusion_1();
    if let Some(unet) = &mut model.unet {
        unet.context_dim = Some(context);
    }
    let networks = networks::networks(&model, batch, latent).into_iter();
    networks
        .map(|network| (network.name, gflop(network.graph)))
        .collect()
}

#[test]
fn networks_do_the_work_of_their_originals() {
    let sd = counts(768, 1, [64, 64]);
    let guided = counts(768, 2, [64, 64]);
    // CompVis's text-to-image model of 1.45 billion parameters has the same UNet over another context.
    let text2img = counts(1280, 2, [32, 32]);
    for (found, name, expected) in [
        (&sd, "unet", 803.27),
        (&guided, "unet", 1606.55),
        (&text2img, "unet", 364.15),
        (&sd, "decoder", 2514.52),
        (&sd, "encoder", 1116.66),
        (&sd, "text", 13.30),
    ] {
        let (_, gflop) = found.iter().find(|(network, _)| *network == name).unwrap();
        assert_eq!(format!("{gflop:.2}"), format!("{expected:.2}"), "{name}");
    }
}
