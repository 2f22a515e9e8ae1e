//! Self-attention over pixels, in the networks without transformers: every pixel mixes with every other.
//!
//! One convolution makes queries, keys and values, and their order within it is part of what a checkpoint means: the attention reads them
//! where they lie.

use super::blocks::{Norm, on_tokens};
use crate::error::Result;
use crate::graph::{Graph, Value};
use crate::ops::Qkv;

/// `x + proj_out(attention(qkv(norm(x))))` on the pixels of `x`, within the current scope.
///
/// # Source
/// Dhariwal and Nichol, arXiv:2105.05233, section 3; `AttentionBlock` in CompVis's `openaimodel.py`.
pub(super) fn forward(
    g: &mut Graph,
    x: Value,
    norm: Norm,
    heads: usize,
    order: Qkv,
) -> Result<Value> {
    let width = g.shape(x).channels();
    on_tokens(g, x, |g, x| {
        let h = g.scope("norm", |g| g.group_norm(x, norm.groups, norm.eps))?;
        let qkv = g.scope("qkv", |g| g.linear(h, 3 * width, true))?;
        let h = g.scope("attention", |g| g.attention_stacked(qkv, heads, order))?;
        let h = g.scope("proj_out", |g| g.linear(h, width, true))?;
        g.add(h, x)
    })
}
