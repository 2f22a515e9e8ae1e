//! From a prompt to an image: the parts of a model, joined.
//!
//! ```text
//! prompt --tokenizer--> ids --text encoder--> context
//! noise  --sampler's rows, one network call each--> latent --autoencoder--> image
//! ```
//!
//! Each part is a session of its own that lives only while it is needed, so the peak of memory is the largest part's and not the
//! sum. Images are decoded one at a time for the same reason. The pipeline neither reads arguments nor writes files: it takes
//! tensors and gives tensors, and reports through one callback.

mod bands;
mod condition;
mod convert;
mod demo;
mod denoise;
mod forecast;
mod inpaint;
mod interval;
mod latent;
mod model;
mod neighbours;
mod patches;
mod request;
mod step;
mod task;
mod text;

pub use bands::Tiling;
pub use condition::{Guided, Kept};
pub use denoise::Denoiser;
pub use forecast::{InBands, Stage, Unguided};
pub use inpaint::Mask;
pub use interval::Interval;
pub use model::Model;
pub use neighbours::{Database, Neighbour};
pub use request::{Given, InitImage, Request};
pub use step::{FIRST_STAGE, StepSizes, step};
pub use task::Task;

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::rng::Noise;
use crate::schedule::Schedule;
use crate::session::Session;
use crate::tensor::{Shape, Tensor};
use crate::weights::Weights;
use std::sync::Arc;

/// What happens while a request is carried out.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Something the user should know and that stops nothing.
    Warning(String),
    /// A network call of the sampler is done.
    Step {
        /// Calls done so far.
        done: usize,
        /// Calls in all.
        total: usize,
    },
    /// An image is decoded.
    Decoded {
        /// Images done so far.
        done: usize,
        /// Images in all.
        total: usize,
    },
}

/// A model on a device.
pub struct Pipeline<B: Backend> {
    backend: Arc<B>,
    model: Model,
    tiling: Tiling,
}

impl<B: Backend> Pipeline<B> {
    /// Puts a model on a device. Nothing is loaded before it is needed.
    pub fn new(backend: Arc<B>, model: Model) -> Self {
        let tiling = Tiling::Auto;
        Self {
            backend,
            model,
            tiling,
        }
    }

    /// The device.
    pub fn backend(&self) -> &Arc<B> {
        &self.backend
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Carries out a request: one image `[1, H, W, 3]` in -1..1 (not clamped) per image of the batch, image `i` from seed
    /// `seed + i`.
    ///
    /// # Errors
    /// If the request does not fit the model, weights are missing, a result is not finite, or the user asked to stop.
    pub fn sample(&self, request: &Request, report: &mut dyn FnMut(Event)) -> Result<Vec<Tensor>> {
        let latents = self.sample_latents(request, report)?;
        let total = latents.len();
        let mut images = Vec::with_capacity(total);
        for latent in &latents {
            images.push(request.finish(self.decode(latent, report)?)?);
            report(Event::Decoded {
                done: images.len(),
                total,
            });
        }
        Ok(images)
    }

    /// As [`sample`](Self::sample), but stops before the autoencoder: latents `[1, h, w, C]` as [`decode`](Self::decode) takes
    /// them, one per image.
    ///
    /// # Errors
    /// As [`sample`](Self::sample).
    pub fn sample_latents(
        &self,
        request: &Request,
        report: &mut dyn FnMut(Event),
    ) -> Result<Vec<Tensor>> {
        request.check(&self.model)?;
        let schedule = Schedule::new(&self.model.config.schedule)?;
        let trajectory = request.sampler.plan(&schedule, &request.options)?;
        let mut streams: Vec<Noise> = (0..request.batch)
            .map(|index| Noise::new(request.rng, request.seed_of(index)))
            .collect();
        let to_keep = request.mask().filter(|_| !self.model.reads_masks());
        let latent = match &request.init {
            Some(init) if request.options.strength.is_some() || to_keep.is_some() => {
                Some(self.posterior(&init.image, &mut streams, report)?)
            }
            _ => None,
        };
        let shape = self.model.latent_shape(request)?;
        let noise = draw(&mut streams, shape)?;
        let mut guided = self.guided(request, &mut streams, report)?;
        guided.interval = request.guidance_interval;
        if let (Some(mask), Some(latent)) = (to_keep, &latent) {
            guided.kept = Some(self.kept(latent, mask)?);
        }
        let start = trajectory.start;
        let mixed = noise.data().iter().enumerate().map(|(index, noise)| {
            let known = latent.as_ref().map_or(0.0, |l| f64::from(l.data()[index]));
            (start.latent * known + start.noise * f64::from(*noise)) as f32
        });
        let first = Tensor::new(noise.shape(), mixed.collect())?;
        let (unet, mut weights) = self.model.unet()?;
        let quantising;
        if trajectory.quantises() {
            let (first_stage, codes) = self.model.autoencoder()?;
            guided.codebook = first_stage.codebook;
            quantising = weights.with(FIRST_STAGE, codes);
            weights = &quantising;
        }
        let unet = (unet, weights);
        let draw = &mut || draw(&mut streams, shape);
        let last = if self.model.patch([shape[0], shape[1]]).is_some() {
            patches::run(
                &self.backend,
                unet,
                &guided,
                (&first, &trajectory),
                draw,
                report,
            )?
        } else {
            Denoiser::new(&self.backend, unet, &guided, shape, &trajectory)?
                .run(&first, draw, report)?
        };
        (0..request.batch).map(|index| last.item(index)).collect()
    }

    /// As [`compute`] on the pipeline's device, and once more with the range of f32 where halves overflowed: what makes images black
    /// elsewhere.
    fn compute_wide(
        &self,
        (graph, weights): (Graph, &Weights),
        input: (&str, &Tensor),
        output: &str,
        stage: &str,
        report: &mut dyn FnMut(Event),
    ) -> Result<Tensor> {
        match compute(
            &self.backend,
            (graph.clone(), weights),
            input,
            output,
            stage,
        ) {
            Err(error @ Error::NotFinite { .. }) => {
                let wider = self.wider(error, report)?;
                compute(&wider, (graph, weights), input, output, stage)
            }
            outcome => outcome,
        }
    }

    /// The device with the range of f32 for what overflowed in halves, and a word about it; or the error, if there is none.
    fn wider(&self, error: Error, report: &mut dyn FnMut(Event)) -> Result<Arc<B>> {
        let Some(wider) = self.backend.wider() else {
            return Err(error);
        };
        if let Error::NotFinite { stage, what, .. } = &error {
            let warning = format!("{stage} produced {what} in f16: it is run again in f32");
            report(Event::Warning(warning));
        }
        Ok(Arc::new(wider))
    }
}

/// Standard normal noise `[N, h, w, C]`, each image's from its own stream, in the order torch fills `[C, h, w]`.
fn draw(streams: &mut [Noise], [height, width, channels]: [usize; 3]) -> Result<Tensor> {
    let count = height * width * channels;
    let shape = [streams.len(), channels, height, width];
    let values = streams.iter_mut().flat_map(|stream| stream.normal(count));
    let nchw = Tensor::new(shape, values.collect())?;
    Ok(nchw.nchw_to_nhwc())
}

/// Runs `graph` once on `backend`: its result `output` for `input`. Refuses one that is not finite.
fn compute<B: Backend>(
    backend: &Arc<B>,
    (graph, weights): (Graph, &Weights),
    (input, value): (&str, &Tensor),
    output: &str,
    stage: &str,
) -> Result<Tensor> {
    let mut session = Session::new(backend, graph, weights)?;
    session.set(input, value)?;
    session.run()?;
    finite(session.get(output)?, stage, &mut session)
}

/// Refuses a result that holds NaN or infinity, naming the first node that made one.
fn finite<B: Backend>(result: Tensor, stage: &str, session: &mut Session<B>) -> Result<Tensor> {
    match result.count_not_finite() {
        0 => Ok(result),
        bad => Err(not_finite(bad, result.shape(), stage, session)?),
    }
}

/// The refusal of `bad` values of a result of shape `shape`, naming the first node of `session` that makes one.
fn not_finite<B: Backend>(
    bad: usize,
    shape: Shape,
    stage: &str,
    session: &mut Session<B>,
) -> Result<Error> {
    let stage = match session.first_not_finite()? {
        Some(node) => format!("{stage}, node {node},"),
        None => stage.to_owned(),
    };
    let what = format!("NaN or infinity in {bad} of {} values", shape.len());
    Ok(broken(session.backend(), stage, what))
}

/// The refusal of `what` was found in the result of a stage, with what to do about it.
fn broken<B: Backend>(backend: &B, stage: String, what: String) -> Error {
    let mut hint = "look for damaged weights with `ldm inspect --check-weights`".to_owned();
    if backend.sums_in_halves() {
        hint += ", or keep all sums in f32 with `--accumulate f32`";
    }
    if backend.wider().is_some() {
        hint += ", or compute in f32 with `--dtype f32`";
    }
    Error::NotFinite { stage, what, hint }
}
