//! The text encoder of the first latent diffusion models, `BERTEmbedder`; of BERT itself only the tokenizer is left.
//!
//! It reads prompts, in word pieces, and layouts, whose tokens are made of classes and boxes. Eight heads of 64 channels, whatever
//! the model's width is; no mask, so that padding is attended to.

use super::blocks::ProjectedAttention;
use super::config::BertConfig;
use crate::error::Result;
use crate::graph::{Graph, Value};
use crate::ops::Activation;

/// Heads of every attention, and the size of each.
const HEADS: usize = 8;
const HEAD_SIZE: usize = 64;
/// The feed-forward networks inside are so many times as wide.
const FEED_FORWARD: usize = 4;
/// Epsilon of the layer normalisations.
const NORM_EPS: f32 = 1e-5;

const ATTENTION: ProjectedAttention = ProjectedAttention {
    qkv: ["to_q", "to_k", "to_v"],
    bias: false,
    out: "to_out",
};

/// The encoder alone.
///
/// # Shapes
/// Input `input_ids [batch, tokens]`; output `last_hidden_state [batch, tokens, width]`.
///
/// # Errors
/// As [`forward`].
pub fn build(config: &BertConfig, batch: usize, tokens: usize) -> Result<Graph> {
    let mut g = Graph::new();
    let ids = g.input_exact("input_ids", [batch, tokens]);
    let hidden = forward(&mut g, config, ids)?;
    g.output("last_hidden_state", hidden);
    Ok(g)
}

/// Appends the encoder to a graph: its hidden states after the final normalisation.
///
/// # Shapes
/// `ids [N, T]` (exact) gives `[N, T, width]`.
///
/// # Errors
/// If there are more tokens than positions.
///
/// # Source
/// Appendix E.2 of the paper; `TransformerWrapper` and `Encoder` in CompVis's `x_transformer.py`.
pub fn forward(g: &mut Graph, config: &BertConfig, ids: Value) -> Result<Value> {
    g.scope("transformer", |g| {
        let x = g.scope("token_emb", |g| {
            g.embedding(ids, config.vocab, config.width)
        })?;
        let mut x = g.scope("pos_emb", |g| {
            g.add_positions(x, "emb.weight", config.positions)
        })?;
        for layer in 0..config.layers {
            let h = normalised(g, 2 * layer, x, |g, h| {
                ATTENTION.forward_within(g, h, h, HEADS * HEAD_SIZE, HEADS, false)
            })?;
            x = g.add(h, x)?;
            let h = normalised(g, 2 * layer + 1, x, feed_forward)?;
            x = g.add(h, x)?;
        }
        g.scope("norm", |g| g.layer_norm(x, NORM_EPS))
    })
}

/// Part `index` of the encoder, after its normalisation.
fn normalised(
    g: &mut Graph,
    index: usize,
    x: Value,
    part: impl FnOnce(&mut Graph, Value) -> Result<Value>,
) -> Result<Value> {
    g.scope(&format!("attn_layers.layers.{index}"), |g| {
        let h = g.scope("0", |g| g.layer_norm(x, NORM_EPS))?;
        g.scope("1", |g| part(g, h))
    })
}

/// `linear(gelu(linear(x)))`, within the current scope.
fn feed_forward(g: &mut Graph, x: Value) -> Result<Value> {
    let width = g.shape(x).channels();
    let h = g.scope("net.0.0", |g| g.linear(x, FEED_FORWARD * width, true))?;
    let h = g.scope("net.0.1", |g| g.activate(h, Activation::Gelu))?;
    g.scope("net.2", |g| g.linear(h, width, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_encoders_have_their_published_sizes() {
        // In checkpoints a head beside each turns states into tokens, with a bias.
        for (width, layers, vocab, positions, published) in [
            (1280, 32, 30522, 77, 581.99),
            (640, 32, 30522, 77, 186.15),
            (512, 16, 8192, 92, 58.86),
        ] {
            let config = BertConfig {
                vocab,
                width,
                layers,
                positions,
            };
            let g = build(&config, 1, positions).unwrap();
            assert_eq!(g.params().count(), 4 + 13 * layers);
            let elements: usize = g.params().map(|param| param.shape.len()).sum();
            let head = vocab * (width + 1);
            let millions = (elements + head) as f64 / 1e6;
            assert!((millions - published).abs() < 0.005, "{millions}");
        }
    }

    #[test]
    fn names_are_the_checkpoints() {
        let config = BertConfig {
            vocab: 10,
            width: 6,
            layers: 2,
            positions: 4,
        };
        let g = build(&config, 1, 3).unwrap();
        let names: Vec<_> = g.params().map(|param| param.name.as_str()).collect();
        assert_eq!(
            names[..6],
            [
                "transformer.token_emb.weight",
                "transformer.pos_emb.emb.weight",
                "transformer.attn_layers.layers.0.0.weight",
                "transformer.attn_layers.layers.0.0.bias",
                "transformer.attn_layers.layers.0.1.to_q.weight",
                "transformer.attn_layers.layers.0.1.to_k.weight",
            ]
        );
        assert!(names.contains(&"transformer.attn_layers.layers.3.1.net.2.bias"));
        assert_eq!(names[names.len() - 1], "transformer.norm.bias");
        assert!(build(&config, 1, 5).is_err(), "more tokens than positions");
    }
}
