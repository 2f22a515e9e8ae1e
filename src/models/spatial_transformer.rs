//! The spatial transformer: how a prompt reaches the UNet's pixels.
//!
//! Everything between its two ends happens on tokens, one per pixel. The 1x1 convolutions of SD 1 and the linear layers of
//! SD 2 are the same operation there.

use super::blocks::{ProjectedAttention, on_tokens};
use crate::error::Result;
use crate::graph::{Graph, Value};

/// Epsilon of the group normalisation; the UNet's other ones have another.
const GROUP_NORM_EPS: f32 = 1e-6;

const LAYER_NORM_EPS: f32 = 1e-5;

const ATTENTION: ProjectedAttention = ProjectedAttention {
    qkv: ["to_q", "to_k", "to_v"],
    bias: false,
    out: "to_out.0",
};

/// The sizes of a spatial transformer.
#[derive(Clone, Copy)]
pub(super) struct SpatialTransformer {
    /// Attention heads.
    pub(super) heads: usize,
    /// Transformer blocks.
    pub(super) depth: usize,
    /// Groups of the normalisation at its start.
    pub(super) norm_groups: usize,
}

impl SpatialTransformer {
    /// `x + proj_out(blocks(proj_in(norm(x))))` on the pixels of `x`, within the current scope.
    ///
    /// # Source
    /// Section 3.3 and appendix E.2.1 of the paper; `SpatialTransformer` in CompVis's `attention.py`.
    pub(super) fn forward(&self, g: &mut Graph, x: Value, context: Option<Value>) -> Result<Value> {
        let width = g.shape(x).channels();
        on_tokens(g, x, |g, x| {
            let h = g.scope("norm", |g| {
                g.group_norm(x, self.norm_groups, GROUP_NORM_EPS)
            })?;
            let mut h = g.scope("proj_in", |g| g.linear(h, width, true))?;
            for block in 0..self.depth {
                h = g.scope(&format!("transformer_blocks.{block}"), |g| {
                    transformer_block(g, h, self.heads, context)
                })?;
            }
            let h = g.scope("proj_out", |g| g.linear(h, width, true))?;
            g.add(h, x)
        })
    }
}

/// Self-attention, attention on the context (on itself without one), and a gated feed-forward network, each added to its input.
fn transformer_block(
    g: &mut Graph,
    x: Value,
    heads: usize,
    context: Option<Value>,
) -> Result<Value> {
    let h = g.scope("norm1", |g| g.layer_norm(x, LAYER_NORM_EPS))?;
    let h = g.scope("attn1", |g| ATTENTION.forward(g, h, h, heads, false))?;
    let x = g.add(h, x)?;
    let h = g.scope("norm2", |g| g.layer_norm(x, LAYER_NORM_EPS))?;
    let context = context.unwrap_or(h);
    let h = g.scope("attn2", |g| ATTENTION.forward(g, h, context, heads, false))?;
    let x = g.add(h, x)?;
    let h = g.scope("norm3", |g| g.layer_norm(x, LAYER_NORM_EPS))?;
    let h = g.scope("ff", |g| feed_forward(g, h))?;
    g.add(h, x)
}

/// GEGLU to four times the width and back.
fn feed_forward(g: &mut Graph, x: Value) -> Result<Value> {
    let width = g.shape(x).channels();
    let h = g.scope("net.0", |g| {
        let h = g.scope("proj", |g| g.linear(x, 8 * width, true))?;
        g.geglu(h)
    })?;
    g.scope("net.2", |g| g.linear(h, width, true))
}
