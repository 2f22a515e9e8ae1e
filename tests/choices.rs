//! Which kernels run for Stable Diffusion 1.5 at 512x512, with guidance, on three GPUs: pure choices, printed and held to reviewed files.
//!
//! A change of choice is a change of `tests/data/choices`, to be read like code. After one that is meant:
//!
//! ```sh
//! cargo test --release --test choices -- --ignored
//! ```

#[allow(dead_code, reason = "the benchmarks use the rest")]
#[path = "cases/networks.rs"]
mod networks;

use latent_diffusion::cuda::{Kernel, Precision, Target, select, table};
use latent_diffusion::models::config::ModelConfig;
use latent_diffusion::plan::{Plan, fuse::fuse, hoist::hoist};
use latent_diffusion::{Graph, Shape};
use std::fmt::Write;
use std::path::PathBuf;

/// The GPUs: A100, RTX 4090, H200.
const TARGETS: [Target; 3] = [
    Target::a100(Precision::F16),
    Target {
        precision: Precision::F16,
        compute_capability: 89,
        multiprocessors: 128,
        shared_bytes_per_block: 99 << 10,
    },
    Target {
        precision: Precision::F16,
        compute_capability: 90,
        multiprocessors: 132,
        shared_bytes_per_block: 227 << 10,
    },
];

/// A network with its kernels.
struct Chosen {
    plan: Plan,
    kernels: Vec<Kernel>,
}

impl Chosen {
    fn new(graph: Graph, target: &Target) -> Self {
        let graph = hoist(&fuse(graph, |_| true));
        let kernels: Vec<Kernel> = (graph.nodes().iter())
            .map(|node| {
                let inputs: Vec<Shape> = node.inputs.iter().map(|&v| graph.shape(v)).collect();
                select(&node.op, &inputs, node.shape, target)
                    .unwrap_or_else(|problem| panic!("{}: {problem}", node.name))
            })
            .collect();
        let workspaces: Vec<usize> = kernels.iter().map(|k| k.workspace_bytes).collect();
        Self {
            plan: Plan::new(graph, target.precision.bytes(), &workspaces),
            kernels,
        }
    }

    /// Launches of the prologue, and of what runs every time.
    fn launches(&self) -> [usize; 2] {
        let (once, every) = self.kernels.split_at(self.plan.prologue);
        [once, every].map(|kernels| kernels.iter().map(|k| k.launches.len()).sum())
    }

    fn print(&self, name: &str, text: &mut String) {
        let [once, every] = self.launches();
        let Plan {
            arena_bytes,
            lower_bound_bytes,
            ..
        } = self.plan;
        writeln!(
            text,
            "== {name}: {every} kernels per run, {once} before the first; arena {arena_bytes} bytes, at least {lower_bound_bytes}"
        )
        .unwrap();
        let nodes = self.plan.graph.nodes().iter().zip(&self.kernels);
        for (index, (node, kernel)) in nodes.enumerate() {
            let when = if index < self.plan.prologue {
                "once "
            } else {
                ""
            };
            for launch in &kernel.launches {
                writeln!(text, "{when}{} {}: {launch}", node.name, node.shape).unwrap();
            }
        }
    }
}

/// The networks of a sampling run for one image.
fn networks() -> Vec<(&'static str, Graph)> {
    let model = ModelConfig::stable_diffusion_1();
    let others = networks::networks(&model, 1, [64, 64]).into_iter();
    let others = others.filter(|network| ["decoder", "text"].contains(&network.name));
    std::iter::once(networks::step(&model, 1, [64, 64]))
        .chain(others)
        .map(|network| (network.name, network.graph))
        .collect()
}

fn printed(target: &Target) -> String {
    let mut text = String::new();
    for (name, graph) in networks() {
        Chosen::new(graph, target).print(name, &mut text);
    }
    text
}

fn file(target: &Target) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/choices");
    folder.join(format!("sd1_512_sm{}.txt", target.compute_capability))
}

#[test]
fn choices_are_those_that_were_reviewed() {
    for target in &TARGETS {
        let path = file(target);
        let reviewed = std::fs::read_to_string(&path).unwrap();
        let found = printed(target);
        let differ = reviewed
            .lines()
            .zip(found.lines())
            .find(|(old, new)| old != new);
        let (old, new) = differ.unwrap_or_default();
        assert!(
            reviewed == found,
            "{}: was\n{old}\nis\n{new}",
            path.display()
        );
    }
}

#[test]
fn every_choice_fits_its_entry_and_its_gpu() {
    for target in &TARGETS {
        for (name, graph) in networks() {
            for kernel in Chosen::new(graph, target).kernels {
                for launch in kernel.launches {
                    let entry = table::entry(&launch.entry);
                    let parameters = entry.map(|entry| entry.parameters.len());
                    assert_eq!(parameters, Some(launch.arguments.len()), "{name}: {launch}");
                    let most = target.shared_bytes_per_block;
                    assert!(launch.shared_bytes <= most, "{name}: {launch}");
                    let [x, y, z] = launch.grid;
                    let blocks = x.min(y).min(z);
                    assert!(blocks > 0 && y.max(z) <= 65_535, "{name}: {launch}");
                }
            }
        }
    }
}

#[test]
#[ignore = "writes the reviewed files anew"]
fn write() {
    for target in &TARGETS {
        std::fs::write(file(target), printed(target)).unwrap();
    }
}
