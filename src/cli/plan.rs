//! `ldm plan`: what a run takes of memory, from the programs that would run and before any weight is read; and what it should take of time on a GPU,
//! by a model that was never compared with one. `--device emulator --target H200` asks it for a card that is elsewhere.

use super::args::ModelArgs;
use super::console::Console;
use super::engine::{Engine, EngineArgs};
use super::settings::Settings;
use super::stop::Stop;
use super::{device, model, request};
use clap::Args;
use latent_diffusion::Result;
use latent_diffusion::backend::Expected;
use latent_diffusion::pipeline::Stage;
use serde_json::{Value, json};

#[derive(Args)]
pub struct PlanArgs {
    #[command(flatten)]
    pub settings: Settings,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// Says what the networks of a run take.
///
/// # Errors
/// If the model or the device cannot be used, the size does not fit the model, or a network does not fit the memory even in bands.
pub fn run(args: &PlanArgs, console: &Console, stop: &Stop) -> Result<()> {
    let model = model::open(&args.model, console)?;
    let request = request::outline(&args.settings, &model, console)?;
    let device = device::open(&args.engine, console, stop).map_err(device::elsewhere)?;
    let name = device.name();
    let engine = Engine::new(device, model).with_tiling(args.engine.vae_tiling);
    let stages = engine.forecast(&request)?;
    let peak = stages.iter().map(Stage::peak_bytes).max().unwrap_or(0);
    if args.json {
        let answer = json!({
            "model": engine.model().name,
            "device": name,
            "size": [request.width, request.height],
            "batch_size": request.batch,
            "stages": stages.iter().map(as_json).collect::<Vec<_>>(),
            "peak_bytes": peak,
        });
        return console.result(&answer.to_string());
    }
    console.result(&format!(
        "{}, {}x{}, batch {}, on {name}",
        engine.model().name,
        request.width,
        request.height,
        request.batch
    ))?;
    print(&stages, peak, console)
}

/// The stages as a table, and below it what they should take of time.
fn print(stages: &[Stage], peak: usize, console: &Console) -> Result<()> {
    console.result(&format!(
        "{:<13} {:>11} {:>11} {:>11}",
        "stage", "weights MiB", "values MiB", "peak MiB"
    ))?;
    for stage in stages {
        let bands = stage.bands.map(|bands| {
            format!(
                "  in up to {} bands, instead of {} MiB; {} MiB kept on the host",
                bands.bands,
                mib(bands.whole_bytes),
                mib(bands.host_bytes)
            )
        });
        let unguided = stage.unguided.map(|unguided| {
            format!(
                "  of which {} MiB of values for {} of {} steps without guidance",
                mib(unguided.arena_bytes),
                unguided.steps,
                unguided.of
            )
        });
        console.result(&format!(
            "{:<13} {:>11} {:>11} {:>11}{}",
            stage.name,
            mib(stage.weight_bytes),
            mib(stage.arena_bytes),
            mib(stage.peak_bytes()),
            bands.or(unguided).unwrap_or_default()
        ))?;
    }
    console.result(&format!("{:<13} {:>35}", "peak", mib(peak)))?;
    let expected = stages.iter().flat_map(|stage| {
        let unguided = stage.unguided.and_then(|unguided| unguided.expected);
        let named = [(stage.name, stage.expected), ("  unguided", unguided)];
        named.into_iter().filter_map(|(name, e)| Some((name, e?)))
    });
    for (index, (name, expected)) in expected.enumerate() {
        if index == 0 {
            console.result("predictions, by a model that was never compared with hardware")?;
        }
        console.result(&predicted(name, &expected))?;
    }
    Ok(())
}

/// What a network should take: of the UNet, a step.
fn predicted(name: &str, expected: &Expected) -> String {
    format!(
        "{name:<13} {:>8.3} ms, {:.1} a second, {:.0} % of what the GPU could do, {} launches",
        expected.seconds * 1e3,
        1.0 / expected.seconds,
        100.0 * expected.floor_seconds / expected.seconds,
        expected.launches
    )
}

fn as_json(stage: &Stage) -> Value {
    let bands = stage.bands.map(|bands| {
        json!({
            "most": bands.bands,
            "whole_bytes": bands.whole_bytes,
            "host_bytes": bands.host_bytes,
        })
    });
    let predicted = |expected: Option<Expected>| {
        expected.map(|expected| {
            json!({
                "seconds": expected.seconds,
                "floor_seconds": expected.floor_seconds,
                "launches": expected.launches,
            })
        })
    };
    let unguided = stage.unguided.map(|unguided| {
        json!({
            "steps": unguided.steps,
            "of": unguided.of,
            "arena_bytes": unguided.arena_bytes,
            "predicted": predicted(unguided.expected),
        })
    });
    json!({
        "stage": stage.name,
        "weight_bytes": stage.weight_bytes,
        "arena_bytes": stage.arena_bytes,
        "peak_bytes": stage.peak_bytes(),
        "bands": bands,
        "predicted": predicted(stage.expected),
        "unguided": unguided,
    })
}

/// Bytes in MiB.
fn mib(bytes: usize) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}
