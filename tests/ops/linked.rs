//! Normalisations whose statistics come from the products that they read, on a checked emulator: held to the definition on what the products
//! have stored, to the bits of every schedule, and to those of each image alone.

use crate::bound::device_roundoff;
use crate::cases::Case;
use crate::checks::{Check, definition, same_bits};
use crate::emulated;
use latent_diffusion::cuda::{Precision, Target};
use latent_diffusion::graph::Value;
use latent_diffusion::ops::{Axis, Op, Padding};
use latent_diffusion::rng::Noise;
use latent_diffusion::session::Program;
use latent_diffusion::{Graph, Result, Session, Tensor, Weights};

const IMAGES: usize = 3;

/// What an image is normalised after: its sides and channels, the channels of each product, and the groups.
struct Network {
    name: &'static str,
    image: [usize; 3],
    /// Of a 3x3 convolution, or of linear maps of tokens.
    convolution: bool,
    products: &'static [usize],
    groups: usize,
}

const NETWORKS: [Network; 5] = [
    // Four pieces of 512 rows and a half.
    network("a convolution", [48, 48, 8], true, &[24], 3),
    network("tokens", [64, 64, 40], false, &[40], 5),
    // Groups of 16 channels, of which one has some of both.
    network("two products", [40, 64, 16], true, &[24, 40], 4),
    network("a split sum", [48, 48, 1040], false, &[32], 4),
    network(
        "one tile of columns cut short",
        [64, 48, 24],
        true,
        &[200],
        5,
    ),
];

const fn network(
    name: &'static str,
    image: [usize; 3],
    convolution: bool,
    products: &'static [usize],
    groups: usize,
) -> Network {
    Network {
        name,
        image,
        convolution,
        products,
        groups,
    }
}

impl Network {
    /// With results `y`, the normalisation's, and `0`, `1`, ..., what it reads.
    fn graph(&self, images: usize) -> Result<Graph> {
        let mut g = Graph::new();
        let [h, w, channels] = self.image;
        let x = g.input("x", [images, h, w, channels]);
        let mut read: Vec<Value> = vec![];
        for (index, &features) in self.products.iter().enumerate() {
            let of = match self.convolution {
                true => g.scope(&index.to_string(), |g| {
                    g.conv2d(x, features, 3, 1, Padding::all(1))
                })?,
                false => {
                    let tokens = g.reshape(x, [images, h * w, channels])?;
                    let y = g.scope(&index.to_string(), |g| g.linear(tokens, features, true))?;
                    g.reshape(y, [images, h, w, features])?
                }
            };
            g.output(&index.to_string(), of);
            read.push(of);
        }
        let joined = match read[..] {
            [only] => only,
            _ => g.concat(&read, Axis::Channels)?,
        };
        let y = g.scope("norm", |g| g.group_norm(joined, self.groups, 1e-5))?;
        g.output("y", y);
        Ok(g)
    }

    /// Values far from zero, so that moments must not cancel.
    fn values(&self) -> Tensor {
        let [h, w, channels] = self.image;
        let count = IMAGES * h * w * channels;
        let noise = Noise::cpu(3).normal(count);
        let data = noise.iter().map(|x| 2.0 + x).collect();
        Tensor::new([IMAGES, h, w, channels], data).unwrap()
    }
}

/// The results of a network for `x`: the normalisation's, and what it read.
fn run(network: &Network, x: &Tensor, seed: u64) -> Result<(Op, Vec<Tensor>, Tensor)> {
    let backend = emulated(seed, Target::a100(Precision::F16));
    let program = Program::new(&*backend, network.graph(x.shape().batch())?)?;
    assert!(program.is_linked(), "{}", network.name);
    let nodes = program.plan().graph.nodes().iter();
    let norm = nodes.map(|node| &node.op);
    let norm = norm.clone().find(|op| matches!(op, Op::GroupNorm(_)));
    let norm = norm.unwrap().clone();
    let mut session = Session::load(&backend, program, &Weights::synthetic(7))?;
    session.set("x", x)?;
    session.run()?;
    let read = (0..network.products.len()).map(|index| session.get(&index.to_string()));
    Ok((norm, read.collect::<Result<_>>()?, session.get("y")?))
}

fn check(network: &Network) -> Check {
    let sentence = |error: latent_diffusion::Error| error.to_string();
    let x = network.values();
    let (op, read, found) = run(network, &x, 0).map_err(sentence)?;
    let case = Case {
        name: String::new(),
        op,
        operands: vec![],
    };
    let roundoff = device_roundoff(&*emulated(0, Target::a100(Precision::F16)));
    let (expected, bound) = definition(&case, &Weights::synthetic(7), &read, roundoff);
    bound.check(found.data(), expected.data())?;
    let (_, _, other) = run(network, &x, 1).map_err(sentence)?;
    same_bits("another schedule", &found, &other)?;
    let image = x.item(1).map_err(sentence)?;
    let (_, _, alone) = run(network, &image, 2).map_err(sentence)?;
    same_bits("an image alone", &found.item(1).map_err(sentence)?, &alone)
}

#[test]
#[cfg_attr(not(emulator), ignore = "needs a C++ compiler")]
fn statistics_of_products_are_those_of_what_they_store() {
    let failed = NETWORKS.iter().filter_map(|network| {
        let problem = check(network).err()?;
        Some(format!("{}: {problem}", network.name))
    });
    let failed: Vec<String> = failed.collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
