//! `ldm encode` and `ldm decode`: between images and latents, without sampling.

use super::args::CodecArgs;
use super::console::Console;
use super::engine::Engine;
use super::output::{Names, Output};
use super::stop::Stop;
use super::{device, model};
use latent_diffusion::Result;
use latent_diffusion::image::{encode_latent, encode_png, read_image, read_latent};
use latent_diffusion::pipeline::Event;
use std::path::Path;

/// Encodes each image to the mean of its latent's distribution, at the diffusion model's scale.
///
/// # Errors
/// If an image cannot be read, its sides do not fit the model, or the latent cannot be written.
pub fn encode(args: &CodecArgs, console: &Console, stop: &Stop) -> Result<()> {
    each(
        args,
        "safetensors",
        console,
        stop,
        |engine, path, report| encode_latent(&engine.encode(&read_image(path)?, report)?),
    )
}

/// Decodes each latent to an image.
///
/// # Errors
/// If a latent cannot be read or does not fit the model, or the image cannot be written.
pub fn decode(args: &CodecArgs, console: &Console, stop: &Stop) -> Result<()> {
    each(args, "png", console, stop, |engine, path, report| {
        encode_png(&engine.decode(&read_latent(path)?, report)?, &[])
    })
}

/// Turns each input into the bytes of an output of the same name.
fn each(
    args: &CodecArgs,
    extension: &str,
    console: &Console,
    stop: &Stop,
    convert: impl Fn(&Engine, &Path, &mut dyn FnMut(Event)) -> Result<Vec<u8>>,
) -> Result<()> {
    let model = model::open(&args.model, console)?;
    let engine = Engine::new(device::open(&args.engine, console, stop)?, model);
    let mut report = |event| console.event(event);
    let mut output = Output::prepare(&args.place, extension)?;
    for path in args.inputs.iter().chain(&args.named) {
        let bytes = convert(&engine, path, &mut report)?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let names = Names {
            stem: &stem,
            index: None,
            seed: None,
            prompt: "",
            id: Some(&stem),
        };
        if let Some(written) = output.write(&bytes, &names, extension, console)? {
            console.result(&written.display().to_string())?;
        }
    }
    Ok(())
}
