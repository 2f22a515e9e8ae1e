//! What a step or a call should take on four GPUs, by the cost model: predictions, held to a reviewed table so that a change of a kernel, a
//! choice or a graph shows what it is hoped to be worth.

use crate::networks::networks;
use crate::{Chosen, STEPS, data, decoder, is_reviewed, sd1_of_run, sd1_step, txt2img_step};
use latent_diffusion::Graph;
use latent_diffusion::cuda::{Gpu, Precision, floor, predict};
use latent_diffusion::models::config::ModelConfig;
use std::fmt::Write;

const FILE: &str = "predicted.txt";

/// How operations are summed up: the last for all others.
const KINDS: [(&str, &[&str]); 5] = [
    ("conv2d", &["conv2d"]),
    ("linear", &["linear"]),
    ("attention", &["attention"]),
    (
        "norm",
        &[
            "group_norm",
            "group_statistics",
            "group_normalise",
            "layer_norm",
        ],
    ),
    ("other", &[]),
];

/// A network by its images, and the numbers of images that it is predicted for.
type Network = (&'static str, fn(usize) -> Graph, &'static [usize]);

const NETWORKS: [Network; 4] = [
    ("sd1 512 step, guided", sd1_step, &[1, 2, 8]),
    ("sd1 512 step, unguided", |_| sd1_of_run(false), &[1]),
    ("txt2img 256 step, guided", txt2img_step, &[1, 8]),
    ("kl-f8 decode to 512", decoder, &[1]),
];

fn kind(op: &str) -> usize {
    let known = KINDS.iter().position(|(_, ops)| ops.contains(&op));
    known.unwrap_or(KINDS.len() - 1)
}

/// A line of the table.
fn line((name, network, images): (&str, fn(usize) -> Graph, usize), gpu: &Gpu) -> String {
    let target = gpu.target(Precision::F16);
    let chosen = Chosen::new(network(images), &target);
    let plan = &chosen.plan;
    let launches = predict(plan, &chosen.kernels, gpu, &target);
    let every: Vec<_> = (launches.iter())
        .filter(|launch| launch.node >= plan.prologue)
        .collect();
    let seconds: f64 = every.iter().map(|launch| launch.seconds).sum();
    let least = floor(plan, gpu, Precision::F16);
    let mut shares = [0.0; KINDS.len()];
    for launch in &every {
        shares[kind(plan.graph.nodes()[launch.node].op.name())] += launch.seconds;
    }
    let shares = shares
        .map(|share| format!("{:10.0}", 100.0 * share / seconds))
        .concat();
    format!(
        "{name:<24} {:<16} {images:>6} {:>8} {:>8.0} {:>7.0} {:>8.3} {:>8.3} {:>6.0} {shares}",
        gpu.name,
        every.len(),
        every.iter().map(|launch| launch.flops).sum::<f64>() / 1e9,
        every.iter().map(|launch| launch.bytes).sum::<f64>() / 1e6,
        1e3 * seconds,
        1e3 * least,
        100.0 * least / seconds,
    )
}

/// The text encoder of a prompt and its negative.
fn text_encoder() -> Graph {
    let all = networks(&ModelConfig::stable_diffusion_1(), 2, [64, 64]);
    let text = all.into_iter().find(|network| network.name == "text");
    text.unwrap().graph
}

/// Seconds of what a network does once, and of every run.
fn seconds(graph: Graph, gpu: &Gpu) -> [f64; 2] {
    let target = gpu.target(Precision::F16);
    let chosen = Chosen::new(graph, &target);
    let mut sums = [0.0; 2];
    for launch in predict(&chosen.plan, &chosen.kernels, gpu, &target) {
        sums[usize::from(launch.node >= chosen.plan.prologue)] += launch.seconds;
    }
    sums
}

/// What the networks of a picture should take, by GPU.
fn images() -> String {
    let mut table = format!(
        "\nAn image of 512x512 by Stable Diffusion 1 with guidance, {STEPS} steps, in ms: what the GPU does from the prompt's tokens to the pixels. The\n\
         host's tokens, noise and PNG, and starting it all, are not in it.\n\n{:<16} {:>8} {:>8} {:>8} {:>8} {:>8}\n",
        "GPU", "text", "once", "steps", "decode", "image"
    );
    for gpu in Gpu::published() {
        let [once, step] = seconds(sd1_of_run(true), &gpu);
        let text: f64 = seconds(text_encoder(), &gpu).iter().sum();
        let decode: f64 = seconds(decoder(1), &gpu).iter().sum();
        let parts = [text, once, STEPS as f64 * step, decode];
        let line = (parts.iter().chain([&parts.iter().sum()]))
            .map(|seconds| format!(" {:>8.3}", 1e3 * seconds))
            .collect::<String>();
        writeln!(table, "{:<16}{line}", gpu.name).unwrap();
    }
    table
}

fn table() -> String {
    let mut text = String::from(
        "PREDICTIONS by src/cuda/predict.rs, of kernels that have not yet run on hardware. Nothing here was measured.\n\
         MB: every operand of every launch once. floor: products at the GPU's peak or weights from memory, whichever is longer, node by node.\n\
         peak and memory by data sheet (H200: 788 TFLOP/s, 4.3 TB/s). Right of %: the share of the time by operation, in %.\n\n",
    );
    writeln!(
        text,
        "{:<24} {:<16} {:>6} {:>8} {:>8} {:>7} {:>8} {:>8} {:>6} {}",
        "network",
        "GPU",
        "images",
        "launches",
        "GFLOP",
        "MB",
        "ms",
        "floor ms",
        "%",
        KINDS.map(|(name, _)| format!("{name:>10}")).concat()
    )
    .unwrap();
    for (name, network, batches) in NETWORKS {
        for gpu in Gpu::published() {
            for &images in batches {
                text += &line((name, network, images), &gpu);
                text.push('\n');
            }
        }
    }
    text + &images()
}

#[test]
fn predictions_are_those_that_were_reviewed() {
    is_reviewed(FILE, &table());
}

#[test]
fn nothing_is_predicted_to_beat_its_floor() {
    for (name, network, batches) in NETWORKS {
        for gpu in Gpu::published() {
            let target = gpu.target(Precision::F16);
            let chosen = Chosen::new(network(batches[0]), &target);
            let launches = predict(&chosen.plan, &chosen.kernels, &gpu, &target);
            let count: usize = chosen
                .kernels
                .iter()
                .map(|kernel| kernel.launches.len())
                .sum();
            assert_eq!(launches.len(), count, "{name}");
            let seconds: f64 = launches.iter().map(|launch| launch.seconds).sum();
            let least = floor(&chosen.plan, &gpu, Precision::F16);
            assert!(
                least > 0.0 && seconds > least,
                "{name} on {}: {seconds} < {least}",
                gpu.name
            );
        }
    }
}

#[test]
#[ignore = "writes the reviewed file anew"]
fn write() {
    std::fs::write(data(FILE), table()).unwrap();
}
