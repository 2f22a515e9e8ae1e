//! What every product of a step and of a decode should take on three GPUs, by the cost model, held to a reviewed table: a change that makes one of them
//! slower does not hide in the sum. On a GPU it is what `tools/gpu_check.py`'s times of the same operations are put beside.

use crate::waves::name;
use crate::{Chosen, data, decoder, is_reviewed, sd1_step};
use latent_diffusion::Graph;
use latent_diffusion::cuda::{Gpu, Precision, predict};
use std::fmt::Write;

const FILE: &str = "shapes.txt";

const GPUS: [&str; 3] = ["H200", "A100", "GeForce RTX 4090"];

/// A network of so many images, by its name.
type Network = (&'static str, fn(usize) -> Graph);

const NETWORKS: [Network; 2] = [
    ("sd1 512 step, guided", sd1_step),
    ("kl-f8 decode to 512", decoder),
];

/// Products of one shape by one kernel.
struct Row {
    name: String,
    entry: String,
    count: usize,
    seconds: f64,
    flops: f64,
}

/// The products of a network's body, those that take longest together first.
fn rows(network: fn(usize) -> Graph, gpu: &Gpu) -> Vec<Row> {
    let target = gpu.target(Precision::F16);
    let chosen = Chosen::new(network(1), &target);
    let mut rows: Vec<Row> = vec![];
    for launch in predict(&chosen.plan, &chosen.kernels, gpu, &target) {
        if launch.node < chosen.plan.prologue || launch.flops == 0.0 {
            continue;
        }
        let name = name(&chosen, &launch, 1);
        let same = |row: &&mut Row| row.name == name && row.entry == launch.entry;
        match rows.iter_mut().find(same) {
            Some(row) => {
                row.count += 1;
                row.seconds += launch.seconds;
                row.flops += launch.flops;
            }
            None => rows.push(Row {
                name,
                entry: launch.entry,
                count: 1,
                seconds: launch.seconds,
                flops: launch.flops,
            }),
        }
    }
    rows.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    rows
}

fn table() -> String {
    let mut text = String::from(
        "PREDICTIONS by src/cuda/predict.rs, of kernels that have not yet run on hardware. Nothing here was measured.\n\
         Products of one image: how many, microseconds of each, TFLOP/s, and what it multiplies by which kernel.\n",
    );
    for (network, build) in NETWORKS {
        for gpu in GPUS {
            let gpu = Gpu::published().into_iter().find(|known| known.name == gpu);
            let gpu = gpu.unwrap();
            writeln!(text, "\n{network}, {}", gpu.name).unwrap();
            for row in rows(build, &gpu) {
                writeln!(
                    text,
                    "{:>3} {:>8.1} {:>6.0}  {}  ({})",
                    row.count,
                    1e6 * row.seconds / row.count as f64,
                    row.flops / row.seconds / 1e12,
                    row.name,
                    row.entry
                )
                .unwrap();
            }
        }
    }
    text
}

#[test]
fn products_are_predicted_as_they_were_reviewed() {
    is_reviewed(FILE, &table());
}

#[test]
#[ignore = "writes the reviewed file anew"]
fn write() {
    std::fs::write(data(FILE), table()).unwrap();
}
