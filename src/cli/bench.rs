//! `ldm bench`: how long each operation of a network takes, beside what this machine could do at best.
//!
//! Work is counted from shapes ([`Cost`]), time is the least of several runs: whatever else the machine does only ever adds. Both ceilings are
//! measured here and now. A GPU's times are its own clock's: of a replayed recording for a whole run, and of one launch after another, its operands in
//! the cache, for an operation.
//! More than 100 % of the roofline means that operands came from a cache, and not from memory.

mod startup;
mod table;
mod trace;

use super::args::ModelArgs;
use super::console::Console;
use super::device::{self, Device};
use super::engine::EngineArgs;
use super::model;
use super::stop::Stop;
use clap::{Args, ValueEnum};
use latent_diffusion::backend::Backend;
use latent_diffusion::cpu::Peak;
use latent_diffusion::models::{autoencoder, text, unet};
use latent_diffusion::ops::Cost;
use latent_diffusion::pipeline::{self, Model, StepSizes};
use latent_diffusion::rng::Noise;
use latent_diffusion::session::Timing;
use latent_diffusion::{Error, Graph, Result, Session, Shape, Tensor, Weights};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use trace::Trace;

#[derive(Args)]
pub struct BenchArgs {
    /// Which network to time
    #[arg(long, value_enum, default_value = "all")]
    pub what: Part,
    /// Size of the image in pixels, 512 or 512x768 [default: the model's]
    #[arg(long, value_name = "WxH")]
    pub size: Option<String>,
    /// Images per run
    #[arg(long, alias = "batch-size", default_value_t = 1, value_name = "N")]
    pub batch: usize,
    /// Runs; the fastest counts
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub repeat: usize,
    /// How many of the slowest nodes are listed
    #[arg(long, default_value_t = 10, value_name = "N")]
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

/// A part of a model that can be timed.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// One evaluation of the denoising network
    Unet,
    /// A sampler's step with guidance: the network asked twice for each image, and the update
    Step,
    /// From a latent to an image
    Decode,
    /// From an image to a latent
    Encode,
    /// The text encoder
    Text,
    /// Each network
    All,
}

/// The largest batch that is attempted, as when sampling.
const MAX_BATCH: usize = 1 << 12;

/// Steps of the sampling run that a step is timed of.
const STEPS: usize = 20;

/// Times the networks that the arguments name.
///
/// # Errors
/// If the model has no such network, the size does not fit it, or the user asked to stop.
pub fn run(args: &BenchArgs, console: &Console, stop: &Stop) -> Result<()> {
    if args.repeat == 0 || args.batch == 0 || args.batch > MAX_BATCH {
        return Err(Error::request(format!(
            "--repeat is at least 1, and --batch 1 to {MAX_BATCH}"
        )));
    }
    if args.startup {
        return startup::run(args, console, stop);
    }
    let model = model::open(&args.model, console)?;
    let networks = networks(&model, args, args.what)?;
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
            "batch": args.batch,
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

/// The inputs of a graph.
fn inputs(graph: &Graph) -> Vec<(String, Shape)> {
    let input = |(name, value): (&str, _)| (name.to_owned(), graph.shape(value));
    graph.inputs().map(input).collect()
}

/// Sets every input to what takes the time that real ones take.
fn fill<B: Backend>(session: &mut Session<B>, inputs: Vec<(String, Shape)>) -> Result<()> {
    for (name, shape) in inputs {
        let tensor = match name.as_str() {
            // Token ids, positions and labels index tables; a timestep is any number.
            "input_ids" | "pooled_token" | "class_labels" | "timestep" | "timesteps" | "step" => {
                Tensor::zeros(shape)
            }
            // A step's state stays as small as it is.
            name if name == "guidance" || name.starts_with("coefficients") => {
                Tensor::full(shape, 0.25)
            }
            _ => Tensor::new(shape, Noise::cpu(0).normal(shape.len()))?,
        };
        session.set(&name, &tensor)?;
    }
    Ok(())
}

fn measure<B: Backend>(
    backend: &Arc<B>,
    graph: Graph,
    weights: &Weights,
    weight_bytes: usize,
    repeat: usize,
) -> Result<Measured> {
    let inputs = inputs(&graph);
    let start = Instant::now();
    let mut session = Session::new(backend, graph, weights)?;
    let setup = start.elapsed();
    fill(&mut session, inputs)?;
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

/// A network to time: its name with the sizes, its graph, its weights.
type Network<'a> = (String, Graph, &'a Weights);

/// The networks of `what`.
fn networks<'a>(model: &'a Model, args: &BenchArgs, what: Part) -> Result<Vec<Network<'a>>> {
    let [width, height] = size(model, args)?;
    let batch = args.batch;
    let wanted = |part: Part, present: bool| what == part || (what == Part::All && present);
    let mut found = vec![];
    if wanted(Part::Text, model.text().is_ok()) {
        let (config, weights) = model.text()?;
        let graph = text::build(config, batch, config.positions())?;
        found.push((
            format!("text, {batch} prompts of {} tokens", config.positions()),
            graph,
            weights,
        ));
    }
    let factor = model
        .config
        .autoencoder
        .as_ref()
        .map_or(1, |config| config.factor());
    let latent = [height / factor, width / factor];
    let at = format!(
        "batch {batch}, {width}x{height} pixels, {}x{} latents",
        latent[1], latent[0]
    );
    if wanted(Part::Unet, model.unet().is_ok()) {
        let (config, weights) = model.unet()?;
        let tokens = model.config.context_tokens();
        found.push((
            format!("unet, {at}"),
            unet::build(config, batch, latent, tokens)?,
            weights,
        ));
    }
    if what == Part::Step {
        let (config, weights) = model.unet()?;
        let tokens = model.config.context_tokens();
        let guided = config.context_dim.is_some() || config.num_classes.is_some();
        let sizes = StepSizes {
            batch,
            latent: [latent[0], latent[1], config.out_channels],
            context: config
                .context_dim
                .map(|features| [2 * batch, tokens, features].into()),
            concat: config.concat_channels(),
            class_labels: config.num_classes.is_some(),
            guided,
            kept: false,
            codebook: None,
            rows: STEPS,
            memory: 0,
        };
        found.push((
            match guided {
                true => format!("step with guidance, {at}"),
                false => format!("step, {at}"),
            },
            pipeline::step(config, &sizes)?,
            weights,
        ));
    }
    if wanted(Part::Decode, model.autoencoder().is_ok()) {
        let (config, weights) = model.autoencoder()?;
        found.push((
            format!("decode, {at}"),
            autoencoder::build_decoder(config, batch, latent)?,
            weights,
        ));
    }
    if wanted(Part::Encode, model.autoencoder().is_ok()) {
        let (config, weights) = model.autoencoder()?;
        let graph = autoencoder::build_encoder(config, batch, [height, width])?;
        found.push((format!("encode, {at}"), graph, weights));
    }
    Ok(found)
}

/// Width and height in pixels.
fn size(model: &Model, args: &BenchArgs) -> Result<[usize; 2]> {
    const LARGEST: usize = 1 << 13;
    let Some(text) = &args.size else {
        return Ok(model.native_size().unwrap_or([512, 512]));
    };
    let (width, height) = text.split_once('x').unwrap_or((text, text));
    let sides = width.parse().ok().zip(height.parse().ok());
    let (width, height) =
        sides.ok_or_else(|| Error::request(format!("size `{text}`: expected 512 or 512x768")))?;
    let multiple = model.pixel_multiple().unwrap_or(1);
    for side in [width, height] {
        if side == 0 || side % multiple != 0 || side > LARGEST {
            return Err(Error::request(format!(
                "size `{text}`: this model needs sides that are multiples of {multiple}, up to {LARGEST}"
            )));
        }
    }
    Ok([width, height])
}
