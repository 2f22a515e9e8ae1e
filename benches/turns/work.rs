//! Work that can be run again and again: an operation some times in a row, a network, a sampler's steps, a whole image.

use crate::cases::Case;
use crate::cases::real::rename;
use crate::networks::inputs;
use latent_diffusion::backend::Backend;
use latent_diffusion::models::{autoencoder, text, unet};
use latent_diffusion::ops::Activation;
use latent_diffusion::pipeline::{Denoiser, Guided, Pipeline, Request};
use latent_diffusion::rng::Noise;
use latent_diffusion::sampler::{Options, Sampler};
use latent_diffusion::schedule::Schedule;
use latent_diffusion::{Error, Graph, Result, Session, Tensor, Weights};
use std::sync::Arc;

/// Something ready to run.
pub type Run = Box<dyn FnMut() -> Result<()>>;

/// Sets of operands and weights that the runs of an operation go through, so that none is still in the caches that the same one left there.
const SETS: usize = 3;

/// Scale and rescaling of guidance.
const GUIDANCE: [f32; 2] = [7.5, 0.0];

/// Where what is written to flush the caches is read from.
const FLUSH: &str = "flush";

/// `case` as many times as `copies` in one graph, each of [`SETS`] operands in turn, and after `flush` numbers were written, if any.
///
/// # Errors
/// If the device cannot run it.
pub fn operation<B: Backend + 'static>(
    backend: &Arc<B>,
    case: &Case,
    copies: usize,
    flush: usize,
) -> Result<Run> {
    let mut graph = Graph::new();
    let large = (flush > 0).then(|| graph.input(FLUSH, [flush]));
    let mut values = vec![];
    for set in 0..SETS.min(copies) {
        let operands = case.operands.iter().enumerate();
        let declared = operands.map(|(index, operand)| {
            let name = format!("{set}.{index}");
            match operand.is_exact() {
                true => graph.input_exact(&name, operand.shape),
                false => graph.input(&name, operand.shape),
            }
        });
        values.push(declared.collect::<Vec<_>>());
    }
    for copy in 0..copies {
        let set = copy % SETS;
        let mut op = case.op.clone();
        rename(&mut op, &format!("{set}."));
        if let Some(large) = large {
            graph.activate(large, Activation::Silu)?;
        }
        let y = graph.push(op, &values[set])?;
        if copy + 1 == copies {
            graph.output("y", y);
        }
    }
    let mut session = Session::new(backend, graph, &Weights::synthetic(0))?;
    for set in 0..SETS.min(copies) {
        for (index, input) in case.inputs().iter().enumerate() {
            session.set(&format!("{set}.{index}"), input)?;
        }
    }
    Ok(Box::new(move || session.run()))
}

/// `numbers` numbers written `copies` times, and nothing else.
///
/// # Errors
/// If the device cannot run it.
pub fn flush<B: Backend + 'static>(backend: &Arc<B>, numbers: usize, copies: usize) -> Result<Run> {
    let mut graph = Graph::new();
    let large = graph.input(FLUSH, [numbers]);
    for copy in 0..copies {
        let y = graph.activate(large, Activation::Silu)?;
        if copy + 1 == copies {
            graph.output("y", y);
        }
    }
    let mut session = Session::new(backend, graph, &Weights::synthetic(0))?;
    Ok(Box::new(move || session.run()))
}

/// The UNet once, for `batch` samples, with nothing computed ahead.
///
/// # Errors
/// If the model has none, or the device cannot run it.
pub fn unet<B: Backend + 'static>(
    pipeline: &Pipeline<B>,
    backend: &Arc<B>,
    batch: usize,
) -> Result<Run> {
    let (config, weights) = pipeline.model().unet()?;
    let [height, width, _] = latent(pipeline)?;
    let graph = unet::build(config, batch, [height, width], tokens(pipeline)?)?;
    network(backend, graph, weights)
}

/// The text encoder once, for `batch` prompts of as many tokens as it has positions.
///
/// # Errors
/// If the model has none, or the device cannot run it.
pub fn text<B: Backend + 'static>(
    pipeline: &Pipeline<B>,
    backend: &Arc<B>,
    batch: usize,
) -> Result<Run> {
    let (config, weights) = pipeline.model().text()?;
    network(
        backend,
        text::build(config, batch, config.positions())?,
        weights,
    )
}

/// The decoder once, for one image.
///
/// # Errors
/// If the model has none, or the device cannot run it.
pub fn decode<B: Backend + 'static>(pipeline: &Pipeline<B>, backend: &Arc<B>) -> Result<Run> {
    let (config, weights) = pipeline.model().autoencoder()?;
    let [height, width, _] = latent(pipeline)?;
    let graph = autoencoder::build_decoder(config, 1, [height, width])?;
    network(backend, graph, weights)
}

fn network<B: Backend + 'static>(backend: &Arc<B>, graph: Graph, weights: &Weights) -> Result<Run> {
    let drawn = inputs(&graph);
    let mut session = Session::new(backend, graph, weights)?;
    for (name, input) in drawn {
        session.set(&name, &input)?;
    }
    Ok(Box::new(move || session.run()))
}

/// `steps` steps of DDIM with guidance for `batch` images, from noise on the host to latents on the host.
///
/// # Errors
/// If the model has no UNet, or the device cannot run it.
pub fn steps<B: Backend + 'static>(
    pipeline: &Pipeline<B>,
    backend: &Arc<B>,
    [batch, steps]: [usize; 2],
) -> Result<Run> {
    let network = pipeline.model().unet()?;
    let [height, width, channels] = latent(pipeline)?;
    let schedule = Schedule::new(&pipeline.model().config.schedule)?;
    let trajectory = Sampler::Ddim.plan(&schedule, &Options::new(steps))?;
    let tokens = tokens(pipeline)?;
    let context = network.0.context_dim.map(|dim| [2 * batch, tokens, dim]);
    let normal = |shape: latent_diffusion::Shape, seed| {
        Tensor::new(shape, Noise::cpu(seed).normal(shape.len()))
    };
    let guided = Guided {
        context: context.map(|shape| normal(shape.into(), 1)).transpose()?,
        settings: Some(GUIDANCE),
        ..Guided::unconditional(batch)
    };
    let size = [height, width, channels];
    let mut denoiser = Denoiser::new(backend, network, &guided, size, &trajectory)?;
    let first = normal([batch, height, width, channels].into(), 2)?;
    Ok(Box::new(move || {
        let draw = &mut || Err(Error::request("DDIM draws no noise"));
        let latent = denoiser.run(&first, draw, &mut |_| {})?;
        finite(&latent)
    }))
}

/// A prompt to an image on the host: text, `steps` steps of DDIM with guidance, decode.
///
/// # Errors
/// If the model has a part missing.
pub fn image<B: Backend + 'static>(pipeline: &Arc<Pipeline<B>>, steps: usize) -> Result<Run> {
    let mut request = Request::new(pipeline.model(), "a red balloon over snowy mountains")?;
    request.sampler = Sampler::Ddim;
    request.options = Options::new(steps);
    request.guidance_scale = GUIDANCE[0];
    let pipeline = pipeline.clone();
    Ok(Box::new(move || {
        let images = pipeline.sample(&request, &mut |_| {})?;
        images.iter().try_for_each(finite)
    }))
}

fn finite(tensor: &Tensor) -> Result<()> {
    match tensor.count_not_finite() {
        0 => Ok(()),
        count => Err(Error::request(format!(
            "{count} elements of the result are not finite"
        ))),
    }
}

/// Height, width and channels of the latents of an image of the model's own size.
fn latent<B: Backend>(pipeline: &Pipeline<B>) -> Result<[usize; 3]> {
    let model = pipeline.model();
    let (autoencoder, _) = model.autoencoder()?;
    let request = Request::new(model, "")?;
    let [height, width] = [request.height, request.width].map(|side| side / autoencoder.factor());
    Ok([height, width, autoencoder.embed_dim])
}

fn tokens<B: Backend>(pipeline: &Pipeline<B>) -> Result<usize> {
    Ok(pipeline.model().text()?.0.positions())
}
