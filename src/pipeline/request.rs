//! What a user asks for, checked against the model before anything is loaded.

use super::denoise::no_codebook;
use super::{Interval, Mask, Model};
use crate::error::{Error, Result};
use crate::models::config::Condition;
use crate::rng::NoiseSource;
use crate::sampler::{Options, Sampler, SigmaSpacing};
use crate::tensor::Tensor;

/// The largest image that is attempted, in pixels.
const MAX_PIXELS: usize = 1 << 26;

/// The largest batch that is attempted.
const MAX_BATCH: usize = 1 << 12;

/// Text to image, or image to image where there is an initial image.
#[derive(Clone, Debug)]
pub struct Request {
    /// What to show; empty is legal.
    pub prompt: String,
    /// What to steer away from; empty is the usual unconditional half of guidance.
    pub negative_prompt: String,
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
    /// How noise becomes an image.
    pub sampler: Sampler,
    /// Steps, spacing, eta, strength.
    pub options: Options,
    /// Scale of classifier-free guidance; 1 asks the network once per step instead of twice.
    pub guidance_scale: f32,
    /// How far guidance's contrast is brought back to the conditional answer's (arXiv:2305.08891): 0 not, 1 wholly.
    pub guidance_rescale: f32,
    /// The noise levels at which guidance acts, if not at all of them.
    pub guidance_interval: Option<Interval>,
    /// Seed of the first image; image `i` has this plus `i`.
    pub seed: u64,
    /// Whose noise.
    pub rng: NoiseSource,
    /// Images computed together.
    pub batch: usize,
    /// Where to start from, if not from noise alone. How far from it, [`Options::strength`] says.
    pub init: Option<InitImage>,
    /// Width and height of the part that is kept of each image, from its upper left corner; all of it, where nothing is said.
    pub keep: Option<[usize; 2]>,
    /// What to draw, for models that are told by something other than a prompt.
    pub given: Given,
}

/// What a model is told besides a prompt, the same for every image of a batch. [`Condition`] says what a model takes.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Given {
    /// Nothing.
    #[default]
    Nothing,
    /// A class, by its number.
    Class(usize),
    /// The image to enlarge, `[1, h, w, 3]` in -1..1, as large as the latent.
    LowResolution(Tensor),
    /// A map of labels, `[1, H, W, 1]`, as large as the image.
    Segmentation(Tensor),
    /// A layout's tokens.
    Layout {
        /// Its own.
        tokens: Vec<u32>,
        /// Those that guidance steers away from: of a layout that says nothing.
        unconditional: Vec<u32>,
    },
    /// Vectors to attend to, `[L, D]`. What guidance steers away from is as many of zeros.
    Vectors(Tensor),
}

/// The image that image-to-image starts from, or inpainting keeps a part of.
#[derive(Clone, Debug)]
pub struct InitImage {
    /// `[1, H, W, 3]` in -1..1, of the request's size.
    pub image: Tensor,
    /// The part to draw anew, if not the whole image; then a strength may be left out, and that part begins as noise alone.
    pub mask: Option<Mask>,
}

impl Request {
    /// A prompt, and everything else as the model's authors recommend or, where they say nothing, DDIM with 50 steps and, for prompts, scale 7.5.
    pub fn new(model: &Model, prompt: impl Into<String>) -> Result<Self> {
        let defaults = &model.config.sampling;
        let [width, height] = model.native_size().unwrap_or([512, 512]);
        let usual_scale = match model.config.condition {
            Condition::Text | Condition::TextAndMaskedImage => 7.5,
            _ => 1.0,
        };
        let sampler = match &defaults.sampler {
            Some(name) => Sampler::parse(name)?,
            None => Sampler::Ddim,
        };
        let sigmas = match &defaults.sigmas {
            Some(name) => SigmaSpacing::parse(name)?,
            None => SigmaSpacing::Normal,
        };
        Ok(Self {
            prompt: prompt.into(),
            negative_prompt: String::new(),
            width,
            height,
            sampler,
            options: Options {
                eta: defaults.eta,
                sigmas,
                ..Options::new(defaults.steps.unwrap_or(50))
            },
            guidance_scale: defaults.guidance_scale.unwrap_or(usual_scale) as f32,
            guidance_rescale: 0.0,
            guidance_interval: None,
            seed: 0,
            rng: NoiseSource::Cpu,
            batch: 1,
            init: None,
            keep: None,
            given: Given::Nothing,
        })
    }

    /// The seed of image `index`.
    pub fn seed_of(&self, index: usize) -> u64 {
        self.seed.wrapping_add(index as u64)
    }

    /// Scale and rescaling of guidance, if the network is asked twice per step, with the condition and without.
    pub fn guidance(&self) -> Option<[f32; 2]> {
        (self.guidance_scale != 1.0).then_some([self.guidance_scale, self.guidance_rescale])
    }

    /// Refuses a size that the model cannot make.
    ///
    /// # Errors
    /// [`Error::Request`], with the nearest sizes that are possible; [`Error::File`] if the model has no autoencoder.
    pub fn check_size(&self, model: &Model) -> Result<()> {
        let multiple = model.pixel_multiple()?;
        check_side("width", self.width, multiple)?;
        check_side("height", self.height, multiple)?;
        let pixels = self.width.checked_mul(self.height);
        if pixels.is_none_or(|pixels| pixels > MAX_PIXELS) {
            return Err(Error::request(format!(
                "an image of {}x{} pixels is more than the {MAX_PIXELS} this program attempts",
                self.width, self.height
            )));
        }
        Ok(())
    }

    /// Refuses what the model cannot do, before any weight is read.
    ///
    /// # Errors
    /// [`Error::Request`], with what would be possible; [`Error::File`] if the model has a part that is not supported.
    pub fn check(&self, model: &Model) -> Result<()> {
        model.check_supported()?;
        self.check_given(model)?;
        self.check_size(model)?;
        self.check_numbers(model)?;
        match &self.init {
            Some(init) if init.mask.is_none() && self.options.strength.is_none() => {
                Err(Error::request(
                    "image to image needs a strength between 0 and 1: how far to depart from the image",
                ))
            }
            Some(init) => init.check([self.height, self.width]),
            None => Ok(()),
        }
    }

    /// Refuses numbers that nothing can be computed with.
    ///
    /// # Errors
    /// [`Error::Request`], with what would be possible.
    pub fn check_numbers(&self, model: &Model) -> Result<()> {
        if self.batch == 0 || self.batch > MAX_BATCH {
            return Err(Error::request(format!(
                "a batch of {} images: ask for 1 to {MAX_BATCH}",
                self.batch
            )));
        }
        if !self.guidance_scale.is_finite() {
            return Err(Error::request(format!(
                "guidance scale {} is not a number to multiply by; 1 is without guidance, 3 to 9 are usual",
                self.guidance_scale
            )));
        }
        if !(0.0..=1.0).contains(&self.guidance_rescale) {
            return Err(Error::request(format!(
                "guidance rescale {} lies outside 0 to 1",
                self.guidance_rescale
            )));
        }
        if self.options.quantise && model.autoencoder()?.0.codebook.is_none() {
            return Err(no_codebook());
        }
        Ok(())
    }
}

/// Refuses a side that is not a positive multiple, naming the two nearest that are.
fn check_side(what: &str, side: usize, multiple: usize) -> Result<()> {
    if side > 0 && side.is_multiple_of(multiple) {
        return Ok(());
    }
    let below = side / multiple * multiple;
    let nearest = match below {
        0 => format!("the smallest is {multiple}"),
        _ => format!(
            "the nearest are {below} and {}",
            below.saturating_add(multiple)
        ),
    };
    Err(Error::request(format!(
        "{what} {side} is not a multiple of {multiple}, as this model needs; {nearest}"
    )))
}
