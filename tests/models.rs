//! The published networks, from their sizes alone: each builds, does the published amount of work and fits in a plan on the CPU;
//! a small one runs, to the same bits however it is run.

#[allow(dead_code, reason = "the benchmarks use the rest")]
#[path = "cases/networks.rs"]
mod networks;

use latent_diffusion::backend::Backend;
use latent_diffusion::cpu::Cpu;
use latent_diffusion::models::config::{
    self, AutoencoderConfig, AutoencoderLevel, ModelConfig, UNetConfig,
};
use latent_diffusion::models::{autoencoder, text, unet};
use latent_diffusion::plan::{Plan, fuse::fuse};
use latent_diffusion::{Graph, Session, Tensor, Weights};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

fn cpu(threads: usize) -> Arc<Cpu> {
    Arc::new(Cpu::new(threads, Arc::default()).unwrap())
}

/// The UNet of a published system, by the name of its description in `assets/systems`.
fn published(system: &str) -> UNetConfig {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/systems");
    let path = folder.join(system).with_added_extension("yaml");
    let yaml = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{system}: {e}"));
    let config = config::from_yaml(&path, &yaml).unwrap_or_else(|e| panic!("{e}"));
    config.unet.expect("a system has a UNet")
}

/// Distinct learnt tensors, and how many millions of elements they have together.
fn size(graph: &Graph) -> (usize, f64) {
    let params: HashMap<&str, usize> = graph
        .params()
        .map(|param| (param.name.as_str(), param.shape.len()))
        .collect();
    let elements: usize = params.values().sum();
    (params.len(), elements as f64 / 1e6)
}

/// A published autoencoder.
fn kl(widths: &[usize], attention: &[usize], latent: usize) -> AutoencoderConfig {
    let level = |(index, width): (usize, &usize)| AutoencoderLevel {
        channels: 128 * width,
        attention: attention.contains(&index),
    };
    AutoencoderConfig {
        levels: widths.iter().enumerate().map(level).collect(),
        z_channels: latent,
        embed_dim: latent,
        ..networks::parts(ModelConfig::stable_diffusion_1()).1
    }
}

fn gflop(graph: &Graph) -> f64 {
    graph.cost().flops as f64 / 1e9
}

/// A kernel for every node and a place for every value.
fn plans(name: &str, graph: Graph) {
    let cpu = cpu(1);
    let graph = fuse(graph, |_| true);
    let workspace = |node: &latent_diffusion::graph::Node| {
        cpu.select(node, &graph.operands(node))
            .unwrap_or_else(|e| panic!("{name}: {e}"))
            .workspace_bytes
    };
    let workspaces: Vec<usize> = graph.nodes().iter().map(workspace).collect();
    let plan = Plan::new(graph, cpu.element_bytes(), &workspaces);
    assert!(plan.arena_bytes >= plan.lower_bound_bytes, "{name}");
}

/// The published counts leave out what is neither product nor convolution, which is less than a hundredth.
fn does_the_published_work(name: &str, graph: &Graph, published: f64) {
    let counted = gflop(graph);
    assert!(
        (counted / published - 1.0).abs() < 0.01,
        "{name}: {counted:.1} GFLOP, not {published}"
    );
}

/// Of CompVis's own modules: tensors, millions of parameters, and GFLOP of one call for a latent of that side and a context of so many tokens.
#[test]
fn published_unets_have_their_sizes_do_their_work_and_plan() {
    for (system, tokens, tensors, millions, calls) in [
        ("celeba256", 0, 368, 274.06, &[(64, 202.4)][..]),
        ("ffhq256", 0, 368, 274.06, &[(64, 202.4)]),
        ("lsun_beds256", 0, 368, 274.06, &[(64, 202.4)]),
        ("lsun_churches256", 0, 520, 294.97, &[(32, 41.8)]),
        ("cin256", 1, 626, 394.98, &[(32, 114.1)]),
        ("cin256-v2", 1, 688, 400.92, &[(64, 208.4)]),
        ("text2img256", 77, 688, 403.62, &[(64, 211.4)]),
        ("txt2img-1p4B", 77, 686, 872.30, &[(32, 182.1)]),
        ("bsr_sr", 0, 306, 113.62, &[(64, 80.5), (128, 322.6)]),
        (
            "inpainting_big",
            0,
            416,
            387.25,
            &[(64, 300.9), (128, 1345.5)],
        ),
        ("semantic_synthesis256", 0, 216, 215.23, &[(64, 207.6)]),
        ("semantic_synthesis512", 0, 216, 215.23, &[(128, 833.7)]),
        ("layout2img-openimages256", 92, 1328, 246.28, &[(64, 151.2)]),
        ("rdm768", 2, 688, 1335.48, &[(48, 694.6)]),
        (
            "sd-v1",
            77,
            686,
            859.52,
            &[(64, 803.3), (32, 180.0), (96, 2148.0)],
        ),
        ("sd-v1-inpainting", 77, 686, 859.54, &[(64, 803.3)]),
        ("sd-v2", 77, 686, 865.91, &[]),
    ] {
        let config = published(system);
        let (count, counted) = size(&unet::build(&config, 1, [32, 32], tokens).unwrap());
        assert_eq!(count, tensors, "{system}");
        assert!(
            (counted - millions).abs() < 0.00501,
            "{system}: {counted} M, not {millions} M"
        );
        for &(side, gflop) in calls {
            let graph = unet::build(&config, 1, [side, side], tokens).unwrap();
            does_the_published_work(system, &graph, gflop);
            plans(system, graph);
        }
    }
}

#[test]
fn published_autoencoders_do_their_work_and_plan() {
    // GFLOP of the encoder and of the decoder at 256x256 pixels.
    for (name, config, encoder, decoder) in [
        ("kl-f4", kl(&[1, 2, 4], &[], 3), 345.0, 671.0),
        ("kl-f8", kl(&[1, 2, 4, 4], &[], 4), 273.0, 622.0),
        ("kl-f16", kl(&[1, 1, 2, 2, 4], &[4], 16), 138.0, 252.0),
        ("kl-f32", kl(&[1, 1, 2, 2, 4, 4], &[4, 5], 64), 135.5, 251.0),
    ] {
        let side = 256 / config.factor();
        let graphs = [
            (
                autoencoder::build_encoder(&config, 1, [256, 256]).unwrap(),
                encoder,
            ),
            (
                autoencoder::build_decoder(&config, 1, [side, side]).unwrap(),
                decoder,
            ),
        ];
        for (graph, expected) in graphs {
            does_the_published_work(name, &graph, expected);
            plans(name, graph);
        }
    }
}

#[test]
fn text_encoders_of_both_stable_diffusions_plan() {
    for model in [
        ModelConfig::stable_diffusion_1(),
        ModelConfig::stable_diffusion_2(),
    ] {
        let config = model.text.unwrap();
        plans("text", text::build(&config, 2, config.positions()).unwrap());
    }
}

/// Every result of a network.
fn run(cpu: &Arc<Cpu>, graph: &Graph, inputs: &[(String, Tensor)]) -> Vec<Tensor> {
    let weights = Weights::synthetic(5);
    let mut session = Session::new(cpu, graph.clone(), &weights).unwrap();
    for (name, input) in inputs {
        session.set(name, input).unwrap();
    }
    session.run().unwrap();
    let first: Vec<Tensor> = results(&session, graph);
    session.run().unwrap();
    assert_eq!(results(&session, graph), first, "a second run");
    first
}

fn results(session: &Session<Cpu>, graph: &Graph) -> Vec<Tensor> {
    let names = graph.outputs().iter().map(|(name, _)| name);
    names.map(|name| session.get(name).unwrap()).collect()
}

#[test]
fn networks_give_the_same_bits_however_they_are_run() {
    let images = 3;
    let all = |batch| {
        let mut all = networks::networks(&networks::tiny(), batch, [8, 16]);
        let unets = networks::unets(batch, [8, 16]).into_iter();
        // A step's state has no mean of its own.
        all.extend(unets.filter(|network| !network.name.ends_with("step")));
        all
    };
    for (one, batch) in all(1).iter().zip(all(images)) {
        let (name, inputs) = (one.name, networks::inputs(&batch.graph));
        let expected = run(&cpu(1), &batch.graph, &inputs);
        assert_eq!(
            run(&cpu(2), &batch.graph, &inputs),
            expected,
            "{name}: 2 threads"
        );
        for image in 0..images {
            let inputs: Vec<_> = inputs
                .iter()
                .map(|(name, input)| (name.clone(), input.item(image).unwrap()))
                .collect();
            let alone = run(&cpu(2), &one.graph, &inputs);
            for (alone, batch) in alone.iter().zip(&expected) {
                // Synthetic weights keep activations near 1, so a result far from it, or the same everywhere, is a broken network.
                let size = alone.data().iter().map(|x| f64::from(x * x)).sum::<f64>();
                let deviation = (size / alone.data().len() as f64).sqrt();
                assert!((0.05..20.0).contains(&deviation), "{name}: {deviation}");
                assert_eq!(
                    *alone,
                    batch.item(image).unwrap(),
                    "{name}: image {image} alone"
                );
            }
        }
    }
}
