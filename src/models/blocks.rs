//! What the networks have in common: residual blocks, upsampling, and the four projections around attention.
//!
//! The UNet, the autoencoder and CLIP come from three code bases that gave equal modules different names. The arithmetic
//! stands here once, and each network passes the names its checkpoints use.

use crate::error::{Error, Result};
use crate::graph::{Graph, Value};
use crate::ops::{Activation, Padding};

/// How a network's group normalisations are set.
#[derive(Clone, Copy)]
pub(super) struct Norm {
    pub(super) groups: usize,
    pub(super) eps: f32,
}

/// The names of normalisation, SiLU and convolution in a row; a SiLU that is no module of its own has the empty name.
pub(super) type NormConv = [&'static str; 3];

/// The time embedding after its SiLU, which is the same in every block of a network.
#[derive(Clone, Copy)]
pub(super) struct TimeEmbedding {
    /// `[N, C]`, one for each image, or a table `[S, C]`.
    pub(super) values: Value,
    /// Which row of the table all images take, `[1]`, exact.
    pub(super) row: Option<Value>,
    /// Whether it scales and shifts what the second normalisation made, rather than being added before it.
    pub(super) scale_shift: bool,
}

/// What a residual block does to the size of an image, between its first normalisation and convolution.
#[derive(Clone, Copy)]
pub(super) enum Resample {
    Keep,
    /// Averages of two by two pixels.
    Down,
    /// Nearest neighbour by two.
    Up,
}

impl Resample {
    fn forward(self, g: &mut Graph, x: Value, name: &str) -> Result<Value> {
        match self {
            Self::Keep => Ok(x),
            Self::Down => g.scope(name, |g| g.average_pool2x(x)),
            Self::Up => g.scope(name, |g| g.upsample2x(x)),
        }
    }
}

/// The names inside a residual block.
pub(super) struct ResBlock {
    pub(super) first: NormConv,
    /// The linear map of the time embedding.
    pub(super) embedding: &'static str,
    pub(super) second: NormConv,
    /// The 1x1 convolution around the block, where the number of channels changes.
    pub(super) skip: &'static str,
}

impl ResBlock {
    /// `skip(x) + conv(silu(norm(conv(silu(norm(x))) + linear(embedding))))`, within the current scope. What `resample` says happens to
    /// the first convolution's operand, and to `x`.
    pub(super) fn forward(
        &self,
        g: &mut Graph,
        x: Value,
        channels: usize,
        norm: Norm,
        embedding: Option<TimeEmbedding>,
        resample: Resample,
    ) -> Result<Value> {
        let [first, silu, conv] = self.first;
        let h = g.scope(first, |g| g.group_norm(x, norm.groups, norm.eps))?;
        let h = g.scope(silu, |g| g.activate(h, Activation::Silu))?;
        let h = resample.forward(g, h, "h_upd")?;
        let x = resample.forward(g, x, "x_upd")?;
        let mut h = g.scope(conv, |g| conv3x3(g, h, channels))?;
        let mut modulation = None;
        if let Some(TimeEmbedding {
            values,
            row,
            scale_shift,
        }) = embedding
        {
            let width = if scale_shift { 2 * channels } else { channels };
            let v = g.scope(self.embedding, |g| g.linear(values, width, true))?;
            match (scale_shift, row) {
                (true, row) => modulation = Some((v, row)),
                (false, Some(row)) => h = g.add_row(h, v, row)?,
                (false, None) => h = g.add_channels(h, v)?,
            }
        }
        let [second, silu, conv] = self.second;
        h = g.scope(second, |g| g.group_norm(h, norm.groups, norm.eps))?;
        h = match modulation {
            Some((v, Some(row))) => g.scale_shift_row(h, v, row)?,
            Some((v, None)) => g.scale_shift(h, v)?,
            None => h,
        };
        h = g.scope(silu, |g| g.activate(h, Activation::Silu))?;
        h = g.scope(conv, |g| conv3x3(g, h, channels))?;
        let skip = if g.shape(x).channels() == channels {
            x
        } else {
            g.scope(self.skip, |g| g.linear(x, channels, true))?
        };
        g.add(h, skip)
    }
}

/// `conv(silu(norm(x)))` with a 3x3 convolution to `channels`: the end of every network here.
pub(super) fn norm_conv(
    g: &mut Graph,
    x: Value,
    norm: Norm,
    [norm_name, silu_name, conv_name]: NormConv,
    channels: usize,
) -> Result<Value> {
    let h = g.scope(norm_name, |g| g.group_norm(x, norm.groups, norm.eps))?;
    let h = g.scope(silu_name, |g| g.activate(h, Activation::Silu))?;
    g.scope(conv_name, |g| conv3x3(g, h, channels))
}

/// A 3x3 convolution that keeps the size, named by the current scope.
pub(super) fn conv3x3(g: &mut Graph, x: Value, channels: usize) -> Result<Value> {
    g.conv2d(x, channels, 3, 1, Padding::all(1))
}

/// Nearest-neighbour upsampling by two, then the convolution `conv`.
pub(super) fn upsample(g: &mut Graph, x: Value) -> Result<Value> {
    let channels = g.shape(x).channels();
    let x = g.upsample2x(x)?;
    g.scope("conv", |g| conv3x3(g, x, channels))
}

/// Attention between four linear maps: their names, and whether they have biases.
pub(super) struct ProjectedAttention {
    /// Queries, keys and values.
    pub(super) qkv: [&'static str; 3],
    /// Whether those three have a bias.
    pub(super) bias: bool,
    /// The output, which always has one.
    pub(super) out: &'static str,
}

impl ProjectedAttention {
    /// Attention of `x` on `context` (on `x` itself for self-attention), as wide as `x`, within the current scope.
    pub(super) fn forward(
        &self,
        g: &mut Graph,
        x: Value,
        context: Value,
        heads: usize,
        causal: bool,
    ) -> Result<Value> {
        let width = g.shape(x).channels();
        self.forward_within(g, x, context, width, heads, causal)
    }

    /// As [`forward`](Self::forward), with queries, keys and values that are `inner` wide rather than as wide as `x`.
    pub(super) fn forward_within(
        &self,
        g: &mut Graph,
        x: Value,
        context: Value,
        inner: usize,
        heads: usize,
        causal: bool,
    ) -> Result<Value> {
        let width = g.shape(x).channels();
        let mut project = |name, from| g.scope(name, |g| g.linear(from, inner, self.bias));
        let [q, k, v] = self.qkv;
        let qkv = [project(q, x)?, project(k, context)?, project(v, context)?];
        let mixed = g.attention(qkv, heads, causal)?;
        g.scope(self.out, |g| g.linear(mixed, width, true))
    }
}

/// Builds on an image seen as tokens, one per pixel, and returns the result as an image: `[N, H, W, C]`, `[N, HW, C]`.
pub(super) fn on_tokens(
    g: &mut Graph,
    image: Value,
    build: impl FnOnce(&mut Graph, Value) -> Result<Value>,
) -> Result<Value> {
    let shape = g.shape(image);
    let [n, h, w, c] = shape
        .image()
        .ok_or_else(|| Error::shape(g.path(""), format!("takes an image, not {shape}")))?;
    let tokens = g.reshape(image, [n, h * w, c])?;
    let tokens = build(g, tokens)?;
    g.reshape(tokens, shape)
}

/// Fails unless the last size of `value` is `channels`, so that a mistake is told where the network begins.
pub(super) fn expect_channels(g: &Graph, value: Value, what: &str, channels: usize) -> Result<()> {
    let shape = g.shape(value);
    if shape.channels() == channels {
        return Ok(());
    }
    Err(Error::shape(
        g.path(what),
        format!("the network takes {channels} channels here, not {shape}"),
    ))
}
