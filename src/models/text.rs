//! The text encoder, whichever it is.

use super::config::TextConfig;
use super::{bert, clip};
use crate::error::Result;
use crate::graph::{Graph, Value};

/// A text encoder alone.
///
/// # Shapes
/// Input `input_ids [batch, tokens]`, output `last_hidden_state [batch, tokens, width]`. CLIP's also has the input `pooled_token [batch]`
/// and the output `pooled [batch, width]`.
///
/// # Errors
/// As [`forward`].
pub fn build(config: &TextConfig, batch: usize, tokens: usize) -> Result<Graph> {
    match config {
        TextConfig::Clip(config) => clip::build(config, batch, tokens),
        TextConfig::Bert(config) => bert::build(config, batch, tokens),
    }
}

/// Appends a text encoder to a graph.
///
/// # Shapes
/// `ids [N, T]` (exact) gives `[N, T, width]`.
///
/// # Errors
/// If there are more tokens than positions, or the configuration describes no network.
pub fn forward(g: &mut Graph, config: &TextConfig, ids: Value) -> Result<Value> {
    match config {
        TextConfig::Clip(config) => clip::forward(g, config, ids),
        TextConfig::Bert(config) => bert::forward(g, config, ids),
    }
}
