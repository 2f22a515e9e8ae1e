//! What a CompVis configuration says of a model's condition: the class of `cond_stage_config`, and `conditioning_key`, the way the
//! condition takes into the UNet.

use super::compvis::{class, unsupported};
use super::limits::checked;
use super::presets::{CLIP_VIT_L_14, OPEN_CLIP_VIT_H_14};
use super::section::Section;
use super::transformers::clip_text;
use super::{BertConfig, ClipConfig, Condition, ModelConfig, RescalerConfig, TextConfig};
use crate::error::Result;
use serde_json::{Value, json};

/// How a condition takes into the UNet: CompVis's `DiffusionWrapper`.
#[derive(Clone, Copy, PartialEq)]
enum Key {
    /// Tokens that the transformers attend to.
    CrossAttention,
    /// Channels after the latent's.
    Concat,
    /// Both.
    Hybrid,
    /// The embedding of a class, added to the timestep's.
    Adm,
}

/// Reads the condition of a `LatentDiffusion`.
pub(super) fn read(params: &Section, config: &mut ModelConfig) -> Result<()> {
    let stage = match params.get("cond_stage_config") {
        None => return Ok(()),
        // These stand where a class would.
        Some(Value::String(name)) if name == "__is_unconditional__" => return Ok(()),
        Some(Value::String(name)) if name == "__is_first_stage__" => {
            config.condition = Condition::MaskedImage;
            return Ok(());
        }
        Some(_) => params.need_section("cond_stage_config")?,
    };
    let key = key(params)?;
    let prompt = match key {
        Key::Hybrid => Condition::TextAndMaskedImage,
        Key::CrossAttention | Key::Concat | Key::Adm => Condition::Text,
    };
    match class(&stage)? {
        "FrozenCLIPEmbedder" => {
            config.text = Some(TextConfig::Clip(clip(&stage)?));
            config.condition = prompt;
        }
        "FrozenOpenCLIPEmbedder" => {
            config.text = Some(TextConfig::Clip(open_clip(&stage)?));
            config.condition = prompt;
        }
        "BERTEmbedder" => {
            let params = stage.need_section("params")?;
            config.text = Some(TextConfig::Bert(bert(&params)?));
            config.condition = match params.flag("use_tokenizer", true)? {
                true => prompt,
                // The one model whose tokens are no words.
                false => Condition::Layout,
            };
        }
        "ClassEmbedder" if key == Key::Adm => config.condition = Condition::Label,
        "ClassEmbedder" => {
            let params = stage.need_section("params")?;
            config.condition = Condition::Class {
                classes: params.size("n_classes")?.unwrap_or(1000),
                width: params.need_size("embed_dim")?,
            };
        }
        "SpatialRescaler" => {
            config.condition = Condition::Segmentation(rescaler(&stage.need_section("params")?)?);
        }
        // The condition is given as it is.
        "Identity" => {
            config.condition = match key {
                Key::Concat => Condition::LowResolution,
                Key::Adm => Condition::Label,
                Key::CrossAttention | Key::Hybrid => Condition::Vectors,
            };
        }
        other => config
            .unsupported
            .push(format!("it has {}", unsupported(other))),
    }
    Ok(())
}

/// `conditioning_key`; without one, what `concat_mode` says, as CompVis has it.
fn key(params: &Section) -> Result<Key> {
    match params.text("conditioning_key")? {
        None if params.flag("concat_mode", true)? => Ok(Key::Concat),
        None | Some("crossattn") => Ok(Key::CrossAttention),
        Some("concat") => Ok(Key::Concat),
        Some("hybrid") => Ok(Key::Hybrid),
        Some("adm") => Ok(Key::Adm),
        Some(_) => Err(params.unfit("conditioning_key", "crossattn, concat, hybrid or adm")),
    }
}

/// `SpatialRescaler` of `encoders/modules.py`.
fn rescaler(params: &Section) -> Result<RescalerConfig> {
    // Halving with bilinear weights is the mean of four pixels.
    params.only(&[("method", json!("bilinear")), ("multiplier", json!(0.5))])?;
    let in_channels = params.size("in_channels")?.unwrap_or(3);
    let config = RescalerConfig {
        in_channels,
        out_channels: params.size("out_channels")?.unwrap_or(in_channels),
        halvings: params.size("n_stages")?.unwrap_or(1),
        bias: params.flag("bias", false)?,
    };
    checked(params, config)
}

/// `BERTEmbedder` of `encoders/modules.py`, with its defaults.
fn bert(params: &Section) -> Result<BertConfig> {
    let config = BertConfig {
        vocab: params.size("vocab_size")?.unwrap_or(30522),
        width: params.need_size("n_embed")?,
        layers: params.need_size("n_layer")?,
        positions: params.size("max_seq_len")?.unwrap_or(77),
    };
    checked(params, config)
}

/// `FrozenCLIPEmbedder`: CLIP ViT-L/14's text encoder, unless `text_config` gives its sizes.
fn clip(stage: &Section) -> Result<ClipConfig> {
    let Some(params) = stage.section("params")? else {
        return Ok(CLIP_VIT_L_14);
    };
    params.only(&[("layer", json!("last"))])?;
    match params.section("text_config")? {
        Some(sizes) => clip_text(&sizes),
        None => Ok(CLIP_VIT_L_14),
    }
}

/// `FrozenOpenCLIPEmbedder`: OpenCLIP ViT-H/14's text encoder, unless `text_config` gives its sizes.
fn open_clip(stage: &Section) -> Result<ClipConfig> {
    let Some(params) = stage.section("params")? else {
        return Ok(OPEN_CLIP_VIT_H_14);
    };
    params.only(&[("arch", json!("ViT-H-14"))])?;
    let config = match params.section("text_config")? {
        Some(sizes) => clip_text(&sizes)?,
        None => OPEN_CLIP_VIT_H_14,
    };
    let skip_layers = match params.text("layer")? {
        None | Some("last") => 0,
        Some("penultimate") => 1,
        Some(_) => return Err(params.unfit("layer", "last or penultimate")),
    };
    Ok(ClipConfig {
        skip_layers,
        ..config
    })
}
