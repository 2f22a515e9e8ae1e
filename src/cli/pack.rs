//! `ldm pack`: writes a model's weights as a GPU's kernels read them, beside the model, where later starts find them.
//!
//! It takes no GPU: what kernels read follows from shapes, so `--device emulator --target H200` packs for a card that is elsewhere.

use super::args::ModelArgs;
use super::console::Console;
use super::device::{self, Device};
use super::engine::EngineArgs;
use super::model;
use super::networks::{Chosen, Part};
use super::stop::Stop;
use clap::Args;
use latent_diffusion::session::Program;
use latent_diffusion::{Error, Result};
use std::sync::atomic::Ordering;

#[derive(Args)]
pub struct PackArgs {
    #[command(flatten)]
    pub chosen: Chosen,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// Packs the weights of the networks that the arguments name.
///
/// # Errors
/// If the model lies in no file or cannot be used, the device is the CPU, a file cannot be written, or the user asked to stop.
pub fn run(args: &PackArgs, console: &Console, stop: &Stop) -> Result<()> {
    let model = model::open(&args.model, console)?;
    let Device::Cuda(device) =
        device::open(&args.engine, console, stop).map_err(device::elsewhere)?
    else {
        return Err(Error::request(
            "the CPU reads weights as they are stored: --device cuda packs them for a GPU",
        ));
    };
    let mut networks = vec![];
    for part in args.chosen.parts(&model) {
        networks.extend(args.chosen.part(&model, part)?);
    }
    let programs = networks.into_iter().map(|(name, graph, weights)| {
        weights.check(graph.tensors())?;
        console.detail(&format!("planning {name}"));
        Ok((Program::new(&*device, graph)?, weights))
    });
    let programs = programs.collect::<Result<Vec<_>>>()?;
    let loads: Vec<_> = (programs.iter())
        .map(|(program, weights)| (program.loads(), *weights))
        .collect();
    let asked = stop.flag();
    console.begin("packing");
    let mut progress = |done: usize, total: usize| {
        // A bar counts in numbers that a person reads.
        console.progress(done >> 20, total >> 20);
        match asked.load(Ordering::Relaxed) {
            true => Err(Error::Interrupted),
            false => Ok(()),
        }
    };
    let outcome = device.pack_beside(&loads, &mut progress);
    console.end();
    outcome?
        .iter()
        .try_for_each(|path| console.result(&path.display().to_string()))
}

impl Chosen {
    /// What a run needs of what was chosen: a step and not a single evaluation where all was.
    fn parts(&self, model: &latent_diffusion::pipeline::Model) -> Vec<Part> {
        if self.what != Part::All {
            return vec![self.what];
        }
        let first_stage = model.autoencoder().is_ok();
        [
            (Part::Text, model.text().is_ok()),
            (Part::Step, model.unet().is_ok()),
            (Part::Decode, first_stage),
            (Part::Encode, first_stage),
        ]
        .into_iter()
        .filter_map(|(part, there)| there.then_some(part))
        .collect()
    }
}
