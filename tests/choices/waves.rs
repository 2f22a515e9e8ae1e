//! How full GPUs of seven sizes are with the products that matter, held to a reviewed table: a wave that is nearly empty costs as much as a full
//! one, and shows nowhere else before a GPU is there.

use crate::{Chosen, data, decoder, is_reviewed, sd1_step, txt2img_step};
use latent_diffusion::Graph;
use latent_diffusion::cuda::{Gpu, Precision, Predicted, predict};
use std::fmt::Write;

const FILE: &str = "waves.txt";

/// Images in a batch.
const BATCHES: [usize; 5] = [1, 2, 4, 8, 16];

/// Multiprocessors, and whose: H200, A100, RTX 4090, RTX 3090 Ti, RTX 3090, RTX 4080, RTX 3080.
const SIZES: [(u32, &str); 7] = [
    (132, "H200"),
    (108, "A100"),
    (128, "GeForce RTX 4090"),
    (84, "GeForce RTX 3090"),
    (82, "GeForce RTX 3090"),
    (76, "GeForce RTX 4090"),
    (68, "GeForce RTX 3090"),
];

/// The products in the table do at least this share of their network's work.
const SHARE: f64 = 0.01;

/// The least that a product of them fills, of the multiprocessors' time, by the images in the batch. The least of all is of one that normalises
/// its rows first, and so has no parts.
const LEAST_FILL: [f64; BATCHES.len()] = [0.55, 0.6, 0.75, 0.78, 0.84];

/// Floating-point operations of a product that is over in the time of a launch: more blocks would not end it sooner.
const SMALL: f64 = 1e9;

/// A network by its images.
type Network = fn(usize) -> Graph;

/// With the samples that it computes for an image. What both samples of guidance share is of one, as for half the
/// images; of half an image nothing is asked.
const NETWORKS: [(&str, Network, usize); 3] = [
    ("sd1 512 step", sd1_step, 2),
    ("txt2img 256 step", txt2img_step, 2),
    ("kl-f8 decode to 512", decoder, 1),
];

/// Of one product on one GPU: its tile, over how many blocks a sum is split, and how much of the multiprocessors' time it fills.
struct Cell {
    tile: String,
    parts: u32,
    blocks: usize,
    fill: f64,
    flops: f64,
}

/// A product's name, with its samples of an image, its share of the network's work, and its cells by batch.
struct Row {
    name: String,
    samples: usize,
    share: f64,
    cells: Vec<Cell>,
}

fn gpu((multiprocessors, like): (u32, &str)) -> Gpu {
    let like = Gpu::published().into_iter().find(|gpu| gpu.name == like);
    Gpu {
        multiprocessors,
        ..like.unwrap()
    }
}

/// The multiprocessor with the most blocks is the last to end; the others have done their blocks of as many.
fn fill(blocks: usize, gpu: &Gpu) -> f64 {
    let multiprocessors = gpu.multiprocessors as usize;
    blocks as f64 / (blocks.div_ceil(multiprocessors) * multiprocessors) as f64
}

/// The products of a network's body, each kind once, in order of appearance.
fn rows(network: Network, gpu: &Gpu) -> Vec<Row> {
    let mut rows: Vec<Row> = vec![];
    for (column, images) in BATCHES.into_iter().enumerate() {
        let chosen = Chosen::new(network(images), &gpu.target(Precision::F16));
        let launches = predict(&chosen.plan, &chosen.kernels, gpu, Precision::F16);
        let body = launches
            .iter()
            .filter(|launch| launch.node >= chosen.plan.prologue);
        let products: Vec<&Predicted> = body.filter(|launch| launch.flops > 0.0).collect();
        let all: f64 = products.iter().map(|launch| launch.flops).sum();
        for launch in products {
            let name = name(&chosen, launch, images);
            let index = rows
                .iter()
                .position(|row| row.name == name)
                .unwrap_or(rows.len());
            if index == rows.len() {
                rows.push(Row {
                    name,
                    samples: chosen.plan.graph.nodes()[launch.node].shape.batch() / images,
                    share: 0.0,
                    cells: vec![],
                });
            }
            let row = &mut rows[index];
            if column == 0 {
                row.share += launch.flops / all;
            }
            if row.cells.len() == column {
                row.cells.push(cell(&chosen, launch, gpu));
            }
        }
    }
    rows.retain(|row| row.share >= SHARE);
    rows
}

/// A product by its samples, the sizes of one's result, and its weight or keys.
fn name(chosen: &Chosen, launch: &Predicted, images: usize) -> String {
    let graph = &chosen.plan.graph;
    let node = &graph.nodes()[launch.node];
    let samples = node.shape.batch() / images;
    let factor = match (node.op.operator().params().first(), node.inputs.get(1)) {
        (Some(weight), _) => format!("weight {}", weight.shape),
        (None, Some(&keys)) => format!("keys {:?}", &graph.shape(keys).dims()[1..]),
        (None, None) => "itself".to_owned(),
    };
    format!(
        "{} {samples} x {:?}, {factor}",
        node.op.name(),
        &node.shape.dims()[1..]
    )
}

fn cell(chosen: &Chosen, launch: &Predicted, gpu: &Gpu) -> Cell {
    let kernel = &chosen.kernels[launch.node];
    let entry = kernel.launches.iter().find(|l| l.entry == launch.entry);
    let splits = !kernel.recipes.is_empty();
    let tile = launch.entry.split('_').find(|part| part.contains('x'));
    Cell {
        tile: tile.unwrap_or("-").to_owned(),
        parts: entry.filter(|_| splits).map_or(1, |entry| entry.grid[1]),
        blocks: launch.blocks,
        fill: fill(launch.blocks, gpu),
        flops: launch.flops,
    }
}

fn table() -> String {
    let mut text = String::from(
        "Products that do 1 % of a network's work or more: tile, / parts of a sum, x blocks, = how much of the multiprocessors' time they fill,\n\
         in a batch of 1, 2, 4, 8 and 16 images. Choices alone: nothing here was measured.\n",
    );
    for (name, network, _) in NETWORKS {
        for size in SIZES {
            let gpu = gpu(size);
            writeln!(
                text,
                "\n{name}, {} multiprocessors, sm_{}",
                size.0, gpu.compute_capability
            )
            .unwrap();
            for row in rows(network, &gpu) {
                let cell = |c: &Cell| {
                    format!(
                        " {:>22}",
                        format!("{}/{} x{} ={:.2}", c.tile, c.parts, c.blocks, c.fill)
                    )
                };
                let cells: String = row.cells.iter().map(cell).collect();
                writeln!(text, "{:4.1} %{cells}  {}", 100.0 * row.share, row.name).unwrap();
            }
        }
    }
    text
}

#[test]
fn waves_are_those_that_were_reviewed() {
    is_reviewed(FILE, &table());
}

#[test]
fn products_that_matter_fill_every_gpu() {
    for (name, network, samples) in NETWORKS {
        for size in SIZES {
            for row in rows(network, &gpu(size)) {
                for (column, (cell, images)) in row.cells.iter().zip(BATCHES).enumerate() {
                    let shared = usize::from(row.samples < samples);
                    let Some(column) = column.checked_sub(shared) else {
                        continue;
                    };
                    let least = LEAST_FILL[column];
                    let fill = cell.fill;
                    assert!(
                        fill >= least || cell.flops < SMALL,
                        "{name}, {} of {images} images on {size:?}: {fill:.2}",
                        row.name
                    );
                }
            }
        }
    }
}

#[test]
#[ignore = "writes the reviewed file anew"]
fn write() {
    std::fs::write(data(FILE), table()).unwrap();
}
