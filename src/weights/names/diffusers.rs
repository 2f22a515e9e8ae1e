//! The names that diffusers gives to the weights of CompVis's networks.
//!
//! CompVis numbers a UNet's blocks through (`input_blocks.4.1`); diffusers numbers levels, and blocks within each
//! (`down_blocks.1.attentions.0`). Inside a transformer the names are the same.

use super::{Source, UNetLayout};

/// Diffusers' names of a UNet's weight, the present one first, or the name itself where it has no counterpart.
pub(super) fn unet(name: &str, layout: &UNetLayout) -> Vec<Source> {
    let name = unet_block(name, layout).unwrap_or_else(|| name.to_owned());
    match split_attention(&name) {
        Some((block, rest)) if layout.pixels => pixel_attention(&block, rest),
        _ => vec![Source::whole(name)],
    }
}

/// `down_blocks.1.attentions.0` and what follows it.
fn split_attention(name: &str) -> Option<(String, &str)> {
    let (block, rest) = name.split_once(".attentions.")?;
    let (index, rest) = number(rest)?;
    Some((format!("{block}.attentions.{index}"), rest))
}

/// Attention over pixels: CompVis has one matrix where diffusers has three, whose rows stand here one below the other.
fn pixel_attention(block: &str, rest: &str) -> Vec<Source> {
    let Some((module, kind)) = rest.rsplit_once('.') else {
        return vec![];
    };
    let name = |theirs: &str| format!("{block}.{theirs}.{kind}");
    match module {
        "norm" => vec![Source::whole(name("group_norm"))],
        "proj_out" => ["to_out.0", "proj_attn"]
            .map(|theirs| Source::whole(name(theirs)))
            .to_vec(),
        "qkv" => [["to_q", "to_k", "to_v"], ["query", "key", "value"]]
            .map(|theirs| Source::stacked(theirs.map(name)))
            .to_vec(),
        _ => vec![],
    }
}

fn unet_block(name: &str, layout: &UNetLayout) -> Option<String> {
    for (theirs, ours) in [
        ("time_embed.0.", "time_embedding.linear_1."),
        ("time_embed.2.", "time_embedding.linear_2."),
        ("label_emb.", "class_embedding."),
        ("input_blocks.0.0.", "conv_in."),
        ("out.0.", "conv_norm_out."),
        ("out.2.", "conv_out."),
        ("middle_block.1.", "mid_block.attentions.0."),
    ] {
        if let Some(rest) = name.strip_prefix(theirs) {
            return Some(format!("{ours}{rest}"));
        }
    }
    let (scope, rest) = name.split_once('.')?;
    let (block, rest) = number(rest)?;
    match scope {
        "middle_block" => Some(format!(
            "mid_block.resnets.{}.{}",
            block / 2,
            res_block(rest)
        )),
        "input_blocks" => down(block, rest, layout),
        "output_blocks" => up(block, rest, layout),
        _ => None,
    }
}

/// `input_blocks.{block}.{rest}`: after the first convolution, each level's res blocks, then its downsampling.
fn down(block: usize, rest: &str, layout: &UNetLayout) -> Option<String> {
    let mut first = 1;
    for (level, &(res_blocks, _)) in layout.levels.iter().enumerate() {
        let here = format!("down_blocks.{level}");
        if block < first + res_blocks {
            let (part, rest) = number(rest)?;
            return Some(match part {
                0 => format!("{here}.resnets.{}.{}", block - first, res_block(rest)),
                _ => format!("{here}.attentions.{}.{rest}", block - first),
            });
        }
        if block == first + res_blocks {
            return Some(format!(
                "{here}.downsamplers.0.conv.{}",
                rest.strip_prefix("0.op.")?
            ));
        }
        first += res_blocks + 1;
    }
    None
}

/// `output_blocks.{block}.{rest}`: coarsest level first, one res block more than on the way down; the upsampling is the
/// last part of a level's last block.
fn up(block: usize, rest: &str, layout: &UNetLayout) -> Option<String> {
    let mut first = 0;
    for (level, &(res_blocks, attention)) in layout.levels.iter().rev().enumerate() {
        let here = format!("up_blocks.{level}");
        if block <= first + res_blocks {
            let (part, rest) = number(rest)?;
            return Some(match part {
                0 => format!("{here}.resnets.{}.{}", block - first, res_block(rest)),
                1 if attention => format!("{here}.attentions.{}.{rest}", block - first),
                _ => format!("{here}.upsamplers.0.{rest}"),
            });
        }
        first += res_blocks + 1;
    }
    None
}

/// Inside a res block of the UNet.
fn res_block(rest: &str) -> String {
    for (theirs, ours) in [
        ("in_layers.0.", "norm1."),
        ("in_layers.2.", "conv1."),
        ("emb_layers.1.", "time_emb_proj."),
        ("out_layers.0.", "norm2."),
        ("out_layers.3.", "conv2."),
        ("skip_connection.", "conv_shortcut."),
    ] {
        if let Some(rest) = rest.strip_prefix(theirs) {
            return format!("{ours}{rest}");
        }
    }
    rest.to_owned()
}

/// Diffusers' names of an autoencoder's weight: the present one, then that of files written before version 0.18.
pub(super) fn autoencoder(name: &str, levels: usize) -> Vec<Source> {
    let name = name
        .replace("mid.block_1.", "mid_block.resnets.0.")
        .replace("mid.block_2.", "mid_block.resnets.1.")
        .replace("mid.attn_1.", "mid_block.attentions.0.")
        .replace("norm_out.", "conv_norm_out.");
    let name = autoencoder_level(&name, levels).unwrap_or(name);
    let Some((block, rest)) = split_attention(&name) else {
        return vec![Source::whole(name)];
    };
    [
        ["group_norm", "to_q", "to_k", "to_v", "to_out.0"],
        ["group_norm", "query", "key", "value", "proj_attn"],
    ]
    .iter()
    .filter_map(|theirs| {
        let (module, kind) = rest.rsplit_once('.')?;
        let ours = ["norm", "q", "k", "v", "proj_out"]
            .iter()
            .position(|&ours| ours == module)?;
        Some(Source::whole(format!("{block}.{}.{kind}", theirs[ours])))
    })
    .collect()
}

/// `encoder.down.1.block.0.norm1.weight` and the like; the decoder's levels are counted from the coarsest.
fn autoencoder_level(name: &str, levels: usize) -> Option<String> {
    let (side, rest) = name.split_once('.')?;
    let (direction, rest) = rest.split_once('.')?;
    let (level, rest) = number(rest)?;
    let (level, sampler) = match direction {
        "down" => (level, "downsample"),
        "up" => (levels.checked_sub(level + 1)?, "upsample"),
        _ => return None,
    };
    let rest = rest
        .replace("block.", "resnets.")
        .replace("attn.", "attentions.")
        .replace("nin_shortcut.", "conv_shortcut.")
        .replace(&format!("{sampler}."), &format!("{sampler}rs.0."));
    Some(format!("{side}.{direction}_blocks.{level}.{rest}"))
}

/// Diffusers' name of a weight of `BERTEmbedder`, or the name itself where it has no counterpart.
pub(super) fn bert(name: &str) -> String {
    bert_layer(name).unwrap_or_else(|| {
        name.replace("transformer.token_emb.", "model.embed_tokens.")
            .replace("transformer.pos_emb.emb.", "model.embed_positions.")
            .replace("transformer.norm.", "model.layer_norm.")
    })
}

/// CompVis numbers attention and feed-forward through; in diffusers each two of them are a layer.
fn bert_layer(name: &str) -> Option<String> {
    let (index, rest) = number(name.strip_prefix("transformer.attn_layers.layers.")?)?;
    let parts = match index % 2 {
        0 => [
            ("0.", "self_attn_layer_norm."),
            ("1.to_q.", "self_attn.q_proj."),
            ("1.to_k.", "self_attn.k_proj."),
            ("1.to_v.", "self_attn.v_proj."),
            ("1.to_out.", "self_attn.out_proj."),
        ]
        .as_slice(),
        _ => &[
            ("0.", "final_layer_norm."),
            ("1.net.0.0.", "fc1."),
            ("1.net.2.", "fc2."),
        ],
    };
    let layer = index / 2;
    parts.iter().find_map(|(theirs, ours)| {
        let rest = rest.strip_prefix(theirs)?;
        Some(format!("model.layers.{layer}.{ours}{rest}"))
    })
}

/// The number that `text` begins with, and what follows its dot.
fn number(text: &str) -> Option<(usize, &str)> {
    let (number, rest) = text.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_parts_of_bert_are_a_layer() {
        let layers = "transformer.attn_layers.layers";
        for (theirs, ours) in [
            (
                "transformer.token_emb.weight".to_owned(),
                "model.embed_tokens.weight",
            ),
            (
                "transformer.pos_emb.emb.weight".to_owned(),
                "model.embed_positions.weight",
            ),
            (
                format!("{layers}.62.0.bias"),
                "model.layers.31.self_attn_layer_norm.bias",
            ),
            (
                format!("{layers}.62.1.to_q.weight"),
                "model.layers.31.self_attn.q_proj.weight",
            ),
            (
                format!("{layers}.0.1.to_out.bias"),
                "model.layers.0.self_attn.out_proj.bias",
            ),
            (
                format!("{layers}.63.0.weight"),
                "model.layers.31.final_layer_norm.weight",
            ),
            (
                format!("{layers}.1.1.net.0.0.bias"),
                "model.layers.0.fc1.bias",
            ),
            (
                format!("{layers}.3.1.net.2.weight"),
                "model.layers.1.fc2.weight",
            ),
            ("transformer.norm.bias".to_owned(), "model.layer_norm.bias"),
        ] {
            assert_eq!(bert(&theirs), ours);
        }
    }
}
