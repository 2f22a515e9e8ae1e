//! `ldm convert`: a model as one folder of what sampling needs.

use super::args::{ConvertArgs, ModelArgs, Stored};
use super::console::Console;
use super::model;
use super::stop::Stop;
use latent_diffusion::weights::Dtype;
use latent_diffusion::{Error, Result};
use std::sync::atomic::Ordering;

/// Converts what the arguments name.
///
/// # Errors
/// As [`Model::convert`](latent_diffusion::pipeline::Model::convert); or if the user asked to stop, and nothing is left then.
pub fn run(args: &ConvertArgs, console: &Console, stop: &Stop) -> Result<()> {
    let model = ModelArgs {
        model: args.path.clone().or(args.model.model.clone()),
        ..args.model.clone()
    };
    let model = model::open(&model, console)?;
    let dtype = match args.dtype {
        Stored::F16 => Dtype::F16,
        Stored::F32 => Dtype::F32,
    };
    let asked = stop.flag();
    console.begin("converting");
    let mut progress = |done: usize, total: usize| {
        console.progress(done, total);
        match asked.load(Ordering::Relaxed) {
            true => Err(Error::Interrupted),
            false => Ok(()),
        }
    };
    let outcome = model.convert(&args.output, dtype, &mut progress);
    console.end();
    outcome?;
    console.result(&args.output.display().to_string())
}
