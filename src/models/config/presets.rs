//! The sizes of Stable Diffusion, which need no file: for benchmarks on synthetic weights, and as the defaults of text
//! encoders that a configuration names without sizes.

use super::{
    Attention, AutoencoderConfig, AutoencoderLevel, ClipActivation, ClipConfig, Condition,
    ModelConfig, Prediction, TextConfig, UNetConfig, UNetLevel,
};

impl ModelConfig {
    /// Stable Diffusion 1.x.
    ///
    /// # Source
    /// `configs/stable-diffusion/v1-inference.yaml` of CompVis/stable-diffusion.
    pub fn stable_diffusion_1() -> Self {
        Self {
            unet: Some(unet(|_| 8, 768)),
            autoencoder: Some(kl_f8()),
            text: Some(TextConfig::Clip(CLIP_VIT_L_14)),
            condition: Condition::Text,
            scale_factor: 0.18215,
            latent_size: Some(64),
            ..Self::default()
        }
    }

    /// Stable Diffusion 2.x for 768x768 pixels, which predicts velocities.
    ///
    /// # Source
    /// `configs/stable-diffusion/v2-inference-v.yaml` of Stability-AI/stablediffusion.
    pub fn stable_diffusion_2() -> Self {
        let mut config = Self::stable_diffusion_1();
        config.unet = Some(UNetConfig {
            linear_projections: true,
            ..unet(|channels| channels / 64, 1024)
        });
        config.text = Some(TextConfig::Clip(ClipConfig {
            skip_layers: 1,
            ..OPEN_CLIP_VIT_H_14
        }));
        config.schedule.prediction = Prediction::V;
        config.latent_size = Some(96);
        config
    }
}

/// The UNet of both, which differ in heads and context.
fn unet(heads: impl Fn(usize) -> usize, context_dim: usize) -> UNetConfig {
    let transformer = |channels| Attention::Transformer {
        heads: heads(channels),
        depth: 1,
    };
    let level = |channels, attention| UNetLevel {
        channels,
        res_blocks: 2,
        attention,
    };
    UNetConfig {
        in_channels: 4,
        out_channels: 4,
        model_channels: 320,
        levels: vec![
            level(320, transformer(320)),
            level(640, transformer(640)),
            level(1280, transformer(1280)),
            level(1280, Attention::None),
        ],
        middle: transformer(1280),
        context_dim: Some(context_dim),
        linear_projections: false,
        new_attention_order: false,
        scale_shift_norm: false,
        res_block_updown: false,
        num_classes: None,
        norm_groups: 32,
        norm_eps: 1e-5,
    }
}

/// The paper's `kl-f8`.
fn kl_f8() -> AutoencoderConfig {
    AutoencoderConfig {
        in_channels: 3,
        out_channels: 3,
        base_channels: 128,
        levels: [128, 256, 512, 512]
            .map(|channels| AutoencoderLevel {
                channels,
                attention: false,
            })
            .to_vec(),
        res_blocks: 2,
        middle_attention: true,
        z_channels: 4,
        embed_dim: 4,
        codebook: None,
        quant_conv: true,
        post_quant_conv: true,
        norm_groups: 32,
    }
}

/// The text encoder of OpenAI's CLIP ViT-L/14.
pub(super) const CLIP_VIT_L_14: ClipConfig = ClipConfig {
    vocab: 49408,
    width: 768,
    layers: 12,
    heads: 12,
    mlp: 3072,
    positions: 77,
    activation: ClipActivation::QuickGelu,
    norm_eps: 1e-5,
    projection: None,
    skip_layers: 0,
    eos_token: Some(49407),
    pad_token: Some(49407),
};

/// The text encoder of OpenCLIP ViT-H/14.
pub(super) const OPEN_CLIP_VIT_H_14: ClipConfig = ClipConfig {
    width: 1024,
    layers: 24,
    heads: 16,
    mlp: 4096,
    activation: ClipActivation::Gelu,
    pad_token: Some(0),
    ..CLIP_VIT_L_14
};
