//! What makes a condition other than a text encoder: a table of classes.

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
pub fn class_embedder(g: &mut Graph, classes: usize, width: usize, labels: Value) -> Result<Value> {
    g.scope("embedding", |g| g.embedding(labels, classes, width))
}
