//! The networks of a model one by one, for whoever counts, checks or copies weights rather than running them.

use super::config::{Condition, ModelConfig, TextConfig};
use super::{autoencoder, condition, text, unet};
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
    /// What else makes a condition.
    Condition,
}

impl Part {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::UNet => "UNet",
            Self::Encoder => "encoder",
            Self::Decoder => "decoder",
            Self::Text => "text encoder",
            Self::Condition => "condition",
        }
    }

    /// This network's weights among those of the UNet, the autoencoder, the text encoder and the condition, where it is there: a
    /// file may hold an autoencoder's encoder or decoder alone.
    pub(crate) fn pick(self, weights: [&Option<Weights>; 4]) -> Option<&Weights> {
        let [unet, autoencoder, text, condition] = weights.map(Option::as_ref);
        let holding = |name| autoencoder.filter(|found| found.contains(name));
        match self {
            Self::UNet => unet,
            Self::Encoder => holding("encoder.conv_in.weight"),
            Self::Decoder => holding("decoder.conv_in.weight"),
            Self::Text => text,
            Self::Condition => condition,
        }
    }
}

/// A network of a model.
pub struct Network {
    /// Which.
    pub part: Part,
    /// What precedes the names of its weights in a checkpoint of the whole model, as CompVis writes them.
    pub prefix: &'static str,
    /// Its graph, at the smallest size that it takes.
    pub graph: Graph,
}

/// The networks that a configuration describes.
///
/// # Errors
/// If it describes one that cannot be built.
pub fn networks(config: &ModelConfig) -> Result<Vec<Network>> {
    let mut found = vec![];
    let mut add = |part, prefix, graph| {
        found.push(Network {
            part,
            prefix,
            graph,
        })
    };
    if let Some(unet) = &config.unet {
        let side = unet.factor();
        // Attention to a single token needs fewer weights than attention, and a model that is trained with one has all.
        let tokens = config.context_tokens().max(2);
        let graph = unet::build(unet, 1, [side, side], tokens)?;
        add(Part::UNet, "model.diffusion_model.", graph);
    }
    if let Some(first) = &config.autoencoder {
        let (side, prefix) = (first.factor(), "first_stage_model.");
        let encoder = autoencoder::build_encoder(first, 1, [side, side])?;
        add(Part::Encoder, prefix, encoder);
        let decoder = autoencoder::build_decoder(first, 1, [1, 1])?;
        add(Part::Decoder, prefix, decoder);
    }
    if let Some(encoder) = &config.text {
        let prefix = match encoder {
            TextConfig::Clip(_) => "cond_stage_model.transformer.",
            TextConfig::Bert(_) => "cond_stage_model.",
        };
        let graph = text::build(encoder, 1, encoder.positions())?;
        add(Part::Text, prefix, graph);
    }
    match &config.condition {
        Condition::Class { classes, width } => {
            let graph = condition::build_class_embedder(*classes, *width, 1)?;
            add(Part::Condition, "cond_stage_model.", graph);
        }
        Condition::Segmentation(rescaler) => {
            let side = 1 << rescaler.halvings;
            let graph = condition::build_rescaler(rescaler, 1, [side, side])?;
            add(Part::Condition, "cond_stage_model.", graph);
        }
        _ => {}
    }
    Ok(found)
}
