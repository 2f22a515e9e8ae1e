//! What makes a condition other than a text encoder: a table of classes, and the rescaling of a map of labels.

use super::blocks::expect_channels;
use super::config::RescalerConfig;
use crate::error::Result;
use crate::graph::{Graph, Value};

/// The table of classes alone.
///
/// # Shapes
/// Input `class_labels [batch, 1]`, output `context [batch, 1, width]`.
///
/// # Errors
/// Never, for a batch that memory can hold.
pub fn build_class_embedder(classes: usize, width: usize, batch: usize) -> Result<Graph> {
    let mut g = Graph::new();
    let labels = g.input_exact("class_labels", [batch, 1]);
    let context = class_embedder(&mut g, classes, width, labels)?;
    g.output("context", context);
    Ok(g)
}

/// Appends a learnt vector for each class: a context of one token.
///
/// # Shapes
/// `labels [N, 1]` (exact) gives `[N, 1, width]`.
///
/// # Errors
/// If `labels` has another shape.
///
/// # Source
/// `ClassEmbedder` in CompVis's `encoders/modules.py`.
fn class_embedder(g: &mut Graph, classes: usize, width: usize, labels: Value) -> Result<Value> {
    g.scope("embedding", |g| g.embedding(labels, classes, width))
}

/// The rescaler alone.
///
/// # Shapes
/// Input `segmentation [batch, H, W, in_channels]`, output `concat`, as [`rescaler`] says.
///
/// # Errors
/// As [`rescaler`].
pub fn build_rescaler(
    config: &RescalerConfig,
    batch: usize,
    [height, width]: [usize; 2],
) -> Result<Graph> {
    let mut g = Graph::new();
    let map = g.input("segmentation", [batch, height, width, config.in_channels]);
    let concat = rescaler(&mut g, config, map)?;
    g.output("concat", concat);
    Ok(g)
}

/// Appends the halving of a map of labels, and its mapping to few channels.
///
/// Halving with bilinear weights is the mean of each two by two pixels.
///
/// # Shapes
/// `map [N, H, W, in_channels]` gives `[N, H / 2^halvings, W / 2^halvings, out_channels]`, rounded down at every halving.
///
/// # Errors
/// If the map has other channels, or is too small to be halved.
///
/// # Source
/// `SpatialRescaler` in CompVis's `encoders/modules.py`.
pub fn rescaler(g: &mut Graph, config: &RescalerConfig, map: Value) -> Result<Value> {
    expect_channels(g, map, "segmentation", config.in_channels)?;
    let mut x = map;
    for _ in 0..config.halvings {
        x = g.average_pool2x(x)?;
    }
    g.scope("channel_mapper", |g| {
        g.linear(x, config.out_channels, config.bias)
    })
}
