//! Which kernels run for three models on three GPUs.

use crate::networks::networks;
use crate::{Chosen, data, decoder, encoder, is_reviewed, sd1_step, txt2img_step};
use latent_diffusion::Graph;
use latent_diffusion::cuda::{Kernels, Launch, Precision, Target, table};
use latent_diffusion::models::config::ModelConfig;
use std::collections::BTreeSet;
use std::fmt::Write;

/// The GPUs: A100, RTX 4090, H200.
const TARGETS: [Target; 3] = [
    Target::a100(Precision::F16),
    Target::rtx_4090(Precision::F16),
    Target::h200(Precision::F16),
];

/// The networks of a model, of one image.
struct Model {
    name: &'static str,
    networks: Vec<(&'static str, Graph)>,
}

fn models() -> [Model; 3] {
    let of_sd1 = networks(&ModelConfig::stable_diffusion_1(), 1, [64, 64]);
    let text = of_sd1.into_iter().find(|network| network.name == "text");
    let text = text.map(|network| (network.name, network.graph));
    [
        Model {
            name: "sd1_512",
            networks: [("step", sd1_step(1))].into_iter().chain(text).collect(),
        },
        Model {
            name: "txt2img_256",
            networks: vec![("step", txt2img_step(1))],
        },
        Model {
            name: "klf8_512",
            networks: vec![("decoder", decoder(1)), ("encoder", encoder(1))],
        },
    ]
}

/// Launches that differ in nothing but the node they are of.
struct Same {
    line: String,
    first: String,
    count: usize,
}

fn print(name: &str, chosen: &Chosen, text: &mut String) {
    let plan = &chosen.plan;
    let (once, every) = chosen.kernels.split_at(plan.prologue);
    let [once, every] =
        [once, every].map(|kernels| kernels.iter().map(|k| k.launches.len()).sum::<usize>());
    writeln!(
        text,
        "== {name}: {every} kernels per run, {once} before the first; arena {} bytes, at least {}",
        plan.arena_bytes, plan.lower_bound_bytes
    )
    .unwrap();
    let mut lines: Vec<Same> = vec![];
    let nodes = plan.graph.nodes().iter().zip(&chosen.kernels).enumerate();
    for (index, (node, kernel)) in nodes {
        let when = if index < plan.prologue { "once " } else { "" };
        for launch in &kernel.launches {
            let line = format!("{when}{}: {launch}", node.shape);
            match lines.iter_mut().find(|same| same.line == line) {
                Some(same) => same.count += 1,
                None => lines.push(Same {
                    line,
                    first: node.name.clone(),
                    count: 1,
                }),
            }
        }
    }
    for Same { line, first, count } in lines {
        writeln!(text, "{count} x {line}  ({first})").unwrap();
    }
}

/// For each file, what it should hold.
fn files() -> Vec<(String, String)> {
    let of_target = |target: &Target| {
        models().map(|model| {
            let mut text = String::new();
            for (name, graph) in model.networks {
                print(name, &Chosen::new(graph, target), &mut text);
            }
            let architecture = target.compute_capability;
            (format!("choices/{}_sm{architecture}.txt", model.name), text)
        })
    };
    TARGETS.iter().flat_map(of_target).collect()
}

#[test]
fn choices_are_those_that_were_reviewed() {
    for (name, text) in files() {
        is_reviewed(&name, &text);
    }
}

/// What is left when no elementwise kernel is: a launch for each product, attention and normalisation, but those of the lowest level that products
/// make in place, and three around the network.
#[test]
fn a_step_of_stable_diffusion_takes_at_most_264_launches() {
    for target in &TARGETS {
        let chosen = Chosen::new(sd1_step(1), target);
        let every = &chosen.kernels[chosen.plan.prologue..];
        let launches: usize = every.iter().map(|kernel| kernel.launches.len()).sum();
        let architecture = target.compute_capability;
        assert!(launches <= 264, "{launches} launches on sm_{architecture}");
    }
}

#[test]
fn every_choice_fits_its_entry_and_its_gpu() {
    for target in &TARGETS {
        for (name, graph) in models().into_iter().flat_map(|model| model.networks) {
            let kernels = Chosen::new(graph, target).kernels.into_iter();
            kernels
                .flat_map(|kernel| kernel.launches)
                .for_each(|launch| fits(name, &launch, target));
        }
    }
}

fn fits(name: &str, launch: &Launch, target: &Target) {
    let entry = table::entry(&launch.entry);
    let parameters = entry.map(|entry| entry.parameters.len());
    assert_eq!(parameters, Some(launch.arguments.len()), "{name}: {launch}");
    let most = target.shared_bytes_per_block;
    assert!(launch.shared_bytes <= most, "{name}: {launch}");
    let [x, y, z] = launch.grid;
    let blocks = x.min(y).min(z);
    assert!(blocks > 0 && y.max(z) <= 65_535, "{name}: {launch}");
}

#[test]
#[ignore = "writes the reviewed files anew"]
fn write() {
    for (name, text) in files() {
        std::fs::write(data(&name), text).unwrap();
    }
}

#[test]
fn portable_kernels_are_of_every_gpu_and_read_the_same_weights() {
    let portable = Target {
        kernels: Kernels::Portable,
        ..TARGETS[2]
    };
    let mut others = 0;
    for (name, graph) in models().into_iter().flat_map(|model| model.networks) {
        let [all, chosen] =
            [&TARGETS[2], &portable].map(|target| Chosen::new(graph.clone(), target));
        assert_eq!(weights(&all), weights(&chosen), "{name}");
        let launches = |chosen: &Chosen| -> Vec<Launch> {
            let launches = chosen.kernels.iter().flat_map(|kernel| &kernel.launches);
            launches.cloned().collect()
        };
        let hopper = |launch: &&Launch| launch.entry.ends_with("_sm90");
        assert_eq!(launches(&chosen).iter().find(hopper), None, "{name}");
        others += launches(&all).iter().filter(hopper).count();
    }
    assert!(others > 200, "{others}");
}

/// Every weight, as it lies on the device, with the tensors that it is made of.
fn weights(chosen: &Chosen) -> BTreeSet<String> {
    let nodes = chosen.plan.graph.nodes();
    let mut all = BTreeSet::new();
    for (node, kernel) in nodes.iter().zip(&chosen.kernels) {
        let also = kernel.also().map(|value| chosen.plan.graph.node(value));
        let params = [Some(node), also].into_iter().flatten();
        let params: Vec<_> = params
            .flat_map(|node| node.op.operator().params())
            .collect();
        all.extend(kernel.recipes.iter().map(|recipe| {
            let names: Vec<&str> = (recipe.params.iter())
                .map(|&index| params[index].name.as_str())
                .collect();
            format!("{:?} of {names:?}", recipe.layout)
        }));
    }
    all
}
