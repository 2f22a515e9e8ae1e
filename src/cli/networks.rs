//! The networks of a model at given sizes, by the names under which `bench` and `tune` run them.

use super::number::count;
use clap::{Args, ValueEnum};
use latent_diffusion::models::{autoencoder, text, unet};
use latent_diffusion::pipeline::{self, Model, StepSizes};
use latent_diffusion::rng::Noise;
use latent_diffusion::{Error, Graph, Result, Tensor, Weights};

/// Which networks, and at what size.
#[derive(Args)]
pub struct Chosen {
    /// Which network to run
    #[arg(long, value_enum, default_value = "all")]
    pub what: Part,
    /// Size of the image in pixels, 512 or 512x768 [default: the model's]
    #[arg(long, value_name = "WxH")]
    pub size: Option<String>,
    /// Images per run
    #[arg(long, alias = "batch-size", default_value_t = 1, value_name = "N", allow_negative_numbers = true, value_parser = count)]
    pub batch: usize,
}

/// A part of a model that can be run.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// One evaluation of the denoising network
    Unet,
    /// A sampler's step with guidance: the network asked twice for each image, and the update
    Step,
    /// A step without guidance, as outside of a guidance interval: the network asked once
    Unguided,
    /// From a latent to an image
    Decode,
    /// From an image to a latent
    Encode,
    /// The text encoder
    Text,
    /// Each network
    All,
}

/// The largest batch that is attempted, as when sampling.
const MAX_BATCH: usize = 1 << 12;

/// Steps of the sampling run that a step is timed of.
const STEPS: usize = 20;

impl Chosen {
    /// The networks.
    ///
    /// # Errors
    /// If the model has no such network, or the size or batch does not fit it.
    pub fn networks<'a>(&self, model: &'a Model) -> Result<Vec<Network<'a>>> {
        self.part(model, self.what)
    }

    /// The networks of `what`, whatever was chosen.
    ///
    /// # Errors
    /// As [`networks`](Self::networks).
    pub fn part<'a>(&self, model: &'a Model, what: Part) -> Result<Vec<Network<'a>>> {
        if self.batch == 0 || self.batch > MAX_BATCH {
            return Err(Error::request(format!("--batch is 1 to {MAX_BATCH}")));
        }
        networks_of(model, self, what)
    }
}

/// Values for every input of a network: what they are changes no time, but a step's state must stay as small as it is.
///
/// # Errors
/// None for a network of a model.
pub fn inputs(graph: &Graph) -> Result<Vec<(String, Tensor)>> {
    let value = |(name, value)| {
        let shape = graph.shape(value);
        let tensor = match name {
            // Token ids, positions and labels index tables; a timestep is any number.
            "input_ids" | "pooled_token" | "class_labels" | "timestep" | "timesteps" | "step" => {
                Tensor::zeros(shape)
            }
            name if name == "guidance" || name.starts_with("coefficients") => {
                Tensor::full(shape, 0.25)
            }
            _ => Tensor::new(shape, Noise::cpu(0).normal(shape.len()))?,
        };
        Ok((name.to_owned(), tensor))
    };
    graph.inputs().map(value).collect()
}

/// A network to time: its name with the sizes, its graph, its weights.
pub type Network<'a> = (String, Graph, &'a Weights);

fn networks_of<'a>(model: &'a Model, args: &Chosen, what: Part) -> Result<Vec<Network<'a>>> {
    let [width, height] = size(model, args)?;
    let batch = args.batch;
    let wanted = |part: Part, present: bool| what == part || (what == Part::All && present);
    let mut found = vec![];
    if wanted(Part::Text, model.text().is_ok()) {
        let (config, weights) = model.text()?;
        let graph = text::build(config, batch, config.positions())?;
        found.push((
            format!("text, {batch} prompts of {} tokens", config.positions()),
            graph,
            weights,
        ));
    }
    let factor = model
        .config
        .autoencoder
        .as_ref()
        .map_or(1, |config| config.factor());
    let latent = [height / factor, width / factor];
    let at = format!(
        "batch {batch}, {width}x{height} pixels, {}x{} latents",
        latent[1], latent[0]
    );
    if wanted(Part::Unet, model.unet().is_ok()) {
        let (config, weights) = model.unet()?;
        let tokens = model.config.context_tokens();
        found.push((
            format!("unet, {at}"),
            unet::build(config, batch, latent, tokens)?,
            weights,
        ));
    }
    if matches!(what, Part::Step | Part::Unguided) {
        let (config, weights) = model.unet()?;
        let tokens = model.config.context_tokens();
        let told = config.context_dim.is_some() || config.num_classes.is_some();
        let guided = told && what == Part::Step;
        let sizes = StepSizes {
            rows: STEPS,
            ..StepSizes::new(config, tokens, batch, latent, guided)
        };
        found.push((
            match guided {
                true => format!("step with guidance, {at}"),
                false => format!("step without guidance, {at}"),
            },
            pipeline::step(config, &sizes)?,
            weights,
        ));
    }
    if wanted(Part::Decode, model.autoencoder().is_ok()) {
        let (config, weights) = model.autoencoder()?;
        found.push((
            format!("decode, {at}"),
            autoencoder::build_decoder(config, batch, latent)?,
            weights,
        ));
    }
    if wanted(Part::Encode, model.autoencoder().is_ok()) {
        let (config, weights) = model.autoencoder()?;
        let graph = autoencoder::build_encoder(config, batch, [height, width])?;
        found.push((format!("encode, {at}"), graph, weights));
    }
    Ok(found)
}

/// Width and height in pixels.
fn size(model: &Model, args: &Chosen) -> Result<[usize; 2]> {
    const LARGEST: usize = 1 << 13;
    let Some(text) = &args.size else {
        return Ok(model.native_size().unwrap_or([512, 512]));
    };
    let (width, height) = text.split_once('x').unwrap_or((text, text));
    let sides = width.parse().ok().zip(height.parse().ok());
    let (width, height) =
        sides.ok_or_else(|| Error::request(format!("size `{text}`: expected 512 or 512x768")))?;
    let multiple = model.pixel_multiple().unwrap_or(1);
    for side in [width, height] {
        if side == 0 || side % multiple != 0 || side > LARGEST {
            return Err(Error::request(format!(
                "size `{text}`: this model needs sides that are multiples of {multiple}, up to {LARGEST}"
            )));
        }
    }
    Ok([width, height])
}
