//! The published networks, from their sizes alone: each builds, does the published amount of work and fits in a plan on the CPU;
//! a small one runs, to the same bits however it is run.

#[allow(dead_code, reason = "the benchmarks use the rest")]
#[path = "cases/networks.rs"]
mod networks;

use latent_diffusion::backend::Backend;
use latent_diffusion::cpu::Cpu;
use latent_diffusion::models::config::{
    Attention, AutoencoderConfig, AutoencoderLevel, ModelConfig, UNetConfig, UNetLevel,
};
use latent_diffusion::models::{autoencoder, text, unet};
use latent_diffusion::ops::Cost;
use latent_diffusion::plan::{Plan, fuse::fuse};
use latent_diffusion::{Graph, Session, Tensor, Weights};
use std::sync::Arc;

fn cpu(threads: usize) -> Arc<Cpu> {
    Arc::new(Cpu::new(threads, Arc::default()).unwrap())
}

/// How a published configuration gives the heads.
#[derive(Clone, Copy)]
enum Heads {
    /// As many at every width.
    Number(usize),
    /// Of one size at every width.
    Size(usize),
}

/// A published UNet: what differs between them.
struct Published {
    name: &'static str,
    /// Channels in and out.
    channels: [usize; 2],
    width: usize,
    multipliers: &'static [usize],
    /// The levels that have transformers, first and last.
    attention: [usize; 2],
    heads: Heads,
    depth: usize,
    /// Tokens and width.
    context: [usize; 2],
    /// Side of the latent.
    side: usize,
    /// Work of one step there.
    gflop: f64,
}

impl Published {
    fn config(&self) -> UNetConfig {
        let transformer = |channels| Attention::Transformer {
            heads: match self.heads {
                Heads::Number(heads) => heads,
                Heads::Size(size) => channels / size,
            },
            depth: self.depth,
        };
        let level = |(index, multiplier): (usize, &usize)| UNetLevel {
            channels: multiplier * self.width,
            res_blocks: 2,
            attention: if (self.attention[0]..=self.attention[1]).contains(&index) {
                transformer(multiplier * self.width)
            } else {
                Attention::None
            },
        };
        let levels: Vec<UNetLevel> = self.multipliers.iter().enumerate().map(level).collect();
        UNetConfig {
            in_channels: self.channels[0],
            out_channels: self.channels[1],
            model_channels: self.width,
            middle: transformer(levels[levels.len() - 1].channels),
            levels,
            context_dim: Some(self.context[1]),
            ..networks::parts(ModelConfig::stable_diffusion_1()).0
        }
    }
}

/// Every published UNet of res blocks and spatial transformers.
fn published() -> Vec<Published> {
    use Heads::{Number, Size};
    let row =
        |name, channels, width, multipliers, attention, heads, depth, context, side, gflop| {
            Published {
                name,
                channels,
                width,
                multipliers,
                attention,
                heads,
                depth,
                context,
                side,
                gflop,
            }
        };
    const SD: &[usize] = &[1, 2, 4, 4];
    const ST: &[usize] = &[1, 2, 3, 5];
    const RDM: &[usize] = &[1, 2, 3, 4];
    vec![
        row(
            "sd 1, 512",
            [4, 4],
            320,
            SD,
            [0, 2],
            Number(8),
            1,
            [77, 768],
            64,
            803.3,
        ),
        row(
            "sd 1, 256",
            [4, 4],
            320,
            SD,
            [0, 2],
            Number(8),
            1,
            [77, 768],
            32,
            180.0,
        ),
        row(
            "sd 1, 768",
            [4, 4],
            320,
            SD,
            [0, 2],
            Number(8),
            1,
            [77, 768],
            96,
            2148.0,
        ),
        row(
            "txt2img-1p4B",
            [4, 4],
            320,
            SD,
            [0, 2],
            Number(8),
            1,
            [77, 1280],
            32,
            182.1,
        ),
        row(
            "cin256",
            [4, 4],
            256,
            &[1, 2, 4],
            [0, 2],
            Size(32),
            1,
            [1, 512],
            32,
            114.1,
        ),
        row(
            "cin256-v2",
            [3, 3],
            192,
            ST,
            [1, 3],
            Number(1),
            1,
            [1, 512],
            64,
            208.4,
        ),
        row(
            "text2img256",
            [3, 3],
            192,
            ST,
            [1, 3],
            Size(32),
            1,
            [77, 640],
            64,
            211.4,
        ),
        row(
            "layout2img",
            [3, 3],
            128,
            RDM,
            [1, 3],
            Size(32),
            3,
            [92, 512],
            64,
            151.2,
        ),
        row(
            "rdm 768",
            [16, 16],
            448,
            RDM,
            [0, 2],
            Size(32),
            1,
            [2, 768],
            48,
            694.6,
        ),
    ]
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
    let costs = graph.nodes().iter().map(|node| {
        let inputs: Vec<_> = node.inputs.iter().map(|&v| graph.shape(v)).collect();
        node.op.operator().cost(&inputs, node.shape)
    });
    costs.fold(Cost::default(), |sum, cost| sum + cost).flops as f64 / 1e9
}

/// A kernel for every node and a place for every value.
fn plans(name: &str, graph: Graph) {
    let cpu = cpu(1);
    let graph = fuse(graph, |_| true);
    let workspace = |node: &latent_diffusion::graph::Node| {
        let inputs: Vec<_> = node.inputs.iter().map(|&v| graph.shape(v)).collect();
        cpu.select(node, &inputs)
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

#[test]
fn published_unets_do_their_work_and_plan() {
    for model in published() {
        let latent = [model.side, model.side];
        let graph = unet::build(&model.config(), 1, latent, model.context[0]).unwrap();
        does_the_published_work(model.name, &graph, model.gflop);
        plans(model.name, graph);
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
    let single = networks::networks(&networks::tiny(), 1, [8, 16]);
    for (one, batch) in single
        .iter()
        .zip(networks::networks(&networks::tiny(), images, [8, 16]))
    {
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
