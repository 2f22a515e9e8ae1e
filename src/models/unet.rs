//! The UNet that predicts the noise (or velocity) in a latent.
//!
//! Blocks are numbered through, as in ADM's code: `input_blocks` down, `middle_block`, `output_blocks` up, where each
//! output block first takes the latest unused input block's answer.

use super::attention_block;
use super::blocks::{
    self, Norm, ResBlock, Resample, TimeEmbedding, conv3x3, expect_channels, norm_conv,
};
use super::config::{Attention, UNetConfig};
use super::spatial_transformer::SpatialTransformer;
use crate::error::{Error, Result};
use crate::graph::{Graph, Value};
use crate::ops::{Activation, Axis, Padding, Qkv};

const RES_BLOCK: ResBlock = ResBlock {
    first: ["in_layers.0", "in_layers.1", "in_layers.2"],
    embedding: "emb_layers.1",
    second: ["out_layers.0", "out_layers.1", "out_layers.3"],
    skip: "skip_connection",
};

/// What a UNet is given.
#[derive(Clone, Copy, Debug)]
pub struct UNetInputs {
    /// The noisy latent, `[N, h, w, C]`, with whatever conditioning is concatenated to it.
    pub sample: Value,
    /// The noise level it is at.
    pub timestep: Timestep,
    /// What the transformers attend to, `[N, L, D]`.
    pub context: Option<Value>,
    /// The class of each image, `[N]`, exact.
    pub class_labels: Option<Value>,
}

/// Which timestep each image is at. All are exact.
#[derive(Clone, Copy, Debug)]
pub enum Timestep {
    /// Its own: `[N]`.
    PerImage(Value),
    /// The same for all: one of a run's timesteps `[S]`, by its number `[1]`. What follows from the timesteps is computed for all of them at
    /// once, and where these are a constant of the graph, once a run.
    Row {
        /// All timesteps.
        timesteps: Value,
        /// The number of one.
        row: Value,
    },
}

/// A UNet alone.
///
/// # Shapes
/// Inputs `sample [batch, height, width, C]`, `timestep [batch]`, `context [batch, context_tokens, D]` if the model has one,
/// `class_labels [batch]` if it has classes; output `sample [batch, height, width, O]`. Sizes are in latent pixels.
///
/// # Errors
/// As [`forward`].
pub fn build(
    config: &UNetConfig,
    batch: usize,
    [height, width]: [usize; 2],
    context_tokens: usize,
) -> Result<Graph> {
    let mut g = Graph::new();
    let sample = g.input("sample", [batch, height, width, config.in_channels]);
    let timestep = g.input_exact("timestep", [batch]);
    let context = config
        .context_dim
        .map(|features| g.input("context", [batch, context_tokens, features]));
    let class_labels = config
        .num_classes
        .map(|_| g.input_exact("class_labels", [batch]));
    let inputs = UNetInputs {
        sample,
        timestep: Timestep::PerImage(timestep),
        context,
        class_labels,
    };
    let predicted = forward(&mut g, config, inputs)?;
    g.output("sample", predicted);
    Ok(g)
}

/// Appends a UNet to a graph.
///
/// # Shapes
/// Those of [`UNetInputs`] give `[N, h, w, O]`.
///
/// # Errors
/// [`Error::Request`] if a size is not a multiple of [`UNetConfig::factor`]; [`Error::Shape`] if the inputs are not those
/// the configuration describes, or if it describes a network that is not supported.
///
/// # Source
/// Section 3.3 of the paper; Dhariwal and Nichol, arXiv:2105.05233, section 3; `UNetModel` in CompVis's `openaimodel.py`.
pub fn forward(g: &mut Graph, config: &UNetConfig, inputs: UNetInputs) -> Result<Value> {
    check(g, config, &inputs)?;
    let embedding = embedding(g, config, &inputs)?;
    let body = Body {
        config,
        embedding,
        context: inputs.context,
    };
    let (h, skips) = body.down(g, inputs.sample)?;
    let h = g.scope("middle_block", |g| body.middle(g, h))?;
    let h = body.up(g, h, skips)?;
    g.scope("out", |g| {
        norm_conv(g, h, body.norm(), ["0", "1", "2"], config.out_channels)
    })
}

/// The blocks of one UNet, with what each of them takes.
struct Body<'a> {
    config: &'a UNetConfig,
    embedding: TimeEmbedding,
    context: Option<Value>,
}

impl Body<'_> {
    fn norm(&self) -> Norm {
        Norm {
            groups: self.config.norm_groups,
            eps: self.config.norm_eps,
        }
    }

    /// The input blocks: the last one's answer, and everyone's for the way up.
    fn down(&self, g: &mut Graph, sample: Value) -> Result<(Value, Vec<Value>)> {
        let mut x = g.scope("input_blocks.0.0", |g| {
            conv3x3(g, sample, self.config.model_channels)
        })?;
        let mut skips = vec![x];
        for (index, level) in self.config.levels.iter().enumerate() {
            for _ in 0..level.res_blocks {
                x = g.scope(&format!("input_blocks.{}", skips.len()), |g| {
                    let x = self.res_block(g, "0", x, level.channels, Resample::Keep)?;
                    self.attention(g, x, level.attention)
                })?;
                skips.push(x);
            }
            if index + 1 < self.config.levels.len() {
                x = g.scope(&format!("input_blocks.{}", skips.len()), |g| {
                    match self.config.res_block_updown {
                        true => self.res_block(g, "0", x, level.channels, Resample::Down),
                        false => g.scope("0.op", |g| {
                            g.conv2d(x, level.channels, 3, 2, Padding::all(1))
                        }),
                    }
                })?;
                skips.push(x);
            }
        }
        Ok((x, skips))
    }

    fn middle(&self, g: &mut Graph, x: Value) -> Result<Value> {
        let channels = g.shape(x).channels();
        let x = self.res_block(g, "0", x, channels, Resample::Keep)?;
        let x = self.attention(g, x, self.config.middle)?;
        self.res_block(g, "2", x, channels, Resample::Keep)
    }

    /// The output blocks, each on the answers of the block before and of its counterpart on the way down.
    fn up(&self, g: &mut Graph, mut x: Value, mut skips: Vec<Value>) -> Result<Value> {
        let blocks = skips.len();
        for (index, level) in self.config.levels.iter().enumerate().rev() {
            for block in 0..=level.res_blocks {
                let scope = format!("output_blocks.{}", blocks - skips.len());
                let skip = skips
                    .pop()
                    .ok_or_else(|| Error::shape(&scope, "there is no input block left to take"))?;
                x = g.scope(&scope, |g| {
                    let x = g.concat(&[x, skip], Axis::Channels)?;
                    let x = self.res_block(g, "0", x, level.channels, Resample::Keep)?;
                    let x = self.attention(g, x, level.attention)?;
                    if block < level.res_blocks || index == 0 {
                        return Ok(x);
                    }
                    let position = if level.attention == Attention::None {
                        "1"
                    } else {
                        "2"
                    };
                    match self.config.res_block_updown {
                        true => self.res_block(g, position, x, level.channels, Resample::Up),
                        false => g.scope(position, |g| blocks::upsample(g, x)),
                    }
                })?;
            }
        }
        Ok(x)
    }

    fn res_block(
        &self,
        g: &mut Graph,
        position: &str,
        x: Value,
        channels: usize,
        resample: Resample,
    ) -> Result<Value> {
        g.scope(position, |g| {
            RES_BLOCK.forward(g, x, channels, self.norm(), Some(self.embedding), resample)
        })
    }

    /// What follows a res block, always at position 1.
    fn attention(&self, g: &mut Graph, x: Value, attention: Attention) -> Result<Value> {
        match attention {
            Attention::None => Ok(x),
            Attention::Pixels { heads } => {
                let order = match self.config.new_attention_order {
                    true => Qkv::Thirds,
                    false => Qkv::HeadByHead,
                };
                g.scope("1", |g| {
                    attention_block::forward(g, x, self.norm(), heads, order)
                })
            }
            Attention::Transformer { heads, depth } => {
                let transformer = SpatialTransformer {
                    heads,
                    depth,
                    norm_groups: self.config.norm_groups,
                };
                g.scope("1", |g| transformer.forward(g, x, self.context))
            }
        }
    }
}

/// SiLU of the time embedding, the class's embedding added before: what the res blocks take.
fn embedding(g: &mut Graph, config: &UNetConfig, inputs: &UNetInputs) -> Result<TimeEmbedding> {
    let width = 4 * config.model_channels;
    let (timesteps, mut row) = match inputs.timestep {
        Timestep::PerImage(timestep) => (timestep, None),
        Timestep::Row { timesteps, row } => (timesteps, Some(row)),
    };
    let mut values = g.scope("time_embed", |g| {
        let h = g.timestep_embedding(timesteps, config.model_channels)?;
        let h = g.scope("0", |g| g.linear(h, width, true))?;
        let h = g.scope("1", |g| g.activate(h, Activation::Silu))?;
        g.scope("2", |g| g.linear(h, width, true))
    })?;
    if let (Some(labels), Some(classes)) = (inputs.class_labels, config.num_classes) {
        let class = g.scope("label_emb", |g| g.embedding(labels, classes, width))?;
        values = g.scope("emb", |g| match row.take() {
            Some(row) => g.add_row(class, values, row),
            None => g.add(values, class),
        })?;
    }
    let values = g.scope("emb", |g| g.activate(values, Activation::Silu))?;
    Ok(TimeEmbedding {
        values,
        row,
        scale_shift: config.scale_shift_norm,
    })
}

/// Refuses inputs that are not the configuration's, and configurations that are not supported.
fn check(g: &Graph, config: &UNetConfig, inputs: &UNetInputs) -> Result<()> {
    let refuse = |problem: &str| Err(Error::shape(g.path("unet"), problem));
    if config.levels.is_empty() {
        return refuse("the configuration has no levels");
    }
    if inputs.context.is_some() != config.context_dim.is_some() {
        return refuse(
            "a context must be given if and only if the configuration has a context_dim",
        );
    }
    if inputs.class_labels.is_some() != config.num_classes.is_some() {
        return refuse(
            "class labels must be given if and only if the configuration has num_classes",
        );
    }
    expect_channels(g, inputs.sample, "sample", config.in_channels)?;
    if let (Some(context), Some(width)) = (inputs.context, config.context_dim) {
        expect_channels(g, context, "context", width)?;
    }
    let (shape, factor) = (g.shape(inputs.sample), config.factor());
    match shape.image() {
        Some([_, h, w, _]) if h % factor == 0 && w % factor == 0 && h * w > 0 => Ok(()),
        Some([_, h, w, _]) => Err(Error::request(format!(
            "latents of {w}x{h} do not fit the UNet, which takes multiples of {factor} along both sides"
        ))),
        None => refuse("the sample is no image [N, H, W, C]"),
    }
}

#[cfg(test)]
mod tests;
