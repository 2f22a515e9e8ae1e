//! The work of the networks as they are run, in products (two operations per multiply-add), to the 10 million: what PyTorch counted for
//! CompVis's and diffusers' modules of the published sizes (`torch.utils.flop_counter`, meta device). Fusing, or a change to a model,
//! neither adds a product nor loses one, but for the cuts, which are counted by themselves.

#[allow(dead_code, reason = "the benchmarks use the rest")]
#[path = "cases/networks.rs"]
mod networks;

use latent_diffusion::Graph;
use latent_diffusion::models::config::ModelConfig;
use latent_diffusion::ops::Op;
use latent_diffusion::plan::fuse::{CUTS, fuse};
use latent_diffusion::plan::hoist::constants;

/// GFLOP of the products of a network after fusion, with the rules that leave out work or without.
fn gflop(graph: Graph, cuts: bool) -> f64 {
    let graph = fuse(graph, |rule| cuts || !CUTS.contains(&rule));
    let products = graph
        .nodes()
        .iter()
        .filter(|node| matches!(node.op, Op::Linear(_) | Op::Conv2d(_) | Op::Attention(_)));
    let flops = products.map(|node| graph.cost_of(node).flops);
    flops.sum::<u64>() as f64 / 1e9
}

/// The networks of Stable Diffusion 1, with a context of so many features, and a step of its sampler.
fn counts(
    context: usize,
    batch: usize,
    latent: [usize; 2],
    cuts: bool,
) -> Vec<(&'static str, f64)> {
    let mut model = ModelConfig::stable_diffusion_1();
    if let Some(unet) = &mut model.unet {
        unet.context_dim = Some(context);
    }
    let mut networks = networks::networks(&model, batch, latent);
    networks.push(networks::step(&model, batch, latent));
    (networks.into_iter())
        .map(|network| (network.name, gflop(network.graph, cuts)))
        .collect()
}

#[test]
fn networks_do_the_work_of_their_originals() {
    let sd = counts(768, 1, [64, 64], false);
    let guided = counts(768, 2, [64, 64], false);
    // CompVis's text-to-image model of 1.45 billion parameters has the same UNet over another context.
    let text2img = counts(1280, 2, [32, 32], false);
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

/// What a step of a sampler reads of the network's weights, in halves and without biases and norms: all but those of what is done once a run, the
/// timesteps' embedding and projections and the context's keys and values.
#[test]
fn a_step_reads_the_weights_that_its_original_reads() {
    let model = ModelConfig::stable_diffusion_1();
    let step = networks::step(&model, 1, [64, 64]);
    let graph = fuse(step.graph, |_| true);
    let matrices: usize = (graph.nodes().iter().zip(constants(&graph)))
        .filter(|(_, constant)| !constant)
        .flat_map(|(node, _)| node.op.operator().params())
        .filter(|param| param.shape.rank() > 1)
        .map(|param| param.shape.len())
        .sum();
    assert_eq!(format!("{:.1} MB", 2e-6 * matrices as f64), "1624.1 MB");
}

/// What the cuts leave out. A convolution over an upsampled image: five ninths. Before the first attention on the context, one half of a guided
/// pair.
#[test]
fn cuts_leave_out_what_follows_from_other_work() {
    let [all, less] = [false, true].map(|cuts| counts(768, 1, [64, 64], cuts));
    let saved = |name: &str| {
        let find = |list: &[(&str, f64)]| list.iter().find(|(n, _)| *n == name).unwrap().1;
        find(&all) - find(&less)
    };
    // Of one image: from 8x8, 16x16 and 32x32 pixels with 1280, 1280 and 640 channels.
    let upsampling = |pixels: usize, channels: usize| pixels * channels * channels * 2 * 5;
    let unet = upsampling(256, 1280) + upsampling(1024, 1280) + upsampling(4096, 640);
    let pixels = 64 * 64;
    let convolutions = 9 * (4 * 320 + 2 * 320 * 320);
    let pair = 2 * pixels * (convolutions + 6 * 320 * 320 + 2 * pixels * 320);
    let decoder =
        upsampling(128 * 128, 512) + upsampling(256 * 256, 512) + upsampling(512 * 512, 256);
    for (name, expected) in [
        ("unet", unet),
        ("step", 2 * unet + pair),
        ("decoder", decoder),
        ("encoder", 0),
        ("text", 0),
    ] {
        let expected = expected as f64 / 1e9;
        println!("{name}: {:.1} GFLOP saved", saved(name));
        assert!(
            (saved(name) - expected).abs() < 1e-6,
            "{name}: {}",
            saved(name)
        );
    }
}
