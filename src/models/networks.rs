//! The networks of a model one by one, for whoever counts, checks or copies weights rather than running them.

use super::config::ModelConfig;
use super::{autoencoder, text, unet};
use crate::error::Result;
use crate::graph::Graph;
use crate::weights::Weights;

/// Which network of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The denoising network.
    UNet,
    /// From pixels to latents.
    Encoder,
    /// From latents to pixels.
    Decoder,
    /// The encoder of prompts or layouts.
    Text,
}

impl Part {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::UNet => "UNet",
            Self::Encoder => "encoder",
            Self::Decoder => "decoder",
            Self::Text => "text encoder",
        }
    }

    /// What precedes the names of its weights in a checkpoint of the whole model, as CompVis writes them.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::UNet => "model.diffusion_model.",
            Self::Encoder | Self::Decoder => "first_stage_model.",
            Self::Text => "cond_stage_model.transformer.",
        }
    }

    /// This network's weights among those of the UNet, the autoencoder and the text encoder, where it is there: a file may hold an
    /// autoencoder's encoder or decoder alone.
    pub(crate) fn pick(self, weights: [&Option<Weights>; 3]) -> Option<&Weights> {
        let [unet, autoencoder, text] = weights.map(Option::as_ref);
        let holding = |name| autoencoder.filter(|found| found.contains(name));
        match self {
            Self::UNet => unet,
            Self::Encoder => holding("encoder.conv_in.weight"),
            Self::Decoder => holding("decoder.conv_in.weight"),
            Self::Text => text,
        }
    }
}

/// A network of a model.
pub struct Network {
    /// Which.
    pub part: Part,
    /// Its graph, at the smallest size that it takes.
    pub graph: Graph,
}

/// The networks that a configuration describes.
///
/// # Errors
/// If it describes one that cannot be built.
pub fn networks(config: &ModelConfig) -> Result<Vec<Network>> {
    let mut found = vec![];
    if let Some(unet) = &config.unet {
        let side = unet.factor();
        // Attention to a single token needs fewer weights than attention, and a model that is trained with one has all.
        let tokens = config.context_tokens().max(2);
        let graph = unet::build(unet, 1, [side, side], tokens)?;
        let part = Part::UNet;
        found.push(Network { part, graph });
    }
    if let Some(first) = &config.autoencoder {
        let side = first.factor();
        let part = Part::Encoder;
        let graph = autoencoder::build_encoder(first, 1, [side, side])?;
        found.push(Network { part, graph });
        let part = Part::Decoder;
        let graph = autoencoder::build_decoder(first, 1, [1, 1])?;
        found.push(Network { part, graph });
    }
    if let Some(encoder) = &config.text {
        let part = Part::Text;
        let graph = text::build(encoder, 1, encoder.positions())?;
        found.push(Network { part, graph });
    }
    Ok(found)
}
