//! Reads the `config.yaml` of CompVis's releases: Python classes by name (`target`) and what they are built with (`params`).
//!
//! The demo model's own keys are read too: `num_groups` beside a network's sizes, `text_config` under
//! `cond_stage_config.params`, `rescale_betas_zero_snr` under `model.params`, and `sampling` at the root.

use super::conditioning;
use super::limits::checked;
use super::section::Section;
use super::{
    Attention, AutoencoderConfig, AutoencoderLevel, BetaSchedule, ModelConfig, Prediction,
    SamplingDefaults, ScheduleConfig, TimestepSpacing, UNetConfig, UNetLevel,
};
use crate::error::{Error, Result};
use serde_json::{Value, json};
use std::path::Path;

/// The model that a `config.yaml` describes; `file` is named in errors.
///
/// # Errors
/// If the text is not YAML, a key is missing or has an unusable value, or the network has a part that is not supported.
pub fn from_yaml(file: &Path, yaml: &str) -> Result<ModelConfig> {
    let value: Value = serde_saphyr::from_str(yaml).map_err(|error| {
        // The lines after the first are a drawing of the place.
        let error = error.to_string();
        let first = error.lines().next().unwrap_or_default();
        let problem = first.trim_start_matches("error: ");
        Error::file(file, format!("is not readable as YAML: {problem}"))
    })?;
    let root = Section::root(file, &value)?;
    let model = root.need_section("model")?;
    let params = model.need_section("params")?;
    let mut config = match class(&model)? {
        "AutoencoderKL" => ModelConfig {
            autoencoder: Some(autoencoder(&params, false)?),
            ..ModelConfig::default()
        },
        "VQModel" | "VQModelInterface" => ModelConfig {
            autoencoder: Some(autoencoder(&params, true)?),
            ..ModelConfig::default()
        },
        _ => latent_diffusion(&params)?,
    };
    if let Some(sampling) = root.section("sampling")? {
        read_sampling(&sampling, &mut config)?;
    }
    Ok(config)
}

/// `LatentDiffusion` and the classes derived from it.
fn latent_diffusion(params: &Section) -> Result<ModelConfig> {
    let mut config = ModelConfig {
        schedule: schedule(params)?,
        scale_factor: params.real("scale_factor")?.unwrap_or(1.0),
        latent_size: match params.get("image_size") {
            Some(Value::Number(_)) => params.size("image_size")?,
            _ => None,
        },
        use_ema: params.flag("use_ema", true)?,
        ..ModelConfig::default()
    };
    if config.scale_factor <= 0.0 {
        return Err(params.unfit("scale_factor", "a number above 0"));
    }
    let stage = params.need_section("unet_config")?;
    match class(&stage)? {
        "UNetModel" => config.unet = Some(unet(&stage.need_section("params")?)?),
        other => return Err(stage.refuse("target", format!("names {}", unsupported(other)))),
    }
    if let Some(stage) = params.section("first_stage_config")? {
        match class(&stage)? {
            "AutoencoderKL" => {
                config.autoencoder = Some(autoencoder(&stage.need_section("params")?, false)?);
            }
            "VQModel" | "VQModelInterface" => {
                config.autoencoder = Some(autoencoder(&stage.need_section("params")?, true)?);
            }
            other => config
                .unsupported
                .push(format!("it has {}", unsupported(other))),
        }
    }
    conditioning::read(params, &mut config)?;
    Ok(config)
}

/// The last word of a section's `target`.
pub(super) fn class<'a>(section: &Section<'a>) -> Result<&'a str> {
    let target = section
        .text("target")?
        .ok_or_else(|| section.refuse("target", "is missing"))?;
    Ok(target.rsplit('.').next().unwrap_or(target))
}

/// What is said of a class that this crate does not implement.
pub(super) fn unsupported(class: &str) -> String {
    format!("a part (`{class}`), which is not supported")
}

fn schedule(params: &Section) -> Result<ScheduleConfig> {
    params.only(&[("given_betas", Value::Null)])?;
    let beta_schedule = match params.text("beta_schedule")? {
        None | Some("linear") => BetaSchedule::ScaledLinear,
        Some("sqrt_linear") => BetaSchedule::Linear,
        Some("cosine") => BetaSchedule::SquaredCosine,
        Some(_) => return Err(params.unfit("beta_schedule", "linear, sqrt_linear or cosine")),
    };
    let prediction = match params.text("parameterization")? {
        None | Some("eps") => Prediction::Epsilon,
        Some("v") => Prediction::V,
        Some("x0") => Prediction::Sample,
        Some(_) => return Err(params.unfit("parameterization", "eps, v or x0")),
    };
    Ok(ScheduleConfig {
        beta_schedule,
        beta_start: params.real("linear_start")?.unwrap_or(1e-4),
        beta_end: params.real("linear_end")?.unwrap_or(2e-2),
        timesteps: params.size("timesteps")?.unwrap_or(1000),
        prediction,
        zero_terminal_snr: params.flag("rescale_betas_zero_snr", false)?,
        ..ScheduleConfig::default()
    })
}

/// The `sampling` that the demo model's configuration recommends.
fn read_sampling(sampling: &Section, config: &mut ModelConfig) -> Result<()> {
    config.sampling = SamplingDefaults {
        sampler: sampling.text("sampler")?.map(str::to_owned),
        sigmas: sampling.text("scheduler")?.map(str::to_owned),
        steps: sampling.size("steps")?,
        eta: sampling.real("eta")?,
        guidance_scale: sampling.real("cfg_scale")?,
    };
    if let Some(offset) = sampling.size("steps_offset")? {
        config.schedule.steps_offset = offset;
    }
    config.schedule.set_alpha_to_one =
        sampling.flag("set_alpha_to_one", config.schedule.set_alpha_to_one)?;
    if let Some(spacing) = sampling.text("timestep_spacing")? {
        let rule = TimestepSpacing::parse(spacing)
            .ok_or_else(|| sampling.unfit("timestep_spacing", TimestepSpacing::EXPECTED))?;
        config.schedule.timestep_spacing = Some(rule);
    }
    Ok(())
}

/// `UNetModel` of `openaimodel.py`, with its defaults.
fn unet(params: &Section) -> Result<UNetConfig> {
    params.only(&[
        ("dims", json!(2)),
        ("conv_resample", json!(true)),
        ("n_embed", Value::Null),
        ("adm_in_channels", Value::Null),
        ("disable_self_attentions", Value::Null),
        ("num_attention_blocks", Value::Null),
        ("disable_middle_self_attn", json!(false)),
        ("num_heads_upsample", json!(-1)),
    ])?;
    let model_channels = params.need_size("model_channels")?;
    let multiples = params.sizes("channel_mult")?.unwrap_or(vec![1, 2, 4, 8]);
    let count = multiples.len();
    let res_blocks = params
        .sizes_each("num_res_blocks", count)?
        .ok_or_else(|| params.refuse("num_res_blocks", "is missing"))?;
    let resolutions = params.sizes("attention_resolutions")?.unwrap_or_default();
    let transformers = params.flag("use_spatial_transformer", false)?;
    let depths = params
        .sizes_each("transformer_depth", count)?
        .unwrap_or(vec![1; count]);
    let attention = |level: usize, channels: usize| -> Result<Attention> {
        let heads = heads(params, channels)?;
        Ok(match transformers {
            true => Attention::Transformer {
                heads,
                depth: depths[level],
            },
            false => Attention::Pixels { heads },
        })
    };
    let levels = (0..count)
        .map(|level| {
            let channels = model_channels.saturating_mul(multiples[level]);
            let attended = resolutions
                .iter()
                .any(|&down| Some(down) == 1usize.checked_shl(level as u32));
            Ok(UNetLevel {
                channels,
                res_blocks: res_blocks[level],
                attention: match attended {
                    true => attention(level, channels)?,
                    false => Attention::None,
                },
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let last = levels
        .last()
        .ok_or_else(|| params.unfit("channel_mult", "a list of multiples"))?;
    let context_dim = params
        .sizes("context_dim")?
        .and_then(|dims| dims.first().copied());
    if transformers && context_dim.is_none() {
        return Err(params.refuse(
            "context_dim",
            "is missing, and the spatial transformers need it",
        ));
    }
    let config = UNetConfig {
        in_channels: params.need_size("in_channels")?,
        out_channels: params.need_size("out_channels")?,
        model_channels,
        middle: attention(count - 1, last.channels)?,
        levels,
        context_dim: context_dim.filter(|_| transformers),
        linear_projections: params.flag("use_linear_in_transformer", false)?,
        new_attention_order: params.flag("use_new_attention_order", false)?,
        scale_shift_norm: params.flag("use_scale_shift_norm", false)?,
        res_block_updown: params.flag("resblock_updown", false)?,
        num_classes: params.size("num_classes")?,
        norm_groups: params.size("num_groups")?.unwrap_or(32),
        norm_eps: 1e-5,
    };
    checked(params, config)
}

/// Heads at a width: so many of a given width each, or a given number.
fn heads(params: &Section, channels: usize) -> Result<usize> {
    // -1 stands for "not given" in both keys.
    let given = |key| match params.get(key).and_then(Value::as_i64) {
        Some(-1) => Ok(None),
        _ => params.size(key),
    };
    match (given("num_head_channels")?, given("num_heads")?) {
        (Some(width), _) if width > 0 && channels.is_multiple_of(width) => Ok(channels / width),
        (Some(_), _) => Err(params.unfit("num_head_channels", &format!("a divisor of {channels}"))),
        (None, Some(heads)) => Ok(heads),
        (None, None) => {
            Err(params.refuse("num_heads", "is missing, and so is `num_head_channels`"))
        }
    }
}

/// `AutoencoderKL`, or `VQModel` and `VQModelInterface`, of `autoencoder.py`.
fn autoencoder(params: &Section, vector_quantised: bool) -> Result<AutoencoderConfig> {
    let sizes = params.need_section("ddconfig")?;
    sizes.only(&[
        ("double_z", json!(!vector_quantised)),
        ("tanh_out", json!(false)),
        ("resamp_with_conv", json!(true)),
        ("use_linear_attn", json!(false)),
    ])?;
    let attention = match sizes.text("attn_type")? {
        None | Some("vanilla" | "vanilla-xformers") => true,
        Some("none") => false,
        Some(_) => return Err(sizes.unfit("attn_type", "vanilla or none")),
    };
    let base_channels = sizes.need_size("ch")?;
    let resolution = sizes.need_size("resolution")?;
    let attended = sizes.sizes("attn_resolutions")?.unwrap_or_default();
    let multiples = sizes.sizes("ch_mult")?.unwrap_or(vec![1, 2, 4, 8]);
    let levels = multiples
        .iter()
        .enumerate()
        .map(|(level, multiple)| AutoencoderLevel {
            channels: base_channels.saturating_mul(*multiple),
            // The nominal resolution decides, whatever the image's size is.
            attention: attention && attended.contains(&(resolution >> level.min(63))),
        })
        .collect();
    let config = AutoencoderConfig {
        in_channels: sizes.need_size("in_channels")?,
        out_channels: sizes.need_size("out_ch")?,
        base_channels,
        levels,
        res_blocks: sizes.need_size("num_res_blocks")?,
        middle_attention: attention,
        z_channels: sizes.need_size("z_channels")?,
        embed_dim: params.need_size("embed_dim")?,
        codebook: match vector_quantised {
            true => Some(params.need_size("n_embed")?),
            false => None,
        },
        quant_conv: true,
        post_quant_conv: true,
        norm_groups: sizes.size("num_groups")?.unwrap_or(32),
    };
    checked(&sizes, config)
}
