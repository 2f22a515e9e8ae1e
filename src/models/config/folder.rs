//! Which description each file of a diffusers folder fills in.

use super::section::Section;
use super::{Condition, ModelConfig, TextConfig, diffusers, scheduler, transformers};
use crate::error::Result;
use serde_json::Value;
use std::path::Path;

impl ModelConfig {
    /// Adds the component that a `config.json` describes.
    ///
    /// # Errors
    /// If a key has an unusable value, or the component is of a kind that is not supported.
    pub fn read_component(&mut self, file: &Path, json: &Value) -> Result<()> {
        let root = Section::root(file, json)?;
        let class = match root.text("_class_name")? {
            Some(class) => class,
            None => transformers_class(&root)?,
        };
        match class {
            "UNet2DConditionModel" => {
                self.unet = Some(diffusers::unet(&root)?);
                self.latent_size = root.size("sample_size")?;
            }
            "UNet2DModel" => {
                self.unet = Some(diffusers::unconditional_unet(&root)?);
                self.latent_size = root.size("sample_size")?;
            }
            "AutoencoderKL" => {
                self.autoencoder = Some(diffusers::autoencoder(&root, false)?);
                self.scale_factor = root.real("scaling_factor")?.unwrap_or(0.18215);
                if self.scale_factor <= 0.0 {
                    return Err(root.unfit("scaling_factor", "a number above 0"));
                }
            }
            "VQModel" => {
                self.autoencoder = Some(diffusers::autoencoder(&root, true)?);
                // Diffusers writes 0.18215 into every such file; the models were trained without a factor.
                self.scale_factor = 1.0;
            }
            "CLIPTextModelWithProjection" | "CLIPModel" => {
                let text = transformers::clip_text_with_projection(&root)?;
                self.text = Some(TextConfig::Clip(text));
                self.condition = Condition::Text;
            }
            "CLIPTextModel" => {
                self.text = Some(TextConfig::Clip(transformers::clip_text(&root)?));
                self.condition = Condition::Text;
            }
            "LDMBertModel" => {
                self.text = Some(TextConfig::Bert(transformers::ldm_bert(&root)?));
                self.condition = Condition::Text;
            }
            other => {
                return Err(root.error(&format!("describes a {other}, which is not supported")));
            }
        }
        Ok(())
    }

    /// Takes from a `model_index.json` what its components do not say: what the UNet's further channels are. The components come first.
    ///
    /// # Errors
    /// If the file is not an object.
    pub fn read_pipeline(&mut self, file: &Path, json: &Value) -> Result<()> {
        let class = Section::root(file, json)?.text("_class_name")?;
        let class = class.unwrap_or("an unknown pipeline");
        let Some(unet) = &self.unet else {
            return Ok(());
        };
        let further = unet.in_channels.saturating_sub(unet.out_channels);
        match class {
            _ if further == 0 => {}
            "LDMSuperResolutionPipeline" => self.condition = Condition::LowResolution,
            "StableDiffusionInpaintPipeline" => self.condition = Condition::TextAndMaskedImage,
            _ => self.unsupported.push(format!(
                "its UNet takes {further} channels beside the latent's, and what `{class}` gives it there is not supported"
            )),
        }
        Ok(())
    }

    /// Takes the noise schedule, and the sampler, from a `scheduler_config.json`.
    ///
    /// # Errors
    /// If a key has an unusable value.
    pub fn read_scheduler(&mut self, file: &Path, json: &Value) -> Result<()> {
        let root = Section::root(file, json)?;
        self.schedule = scheduler::schedule(&root)?;
        // A class that no sampler here stands for leaves the choice to the default.
        const KNOWN: [&str; 9] = [
            "DDIMScheduler",
            "DDPMScheduler",
            "DPMSolverMultistepScheduler",
            "EulerAncestralDiscreteScheduler",
            "EulerDiscreteScheduler",
            "HeunDiscreteScheduler",
            "LCMScheduler",
            "PNDMScheduler",
            "UniPCMultistepScheduler",
        ];
        let class = root.text("_class_name")?;
        self.sampling.sampler = class
            .filter(|class| KNOWN.contains(class))
            .map(str::to_owned);
        self.sampling.sigmas = scheduler::spacing(&root)?.map(str::to_owned);
        Ok(())
    }
}

/// The class of a model that transformers saved.
fn transformers_class<'a>(root: &Section<'a>) -> Result<&'a str> {
    if let Some(class) = root
        .texts("architectures")?
        .and_then(|names| names.first().copied())
    {
        return Ok(class);
    }
    match root.text("model_type")? {
        Some("clip_text_model" | "clip") => Ok("CLIPTextModel"),
        Some(other) => Ok(other),
        None => {
            Err(root.error("names no class: neither `_class_name` nor `architectures` is there"))
        }
    }
}

/// The parts of a diffusers pipeline that this crate cannot run, by its `model_index.json`.
///
/// # Errors
/// If the file is not an object.
pub fn unsupported_parts(file: &Path, json: &Value) -> Result<Vec<String>> {
    let root = Section::root(file, json)?;
    let parts = [
        ("transformer", "a diffusion transformer"),
        ("text_encoder_2", "a second text encoder"),
        ("prior", "a prior"),
        ("controlnet", "a ControlNet"),
    ];
    let there = |key| match root.get(key) {
        // `[null, null]` stands for a part that was left out.
        Some(Value::Array(names)) => names.iter().any(|name| !name.is_null()),
        other => other.is_some(),
    };
    Ok(parts
        .into_iter()
        .filter(|(key, _)| there(key))
        .map(|(key, what)| format!("it has {what} (`{key}`), which is not supported"))
        .collect())
}
