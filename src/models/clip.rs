//! CLIP's text encoder: what a prompt's tokens become before the UNet attends to them.

use super::blocks::ProjectedAttention;
use super::config::{ClipActivation, ClipConfig};
use crate::error::{Error, Result};
use crate::graph::{Graph, Value};
use crate::ops::Activation;
use crate::tensor::Tensor;

const ATTENTION: ProjectedAttention = ProjectedAttention {
    qkv: ["q_proj", "k_proj", "v_proj"],
    bias: true,
    out: "out_proj",
};

/// A text encoder alone.
///
/// # Shapes
/// Inputs `input_ids [batch, tokens]` and `pooled_token [batch]` (the position to pool, see [`pooled_token`]); outputs
/// `last_hidden_state [batch, tokens, width]` and `pooled [batch, width]`, and where the model has the map to it `projected [batch, projection]`,
/// of any length, in the space that prompts share with images.
///
/// # Errors
/// As [`forward`].
pub fn build(config: &ClipConfig, batch: usize, tokens: usize) -> Result<Graph> {
    let mut g = Graph::new();
    let ids = g.input_exact("input_ids", [batch, tokens]);
    let position = g.input_exact("pooled_token", [batch]);
    let hidden = forward(&mut g, config, ids)?;
    g.output("last_hidden_state", hidden);
    let pooled = g.scope("pooled", |g| g.gather_token(hidden, position))?;
    g.output("pooled", pooled);
    if let Some(width) = config.projection {
        let projected = g.scope("text_projection", |g| g.linear(pooled, width, false))?;
        g.output("projected", projected);
    }
    Ok(g)
}

/// Appends a text encoder to a graph: the hidden states after the last layer that is used and the final normalisation.
///
/// # Shapes
/// `ids [N, T]` (exact) gives `[N, T, width]`.
///
/// # Errors
/// If there are more tokens than positions, or more layers to skip than there are.
///
/// # Source
/// Radford et al., arXiv:2103.00020, section 2.4.
pub fn forward(g: &mut Graph, config: &ClipConfig, ids: Value) -> Result<Value> {
    let layers = config
        .layers
        .checked_sub(config.skip_layers)
        .ok_or_else(|| {
            let [layers, skipped] = [config.layers, config.skip_layers];
            Error::shape(
                "text_model",
                format!("{skipped} of {layers} layers cannot be skipped"),
            )
        })?;
    g.scope("text_model", |g| {
        let mut x = g.scope("embeddings", |g| {
            let x = g.scope("token_embedding", |g| {
                g.embedding(ids, config.vocab, config.width)
            })?;
            g.add_positions(x, "position_embedding.weight", config.positions)
        })?;
        for index in 0..layers {
            x = g.scope(&format!("encoder.layers.{index}"), |g| layer(g, config, x))?;
        }
        g.scope("final_layer_norm", |g| g.layer_norm(x, config.norm_eps))
    })
}

/// Causal self-attention and a feed-forward network, each normalised before and added to its input.
fn layer(g: &mut Graph, config: &ClipConfig, x: Value) -> Result<Value> {
    let activation = match config.activation {
        ClipActivation::QuickGelu => Activation::QuickGelu,
        ClipActivation::Gelu => Activation::Gelu,
    };
    let h = g.scope("layer_norm1", |g| g.layer_norm(x, config.norm_eps))?;
    let h = g.scope("self_attn", |g| {
        ATTENTION.forward(g, h, h, config.heads, true)
    })?;
    let x = g.add(h, x)?;
    let h = g.scope("layer_norm2", |g| g.layer_norm(x, config.norm_eps))?;
    let h = g.scope("mlp", |g| {
        let h = g.scope("fc1", |g| g.linear(h, config.mlp, true))?;
        let h = g.activate(h, activation)?;
        g.scope("fc2", |g| g.linear(h, config.width, true))
    })?;
    g.add(h, x)
}

/// Projected tokens at length 1, whose products are the cosines of the angles between them.
///
/// # Shapes
/// `[N, projection]`, in and out.
pub fn unit_length(projected: &Tensor) -> Tensor {
    let mut unit = projected.clone();
    let width = projected.shape().channels().max(1);
    for row in unit.data_mut().chunks_exact_mut(width) {
        let squares = row.iter().map(|&x| f64::from(x).powi(2));
        let length = squares.sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
        row.iter_mut()
            .for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
    unit
}

/// The position whose hidden state stands for the whole prompt: its first end token.
///
/// CLIP's own code takes the largest id, which is the end token in its vocabulary. Files from before transformers 4.31 say
/// 2 for the end token, whatever it is; they are read as CLIP's code would.
pub fn pooled_token(config: &ClipConfig, ids: &[u32]) -> usize {
    let end = match config.eos_token {
        Some(eos) if eos != 2 => Some(eos),
        _ => ids.iter().max().copied(),
    };
    ids.iter().position(|&id| Some(id) == end).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::config::{ModelConfig, TextConfig};
    use super::*;

    /// ViT-L/14's text encoder, which Stable Diffusion 1 uses.
    fn vit_l_14() -> ClipConfig {
        match ModelConfig::stable_diffusion_1().text {
            Some(TextConfig::Clip(text)) => text,
            other => panic!("{other:?} is no CLIP"),
        }
    }

    #[test]
    fn vit_l_14_has_its_published_size() {
        let g = build(&vit_l_14(), 1, 77).unwrap();
        assert_eq!(g.params().count(), 196);
        let elements: usize = g.params().map(|param| param.shape.len()).sum();
        assert_eq!(elements, 123_060_480);
    }

    #[test]
    fn skipped_layers_are_the_last_ones_and_the_final_norm_stays() {
        let mut config = vit_l_14();
        config.skip_layers = 1;
        let g = build(&config, 2, 77).unwrap();
        assert_eq!(g.params().count(), 196 - 16);
        assert!(g.find("text_model.encoder.layers.10").is_some());
        assert_eq!(g.find("text_model.encoder.layers.11"), None);
        assert_eq!(
            g.find("text_model.final_layer_norm"),
            Some(g.outputs()[0].1)
        );
        config.skip_layers = 13;
        assert!(build(&config, 1, 77).is_err());
    }

    #[test]
    fn more_tokens_than_positions_are_refused() {
        let error = build(&vit_l_14(), 1, 78).unwrap_err().to_string();
        assert!(error.contains("[77, 768] learnt positions"), "{error}");
    }

    #[test]
    fn the_first_end_token_is_pooled() {
        let mut config = vit_l_14();
        let ids = [49406, 320, 49407, 49407];
        assert_eq!(pooled_token(&config, &ids), 2);
        config.eos_token = Some(2);
        assert_eq!(
            pooled_token(&config, &ids),
            2,
            "old files say 2 and mean the largest"
        );
        config.eos_token = Some(320);
        assert_eq!(pooled_token(&config, &ids), 1);
        assert_eq!(
            pooled_token(&config, &[1, 2]),
            0,
            "without an end token, as PyTorch's argmax"
        );
    }
}
