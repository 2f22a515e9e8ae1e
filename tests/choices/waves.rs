//! How full GPUs of seven sizes are with the products that matter, held to a reviewed table: a wave that is nearly empty costs as much as a full
//! one, and shows nowhere else before a GPU is there.

use crate::{Chosen, data, decoder, is_reviewed, sd1_step, txt2img_step};
use latent_diffusion::Graph;
use latent_diffusion::cuda::{Gpu, Precision, Predicted, predict};
use std::fmt::Write;

const FILE: &str = "waves.txt";

/// Images in a batch.
const BATCHES: [usize; 6] = [1, 2, 4, 8, 16, 32];

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

/// What each of them fills, of the multiprocessors' time, unless the table names it.
const FILL: f64 = 0.8;

/// Floating-point operations of a product that is over in the time of a launch: more blocks would not end it sooner.
const SMALL: f64 = 1e9;

/// Where products that are not small fill less: the network and its multiprocessors, how many cells of the table at most, and the least of them. Over
/// how many parts a sum is split is one image's choice, and tiles that fill more take longer by the model, as they load more for what they multiply.
const BELOW: [(&str, u32, usize, f64); 11] = [
    ("sd1 512 step", 108, 3, 0.74),
    ("sd1 512 step", 84, 2, 0.76),
    ("sd1 512 step", 82, 2, 0.78),
    ("sd1 512 step", 76, 6, 0.78),
    ("txt2img 256 step", 132, 4, 0.48),
    ("txt2img 256 step", 108, 6, 0.55),
    ("txt2img 256 step", 84, 2, 0.71),
    ("txt2img 256 step", 82, 2, 0.73),
    ("txt2img 256 step", 76, 27, 0.78),
    ("kl-f8 decode to 512", 84, 1, 0.76),
    ("kl-f8 decode to 512", 82, 1, 0.78),
];

/// A network by its images.
type Network = fn(usize) -> Graph;

/// With how many of the batches it is chosen for: values of 32 images of a decoder are more than a kernel counts to, and are never asked for.
const NETWORKS: [(&str, Network, usize); 3] = [
    ("sd1 512 step", sd1_step, BATCHES.len()),
    ("txt2img 256 step", txt2img_step, BATCHES.len()),
    ("kl-f8 decode to 512", decoder, BATCHES.len() - 1),
];

/// Of one product on one GPU: its tile, over how many blocks a sum is split, and how much of the multiprocessors' time it fills.
struct Cell {
    tile: String,
    parts: u32,
    blocks: usize,
    fill: f64,
    flops: f64,
}

impl Cell {
    /// Why it fills less than it should: by the legend of the table, or by nothing.
    fn reason(&self, multiprocessors: u32) -> &'static str {
        match self.fill < FILL {
            true if self.flops < SMALL => "s",
            true if self.blocks < multiprocessors as usize => "w",
            true => "l",
            false => " ",
        }
    }
}

/// A product's name, with its share of the network's work, and its cells by batch.
struct Row {
    name: String,
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
fn rows(network: Network, batches: usize, gpu: &Gpu) -> Vec<Row> {
    let mut rows: Vec<Row> = vec![];
    for (column, images) in BATCHES.into_iter().take(batches).enumerate() {
        let target = gpu.target(Precision::F16);
        let chosen = Chosen::new(network(images), &target);
        let launches = predict(&chosen.plan, &chosen.kernels, gpu, &target);
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
pub fn name(chosen: &Chosen, launch: &Predicted, images: usize) -> String {
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
         in a batch of 1, 2, 4, 8, 16 and 32 images. Choices alone: nothing here was measured. Where that is less than 0.80: (s) over in the time of\n\
         a launch; (w) one wave, and (l) a last wave, that is not full, where smaller tiles would take longer by the model of time.\n",
    );
    for (name, network, batches) in NETWORKS {
        for size in SIZES {
            let gpu = gpu(size);
            writeln!(
                text,
                "\n{name}, {} multiprocessors, sm_{}",
                size.0, gpu.compute_capability
            )
            .unwrap();
            for row in rows(network, batches, &gpu) {
                let cell = |c: &Cell| {
                    format!(
                        " {:>22}{}",
                        format!("{}/{} x{} ={:.2}", c.tile, c.parts, c.blocks, c.fill),
                        c.reason(size.0)
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
    for (name, network, batches) in NETWORKS {
        for size in SIZES {
            let rows = rows(network, batches, &gpu(size));
            let cells = rows.iter().flat_map(|row| &row.cells);
            let below: Vec<f64> = cells
                .filter(|cell| cell.fill < FILL && cell.flops >= SMALL)
                .map(|cell| cell.fill)
                .collect();
            let named = BELOW.iter().find(|row| (row.0, row.1) == (name, size.0));
            let (most, least) = named.map_or((0, FILL), |&(_, _, most, least)| (most, least));
            assert!(
                below.len() <= most && below.iter().all(|&fill| fill >= least),
                "{name} on {size:?}: {below:.2?}"
            );
        }
    }
}

#[test]
#[ignore = "writes the reviewed file anew"]
fn write() {
    std::fs::write(data(FILE), table()).unwrap();
}
