//! What there is of a model: its description, and the weights of each of its networks.

use super::Part;
use super::config::ModelConfig;
use crate::weights::Weights;
use std::path::PathBuf;

/// A model that was found: its description, and the weights of each of its networks that is there.
#[derive(Clone)]
pub struct ModelFiles {
    /// What to call the model: the name of its folder or file.
    pub name: String,
    /// Everything but the weights.
    pub config: ModelConfig,
    /// The denoising network's weights.
    pub unet: Option<Weights>,
    /// The first stage's weights.
    pub autoencoder: Option<Weights>,
    /// The weights of the encoder of prompts or layouts.
    pub text: Option<Weights>,
    /// The weights of what else makes a condition: a table of classes, a rescaler of label maps.
    pub condition: Option<Weights>,
    /// The folder that holds the tokenizer's files.
    pub tokenizer: Option<PathBuf>,
    /// The file that names the model's classes.
    pub classes: Option<PathBuf>,
    /// Which of its weights the denoising network has here.
    pub average: Average,
    /// What was assumed about the model and a user should know, in sentences.
    pub notes: Vec<String>,
}

/// Whether a checkpoint holds a moving average of the denoising network's weights, as training keeps it, and whether that is what the
/// network runs with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Average {
    /// There is none.
    #[default]
    Absent,
    /// There is one, and the network runs with the weights as training left them.
    Unused,
    /// The network runs with it.
    Used,
}

impl ModelFiles {
    /// A model of synthetic weights, with no tokenizer.
    pub fn synthetic(name: &str, config: ModelConfig, seed: u64) -> Self {
        let mut model = Self::empty(name.to_owned(), config);
        model.make_up_weights(seed);
        model
    }

    /// The weights of a network, where it is there.
    pub fn weights(&self, part: Part) -> Option<&Weights> {
        part.pick([&self.unet, &self.autoencoder, &self.text, &self.condition])
    }

    /// The files that the model is more than configuration and weights with: its tokenizer's, and the names of its classes.
    pub fn companions(&self) -> Vec<PathBuf> {
        const TOKENIZER: [&str; 7] = [
            "vocab.json",
            "merges.txt",
            "vocab.txt",
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
            "added_tokens.json",
        ];
        let folder = self.tokenizer.iter();
        let tokenizer = folder.flat_map(|folder| TOKENIZER.map(|name| folder.join(name)));
        let all = tokenizer.chain(self.classes.clone());
        all.filter(|file| file.is_file()).collect()
    }

    pub(super) fn empty(name: String, config: ModelConfig) -> Self {
        Self {
            name,
            config,
            unet: None,
            autoencoder: None,
            text: None,
            condition: None,
            tokenizer: None,
            classes: None,
            average: Average::Absent,
            notes: vec![],
        }
    }

    /// Gives every network that is described synthetic weights.
    pub(super) fn make_up_weights(&mut self, seed: u64) {
        let made = Weights::synthetic(seed);
        let config = &self.config;
        self.unet = config.unet.as_ref().map(|_| made.clone());
        self.autoencoder = config.autoencoder.as_ref().map(|_| made.clone());
        self.text = config.text.as_ref().map(|_| made.clone());
        self.condition = config.condition.has_weights().then_some(made);
    }
}
