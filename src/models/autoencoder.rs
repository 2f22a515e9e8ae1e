//! The first stage: from pixels to latents and back.
//!
//! Encoder and decoder are separate graphs, as most runs need one of them. Both live in the checkpoint's scopes `encoder`
//! and `decoder`; the 1x1 convolutions at the latent, `quant_conv` and `post_quant_conv`, are outside of these, and so is
//! the codebook, `quantize`.
//!
//! A vector-quantised first stage encodes without quantising, and its decoder quantises first: what lies between, a
//! diffusion model's sample, need not be made of codes. The codes of an image are a graph of their own ([`build_codes`]).

use super::blocks::{
    self, Norm, NormConv, ProjectedAttention, ResBlock, Resample, conv3x3, expect_channels,
    norm_conv, on_tokens,
};
use super::config::{AutoencoderConfig, AutoencoderLevel};
use crate::error::{Error, Result};
use crate::graph::{Graph, Value};
use crate::ops::Padding;
use crate::tensor::Tensor;

/// Epsilon of every normalisation; the UNet's res blocks have another.
const NORM_EPS: f32 = 1e-6;

const RES_BLOCK: ResBlock = ResBlock {
    first: ["norm1", "", "conv1"],
    embedding: "temb_proj",
    second: ["norm2", "", "conv2"],
    skip: "nin_shortcut",
};

const ATTENTION: ProjectedAttention = ProjectedAttention {
    qkv: ["q", "k", "v"],
    bias: true,
    out: "proj_out",
};

const OUT: NormConv = ["norm_out", "", "conv_out"];

/// A decoder alone.
///
/// # Shapes
/// Input `latent [batch, height, width, embed_dim]` (exact where it is quantised), output `image [batch, f height, f width, C]`; sizes in latent
/// pixels.
///
/// # Errors
/// As [`decode`].
pub fn build_decoder(
    config: &AutoencoderConfig,
    batch: usize,
    [height, width]: [usize; 2],
) -> Result<Graph> {
    let mut g = Graph::new();
    let shape = [batch, height, width, config.embed_dim];
    let latent = match config.codebook {
        None => g.input("latent", shape),
        // Half of a latent may have another nearest code.
        Some(_) => g.input_exact("latent", shape),
    };
    let image = decode(&mut g, config, latent)?;
    g.output("image", image);
    Ok(g)
}

/// An encoder alone.
///
/// # Shapes
/// Input `image [batch, height, width, C]`, output `moments [batch, height / f, width / f, 2 embed_dim]`, or with a codebook
/// `latent [batch, height / f, width / f, embed_dim]`; sizes in pixels, and what is left over is dropped.
///
/// # Errors
/// As [`encode`].
pub fn build_encoder(config: &AutoencoderConfig, batch: usize, size: [usize; 2]) -> Result<Graph> {
    let (mut g, answer) = encoder_alone(config, batch, size)?;
    let name = match config.codebook {
        None => "moments",
        Some(_) => "latent",
    };
    g.output(name, answer);
    Ok(g)
}

/// A vector-quantised encoder with the search for the nearest codes.
///
/// # Shapes
/// As [`build_encoder`], with two outputs more: `indices [batch, height / f, width / f]` (exact), and the codes themselves,
/// `quantised`, of the latent's shape.
///
/// # Errors
/// As [`build_encoder`], and if the autoencoder has no codebook.
pub fn build_codes(config: &AutoencoderConfig, batch: usize, size: [usize; 2]) -> Result<Graph> {
    let codes = config.codebook.ok_or_else(|| {
        Error::request("the model's autoencoder has no codebook, so an image has no codes in it")
    })?;
    let (mut g, latent) = encoder_alone(config, batch, size)?;
    g.output("latent", latent);
    let [indices, quantised] = quantise(&mut g, latent, codes)?;
    g.output("indices", indices);
    g.output("quantised", quantised);
    Ok(g)
}

/// An encoder, and what it answers.
fn encoder_alone(
    config: &AutoencoderConfig,
    batch: usize,
    [height, width]: [usize; 2],
) -> Result<(Graph, Value)> {
    let mut g = Graph::new();
    let image = g.input("image", [batch, height, width, config.in_channels]);
    let answer = encode(&mut g, config, image)?;
    Ok((g, answer))
}

/// Appends the encoder: mean and log variance of the latent, side by side along the channels ([`split_moments`]), or with a
/// codebook the latent itself, not quantised.
///
/// # Shapes
/// `image [N, H, W, C]`, in -1..1, gives `[N, H / f, W / f, 2 embed_dim]`, or half as many channels with a codebook. Each level drops
/// the row or column that halving leaves over.
///
/// # Errors
/// If a side of the image is shorter than `f`, or the configuration describes no network.
///
/// # Source
/// Section 3.1 and appendix G of the paper; `Encoder` in CompVis's `model.py`.
pub fn encode(g: &mut Graph, config: &AutoencoderConfig, image: Value) -> Result<Value> {
    expect_channels(g, image, "image", config.in_channels)?;
    coarsest(config)?;
    check_sides(g, config, image)?;
    let answer = g.scope("encoder", |g| encoder(g, config, image))?;
    if !config.quant_conv {
        return Ok(answer);
    }
    g.scope("quant_conv", |g| {
        g.linear(answer, values(config) * config.embed_dim, true)
    })
}

/// Appends the decoder, and before it, with a codebook, the nearest codes.
///
/// # Shapes
/// `latent [N, h, w, embed_dim]`, at the scale the encoder gives, to `[N, f h, f w, C]`, about -1..1 and not clamped.
///
/// # Errors
/// If the configuration describes no network.
///
/// # Source
/// Section 3.1 and appendix G of the paper; `Decoder` in CompVis's `model.py`.
pub fn decode(g: &mut Graph, config: &AutoencoderConfig, latent: Value) -> Result<Value> {
    expect_channels(g, latent, "latent", config.embed_dim)?;
    let latent = match config.codebook {
        None => latent,
        Some(codes) => quantise(g, latent, codes)?[1],
    };
    let z = if config.post_quant_conv {
        g.scope("post_quant_conv", |g| {
            g.linear(latent, config.z_channels, true)
        })?
    } else {
        latent
    };
    g.scope("decoder", |g| decoder(g, config, z))
}

/// Appends the search for each latent pixel's nearest code: their numbers, and the codes.
///
/// # Shapes
/// `latent [N, h, w, D]` gives `[N, h, w]` (exact) and `[N, h, w, D]`.
///
/// # Errors
/// None for an image of this graph.
///
/// # Source
/// `VectorQuantizer2` of CompVis's taming-transformers.
pub fn quantise(g: &mut Graph, latent: Value, codes: usize) -> Result<[Value; 2]> {
    let features = g.shape(latent).channels();
    g.scope("quantize.embedding", |g| {
        let indices = g.codebook(latent, codes)?;
        let quantised = g.embedding(indices, codes, features)?;
        Ok([indices, quantised])
    })
}

/// Mean and log variance from what the encoder answers, the latter clamped to -30..20 as in training.
///
/// # Shapes
/// `[N, h, w, 2 C]` gives twice `[N, h, w, C]`.
///
/// # Errors
/// If the number of channels is odd.
pub fn split_moments(moments: &Tensor) -> Result<(Tensor, Tensor)> {
    let channels = moments.shape().channels() / 2;
    let shape = moments.shape().with_channels(channels);
    let half = |start: usize, value: fn(f32) -> f32| {
        let rows = moments.data().chunks(moments.shape().channels().max(1));
        let values = rows.flat_map(|row| row.iter().skip(start).take(channels));
        Tensor::new(shape, values.map(|&x| value(x)).collect())
    };
    Ok((half(0, |x| x)?, half(channels, |x| x.clamp(-30.0, 20.0))?))
}

fn encoder(g: &mut Graph, config: &AutoencoderConfig, image: Value) -> Result<Value> {
    let mut x = g.scope("conv_in", |g| conv3x3(g, image, config.base_channels))?;
    for (index, level) in config.levels.iter().enumerate() {
        x = g.scope(&format!("down.{index}"), |g| {
            for block in 0..config.res_blocks {
                x = res_block(g, config, &format!("block.{block}"), x, level.channels)?;
                if level.attention {
                    x = attention(g, config, &format!("attn.{block}"), x)?;
                }
            }
            if index + 1 == config.levels.len() {
                return Ok(x);
            }
            g.scope("downsample.conv", |g| {
                g.conv2d(x, level.channels, 3, 2, Padding::bottom_right())
            })
        })?;
    }
    x = g.scope("mid", |g| middle(g, config, x))?;
    norm_conv(g, x, norm(config), OUT, values(config) * config.z_channels)
}

fn decoder(g: &mut Graph, config: &AutoencoderConfig, z: Value) -> Result<Value> {
    let channels = coarsest(config)?.channels;
    let mut x = g.scope("conv_in", |g| conv3x3(g, z, channels))?;
    x = g.scope("mid", |g| middle(g, config, x))?;
    for (index, level) in config.levels.iter().enumerate().rev() {
        x = g.scope(&format!("up.{index}"), |g| {
            for block in 0..=config.res_blocks {
                x = res_block(g, config, &format!("block.{block}"), x, level.channels)?;
                if level.attention {
                    x = attention(g, config, &format!("attn.{block}"), x)?;
                }
            }
            if index == 0 {
                return Ok(x);
            }
            g.scope("upsample", |g| blocks::upsample(g, x))
        })?;
    }
    norm_conv(g, x, norm(config), OUT, config.out_channels)
}

fn middle(g: &mut Graph, config: &AutoencoderConfig, x: Value) -> Result<Value> {
    let channels = g.shape(x).channels();
    let mut x = res_block(g, config, "block_1", x, channels)?;
    if config.middle_attention {
        x = attention(g, config, "attn_1", x)?;
    }
    res_block(g, config, "block_2", x, channels)
}

fn res_block(
    g: &mut Graph,
    config: &AutoencoderConfig,
    name: &str,
    x: Value,
    channels: usize,
) -> Result<Value> {
    g.scope(name, |g| {
        RES_BLOCK.forward(g, x, channels, norm(config), None, Resample::Keep)
    })
}

/// Self-attention over pixels with one head, added to its input.
fn attention(g: &mut Graph, config: &AutoencoderConfig, name: &str, x: Value) -> Result<Value> {
    g.scope(name, |g| {
        on_tokens(g, x, |g, x| {
            let h = g.scope("norm", |g| g.group_norm(x, config.norm_groups, NORM_EPS))?;
            let h = ATTENTION.forward(g, h, h, 1, false)?;
            g.add(h, x)
        })
    })
}

fn norm(config: &AutoencoderConfig) -> Norm {
    Norm {
        groups: config.norm_groups,
        eps: NORM_EPS,
    }
}

/// What the encoder answers for each channel of the latent: mean and log variance, or one value.
fn values(config: &AutoencoderConfig) -> usize {
    match config.codebook {
        None => 2,
        Some(_) => 1,
    }
}

/// The level next to the latent.
fn coarsest(config: &AutoencoderConfig) -> Result<&AutoencoderLevel> {
    config
        .levels
        .last()
        .ok_or_else(|| Error::shape("autoencoder", "the configuration has no levels"))
}

/// Refuses images that make no latent at all.
fn check_sides(g: &Graph, config: &AutoencoderConfig, image: Value) -> Result<()> {
    let factor = config.factor();
    match g.shape(image).image() {
        Some([_, h, w, _]) if h.min(w) >= factor => Ok(()),
        _ => Err(Error::request(format!(
            "an image [N, H, W, C] of shape {} does not fit the encoder, which takes {factor} pixels and more along both sides",
            g.shape(image)
        ))),
    }
}

#[cfg(test)]
mod tests;
