//! What a configuration must satisfy to describe a network at all.
//!
//! Sizes come from files that strangers write. The limits are far above any published model and far below where sizes
//! multiplied together would overflow or exhaust memory before a weight is missed.

use super::section::Section;
use super::{Attention, AutoencoderConfig, BertConfig, ClipConfig, RescalerConfig, UNetConfig};
use crate::error::Result;

const MAX_CHANNELS: usize = 1 << 15;
const MAX_LEVELS: usize = 12;
const MAX_BLOCKS: usize = 256;
const MAX_VOCAB: usize = 1 << 22;

/// Why the numbers describe no network, if they do not.
pub(super) trait Limits {
    fn problem(&self) -> Option<String>;
}

/// The configuration that `section` holds, if it describes a network.
pub(super) fn checked<C: Limits>(section: &Section, config: C) -> Result<C> {
    match config.problem() {
        None => Ok(config),
        Some(problem) => Err(section.error(&problem)),
    }
}

impl Limits for UNetConfig {
    fn problem(&self) -> Option<String> {
        let heads = |attention, channels: usize| match attention {
            Attention::None => None,
            Attention::Pixels { heads } | Attention::Transformer { heads, .. } => {
                divides("attention heads", heads, channels)
            }
        };
        let depth = |attention| match attention {
            Attention::Transformer { depth, .. } => within("transformer blocks", depth, MAX_BLOCKS),
            Attention::None | Attention::Pixels { .. } => None,
        };
        within("input channels", self.in_channels, MAX_CHANNELS)
            .or_else(|| within("output channels", self.out_channels, MAX_CHANNELS))
            .or_else(|| {
                within(
                    "context channels",
                    self.context_dim.unwrap_or(1),
                    MAX_CHANNELS,
                )
            })
            .or_else(|| within("classes", self.num_classes.unwrap_or(1), MAX_VOCAB))
            .or_else(|| within("levels", self.levels.len(), MAX_LEVELS))
            .or_else(|| grouped(self.norm_groups, self.model_channels))
            .or_else(|| {
                self.levels.iter().find_map(|level| {
                    grouped(self.norm_groups, level.channels)
                        .or_else(|| within("res blocks per level", level.res_blocks, MAX_BLOCKS))
                        .or_else(|| heads(level.attention, level.channels))
                        .or_else(|| depth(level.attention))
                })
            })
            .or_else(|| heads(self.middle, self.levels.last()?.channels))
            .or_else(|| depth(self.middle))
    }
}

impl Limits for AutoencoderConfig {
    fn problem(&self) -> Option<String> {
        within("input channels", self.in_channels, MAX_CHANNELS)
            .or_else(|| within("output channels", self.out_channels, MAX_CHANNELS))
            .or_else(|| within("latent channels", self.embed_dim, MAX_CHANNELS))
            .or_else(|| within("`z` channels", self.z_channels, MAX_CHANNELS))
            .or_else(|| within("codes", self.codebook.unwrap_or(1), MAX_VOCAB))
            .or_else(|| within("levels", self.levels.len(), MAX_LEVELS))
            .or_else(|| within("res blocks per level", self.res_blocks, MAX_BLOCKS))
            .or_else(|| grouped(self.norm_groups, self.base_channels))
            .or_else(|| {
                self.levels
                    .iter()
                    .find_map(|level| grouped(self.norm_groups, level.channels))
            })
            .or_else(|| {
                // Without the convolution there is nothing to change the number of channels.
                let changed = self.z_channels != self.embed_dim;
                let bridged = self.quant_conv && self.post_quant_conv;
                (changed && !bridged).then(|| {
                    format!(
                        "{} `z` channels cannot become {} latent channels without `quant_conv`",
                        self.z_channels, self.embed_dim
                    )
                })
            })
    }
}

impl Limits for ClipConfig {
    fn problem(&self) -> Option<String> {
        within("tokens", self.vocab, MAX_VOCAB)
            .or_else(|| within("channels", self.width, MAX_CHANNELS))
            .or_else(|| within("layers", self.layers, MAX_BLOCKS))
            .or_else(|| within("feed-forward channels", self.mlp, 4 * MAX_CHANNELS))
            .or_else(|| within("positions", self.positions, MAX_CHANNELS))
            .or_else(|| divides("attention heads", self.heads, self.width))
            .or_else(|| {
                (self.skip_layers >= self.layers).then(|| {
                    format!(
                        "{} of {} layers are left out",
                        self.skip_layers, self.layers
                    )
                })
            })
    }
}

impl Limits for BertConfig {
    fn problem(&self) -> Option<String> {
        within("tokens", self.vocab, MAX_VOCAB)
            .or_else(|| within("channels", self.width, MAX_CHANNELS))
            .or_else(|| within("layers", self.layers, MAX_BLOCKS))
            .or_else(|| within("positions", self.positions, MAX_CHANNELS))
    }
}

impl Limits for RescalerConfig {
    fn problem(&self) -> Option<String> {
        within("labels", self.in_channels, MAX_CHANNELS)
            .or_else(|| within("channels", self.out_channels, MAX_CHANNELS))
            .or_else(|| within("halvings", self.halvings.saturating_add(1), MAX_LEVELS))
    }
}

fn within(what: &str, count: usize, most: usize) -> Option<String> {
    (count == 0 || count > most)
        .then(|| format!("the network would have {count} {what}; 1 to {most} are possible"))
}

fn grouped(groups: usize, channels: usize) -> Option<String> {
    within("channels", channels, MAX_CHANNELS)
        .or_else(|| divides("normalisation groups", groups, channels))
}

fn divides(what: &str, parts: usize, channels: usize) -> Option<String> {
    (parts == 0 || !channels.is_multiple_of(parts))
        .then(|| format!("{channels} channels cannot be divided among {parts} {what}"))
}
