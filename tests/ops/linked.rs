//! Normalisations whose statistics come from the products that they read, on a checked emulator: held to the definition on what the products
//! have stored, to the bits of every schedule and tile, and to those of each image alone.

use crate::bound::device_roundoff;
use crate::cases::Case;
use crate::checks::{Check, definition, items_of, same_bits};
use crate::{emulated, halves};
use latent_diffusion::cuda::{Argument, Kernel, Launch, Precision, Target, table};
use latent_diffusion::graph::Value;
use latent_diffusion::ops::{Activation, Axis, Op, Padding};
use latent_diffusion::rng::Noise;
use latent_diffusion::session::Program;
use latent_diffusion::{Graph, Result, Session, Tensor, Weights};
use std::collections::BTreeSet;

const IMAGES: usize = 3;

/// What makes the image that is normalised.
#[derive(Clone, Copy, PartialEq)]
enum Products {
    /// 3x3 convolutions.
    Convolutions,
    /// Such convolutions over an upsampled image, in phases.
    Phases,
    /// Linear maps of tokens.
    Maps,
    /// Convolutions of twice as many images: the first of different ones, others of a pair that is equal, and so computed once.
    Pair,
}
use Products::{Convolutions, Maps, Pair, Phases};

/// What an image is normalised after: its sides and channels, the channels of each product, and the groups.
struct Network {
    name: &'static str,
    image: [usize; 3],
    products: Products,
    channels: &'static [usize],
    groups: usize,
    /// Of the image's values, whose deviation is one.
    mean: f32,
}

#[rustfmt::skip]
const NETWORKS: [Network; 24] = [
    // Four pieces of 512 rows and a half.
    network("a convolution", [48, 48, 8], Convolutions, &[24], 3),
    network("tokens", [64, 64, 40], Maps, &[40], 5),
    // Groups of 16 channels, of which one has some of both.
    network("two products", [40, 64, 16], Convolutions, &[24, 40], 4),
    network("a split sum", [48, 48, 1040], Maps, &[32], 4),
    network("one tile of columns cut short", [64, 48, 24], Convolutions, &[200], 5),
    // What follows is for the products of Hopper GPUs too. A block is a box of 8 x 8 pixels, a piece and a quarter an image.
    network("boxes", [16, 40, 64], Convolutions, &[200], 2),
    network("two products of boxes", [24, 48, 64], Convolutions, &[80, 160], 3),
    network("a split sum over boxes", [16, 40, 192], Convolutions, &[80], 1),
    network("two products, one of which repeats", [24, 48, 64], Pair, &[80, 160], 3),
    // Phases of 384 pixels: pieces of more than one.
    network("phases", [16, 24, 64], Phases, &[160], 2),
    // Pieces of three times eight blocks.
    network("long pieces", [24, 192, 8], Maps, &[24], 3),
    network("long pieces of phases", [12, 96, 64], Phases, &[80], 2),
    network("one column of pixels", [128, 5, 64], Convolutions, &[168], 1),
    network("wide tokens", [16, 40, 328], Maps, &[328], 2),
    // Channels that are no whole pieces.
    network("a convolution of elements", [16, 24, 12], Convolutions, &[168], 1),
    network("tokens of elements", [16, 24, 12], Maps, &[168], 1),
    // Images of one block, which products normalise in place where their tile does for it: groups that a tile has whole, and others.
    network("an image in place", [8, 8, 64], Convolutions, &[160], 4),
    network("tokens in place", [8, 8, 328], Maps, &[320], 32),
    network("a split sum in place", [8, 8, 1040], Maps, &[160], 20),
    network("elements in place", [4, 16, 12], Convolutions, &[88], 11),
    network("two products of small images", [8, 8, 64], Convolutions, &[80, 80], 5),
    network("two pieces of a small image", [24, 24, 64], Convolutions, &[80], 2),
    network("groups across tiles", [8, 8, 64], Convolutions, &[240], 5),
    Network { mean: 100.0, ..network("a mean of a hundred deviations", [48, 40, 64], Maps, &[64], 64) },
];

const fn network(
    name: &'static str,
    image: [usize; 3],
    products: Products,
    channels: &'static [usize],
    groups: usize,
) -> Network {
    Network {
        name,
        image,
        products,
        channels,
        groups,
        // Far from zero, so that moments must not cancel.
        mean: 2.0,
    }
}

/// The tiles of both families, each taken where a product has it.
const TILES: [[usize; 2]; 8] = [
    [256, 160],
    [256, 128],
    [128, 160],
    [128, 128],
    [128, 64],
    [64, 160],
    [64, 80],
    [64, 64],
];

/// A Hopper GPU of so many multiprocessors: on a few of them a block computes one tile after another.
fn hopper(multiprocessors: u32) -> Target {
    Target::h200(Precision::F16).with_multiprocessors(multiprocessors)
}

impl Network {
    /// With results `y`, the normalisation's, and `0`, `1`, ..., what it reads.
    fn graph(&self, images: usize) -> Result<Graph> {
        let mut g = Graph::new();
        let [h, w, channels] = self.image;
        let x = g.input("x", [images, h, w, channels]);
        let mut read: Vec<Value> = vec![];
        for (index, &features) in self.channels.iter().enumerate() {
            let of = g.scope(&index.to_string(), |g| match self.products {
                Convolutions => g.conv2d(x, features, 3, 1, Padding::all(1)),
                Phases => {
                    let x = g.upsample2x(x)?;
                    g.conv2d(x, features, 3, 1, Padding::all(1))
                }
                Pair => {
                    let other = match index {
                        0 => g.activate(x, Activation::Silu)?,
                        _ => x,
                    };
                    let x = g.concat(&[x, other], Axis::Batch)?;
                    g.conv2d(x, features, 3, 1, Padding::all(1))
                }
                Maps => {
                    let tokens = g.reshape(x, [images, h * w, channels])?;
                    let y = g.linear(tokens, features, true)?;
                    g.reshape(y, [images, h, w, features])
                }
            })?;
            g.output(&index.to_string(), of);
            read.push(of);
        }
        let joined = match read[..] {
            [only] => only,
            _ => g.concat(&read, Axis::Channels)?,
        };
        let y = g.scope("norm", |g| g.group_norm(joined, self.groups, 1e-5))?;
        g.output("y", y);
        // Told a timestep, a network is never in bands, and has whatever moments there are.
        let t = g.input_exact("t", [1]);
        let told = g.timestep_embedding(t, 2)?;
        g.output("t", told);
        Ok(g)
    }

    fn values(&self) -> Tensor {
        let [h, w, channels] = self.image;
        let count = IMAGES * h * w * channels;
        let noise = Noise::cpu(3).normal(count);
        let data = noise.iter().map(|x| self.mean + x).collect();
        Tensor::new([IMAGES, h, w, channels], data).unwrap()
    }

    /// The launches that find moments.
    fn launches(&self, images: usize, target: Target) -> Result<Vec<Launch>> {
        let program = Program::new(&*emulated(0, target), self.graph(images)?)?;
        let launches = program.kernels().flat_map(|kernel| &kernel.launches);
        let finds = |launch: &&Launch| {
            let mut arguments = launch.arguments.iter();
            arguments.any(|argument| matches!(argument, Argument::Tail(_)))
        };
        Ok(launches.filter(finds).cloned().collect())
    }
}

/// The results of a network for `x`: the normalisation's, and what it read.
fn run(
    network: &Network,
    x: &Tensor,
    target: Target,
    seed: u64,
) -> Result<(Op, Vec<Tensor>, Tensor)> {
    let backend = emulated(seed, target);
    let program = Program::new(&*backend, network.graph(x.shape().batch())?)?;
    assert!(program.is_linked(), "{}", network.name);
    let nodes = program.plan().graph.nodes().iter();
    let norm = nodes.map(|node| &node.op);
    let norm = norm.clone().find(|op| matches!(op, Op::GroupNorm(_)));
    let norm = norm.unwrap().clone();
    let mut session = Session::load(&backend, program, &Weights::synthetic(7))?;
    session.set("x", x)?;
    session.set("t", &Tensor::zeros([1]))?;
    session.run()?;
    let read = (0..network.channels.len()).map(|index| session.get(&index.to_string()));
    Ok((norm, read.collect::<Result<_>>()?, session.get("y")?))
}

fn check(network: &Network, target: Target) -> Check {
    let sentence = |error: latent_diffusion::Error| error.to_string();
    let x = network.values();
    let (op, read, found) = run(network, &x, target, 0).map_err(sentence)?;
    let case = Case {
        name: String::new(),
        op,
        operands: vec![],
    };
    let roundoff = device_roundoff(&*emulated(0, target));
    let (expected, bound) = definition(&case, &Weights::synthetic(7), &read, roundoff);
    bound.check(found.data(), expected.data())?;
    let (_, _, other) = run(network, &x, target, 1).map_err(sentence)?;
    same_bits("another schedule", &found, &other)?;
    let image = x.item(1).map_err(sentence)?;
    let (_, _, alone) = run(network, &image, target, 2).map_err(sentence)?;
    let expected = items_of(&found, alone.shape().batch(), 1);
    same_bits("an image alone", &expected, &alone)
}

/// Every tile gives the bits of the one that is chosen.
fn check_tiles(network: &Network, target: Target) -> Check {
    let sentence = |error: latent_diffusion::Error| error.to_string();
    let x = network.values();
    let (_, _, found) = run(network, &x, target, 0).map_err(sentence)?;
    let mut met = vec![network.launches(IMAGES, target).map_err(sentence)?];
    for tile in TILES {
        let target = Target {
            prefer: Some(tile),
            ..target
        };
        let launches = network.launches(IMAGES, target).map_err(sentence)?;
        if !met.contains(&launches) {
            met.push(launches);
            let (_, _, other) = run(network, &x, target, 3).map_err(sentence)?;
            same_bits(&format!("a tile of {tile:?}"), &found, &other)?;
        }
    }
    Ok(())
}

fn every(check: impl Fn(&Network) -> Check) {
    let failed = NETWORKS.iter().filter_map(|network| {
        let problem = check(network).err()?;
        Some(format!("{}: {problem}", network.name))
    });
    let failed: Vec<String> = failed.collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn statistics_of_products_are_those_of_what_they_store() {
    every(|network| check(network, Target::a100(Precision::F16)));
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn so_are_those_of_the_products_of_hopper_gpus() {
    every(|network| check(network, hopper(132)));
    every(|network| check(network, hopper(2)));
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn they_are_the_same_in_every_tile() {
    every(|network| check_tiles(network, Target::a100(Precision::F16)));
    every(|network| check_tiles(network, hopper(12)));
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn so_are_those_of_products_that_sum_in_halves() {
    every(|network| check(network, halves::FAMILY.targets[1]));
    every(|network| check_tiles(network, halves::FAMILY.targets[1]));
}

/// Where an image is small, its product is the only launch, but for tiles of which so many make whole groups that one block would be long about it.
#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn small_images_are_normalised_by_the_product() {
    let mut launched = BTreeSet::new();
    for network in NETWORKS
        .iter()
        .filter(|n| n.image[0] * n.image[1] == 64 && n.channels.len() == 1)
    {
        for target in [Target::a100(Precision::F16), hopper(132)] {
            for tile in TILES {
                let target = Target {
                    prefer: Some(tile),
                    ..target
                };
                let program = Program::new(&*emulated(0, target), network.graph(IMAGES).unwrap());
                let program = program.unwrap();
                let also = program.kernels().find_map(Kernel::also);
                let norm = program.kernels().any(|kernel| {
                    let mut launches = kernel.launches.iter();
                    launches.any(|launch| launch.entry.starts_with("group_norm"))
                });
                assert_eq!(also.is_none(), norm, "{} {tile:?}", network.name);
                launched.insert(norm);
            }
        }
    }
    assert_eq!(launched, BTreeSet::from([false, true]));
}

/// Every entry that finds moments, whole and in parts, in one phase and in four.
#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn every_product_that_finds_moments_is_met() {
    let mut met = BTreeSet::new();
    let mut ways = BTreeSet::new();
    let targets = [Target::a100(Precision::F16), hopper(12), hopper(132)];
    for target in targets.into_iter().chain([halves::FAMILY.targets[1]]) {
        for tile in TILES {
            let target = Target {
                prefer: Some(tile),
                ..target
            };
            let launches = NETWORKS.iter().map(|network| {
                let launches = network.launches(IMAGES, target);
                launches.unwrap_or_else(|problem| panic!("{}: {problem}", network.name))
            });
            for launch in launches.flatten() {
                let [_, parts, phases] = launch.grid;
                ways.insert((launch.entry.ends_with("_sm90"), parts > 1, phases));
                met.insert(launch.entry);
            }
        }
    }
    let finds = |file: &str| file.starts_with("linear") || file.starts_with("conv2d");
    let unmet: Vec<&str> = (table::ENTRIES.iter())
        .filter(|entry| finds(entry.name) && !entry.name.contains("norm"))
        .map(|entry| entry.name)
        .filter(|name| !name.contains("_f32_") && !name.contains("_16x64"))
        .filter(|name| !met.contains(*name))
        .collect();
    assert!(unmet.is_empty(), "no network runs {unmet:?}");
    for hopper in [false, true] {
        for way in [(hopper, false, 1), (hopper, true, 1), (hopper, false, 4)] {
            assert!(ways.contains(&way), "{way:?}: {ways:?}");
        }
    }
}
