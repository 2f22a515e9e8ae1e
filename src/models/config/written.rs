//! Writes a description as the `config.yaml` that [`from_yaml`](super::from_yaml) reads, whichever files it came from.

use super::presets::OPEN_CLIP_VIT_H_14;
use super::{
    Attention, AutoencoderConfig, BetaSchedule, ClipActivation, ClipConfig, Condition, ModelConfig,
    Prediction, ScheduleConfig, TextConfig, UNetConfig, from_yaml,
};
use crate::error::{Error, Result};
use serde_json::{Map, Value, json};
use std::path::Path;

/// The side of the images that a first stage's attention is configured at; only its ratio to the resolutions matters.
const NOMINAL: usize = 256;

/// The text of a `config.yaml` that describes this model, with the one set of weights that its checkpoint is to hold.
///
/// # Errors
/// If CompVis's format has no words for something in it; `name` is the model's, for the sentence.
pub fn to_yaml(name: &str, config: &ModelConfig) -> Result<String> {
    let refuse = |problem: String| Error::file(name, problem);
    let text = serde_saphyr::to_string(&root(config))
        .map_err(|error| refuse(format!("cannot be described in YAML: {error}")))?;
    let expected = ModelConfig {
        use_ema: false,
        ..config.clone()
    };
    // What is read back must be what was meant: other networks than CompVis's have sizes that its keys cannot express.
    match from_yaml(Path::new(name), &text) {
        Ok(read) if read == expected => Ok(text),
        _ => Err(refuse(
            "has a network or a schedule that CompVis's configurations have no words for, so it cannot be written as one"
                .into(),
        )),
    }
}

fn root(config: &ModelConfig) -> Value {
    let Some(unet) = &config.unet else {
        let stage = config.autoencoder.as_ref();
        return json!({ "model": stage.map(|stage| first_stage(stage, "VQModel")) });
    };
    let mut params = schedule(&config.schedule);
    params.extend(object(json!({
        "image_size": config.latent_size,
        "channels": unet.out_channels,
        "scale_factor": config.scale_factor,
        "use_ema": false,
        "unet_config": {
            "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
            "params": denoiser(unet),
        },
        "first_stage_config": config
            .autoencoder
            .as_ref()
            .map(|stage| first_stage(stage, "VQModelInterface")),
    })));
    params.extend(condition(config));
    let sampling = &config.sampling;
    let spacing = config.schedule.timestep_spacing;
    let class = match config.condition {
        Condition::TextAndMaskedImage => "LatentInpaintDiffusion",
        _ => "LatentDiffusion",
    };
    json!({
        "model": {
            "target": format!("ldm.models.diffusion.ddpm.{class}"),
            "params": params,
        },
        "sampling": present(json!({
            "sampler": sampling.sampler,
            "scheduler": sampling.sigmas,
            "steps": sampling.steps,
            "eta": sampling.eta,
            "cfg_scale": sampling.guidance_scale,
            "timestep_spacing": spacing.map(|rule| format!("{rule:?}").to_lowercase()),
            "steps_offset": config.schedule.steps_offset,
            "set_alpha_to_one": config.schedule.set_alpha_to_one,
        })),
    })
}

fn schedule(schedule: &ScheduleConfig) -> Map<String, Value> {
    object(json!({
        "beta_schedule": match schedule.beta_schedule {
            BetaSchedule::ScaledLinear => "linear",
            BetaSchedule::Linear => "sqrt_linear",
            BetaSchedule::SquaredCosine => "cosine",
        },
        "linear_start": schedule.beta_start,
        "linear_end": schedule.beta_end,
        "timesteps": schedule.timesteps,
        "parameterization": match schedule.prediction {
            Prediction::Epsilon => "eps",
            Prediction::V => "v",
            Prediction::Sample => "x0",
        },
        "rescale_betas_zero_snr": schedule.zero_terminal_snr,
    }))
}

/// The keys that say what the network is told, and how.
fn condition(config: &ModelConfig) -> Map<String, Value> {
    let told = &config.condition;
    let text = || config.text.as_ref().map(|text| encoder(text, told));
    let encoders = "ldm.modules.encoders.modules";
    let (key, stage) = match told {
        Condition::None => (None, json!("__is_unconditional__")),
        Condition::Text | Condition::Layout => (Some("crossattn"), json!(text())),
        Condition::TextAndMaskedImage => (Some("hybrid"), json!(text())),
        Condition::Class { classes, width } => (
            Some("crossattn"),
            json!({
                "target": format!("{encoders}.ClassEmbedder"),
                "params": {"n_classes": classes, "embed_dim": width},
            }),
        ),
        Condition::Label => (Some("adm"), json!({"target": "torch.nn.Identity"})),
        Condition::Vectors => (Some("crossattn"), json!({"target": "torch.nn.Identity"})),
        Condition::LowResolution => (Some("concat"), json!({"target": "torch.nn.Identity"})),
        Condition::MaskedImage => (Some("concat"), json!("__is_first_stage__")),
        Condition::Segmentation(map) => (
            Some("concat"),
            json!({
                "target": format!("{encoders}.SpatialRescaler"),
                "params": {
                    "n_stages": map.halvings,
                    "in_channels": map.in_channels,
                    "out_channels": map.out_channels,
                    "bias": map.bias,
                },
            }),
        ),
    };
    present(json!({"conditioning_key": key, "cond_stage_config": stage}))
}

/// The encoder of prompts, or of layouts, whose tokens are no words.
fn encoder(text: &TextConfig, condition: &Condition) -> Value {
    let encoders = "ldm.modules.encoders.modules";
    match text {
        TextConfig::Clip(clip) if is_open_clip(clip) => json!({
            "target": format!("{encoders}.FrozenOpenCLIPEmbedder"),
            "params": {"layer": if clip.skip_layers == 0 { "last" } else { "penultimate" }},
        }),
        TextConfig::Clip(clip) => json!({
            "target": format!("{encoders}.FrozenCLIPEmbedder"),
            "params": {"text_config": clip_sizes(clip)},
        }),
        TextConfig::Bert(bert) => json!({
            "target": format!("{encoders}.BERTEmbedder"),
            "params": {
                "n_embed": bert.width,
                "n_layer": bert.layers,
                "vocab_size": bert.vocab,
                "max_seq_len": bert.positions,
                "use_tokenizer": *condition != Condition::Layout,
            },
        }),
    }
}

fn is_open_clip(config: &ClipConfig) -> bool {
    let known = ClipConfig {
        skip_layers: config.skip_layers,
        ..OPEN_CLIP_VIT_H_14
    };
    *config == known && config.skip_layers < 2
}

fn clip_sizes(clip: &ClipConfig) -> Map<String, Value> {
    present(json!({
        "vocab_size": clip.vocab,
        "hidden_size": clip.width,
        "num_hidden_layers": clip.layers,
        "num_attention_heads": clip.heads,
        "intermediate_size": clip.mlp,
        "max_position_embeddings": clip.positions,
        "hidden_act": match clip.activation {
            ClipActivation::QuickGelu => "quick_gelu",
            ClipActivation::Gelu => "gelu",
        },
        "layer_norm_eps": clip.norm_eps,
        "eos_token_id": clip.eos_token,
        "pad_token_id": clip.pad_token,
    }))
}

fn denoiser(unet: &UNetConfig) -> Map<String, Value> {
    let base = unet.model_channels.max(1);
    let levels = &unet.levels;
    let heads = |attention| match attention {
        Attention::None => None,
        Attention::Pixels { heads } | Attention::Transformer { heads, .. } => Some(heads),
    };
    let depth = |attention| match attention {
        Attention::Transformer { depth, .. } => depth,
        Attention::None | Attention::Pixels { .. } => 1,
    };
    let attended = levels.iter().enumerate();
    let attended = attended.filter(|(_, level)| level.attention != Attention::None);
    let resolutions: Vec<usize> = attended.map(|(level, _)| 1 << level.min(63)).collect();
    let last = levels.last().map_or(0, |level| level.channels);
    // The same number of heads everywhere, or else the same number of channels in each.
    let everywhere = heads(unet.middle);
    let same = levels
        .iter()
        .all(|level| heads(level.attention).is_none_or(|own| Some(own) == everywhere));
    let width = everywhere.map(|heads| last / heads.max(1));
    let mut depths: Vec<usize> = levels.iter().map(|level| depth(level.attention)).collect();
    if let Some(last) = depths.last_mut() {
        *last = depth(unet.middle);
    }
    present(json!({
        "in_channels": unet.in_channels,
        "out_channels": unet.out_channels,
        "model_channels": unet.model_channels,
        "channel_mult": levels.iter().map(|level| level.channels / base).collect::<Vec<_>>(),
        "num_res_blocks": levels.iter().map(|level| level.res_blocks).collect::<Vec<_>>(),
        "attention_resolutions": resolutions,
        "num_heads": everywhere.filter(|_| same),
        "num_head_channels": width.filter(|_| !same),
        "use_spatial_transformer": matches!(unet.middle, Attention::Transformer { .. }),
        "transformer_depth": depths,
        "context_dim": unet.context_dim,
        "use_linear_in_transformer": unet.linear_projections,
        "use_new_attention_order": unet.new_attention_order,
        "use_scale_shift_norm": unet.scale_shift_norm,
        "resblock_updown": unet.res_block_updown,
        "num_classes": unet.num_classes,
        "num_groups": unet.norm_groups,
    }))
}

/// A first stage; `quantised` is its class where it has a codebook.
fn first_stage(stage: &AutoencoderConfig, quantised: &str) -> Value {
    let class = stage.codebook.map_or("AutoencoderKL", |_| quantised);
    let base = stage.base_channels.max(1);
    let levels = stage.levels.iter().enumerate();
    let attended = levels.filter(|(_, level)| level.attention);
    json!({
        "target": format!("ldm.models.autoencoder.{class}"),
        "params": present(json!({
            "embed_dim": stage.embed_dim,
            "n_embed": stage.codebook,
            "ddconfig": {
                "double_z": stage.codebook.is_none(),
                "z_channels": stage.z_channels,
                "resolution": NOMINAL,
                "in_channels": stage.in_channels,
                "out_ch": stage.out_channels,
                "ch": stage.base_channels,
                "ch_mult": stage.levels.iter().map(|level| level.channels / base).collect::<Vec<_>>(),
                "num_res_blocks": stage.res_blocks,
                "attn_resolutions": attended.map(|(level, _)| NOMINAL >> level.min(63)).collect::<Vec<_>>(),
                "attn_type": if stage.middle_attention { "vanilla" } else { "none" },
                "num_groups": stage.norm_groups,
                "dropout": 0.0,
            },
        })),
    })
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// An object without the keys that have no value.
fn present(value: Value) -> Map<String, Value> {
    let mut map = object(value);
    map.retain(|_, value| !value.is_null());
    map
}
