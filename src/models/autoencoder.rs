//! The first stage: from pixels to latents and back.
//!
//! Encoder and decoder are separate graphs, as most runs need one of them. Both live in the checkpoint's scopes `encoder`
//! and `decoder`; the 1x1 convolutions at the latent, `quant_conv` and `post_quant_conv`, are outside of these.

use super::blocks::{
    self, Norm, NormConv, ProjectedAttention, ResBlock, conv3x3, expect_channels, norm_conv,
    on_tokens,
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
/// Input `latent [batch, height, width, embed_dim]`, output `image [batch, f height, f width, C]`; sizes in latent pixels.
///
/// # Errors
/// As [`decode`].
pub fn build_decoder(
    config: &AutoencoderConfig,
    batch: usize,
    [height, width]: [usize; 2],
) -> Result<Graph> {
    let mut g = Graph::new();
    let latent = g.input("latent", [batch, height, width, config.embed_dim]);
    let image = decode(&mut g, config, latent)?;
    g.output("image", image);
    Ok(g)
}

/// An encoder alone.
///
/// # Shapes
/// Input `image [batch, height, width, C]`, output `moments [batch, height / f, width / f, 2 embed_dim]`; sizes in pixels.
///
/// # Errors
/// As [`encode`].
pub fn build_encoder(
    config: &AutoencoderConfig,
    batch: usize,
    [height, width]: [usize; 2],
) -> Result<Graph> {
    let mut g = Graph::new();
    let image = g.input("image", [batch, height, width, config.in_channels]);
    let moments = encode(&mut g, config, image)?;
    g.output("moments", moments);
    Ok(g)
}

/// Appends the encoder: mean and log variance of the latent, side by side along the channels ([`split_moments`]).
///
/// # Shapes
/// `image [N, H, W, C]`, in -1..1, gives `[N, H / f, W / f, 2 embed_dim]`.
///
/// # Errors
/// If the image's sides are not multiples of `f`, or the configuration describes no network.
///
/// # Source
/// Section 3.1 and appendix G of the paper; `Encoder` in CompVis's `model.py`.
pub fn encode(g: &mut Graph, config: &AutoencoderConfig, image: Value) -> Result<Value> {
    expect_channels(g, image, "image", config.in_channels)?;
    coarsest(config)?;
    refuse_codebook(config)?;
    check_sides(g, config, image)?;
    let moments = g.scope("encoder", |g| encoder(g, config, image))?;
    if !config.quant_conv {
        return Ok(moments);
    }
    g.scope("quant_conv", |g| {
        g.linear(moments, 2 * config.embed_dim, true)
    })
}

/// Appends the decoder.
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
    refuse_codebook(config)?;
    let z = if config.post_quant_conv {
        g.scope("post_quant_conv", |g| {
            g.linear(latent, config.z_channels, true)
        })?
    } else {
        latent
    };
    g.scope("decoder", |g| decoder(g, config, z))
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
    norm_conv(g, x, norm(config), OUT, 2 * config.z_channels)
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
        RES_BLOCK.forward(g, x, channels, norm(config), None)
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

/// Refuses a vector-quantised autoencoder.
fn refuse_codebook(config: &AutoencoderConfig) -> Result<()> {
    match config.codebook {
        None => Ok(()),
        Some(_) => Err(Error::request(
            "the model's autoencoder is vector-quantised, which is not supported yet",
        )),
    }
}

/// The level next to the latent.
fn coarsest(config: &AutoencoderConfig) -> Result<&AutoencoderLevel> {
    config
        .levels
        .last()
        .ok_or_else(|| Error::shape("autoencoder", "the configuration has no levels"))
}

/// The encoder halves the image at each level and would silently drop a row or column that is left over.
fn check_sides(g: &Graph, config: &AutoencoderConfig, image: Value) -> Result<()> {
    let factor = config.factor();
    match g.shape(image).image() {
        Some([_, h, w, _]) if h % factor == 0 && w % factor == 0 && h * w > 0 => Ok(()),
        _ => Err(Error::request(format!(
            "an image [N, H, W, C] of shape {} does not fit the encoder, which takes multiples of {factor} along both sides",
            g.shape(image)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A published autoencoder: 128 channels, two res blocks, attention at the levels named and in the middle.
    fn config(widths: &[usize], attention: &[usize], latent: usize) -> AutoencoderConfig {
        let level = |(index, width): (usize, &usize)| AutoencoderLevel {
            channels: 128 * width,
            attention: attention.contains(&index),
        };
        AutoencoderConfig {
            in_channels: 3,
            out_channels: 3,
            base_channels: 128,
            levels: widths.iter().enumerate().map(level).collect(),
            res_blocks: 2,
            middle_attention: true,
            z_channels: latent,
            embed_dim: latent,
            codebook: None,
            quant_conv: true,
            post_quant_conv: true,
            norm_groups: 32,
        }
    }

    fn kl_f8() -> AutoencoderConfig {
        config(&[1, 2, 4, 4], &[], 4)
    }

    fn elements(g: &Graph) -> usize {
        g.params().map(|param| param.shape.len()).sum()
    }

    #[test]
    fn published_autoencoders_have_their_published_sizes() {
        // Tensors of encoder and decoder, without the four of the convolutions at the latent; millions of parameters in all.
        for (name, config, tensors, millions) in [
            ("kl-f4", config(&[1, 2, 4], &[], 3), [88, 112], 55.312),
            ("kl-f8", kl_f8(), [106, 138], 83.654),
            (
                "kl-f16",
                config(&[1, 1, 2, 2, 4], &[4], 16),
                [144, 194],
                69.611,
            ),
            (
                "kl-f32",
                config(&[1, 1, 2, 2, 4, 4], &[4, 5], 64),
                [182, 250],
                103.880,
            ),
        ] {
            let side = 2 * config.factor();
            let encoder = build_encoder(&config, 1, [side, side]).unwrap();
            let decoder = build_decoder(&config, 1, [2, 2]).unwrap();
            let counts = [&encoder, &decoder].map(|g| g.params().count() - 2);
            assert_eq!(counts, tensors, "{name}");
            let counted = (elements(&encoder) + elements(&decoder)) as f64 / 1e6;
            assert!(
                (counted - millions).abs() < 0.000501,
                "{name}: {counted} M, not {millions} M"
            );
        }
    }

    #[test]
    fn the_work_of_decoding_is_that_of_the_published_network() {
        let g = build_decoder(&kl_f8(), 1, [32, 32]).unwrap();
        let flops = |node: &crate::graph::Node| {
            let inputs: Vec<_> = node.inputs.iter().map(|&v| g.shape(v)).collect();
            node.op.operator().cost(&inputs, node.shape).flops
        };
        let counted = g.nodes().iter().map(flops).sum::<u64>() as f64 / 1e9;
        assert!((counted / 622.0 - 1.0).abs() < 0.01, "{counted} GFLOP");
    }

    #[test]
    fn modules_answer_under_their_checkpoint_paths() {
        let f16 = config(&[1, 1, 2, 2, 4], &[4], 16);
        let encoder = build_encoder(&f16, 2, [32, 48]).unwrap();
        let decoder = build_decoder(&f16, 2, [2, 3]).unwrap();
        for (g, path, shape) in [
            (&encoder, "encoder.conv_in", [2, 32, 48, 128]),
            (&encoder, "encoder.down.0.block.0.norm1", [2, 32, 48, 128]),
            (&encoder, "encoder.down.0.downsample", [2, 16, 24, 128]),
            (&encoder, "encoder.down.4.attn.0", [2, 2, 3, 512]),
            (&encoder, "encoder.mid", [2, 2, 3, 512]),
            (&encoder, "encoder", [2, 2, 3, 32]),
            (&encoder, "quant_conv", [2, 2, 3, 32]),
            (&decoder, "post_quant_conv", [2, 2, 3, 16]),
            (&decoder, "decoder.mid.attn_1", [2, 2, 3, 512]),
            (&decoder, "decoder.up.4.attn.2", [2, 2, 3, 512]),
            (&decoder, "decoder.up.1.upsample", [2, 32, 48, 128]),
            (&decoder, "decoder.norm_out", [2, 32, 48, 128]),
            (&decoder, "decoder", [2, 32, 48, 3]),
        ] {
            assert_eq!(
                g.find(path).map(|value| g.shape(value)),
                Some(shape.into()),
                "{path}"
            );
        }
    }

    #[test]
    fn parts_that_are_left_out_leave_no_tensors() {
        let mut bare = kl_f8();
        bare.quant_conv = false;
        bare.post_quant_conv = false;
        bare.middle_attention = false;
        let encoder = build_encoder(&bare, 1, [16, 16]).unwrap();
        let decoder = build_decoder(&bare, 1, [2, 2]).unwrap();
        assert_eq!(encoder.params().count(), 106 - 10);
        assert_eq!(decoder.params().count(), 138 - 10);
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused_in_a_sentence() {
        let error = build_encoder(&kl_f8(), 1, [64, 60])
            .unwrap_err()
            .to_string();
        assert!(error.contains("multiples of 8"), "{error}");
        let empty = config(&[], &[], 4);
        assert!(build_decoder(&empty, 1, [8, 8]).is_err());
        assert!(build_encoder(&empty, 1, [8, 8]).is_err());
    }

    #[test]
    fn moments_are_split_along_the_channels_and_the_variance_is_bounded() {
        let moments = Tensor::new(
            [1, 1, 2, 4],
            vec![1.0, 2.0, -99.0, 3.0, 4.0, 5.0, 6.0, 99.0],
        );
        let (mean, logvar) = split_moments(&moments.unwrap()).unwrap();
        assert_eq!(mean.data(), [1.0, 2.0, 4.0, 5.0]);
        assert_eq!(logvar.data(), [-30.0, 3.0, 6.0, 20.0]);
        assert_eq!(mean.shape(), [1, 1, 2, 2].into());
    }
}
