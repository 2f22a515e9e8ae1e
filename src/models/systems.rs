//! The systems and first stages that CompVis and its successors published, by name: each is the configuration it came with, so that
//! a checkpoint without one can still be opened, and one can be planned, listed or timed without a checkpoint.
//!
//! Which system a checkpoint is of is told by its tensors alone: all that the system's networks ask for must be there, in their
//! sizes. Heads cannot be seen from sizes, and some systems differ in nothing but what they were trained on; the first that fits is
//! taken then, and the others are named.

use super::config::{AutoencoderConfig, ModelConfig, from_yaml};
use super::networks::networks;
use super::{ModelFiles, original};
use crate::error::{Error, Result, nearest};
use crate::weights::Checkpoint;
use std::path::Path;
use std::sync::Arc;

/// A published system, or a first stage that was published alone.
#[derive(Debug)]
pub struct System {
    /// What it is called in its authors' repository.
    pub name: &'static str,
    /// Its configuration, in CompVis's format.
    pub yaml: &'static str,
}

macro_rules! systems {
    ($($name:literal)*) => {
        &[$(System { name: $name, yaml: include_str!(concat!("../../assets/systems/", $name, ".yaml")) }),*]
    };
}

/// In the order in which they are tried.
const SYSTEMS: &[System] = systems! {
    "celeba256" "ffhq256" "lsun_beds256" "lsun_churches256"
    "cin256-v2" "cin256"
    "text2img256" "txt2img-1p4B" "rdm768"
    "bsr_sr" "inpainting_big" "semantic_synthesis256" "semantic_synthesis512" "layout2img-openimages256"
    "sd-v1" "sd-v1-inpainting" "sd-v2" "sd-v2-base"
    "kl-f4" "kl-f8" "kl-f16" "kl-f32"
    "vq-f4" "vq-f4-noattn" "vq-f8" "vq-f8-n256" "vq-f16"
};

impl System {
    /// Every system, then every first stage.
    pub fn all() -> &'static [Self] {
        SYSTEMS
    }

    /// The system of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        SYSTEMS.iter().find(|system| system.name == name)
    }

    /// The system of this name.
    ///
    /// # Errors
    /// If there is none, with the nearest name.
    pub fn find(name: &str) -> Result<&'static Self> {
        Self::named(name).ok_or_else(|| {
            let near = nearest(name, SYSTEMS.iter().map(|system| system.name));
            let near = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
            Error::request(format!(
                "`{name}` is neither a configuration file nor a system that `ldm list` names{near}"
            ))
        })
    }

    /// Its description.
    ///
    /// # Errors
    /// If it has a part that this crate does not implement.
    pub fn config(&self) -> Result<ModelConfig> {
        from_yaml(Path::new(self.name), self.yaml)
    }

    /// The system that a configuration describes, whatever it says of sampling; the first where several are the same.
    pub fn described_by(config: &ModelConfig) -> Option<&'static Self> {
        let same = |system: &&Self| {
            system.config().is_ok_and(|own| {
                config.unet.is_some()
                    && own.unet == config.unet
                    && own.autoencoder == config.autoencoder
                    && own.text == config.text
                    && own.condition == config.condition
                    && own.latent_size == config.latent_size
                    && own.schedule.prediction == config.schedule.prediction
            })
        };
        SYSTEMS.iter().find(same)
    }

    /// The first stage of these sizes, of those published alone.
    pub fn first_stage(stage: &AutoencoderConfig) -> Option<&'static Self> {
        let same = |system: &&Self| {
            system
                .config()
                .is_ok_and(|own| own.unet.is_none() && own.autoencoder.as_ref() == Some(stage))
        };
        SYSTEMS.iter().find(same)
    }

    /// The systems whose weights a checkpoint holds, in its sizes.
    pub(super) fn fitting(checkpoint: &Arc<Checkpoint>) -> Vec<&'static Self> {
        let fits = |system: &&Self| system.fits(checkpoint).unwrap_or(false);
        SYSTEMS.iter().filter(fits).collect()
    }

    fn fits(&self, checkpoint: &Arc<Checkpoint>) -> Result<bool> {
        let config = self.config()?;
        let denoises = config.unet.is_some();
        let mut model = ModelFiles::empty(self.name.to_owned(), config);
        original::assign(&mut model, checkpoint, None)?;
        let whole = match denoises {
            true => model.unet.is_some(),
            // A first stage alone, not one within a system that is not known.
            false => checkpoint.contains("decoder.conv_in.weight"),
        };
        let sizes_fit = || -> Result<bool> {
            Ok(networks(&model.config)?.iter().all(|network| {
                model.weights(network.part).is_none_or(|weights| {
                    let mut params = network.graph.params();
                    params.all(|param| weights.fits(&param.name, &param.shape))
                })
            }))
        };
        Ok(whole && sizes_fit()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_and_near_ones_are_offered() {
        for system in System::all() {
            assert_eq!(System::find(system.name).unwrap().yaml, system.yaml);
        }
        let error = System::find("cin256-v3").unwrap_err();
        assert!(error.to_string().contains("`cin256-v2`"), "{error}");
    }
}
