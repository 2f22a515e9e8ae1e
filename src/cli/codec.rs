//! `ldm encode` and `ldm decode`: between images and latents, without sampling.

use super::args::{CodecArgs, EncodeArgs};
use super::console::Console;
use super::engine::Engine;
use super::output::{Names, Output};
use super::stop::Stop;
use super::{device, model};
use latent_diffusion::image::{encode_latent, encode_png, read_image, read_latent};
use latent_diffusion::{Error, Result};
use std::path::{Path, PathBuf};

/// Encodes each image to its latent, or to the mean of its latent's distribution, at the diffusion model's scale.
///
/// # Errors
/// If an image cannot be read, its sides do not fit the model, or the latent cannot be written.
pub fn encode(args: &EncodeArgs, console: &Console, stop: &Stop) -> Result<()> {
    let mut codec = Codec::open(&args.codec, "safetensors", console, stop)?;
    for path in args.codec.files() {
        let image = read_image(path)?;
        let bytes = match args.indices {
            true => {
                let (latent, indices) = codec.engine.codes(&image)?;
                encode_latent(&latent, Some(&indices))
            }
            false => {
                let report = &mut |event| console.event(event);
                encode_latent(&codec.engine.encode(&image, report)?, None)
            }
        };
        codec.write_and_say(path, &bytes?)?;
    }
    Ok(())
}

/// Decodes each latent to an image, or to as many as it is of.
///
/// # Errors
/// If a latent cannot be read or does not fit the model, or the image cannot be written.
pub fn decode(args: &CodecArgs, console: &Console, stop: &Stop) -> Result<()> {
    let mut codec = Codec::open(args, "png", console, stop)?;
    for path in args.files() {
        let latent = read_latent(path)?;
        let channels = codec.engine.model().autoencoder()?.0.embed_dim;
        if latent.shape().channels() != channels {
            return Err(Error::file(
                path,
                format!(
                    "holds a latent of {} channels, and this model's have {channels}: name the model that it was made with",
                    latent.shape().channels()
                ),
            ));
        }
        let report = &mut |event| console.event(event);
        let images = codec.engine.decode(&latent, report)?;
        for index in 0..images.shape().batch() {
            codec.write_and_say(path, &encode_png(&images.item(index)?, &[])?)?;
        }
    }
    Ok(())
}

/// A model on a device, and the place for what it makes of each file.
pub(super) struct Codec<'a> {
    pub engine: Engine,
    output: Output,
    extension: &'static str,
    console: &'a Console,
}

impl<'a> Codec<'a> {
    /// Makes model, device and place ready.
    ///
    /// # Errors
    /// If one of them cannot be used.
    pub fn open(
        args: &CodecArgs,
        extension: &'static str,
        console: &'a Console,
        stop: &Stop,
    ) -> Result<Self> {
        if args.place.is_stdout() && args.files().count() > 1 {
            return Err(Error::request(
                "standard output takes one result: name a file or folder for several",
            ));
        }
        let model = model::open(&args.model, console)?;
        Ok(Self {
            engine: Engine::new(device::open(&args.engine, console, stop)?, model)
                .with_tiling(args.engine.vae_tiling),
            output: Output::prepare(&args.place, extension)?,
            extension,
            console,
        })
    }

    /// Writes what was made of `input` under its name; `None` where it went to standard output.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&mut self, input: &Path, bytes: &[u8]) -> Result<Option<PathBuf>> {
        let stem = input.file_stem().unwrap_or_default().to_string_lossy();
        let names = Names {
            stem: &stem,
            index: None,
            seed: None,
            prompt: "",
            id: Some(&stem),
        };
        self.output
            .write(bytes, &names, self.extension, self.console)
    }

    fn write_and_say(&mut self, input: &Path, bytes: &[u8]) -> Result<()> {
        match self.write(input, bytes)? {
            Some(written) => self.console.result(&written.display().to_string()),
            None => Ok(()),
        }
    }
}
