//! `ldm bench --startup`: what a new process does until the first step of a sampling run is done, stage by stage.
//!
//! Everything happens for the first time here, as in `ldm sample`: files are mapped, the device wakes up, weights are brought to it while the next
//! network is planned, and kernels are loaded where they first run. Only what the system keeps of the files in memory is from before. The emulator's
//! own speed says nothing, so it runs no network, and what is printed is what a host does for the GPU that it stands for.

use super::super::console::Console;
use super::super::device::{self, Device};
use super::super::model;
use super::super::networks::{Network, Part, inputs};
use super::super::stop::Stop;
use super::BenchArgs;
use latent_diffusion::backend::Backend;
use latent_diffusion::session::Program;
use latent_diffusion::{Result, Session};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The stages so far.
struct Stages {
    start: Instant,
    stages: Vec<(String, Duration)>,
}

impl Stages {
    /// Ends a stage, which began where the last one ended.
    fn end(&mut self, name: impl Into<String>) {
        let before: Duration = self.stages.iter().map(|(_, time)| *time).sum();
        let time = self.start.elapsed().saturating_sub(before);
        self.stages.push((name.into(), time));
    }
}

/// Times the stages of a start, and prints them.
///
/// # Errors
/// As [`run`](super::run).
pub(super) fn run(args: &BenchArgs, console: &Console, stop: &Stop) -> Result<()> {
    let mut stages = Stages {
        start: Instant::now(),
        stages: vec![],
    };
    let model = model::open(&args.model, console)?;
    stages.end("open the model");
    let device = device::open(&args.engine, console, stop)?;
    stages.end("open the device");
    let parts = match (args.chosen.what, model.text().is_ok()) {
        (Part::All, true) => vec![Part::Text, Part::Step],
        (Part::All, false) => vec![Part::Step],
        (one, _) => vec![one],
    };
    for part in parts {
        for network in args.chosen.part(&model, part)? {
            match &device {
                Device::Cpu(device) => first_run(device, network, true, &mut stages)?,
                Device::Cuda(device) => {
                    let runs = device.hardware().is_some();
                    first_run(device, network, runs, &mut stages)?
                }
            }
        }
    }
    let total: Duration = stages.stages.iter().map(|(_, time)| *time).sum();
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    let loaded = match &device {
        Device::Cpu(_) => None,
        Device::Cuda(device) => Some(device.packed_bytes()),
    };
    if args.json {
        let stage =
            |(name, time): &(String, Duration)| json!({ "stage": name, "ms": milliseconds(*time) });
        let answer = json!({
            "model": model.name,
            "device": device.name(),
            "stages": stages.stages.iter().map(stage).collect::<Vec<_>>(),
            "ms": milliseconds(total),
            "packed_bytes": loaded.map(|[packed, _]| packed),
            "weight_bytes": loaded.map(|[_, all]| all),
        });
        return console.result(&answer.to_string());
    }
    console.result(&format!("from start to first step on {}", device.name()))?;
    let whole = [("together".to_owned(), total)];
    for (name, time) in stages.stages.iter().chain(&whole) {
        console.result(&format!("  {:>10.1} ms  {name}", milliseconds(*time)))?;
    }
    match loaded.map(|bytes| bytes.map(|bytes| bytes >> 20)) {
        Some([packed, all]) => console.result(&format!(
            "{packed} of {all} MiB of weights were read as `ldm pack` wrote them"
        )),
        None => Ok(()),
    }
}

/// Plans and loads a network, and `runs` it for the first time.
fn first_run<B: Backend>(
    device: &Arc<B>,
    network: Network,
    runs: bool,
    stages: &mut Stages,
) -> Result<()> {
    let (name, graph, weights) = network;
    let inputs = inputs(&graph)?;
    let program = Program::new(&**device, graph)?;
    stages.end(format!("plan {name}"));
    let mut session = Session::load(device, program, weights)?;
    stages.end("  load its weights");
    if !runs {
        return Ok(());
    }
    for (name, tensor) in inputs {
        session.set(&name, &tensor)?;
    }
    session.run()?;
    stages.end("  run it for the first time");
    Ok(())
}
