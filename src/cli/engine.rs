//! A model on whichever device was asked for. A pipeline is generic over its device; here is the one place where the choice is made.

use super::device::{Accumulate, Choice, Device, Dtype, Memory, Tier};
use super::number::count;
use clap::{ArgAction, Args};
use latent_diffusion::cpu::Cpu;
use latent_diffusion::cuda::Cuda;
use latent_diffusion::pipeline::{
    Database, Event, Model, Neighbour, Pipeline, Request, Stage, Tiling,
};
use latent_diffusion::{Result, Tensor};
use std::path::PathBuf;

#[derive(Args)]
#[command(next_help_heading = "Device")]
pub struct EngineArgs {
    /// Where to compute: auto, cpu, cuda, cuda:N, or emulator, which runs the CUDA kernels on the CPU, slowly, and watches every
    /// memory access
    #[arg(long, default_value = "auto", aliases = ["backend", "device-id", "cuda-device"])]
    pub device: Choice,
    /// Precision: auto, f16 or f32; a GPU computes in f16 unless told otherwise, the CPU in f32
    #[arg(long, default_value = "auto", aliases = ["type", "precision"])]
    pub dtype: Dtype,
    /// What products of f16 are summed in: f32, or auto, which lets GeForce cards of the RTX 30 and 40 series sum 64 at a time in f16, at twice
    /// the rate, where a network that denoises multiplies what it has just normalised
    #[arg(long, default_value = "auto", value_name = "SUMS")]
    pub accumulate: Accumulate,
    /// CUDA kernels to choose from: portable (those that every GPU runs), all (on a Hopper GPU also those that no other runs), or auto: all, but
    /// portable ones with a warning where the others answer wrongly in a check at the start
    #[arg(long, default_value = "auto")]
    pub kernels: Tier,
    /// Threads [default: one per core]
    #[arg(
        short,
        long,
        default_value_t = 0,
        hide_default_value = true,
        allow_negative_numbers = true, value_parser = count)]
    pub threads: usize,
    /// Take the tiles of this table of `ldm tune`, which changes no result [default: the one it wrote for this GPU]
    #[arg(long, value_name = "FILE")]
    pub tuned: Option<PathBuf>,
    /// Use no more memory than this, such as 2GiB [default: what the device has]
    #[arg(long, aliases = ["max-memory", "vram"], allow_negative_numbers = true, value_name = "LIMIT")]
    pub memory: Option<Memory>,
    /// Run the autoencoder in bands of rows, which gives the same image: auto (where the whole does not fit), on or off
    #[arg(long, default_value = "auto", default_missing_value = "on", num_args = 0..=1, require_equals = false, aliases = ["tiled-vae", "tiling"], value_name = "WHEN")]
    pub vae_tiling: Tiling,
    /// Leave out what follows from other work (on), or compute all of it (off), to compare with programs that do: what both calls of guidance
    /// share, upsampling as part of filters, what a run's constants give, attention over one token
    #[arg(long, default_value = "on", value_parser = on_or_off, action = ArgAction::Set, value_name = "WHEN")]
    pub cuts: bool,
    /// Read what `ldm pack` wrote beside the model (on), or pack its weights anew (off), which gives the same
    #[arg(long, default_value = "on", value_parser = on_or_off, action = ArgAction::Set, value_name = "WHEN")]
    pub packed: bool,
    /// GPU that the emulator stands for: A100, RTX 3090, RTX 4090 or H200 [default: A100]
    #[arg(long, value_name = "GPU")]
    pub target: Option<String>,
}

fn on_or_off(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Ok(true),
        "off" | "false" | "no" | "0" => Ok(false),
        _ => Err("expected on or off".into()),
    }
}

/// A pipeline on one of the devices.
pub enum Engine {
    /// On the processor.
    Cpu(Pipeline<Cpu>),
    /// On a GPU, or the emulator.
    Cuda(Pipeline<Cuda>),
}

impl Engine {
    /// Puts a model on a device.
    pub fn new(device: Device, model: Model) -> Self {
        match device {
            Device::Cpu(device) => Self::Cpu(Pipeline::new(device, model)),
            Device::Cuda(device) => Self::Cuda(Pipeline::new(device, model)),
        }
    }

    /// The same, with the autoencoder in bands as `tiling` says.
    pub fn with_tiling(self, tiling: Tiling) -> Self {
        match self {
            Self::Cpu(pipeline) => Self::Cpu(pipeline.with_tiling(tiling)),
            Self::Cuda(pipeline) => Self::Cuda(pipeline.with_tiling(tiling)),
        }
    }

    /// As [`Pipeline::forecast`].
    ///
    /// # Errors
    /// As there.
    pub fn forecast(&self, request: &Request) -> Result<Vec<Stage>> {
        match self {
            Self::Cpu(pipeline) => pipeline.forecast(request),
            Self::Cuda(pipeline) => pipeline.forecast(request),
        }
    }

    /// The model.
    pub fn model(&self) -> &Model {
        match self {
            Self::Cpu(pipeline) => pipeline.model(),
            Self::Cuda(pipeline) => pipeline.model(),
        }
    }

    /// What a result's bits depend on besides the request. Not on how many threads there are.
    pub fn arithmetic(&self) -> String {
        match self {
            Self::Cpu(_) => "cpu, f32".to_owned(),
            Self::Cuda(pipeline) => pipeline.backend().arithmetic(),
        }
    }

    /// As [`Pipeline::sample_latents`].
    ///
    /// # Errors
    /// As there.
    pub fn sample_latents(
        &self,
        request: &Request,
        report: &mut dyn FnMut(Event),
    ) -> Result<Vec<Tensor>> {
        match self {
            Self::Cpu(pipeline) => pipeline.sample_latents(request, report),
            Self::Cuda(pipeline) => pipeline.sample_latents(request, report),
        }
    }

    /// As [`Pipeline::embed`].
    ///
    /// # Errors
    /// As there.
    pub fn embed(&self, prompt: &str, report: &mut dyn FnMut(Event)) -> Result<Tensor> {
        match self {
            Self::Cpu(pipeline) => pipeline.embed(prompt, report),
            Self::Cuda(pipeline) => pipeline.embed(prompt, report),
        }
    }

    /// As [`Database::nearest`].
    ///
    /// # Errors
    /// As there.
    pub fn nearest(
        &self,
        database: &Database,
        query: &[f32],
        count: usize,
    ) -> Result<Vec<Neighbour>> {
        match self {
            Self::Cpu(pipeline) => database.nearest(pipeline.backend(), query, count),
            Self::Cuda(pipeline) => database.nearest(pipeline.backend(), query, count),
        }
    }

    /// As [`Pipeline::decode`].
    ///
    /// # Errors
    /// As there.
    pub fn decode(&self, latent: &Tensor, report: &mut dyn FnMut(Event)) -> Result<Tensor> {
        match self {
            Self::Cpu(pipeline) => pipeline.decode(latent, report),
            Self::Cuda(pipeline) => pipeline.decode(latent, report),
        }
    }

    /// As [`Pipeline::codes`].
    ///
    /// # Errors
    /// As there.
    pub fn codes(&self, image: &Tensor) -> Result<(Tensor, Tensor)> {
        match self {
            Self::Cpu(pipeline) => pipeline.codes(image),
            Self::Cuda(pipeline) => pipeline.codes(image),
        }
    }

    /// As [`Pipeline::encode`].
    ///
    /// # Errors
    /// As there.
    pub fn encode(&self, image: &Tensor, report: &mut dyn FnMut(Event)) -> Result<Tensor> {
        match self {
            Self::Cpu(pipeline) => pipeline.encode(image, report),
            Self::Cuda(pipeline) => pipeline.encode(image, report),
        }
    }
}
