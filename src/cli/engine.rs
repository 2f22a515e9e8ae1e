//! A model on whichever device was asked for. A pipeline is generic over its device; here is the one place where the choice is made.

use super::device::Device;
use latent_diffusion::cpu::Cpu;
use latent_diffusion::cuda::Cuda;
use latent_diffusion::pipeline::{Database, Event, Model, Neighbour, Pipeline, Request};
use latent_diffusion::{Result, Tensor};

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

    /// The model.
    pub fn model(&self) -> &Model {
        match self {
            Self::Cpu(pipeline) => pipeline.model(),
            Self::Cuda(pipeline) => pipeline.model(),
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
