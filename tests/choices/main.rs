//! What is chosen for published models on GPUs that need not be there: pure functions, printed and held to reviewed files.
//!
//! A change of choice is a change of `tests/data`, to be read like code. After one that is meant:
//!
//! ```sh
//! cargo test --release --test choices -- --ignored
//! ```

mod launches;
#[allow(dead_code, reason = "the benchmarks use the rest")]
#[path = "../cases/networks.rs"]
mod networks;
mod predicted;
mod shapes;
mod waves;

use latent_diffusion::Graph;
use latent_diffusion::cuda::{Kernel, Target, link, select};
use latent_diffusion::models::System;
use latent_diffusion::models::autoencoder;
use latent_diffusion::models::config::ModelConfig;
use latent_diffusion::pipeline::{self, StepSizes};
use latent_diffusion::plan::{Needs, Plan, fuse::fuse, hoist::hoist};
use std::path::PathBuf;

/// A network with its kernels.
struct Chosen {
    plan: Plan,
    kernels: Vec<Kernel>,
}

impl Chosen {
    fn new(graph: Graph, target: &Target) -> Self {
        let graph = hoist(&fuse(graph, |_| true));
        let mut kernels: Vec<Kernel> = (graph.nodes().iter())
            .map(|node| {
                select(&node.op, &graph.operands(node), node.shape, target)
                    .unwrap_or_else(|problem| panic!("{}: {problem}", node.name))
            })
            .collect();
        link(&graph, &mut kernels, target).unwrap();
        let needs = kernels.iter().map(|kernel| Needs {
            workspace_bytes: kernel.workspace_bytes,
            tail_bytes: kernel.tail_bytes(),
            also: kernel.also(),
        });
        let needs: Vec<Needs> = needs.collect();
        Self {
            plan: Plan::of_kernels(graph, target.precision.bytes(), &needs),
            kernels,
        }
    }
}

/// The description of a published system.
fn system(name: &str) -> ModelConfig {
    System::find(name).unwrap().config().unwrap()
}

/// A step with guidance of Stable Diffusion 1 at 512x512.
fn sd1_step(images: usize) -> Graph {
    networks::step(&ModelConfig::stable_diffusion_1(), images, [64, 64]).graph
}

/// Steps of the run that an image is predicted of.
const STEPS: usize = 20;

/// A step of a run of [`STEPS`] for one image, as [`sd1_step`] but for the rows of its tables.
fn sd1_of_run(guided: bool) -> Graph {
    let model = ModelConfig::stable_diffusion_1();
    let unet = model.unet.as_ref().unwrap();
    let sizes = StepSizes {
        rows: STEPS,
        memory: 2,
        ..StepSizes::new(unet, model.context_tokens(), 1, [64, 64], guided)
    };
    pipeline::step(unet, &sizes).unwrap()
}

/// A step with guidance of CompVis's text-to-image model of 1.45 billion parameters at 256x256.
fn txt2img_step(images: usize) -> Graph {
    networks::step(&system("txt2img-1p4B"), images, [32, 32]).graph
}

/// From latents to images of 512x512.
fn decoder(images: usize) -> Graph {
    let config = system("kl-f8").autoencoder.unwrap();
    autoencoder::build_decoder(&config, images, [64, 64]).unwrap()
}

/// From images of 512x512 to latents.
fn encoder(images: usize) -> Graph {
    let config = system("kl-f8").autoencoder.unwrap();
    autoencoder::build_encoder(&config, images, [512, 512]).unwrap()
}

/// A file of `tests/data`.
fn data(name: &str) -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.join("tests/data").join(name)
}

/// Compares `found` with a reviewed file, and names the first line that differs.
fn is_reviewed(name: &str, found: &str) {
    let path = data(name);
    let reviewed = std::fs::read_to_string(&path).unwrap_or_default();
    let lines = reviewed.lines().chain(std::iter::repeat("(nothing)"));
    let differ = (found.lines().chain(["(nothing)"]))
        .zip(lines)
        .find(|(new, old)| new != old);
    let (new, old) = differ.unwrap_or_default();
    assert!(
        reviewed == found,
        "{}: was\n{old}\nis\n{new}",
        path.display()
    );
}
