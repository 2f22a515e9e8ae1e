//! Reads the sizes of a text encoder as transformers saves them.

use super::limits::checked;
use super::section::Section;
use super::{BertConfig, ClipActivation, ClipConfig};
use crate::error::Result;
use serde_json::json;

/// The value that every text encoder released before 2023 has as its `eos_token_id`, by a mistake of its converter: its
/// token ids mean nothing, and the tokenizer's files are right.
const MISTAKEN_EOS: usize = 2;

/// The `pad_token_id` of a configuration in which nobody chose one; in CLIP's vocabulary it is an exclamation mark.
const DEFAULT_PAD: u32 = 1;

/// `CLIPTextModelWithProjection`, and the text encoder of `CLIPModel`.
pub(super) fn clip_text_with_projection(root: &Section) -> Result<ClipConfig> {
    Ok(ClipConfig {
        projection: Some(root.size("projection_dim")?.unwrap_or(512)),
        ..clip_text(root)?
    })
}

/// `CLIPTextConfig`, with its defaults.
pub(super) fn clip_text(root: &Section) -> Result<ClipConfig> {
    // A whole CLIP model holds its two encoders' sizes one level below.
    if let Some(text) = root.section("text_config")?
        && root.get("hidden_size").is_none()
    {
        return clip_text(&text);
    }
    let size = |key, default| Ok(root.size(key)?.unwrap_or(default));
    let activation = match root.text("hidden_act")? {
        None | Some("quick_gelu") => ClipActivation::QuickGelu,
        Some("gelu") => ClipActivation::Gelu,
        Some(_) => return Err(root.unfit("hidden_act", "quick_gelu or gelu")),
    };
    let token = |key| {
        let token = root.size(key)?;
        Ok(token.and_then(|token| u32::try_from(token).ok()))
    };
    let tokens_hold = root
        .size("eos_token_id")?
        .is_some_and(|eos| eos != MISTAKEN_EOS);
    let config = ClipConfig {
        vocab: size("vocab_size", 49408)?,
        width: size("hidden_size", 512)?,
        layers: size("num_hidden_layers", 12)?,
        heads: size("num_attention_heads", 8)?,
        mlp: size("intermediate_size", 2048)?,
        positions: size("max_position_embeddings", 77)?,
        activation,
        norm_eps: root.real("layer_norm_eps")?.unwrap_or(1e-5) as f32,
        projection: None,
        skip_layers: 0,
        eos_token: token("eos_token_id")?.filter(|_| tokens_hold),
        pad_token: token("pad_token_id")?.filter(|&pad| tokens_hold && pad != DEFAULT_PAD),
    };
    checked(root, config)
}

/// diffusers' `LDMBertConfig`, with its defaults: those of the text encoder of 1280 channels.
pub(super) fn ldm_bert(root: &Section) -> Result<BertConfig> {
    let size = |key, default| Ok(root.size(key)?.unwrap_or(default));
    let width = size("d_model", 1280)?;
    // What CompVis's encoder has in every model.
    root.only(&[
        ("encoder_attention_heads", json!(8)),
        ("head_dim", json!(64)),
        ("encoder_ffn_dim", json!(width.saturating_mul(4))),
        ("activation_function", json!("gelu")),
        ("scale_embedding", json!(false)),
    ])?;
    let config = BertConfig {
        vocab: size("vocab_size", 30522)?,
        width,
        layers: size("encoder_layers", 32)?,
        positions: size("max_position_embeddings", 77)?,
    };
    checked(root, config)
}
