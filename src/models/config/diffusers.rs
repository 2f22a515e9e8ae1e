//! Reads the `config.json` files of diffusers' networks into the same description that CompVis's files give.
//!
//! Two habits of diffusers matter here. A UNet's `attention_head_dim` is the *number* of heads, unless
//! `num_attention_heads` is given too. And each kind of block has its own class, so a level's attention is read off the
//! names of the classes.

use super::limits::checked;
use super::section::Section;
use super::{Attention, AutoencoderConfig, AutoencoderLevel, UNetConfig, UNetLevel};
use crate::error::Result;
use serde_json::{Value, json};

/// `UNet2DConditionModel`, with its defaults.
pub(super) fn unet(root: &Section) -> Result<UNetConfig> {
    refuse_unet_variants(root)?;
    let widths = root
        .sizes("block_out_channels")?
        .unwrap_or(vec![320, 640, 1280, 1280]);
    let count = widths.len();
    let attended = attended_levels(
        root,
        count,
        &["CrossAttnDownBlock2D", "DownBlock2D"],
        &["CrossAttnUpBlock2D", "UpBlock2D"],
    )?
    .unwrap_or(vec![true, true, true, false]);
    let res_blocks = root
        .sizes_each("layers_per_block", count)?
        .unwrap_or(vec![2; count]);
    let depths = root
        .sizes_each("transformer_layers_per_block", count)?
        .unwrap_or(vec![1; count]);
    let heads = match root.sizes_each("num_attention_heads", count)? {
        Some(heads) => heads,
        None => root
            .sizes_each("attention_head_dim", count)?
            .unwrap_or(vec![8; count]),
    };
    let attention = |level: usize| Attention::Transformer {
        heads: heads[level],
        depth: depths[level],
    };
    if widths.is_empty() || attended.len() != count {
        return Err(root.unfit(
            "block_out_channels",
            "one width for each of `down_block_types`",
        ));
    }
    let levels = (0..count)
        .map(|level| UNetLevel {
            channels: widths[level],
            res_blocks: res_blocks[level],
            attention: match attended[level] {
                true => attention(level),
                false => Attention::None,
            },
        })
        .collect();
    let config = UNetConfig {
        in_channels: root.size("in_channels")?.unwrap_or(4),
        out_channels: root.size("out_channels")?.unwrap_or(4),
        model_channels: widths[0],
        levels,
        middle: attention(count - 1),
        context_dim: Some(context_dim(root, count)?),
        linear_projections: root.flag("use_linear_projection", false)?,
        new_attention_order: false,
        scale_shift_norm: scale_shift(root)?,
        res_block_updown: false,
        num_classes: root.size("num_class_embeds")?,
        norm_groups: root.size("norm_num_groups")?.unwrap_or(32),
        norm_eps: root.real("norm_eps")?.unwrap_or(1e-5) as f32,
    };
    checked(root, config)
}

/// `UNet2DModel`, with its defaults: the UNet without a context, whose attention is over pixels.
pub(super) fn unconditional_unet(root: &Section) -> Result<UNetConfig> {
    silu(root)?;
    root.only(&[
        ("add_attention", json!(true)),
        ("attn_norm_num_groups", Value::Null),
        ("center_input_sample", json!(false)),
        ("class_embed_type", Value::Null),
        ("downsample_padding", json!(1)),
        ("downsample_type", json!("conv")),
        ("flip_sin_to_cos", json!(true)),
        ("freq_shift", json!(0)),
        ("mid_block_scale_factor", json!(1)),
        ("mid_block_type", json!("UNetMidBlock2D")),
        ("time_embedding_dim", Value::Null),
        ("time_embedding_type", json!("positional")),
        ("upsample_type", json!("conv")),
        // With `scale_shift` the attention in the middle has no normalisation.
        ("resnet_time_scale_shift", json!("default")),
    ])?;
    let widths = root
        .sizes("block_out_channels")?
        .unwrap_or(vec![224, 448, 672, 896]);
    let count = widths.len();
    let attended = attended_levels(
        root,
        count,
        &["AttnDownBlock2D", "DownBlock2D"],
        &["AttnUpBlock2D", "UpBlock2D"],
    )?
    .unwrap_or(vec![false, true, true, true]);
    if widths.is_empty() || attended.len() != count {
        return Err(root.unfit(
            "block_out_channels",
            "one width for each of `down_block_types`",
        ));
    }
    // Here it is what its name says, and without it there is one head.
    let width = match root.get("attention_head_dim") {
        None if root.has("attention_head_dim") => None,
        None => Some(8),
        Some(_) => root.size("attention_head_dim")?,
    };
    let attention = |channels: usize| Attention::Pixels {
        heads: width.map_or(1, |width| channels / width.max(1)),
    };
    let res_blocks = root.size("layers_per_block")?.unwrap_or(2);
    let levels = widths
        .iter()
        .zip(attended)
        .map(|(&channels, attended)| UNetLevel {
            channels,
            res_blocks,
            attention: match attended {
                true => attention(channels),
                false => Attention::None,
            },
        });
    let config = UNetConfig {
        in_channels: root.size("in_channels")?.unwrap_or(3),
        out_channels: root.size("out_channels")?.unwrap_or(3),
        model_channels: widths[0],
        levels: levels.collect(),
        middle: attention(widths[count - 1]),
        context_dim: None,
        linear_projections: false,
        // Its three matrices stand one below the other, all heads of each.
        new_attention_order: true,
        scale_shift_norm: false,
        res_block_updown: false,
        num_classes: root.size("num_class_embeds")?,
        norm_groups: root.size("norm_num_groups")?.unwrap_or(32),
        norm_eps: root.real("norm_eps")?.unwrap_or(1e-5) as f32,
    };
    checked(root, config)
}

/// Refuses every activation but SiLU, which diffusers knows by two names.
fn silu(root: &Section) -> Result<()> {
    match root.text("act_fn")? {
        None | Some("silu" | "swish") => Ok(()),
        Some(_) => Err(root.unfit("act_fn", "silu")),
    }
}

/// The width of the one context that all transformers attend to.
fn context_dim(root: &Section, count: usize) -> Result<usize> {
    let widths = root
        .sizes_each("cross_attention_dim", count)?
        .unwrap_or(vec![1280]);
    match widths.as_slice() {
        [first, rest @ ..] if rest.iter().all(|width| width == first) => Ok(*first),
        _ => Err(root.unfit("cross_attention_dim", "one width for all levels")),
    }
}

/// Whether the time embedding scales and shifts.
fn scale_shift(root: &Section) -> Result<bool> {
    match root.text("resnet_time_scale_shift")? {
        None | Some("default") => Ok(false),
        Some("scale_shift") => Ok(true),
        Some(_) => Err(root.unfit("resnet_time_scale_shift", "default or scale_shift")),
    }
}

/// The many settings of `UNet2DConditionModel` that change the network, at the one value each has in the systems of the
/// paper and in Stable Diffusion 1 and 2.
fn refuse_unet_variants(root: &Section) -> Result<()> {
    silu(root)?;
    if root.get("mid_block_type").is_none() && root.has("mid_block_type") {
        return Err(root.refuse(
            "mid_block_type",
            "is null: a UNet without a middle is not supported",
        ));
    }
    root.only(&[
        ("addition_embed_type", Value::Null),
        ("attention_type", json!("default")),
        ("center_input_sample", json!(false)),
        ("class_embed_type", Value::Null),
        ("class_embeddings_concat", json!(false)),
        ("conv_in_kernel", json!(3)),
        ("conv_out_kernel", json!(3)),
        ("cross_attention_norm", Value::Null),
        ("downsample_padding", json!(1)),
        ("dual_cross_attention", json!(false)),
        ("encoder_hid_dim", Value::Null),
        ("encoder_hid_dim_type", Value::Null),
        ("flip_sin_to_cos", json!(true)),
        ("freq_shift", json!(0)),
        ("mid_block_only_cross_attention", json!(false)),
        ("mid_block_scale_factor", json!(1)),
        ("mid_block_type", json!("UNetMidBlock2DCrossAttn")),
        ("only_cross_attention", json!(false)),
        ("resnet_out_scale_factor", json!(1)),
        ("resnet_skip_time_act", json!(false)),
        ("reverse_transformer_layers_per_block", Value::Null),
        ("time_cond_proj_dim", Value::Null),
        ("time_embedding_act_fn", Value::Null),
        ("time_embedding_dim", Value::Null),
        ("time_embedding_type", json!("positional")),
        ("timestep_post_act", Value::Null),
    ])
}

/// `AutoencoderKL` or `VQModel`, with its defaults.
pub(super) fn autoencoder(root: &Section, vector_quantised: bool) -> Result<AutoencoderConfig> {
    silu(root)?;
    root.only(&[
        ("norm_type", json!("group")),
        ("lookup_from_codebook", json!(false)),
        ("shift_factor", Value::Null),
        ("latents_mean", Value::Null),
        ("latents_std", Value::Null),
    ])?;
    let widths = root.sizes("block_out_channels")?.unwrap_or(vec![64]);
    let attended = attended_levels(
        root,
        widths.len(),
        &["AttnDownEncoderBlock2D", "DownEncoderBlock2D"],
        &["AttnUpDecoderBlock2D", "UpDecoderBlock2D"],
    )?
    .unwrap_or(vec![false]);
    if widths.is_empty() || attended.len() != widths.len() {
        return Err(root.unfit(
            "block_out_channels",
            "one width for each of `down_block_types`",
        ));
    }
    let usual = if vector_quantised { 3 } else { 4 };
    let latent_channels = root.size("latent_channels")?.unwrap_or(usual);
    let (codebook, embed_dim) = match vector_quantised {
        true => (
            Some(root.size("num_vq_embeddings")?.unwrap_or(256)),
            root.size("vq_embed_dim")?.unwrap_or(latent_channels),
        ),
        false => (None, latent_channels),
    };
    let config = AutoencoderConfig {
        in_channels: root.size("in_channels")?.unwrap_or(3),
        out_channels: root.size("out_channels")?.unwrap_or(3),
        base_channels: widths[0],
        levels: widths
            .iter()
            .zip(attended)
            .map(|(&channels, attention)| AutoencoderLevel {
                channels,
                attention,
            })
            .collect(),
        res_blocks: root.size("layers_per_block")?.unwrap_or(1),
        middle_attention: root.flag("mid_block_add_attention", true)?,
        z_channels: latent_channels,
        embed_dim,
        codebook,
        quant_conv: root.flag("use_quant_conv", true)?,
        post_quant_conv: root.flag("use_post_quant_conv", true)?,
        norm_groups: root.size("norm_num_groups")?.unwrap_or(32),
    };
    checked(root, config)
}

/// Which levels have attention, finest first, by the classes of the blocks on the way down: the first of `down` has it
/// and the second has not. The way up must mirror it. `None` where the file leaves both to the default.
fn attended_levels(
    root: &Section,
    count: usize,
    down: &[&str; 2],
    up: &[&str; 2],
) -> Result<Option<Vec<bool>>> {
    let read = |key: &str, classes: &[&str; 2]| -> Result<Option<Vec<bool>>> {
        let Some(names) = root.texts(key)? else {
            return Ok(None);
        };
        let known = names.iter().map(
            |name| match classes.iter().position(|class| class == name) {
                Some(index) => Ok(index == 0),
                None => Err(root.refuse(
                    key,
                    format!(
                        "holds `{name}`: only {} and {} are supported",
                        classes[0], classes[1]
                    ),
                )),
            },
        );
        let levels = known.collect::<Result<Vec<_>>>()?;
        if levels.len() != count {
            return Err(root.unfit(key, &format!("a list of {count}")));
        }
        Ok(Some(levels))
    };
    let going_down = read("down_block_types", down)?;
    let mut going_up = read("up_block_types", up)?;
    if let Some(levels) = &mut going_up {
        levels.reverse();
    }
    if going_down.is_some() && going_up.is_some() && going_down != going_up {
        return Err(root.unfit("up_block_types", "the mirror image of `down_block_types`"));
    }
    Ok(going_down)
}
