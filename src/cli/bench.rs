//! `ldm bench`: how long each operation of a network takes, beside what this machine could do at best.
//!
//! Work is counted from shapes ([`Cost`]), time is the least of several runs: whatever else the machine does only ever adds. Both ceilings are
//! measured here and now. A GPU's times are its own clock's: of a replayed recording for a whole run, and of one launch after another, its operands
//! in the cache, for an operation. More than 100 % of the roofline means that operands came from a cache, and not from memory.

mod startup;
mod table;
mod trace;

use super::args::ModelArgs;
use super::console::Console;
use super::device::{self, Device};
use super::engine::EngineArgs;
use super::model;
use super::networks::{Chosen, inputs};
use super::number::count;
use super::stop::Stop;
use clap::Args;
use latent_diffusion::backend::Backend;
use latent_diffusion::cpu::Peak;
use latent_diffusion::ops::Cost;
use latent_diffusion::session::Timing;
use latent_diffusion::{Error, Graph, Result, Session, Weights};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use trace::Trace;

#[derive(Args)]
pub struct BenchArgs {
    #[command(flatten)]
    pub chosen: Chosen,
    /// Runs; the fastest counts
    #[arg(long, default_value_t = 3, value_name = "N", allow_negative_numbers = true, value_parser = count)]
    pub repeat: usize,
    /// How many of the slowest nodes are listed
    #[arg(long, default_value_t = 10, value_name = "N", allow_negative_numbers = true, value_parser = count)]
    pub top: usize,
    /// Write a trace of every operation and kernel, as chrome://tracing and Perfetto draw it
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Time what happens before the first step of a run is done, each thing for the first time
    #[arg(long)]
    pub startup: bool,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// Times the networks that the arguments name.
///
/// # Errors
/// If the model has no such network, the size does not fit it, or the user asked to stop.
pub fn run(args: &BenchArgs, console: &Console, stop: &Stop) -> Result<()> {
    if args.repeat == 0 {
        return Err(Error::request("--repeat is at least 1"));
    }
    if args.startup {
        return startup::run(args, console, stop);
    }
    let model = model::open(&args.model, console)?;
    let networks = args.chosen.networks(&model)?;
    let mut trace = args.trace.as_deref().map(Trace::create).transpose()?;
    let device = device::open(&args.engine, console, stop)?;
    let peak = device.measure_peak()?;
    let mut reports = vec![];
    for (name, graph, weights) in networks {
        console.detail(&format!("timing {name}"));
        let measured = match &device {
            Device::Cpu(device) => {
                let stored = stored_bytes(&graph, weights)?;
                measure(device, graph, weights, stored, args.repeat)?
            }
            Device::Cuda(device) => {
                measure(device, graph, weights, device.element_bytes(), args.repeat)?
            }
        };
        if let Some(trace) = &mut trace {
            trace.add(&name, &measured, peak);
        }
        match args.json {
            true => reports.push(table::as_json(&name, &measured, peak)),
            false => table::print(&name, &measured, peak, args.top, console)?,
        }
    }
    trace.map_or(Ok(()), Trace::write)?;
    if args.json {
        let answer = json!({
            "model": model.name,
            "device": device.name(),
            "batch": args.chosen.batch,
            "peak_gflops": peak.map(|peak| peak.flops / 1e9),
            "peak_gbs": peak.map(|peak| peak.bytes / 1e9),
            "networks": reports,
        });
        console.result(&answer.to_string())?;
    }
    Ok(())
}

/// What was timed.
struct Measured {
    /// The fastest whole run.
    total: Duration,
    /// The fastest run of each operation, those included that a run leaves out because they are done once.
    steps: Vec<Timing>,
    /// The work of a whole run.
    cost: Cost,
    /// Time to plan and load.
    setup: Duration,
    /// Bytes of activations.
    arena_bytes: usize,
    /// Bytes of an element of activations and of weights, as the device keeps them.
    element_bytes: [usize; 2],
}

impl Measured {
    /// Bytes that must cross the memory bus.
    fn bytes(&self, cost: Cost) -> u64 {
        let [activation, weight] = self.element_bytes;
        cost.bytes(activation, weight)
    }

    /// Which share of `seconds` the work would take at best, by the line of the roofline that bounds it.
    fn share(&self, peak: Peak, cost: Cost, seconds: f64) -> f64 {
        let compute = cost.flops as f64 / peak.flops;
        let memory = self.bytes(cost) as f64 / peak.bytes;
        compute.max(memory) / seconds
    }
}

/// Bytes of an element of the network's weights in its file.
fn stored_bytes(graph: &Graph, weights: &Weights) -> Result<usize> {
    match graph.params().next() {
        Some(param) => Ok(weights.get(&param.name, &param.shape)?.dtype().bytes()),
        None => Ok(0),
    }
}

fn measure<B: Backend>(
    backend: &Arc<B>,
    graph: Graph,
    weights: &Weights,
    weight_bytes: usize,
    repeat: usize,
) -> Result<Measured> {
    let inputs = inputs(&graph)?;
    let start = Instant::now();
    let mut session = Session::new(backend, graph, weights)?;
    let setup = start.elapsed();
    for (name, tensor) in inputs {
        session.set(&name, &tensor)?;
    }
    // The first run brings weights into memory.
    session.run()?;
    let mut total = Duration::MAX;
    for _ in 0..repeat {
        total = total.min(session.time()?);
    }
    let mut steps = session.profile()?;
    for _ in 1..repeat {
        for (best, again) in steps.iter_mut().zip(session.profile()?) {
            if again.time < best.time {
                *best = again;
            }
        }
    }
    Ok(Measured {
        total,
        steps,
        cost: session.cost(),
        setup,
        arena_bytes: session.plan().arena_bytes,
        element_bytes: [backend.element_bytes(), weight_bytes],
    })
}
