//! A model as the pipeline uses it: configuration, weights and tokenizer, whatever files they came from.

use super::Request;
use crate::error::{Error, Result};
use crate::models::config::{AutoencoderConfig, Condition, ModelConfig, TextConfig, UNetConfig};
use crate::models::{Average, ModelFiles, OpenOptions, Part, open};
use crate::tokenizer::{ClassNames, Tokenizer};
use crate::weights::Weights;
use std::path::{Path, PathBuf};

/// A model: its networks, where their weights are, and its tokenizer.
#[derive(Clone)]
pub struct Model {
    /// What to call it.
    pub name: String,
    /// Everything but weights.
    pub config: ModelConfig,
    /// Which of its weights the denoising network has here.
    pub average: Average,
    /// What was assumed about the model and a user should know, in sentences.
    pub notes: Vec<String>,
    unet: Option<Weights>,
    autoencoder: Option<Weights>,
    text: Option<Weights>,
    condition: Option<Weights>,
    tokenizer: Option<Tokenizer>,
    class_names: Option<ClassNames>,
    /// The files that it was opened with, besides its configuration and weights.
    pub(super) companions: Vec<PathBuf>,
}

impl Model {
    /// Opens a model from a folder or file, or by its name in the local Hugging Face cache.
    ///
    /// # Errors
    /// If there is none, or its files cannot be used.
    pub fn open(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Self> {
        let files = open(path, options)?;
        let tokenizer = match &files.tokenizer {
            Some(folder) => Some(Tokenizer::open(folder)?),
            None => None,
        };
        Self::new(files, tokenizer)
    }

    /// A model of files that are open, with the tokenizer its text encoder was trained with.
    ///
    /// # Errors
    /// If the text encoder has fewer than two positions, or the names of classes cannot be read.
    pub fn new(files: ModelFiles, tokenizer: Option<Tokenizer>) -> Result<Self> {
        let tokenizer = match (tokenizer, &files.config.text) {
            (Some(tokenizer), Some(text)) => Some(tokenizer.with_max_length(text.positions())?),
            (tokenizer, _) => tokenizer,
        };
        let class_names = match &files.classes {
            Some(file) => Some(ClassNames::open(file)?),
            None => None,
        };
        let companions = files.companions();
        Ok(Self {
            name: files.name,
            config: files.config,
            average: files.average,
            notes: files.notes,
            unet: files.unet,
            autoencoder: files.autoencoder,
            text: files.text,
            condition: files.condition,
            tokenizer,
            class_names,
            companions,
        })
    }

    /// The weights of a network, where it is there.
    pub fn weights(&self, part: Part) -> Option<&Weights> {
        part.pick([&self.unet, &self.autoencoder, &self.text, &self.condition])
    }

    /// The UNet, if the model has one.
    ///
    /// # Errors
    /// If it has none.
    pub fn unet(&self) -> Result<(&UNetConfig, &Weights)> {
        self.part("UNet", &self.config.unet, &self.unet)
    }

    /// The autoencoder, if the model has one.
    ///
    /// # Errors
    /// If it has none.
    pub fn autoencoder(&self) -> Result<(&AutoencoderConfig, &Weights)> {
        self.part("autoencoder", &self.config.autoencoder, &self.autoencoder)
    }

    /// The text encoder, if the model has one.
    ///
    /// # Errors
    /// If it has none.
    pub fn text(&self) -> Result<(&TextConfig, &Weights)> {
        self.part("text encoder", &self.config.text, &self.text)
    }

    /// What the model is told, and the weights of the network that makes it, where it is not the text encoder.
    pub fn condition(&self) -> (&Condition, Option<&Weights>) {
        (&self.config.condition, self.condition.as_ref())
    }

    /// The tokenizer, if the model has one.
    ///
    /// # Errors
    /// If it has none.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_ref().ok_or_else(|| {
            Error::file(
                &self.name,
                match self.config.text {
                    Some(TextConfig::Bert(_)) => {
                        "has no tokenizer: put the vocab.txt of `bert-base-uncased` beside the weights, or in a folder `tokenizer` there"
                    }
                    _ => {
                        "has no tokenizer: put CLIP's vocab.json and merges.txt beside the weights, or in a folder `tokenizer` there"
                    }
                },
            )
        })
    }

    /// The names of the model's classes: those beside its weights, or ImageNet's where the model knows as many.
    pub fn class_names(&self) -> Option<ClassNames> {
        match (&self.class_names, self.classes()) {
            (Some(names), _) => Some(names.clone()),
            (None, 1000 | 1001) => Some(ClassNames::imagenet()),
            (None, _) => None,
        }
    }

    /// A class that was given by its number or its name.
    ///
    /// # Errors
    /// If no class is called so, with the nearest name.
    pub fn class_number(&self, class: &str) -> Result<usize> {
        match (class.trim().parse(), self.class_names()) {
            (Ok(number), _) => Ok(number),
            (Err(_), Some(names)) => names.find(class),
            (Err(_), None) => Err(Error::request(format!(
                "class `{class}`: {} has no names of its classes; give a number, or put `classes.txt`, a name a line in the order of \
                 the numbers, beside its weights",
                self.name
            ))),
        }
    }

    fn part<'a, C>(
        &self,
        what: &str,
        config: &'a Option<C>,
        weights: &'a Option<Weights>,
    ) -> Result<(&'a C, &'a Weights)> {
        match (config, weights) {
            (Some(config), Some(weights)) => Ok((config, weights)),
            _ => Err(self.refused(&format!("has no {what}, which this needs"))),
        }
    }

    /// Refuses a model with a part that this program cannot run: a picture made without it would be wrong and not look it.
    pub(super) fn check_supported(&self) -> Result<()> {
        match self.config.unsupported.is_empty() {
            true => Ok(()),
            false => Err(self.refused("cannot be sampled from")),
        }
    }

    /// A refusal of this model, with what of it is not supported.
    pub(super) fn refused(&self, problem: &str) -> Error {
        let reasons = self.config.unsupported.iter();
        let problem = reasons.fold(problem.to_owned(), |all, reason| format!("{all}; {reason}"));
        Error::file(&self.name, problem)
    }

    /// Sides of an image must be multiples of this many pixels.
    ///
    /// # Errors
    /// If the model has no autoencoder.
    pub fn pixel_multiple(&self) -> Result<usize> {
        let (autoencoder, _) = self.autoencoder()?;
        let unet = self.config.unet.as_ref().map_or(1, UNetConfig::factor);
        Ok(autoencoder.factor() * unet)
    }

    /// The size the model was trained on, `[width, height]` in pixels, where its configuration says.
    pub fn native_size(&self) -> Option<[usize; 2]> {
        let side = self.config.latent_size? * self.config.autoencoder.as_ref()?.factor();
        Some([side, side])
    }

    /// `[h, w, C]` of a request's latents.
    pub(super) fn latent_shape(&self, request: &Request) -> Result<[usize; 3]> {
        let (autoencoder, _) = self.autoencoder()?;
        let factor = autoencoder.factor();
        Ok([
            request.height / factor,
            request.width / factor,
            autoencoder.embed_dim,
        ])
    }
}
