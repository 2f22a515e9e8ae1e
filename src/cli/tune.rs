//! `ldm tune`: times every tile of every product and attention of a model on this GPU, and writes down which was the quickest.
//!
//! Results do not change by a bit: all tiles add in the same order, and over how many blocks a sum is split is not asked here. The emulator has no
//! times; there a tile takes what the model of time predicts for the GPU it stands for, so that the table is the same everywhere.

use super::args::ModelArgs;
use super::console::Console;
use super::device::{self, Device};
use super::engine::EngineArgs;
use super::model;
use super::networks::{Chosen, Network, inputs};
use super::number::count;
use super::stop::Stop;
use clap::Args;
use latent_diffusion::cuda::{Cuda, TileSize, Tuned, predict, shape_name, tile_sizes};
use latent_diffusion::graph::Node;
use latent_diffusion::plan::Plan;
use latent_diffusion::session::Program;
use latent_diffusion::{Error, Result, Session};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

#[derive(Args)]
pub struct TuneArgs {
    #[command(flatten)]
    pub chosen: Chosen,
    /// Runs of each tile; the fastest counts
    #[arg(long, default_value_t = 3, value_name = "N", allow_negative_numbers = true, value_parser = count)]
    pub repeat: usize,
    /// File to write [default: where every command looks for it]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// What each tile takes, by shape; the model's own choice first.
type Times = BTreeMap<String, Vec<(Option<TileSize>, Duration)>>;

/// A tile must save a fiftieth of the time: less is noise.
const WORTH: f64 = 0.98;

/// Measures, and writes the table.
///
/// # Errors
/// If there is no GPU to tune for, a network fails, or the file cannot be written.
pub fn run(args: &TuneArgs, console: &Console, stop: &Stop) -> Result<()> {
    if args.repeat == 0 {
        return Err(Error::request("--repeat is at least 1"));
    }
    let path = args.output.clone().or_else(device::tuned_path);
    let path = path
        .ok_or_else(|| Error::request("--output: nobody has a home folder here, so name a file"))?;
    let model = model::open(&args.model, console)?;
    let networks = args.chosen.networks(&model)?;
    let Device::Cuda(device) = device::open(&args.engine, console, stop)? else {
        return Err(Error::request(
            "the CPU has no tiles to choose from: --device cuda tunes for a GPU",
        ));
    };
    let mut times = Times::new();
    let choices = std::iter::once(None).chain(tile_sizes().into_iter().map(Some));
    for tile in choices {
        let device = Arc::new(device.preferring(tile));
        for network in &networks {
            console.detail(&format!("{}: {}", network.0, name(tile)));
            for (shape, time) in time(&device, network, args.repeat)? {
                times.entry(shape).or_default().push((tile, time));
            }
        }
    }
    let table = quickest(&device.described(), &times);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|error| Error::output(folder, error.to_string()))?;
    }
    fs::write(&path, table.to_string()).map_err(|error| Error::output(&path, error.to_string()))?;
    console.note(&format!(
        "of {} shapes, {} have a quicker tile than the one that is predicted to be",
        times.len(),
        table.len()
    ));
    console.result(&path.display().to_string())
}

fn name(tile: Option<TileSize>) -> String {
    tile.map_or("the predicted tiles".to_owned(), |[rows, columns]| {
        format!("{rows}x{columns}")
    })
}

/// For each shape the quickest tile, if it is worth more than the predicted one.
fn quickest(device: &str, times: &Times) -> Tuned {
    let mut table = Tuned::new(device);
    for (shape, times) in times {
        let predicted = times.iter().find(|(tile, _)| tile.is_none());
        let least = times.iter().min_by_key(|(_, time)| *time);
        if let (Some((_, usual)), Some((Some(tile), time))) = (predicted, least)
            && time.as_secs_f64() < WORTH * usual.as_secs_f64()
        {
            table.set(shape.clone(), *tile);
        }
    }
    table
}

/// What the products of a network take, by shape: the least of all nodes of that shape.
fn time(
    device: &Arc<Cuda>,
    (_, graph, weights): &Network,
    repeat: usize,
) -> Result<BTreeMap<String, Duration>> {
    let mut least: BTreeMap<String, Duration> = BTreeMap::new();
    let mut record = |shape: Option<String>, time: Duration| {
        if let Some(shape) = shape {
            let known = least.entry(shape).or_insert(time);
            *known = time.min(*known);
        }
    };
    if device.hardware().is_none() {
        let program = Program::new(&**device, graph.clone())?;
        let gpu = device.modelled();
        let mut nodes = vec![0.0; program.plan().graph.nodes().len()];
        for launch in predict(program.plan(), program.kernels(), &gpu, device.target()) {
            nodes[launch.node] += launch.seconds;
        }
        for (node, seconds) in program.plan().graph.nodes().iter().zip(nodes) {
            record(
                shape(program.plan(), node),
                Duration::from_secs_f64(seconds),
            );
        }
        return Ok(least);
    }
    let inputs = inputs(graph)?;
    let mut session = Session::new(device, graph.clone(), weights)?;
    for (name, tensor) in inputs {
        session.set(&name, &tensor)?;
    }
    session.run()?;
    for _ in 0..repeat {
        let timings = session.profile()?;
        // Operations of one name have one shape, or none that has tiles.
        let plan = session.plan();
        let shapes: BTreeMap<&str, Option<String>> = plan
            .graph
            .nodes()
            .iter()
            .map(|node| (node.name.as_str(), shape(plan, node)))
            .collect();
        for timing in timings {
            record(
                shapes.get(timing.name.as_str()).cloned().flatten(),
                timing.time,
            );
        }
    }
    Ok(least)
}

fn shape(plan: &Plan, node: &Node) -> Option<String> {
    shape_name(&node.op, &plan.graph.operands(node), node.shape)
}
