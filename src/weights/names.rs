//! From the names that graphs use to the names that files use.
//!
//! A graph names its weights as CompVis's modules do, from the network's own root. Each naming here answers with the
//! names that such a weight may have in one family of files, most likely first. Translation only ever goes in this
//! direction: what a file holds beyond what graphs ask for needs no name.

mod diffusers;

use crate::tensor::Shape;

/// How a file names the weights of one network.
#[derive(Clone, Debug)]
pub enum Naming {
    /// The graph's own names behind a prefix, `model.diffusion_model.` for example; the prefix may be empty.
    Original {
        /// What precedes every name, its final dot included.
        prefix: String,
    },
    /// The moving average of a whole denoising network, as CompVis's `LitEma` keeps it: `model_ema.diffusion_model` and the
    /// graph's name without its dots. Names are only ever built this way and never taken apart.
    Average,
    /// A CLIP text encoder as transformers saves it, with or without `text_model.` behind the prefix.
    Clip {
        /// What precedes every name, its final dot included.
        prefix: String,
    },
    /// A text encoder as OpenCLIP saves it: one matrix holds the projections of queries, keys and values.
    OpenClip {
        /// What precedes every name, its final dot included.
        prefix: String,
    },
    /// A UNet as diffusers saves it.
    DiffusersUNet(UNetLayout),
    /// An autoencoder as diffusers saves it, new or old.
    DiffusersAutoencoder {
        /// Number of resolutions.
        levels: usize,
    },
    /// The text encoder of the first latent diffusion models as diffusers saves it.
    DiffusersBert,
}

/// What decides the numbering of a UNet's blocks.
#[derive(Clone, Debug)]
pub struct UNetLayout {
    /// For each resolution, finest first: the number of res blocks on the way down, and whether attention follows them.
    pub levels: Vec<(usize, bool)>,
    /// Whether attention is over pixels, without transformers.
    pub pixels: bool,
}

/// A tensor in a file, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) name: String,
    /// Which third of the rows, where queries, keys and values are stacked.
    pub(super) third: Option<usize>,
    /// Tensors of the same sizes whose rows follow, where the graph has them stacked.
    pub(super) below: Vec<String>,
}

impl Source {
    pub(super) fn whole(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            third: None,
            below: vec![],
        }
    }

    /// Three tensors, one below the other.
    fn stacked([name, second, third]: [String; 3]) -> Self {
        Self {
            below: vec![second, third],
            ..Self::whole(name)
        }
    }

    /// The sizes of the tensor that a weight of this shape is, or is a part of, or of each that it is made of.
    pub(super) fn dims(&self, shape: Shape) -> Vec<usize> {
        let mut dims = shape.dims().to_vec();
        if let Some(rows) = dims.first_mut() {
            *rows *= self.third.map_or(1, |_| 3);
            *rows /= 1 + self.below.len();
        }
        dims
    }
}

impl Naming {
    /// The graph's names at a file's root.
    pub fn bare() -> Self {
        Self::Original {
            prefix: String::new(),
        }
    }

    /// What precedes the name of every tensor of this network in the file.
    pub(super) fn prefix(&self) -> &str {
        match self {
            Self::Original { prefix } | Self::Clip { prefix } | Self::OpenClip { prefix } => prefix,
            Self::Average => AVERAGE,
            Self::DiffusersUNet(_) | Self::DiffusersAutoencoder { .. } | Self::DiffusersBert => "",
        }
    }

    /// Where the weight that graphs call `name` may be, most likely first.
    pub(super) fn sources(&self, name: &str) -> Vec<Source> {
        match self {
            Self::Original { prefix } => vec![Source::whole(format!("{prefix}{name}"))],
            Self::Average => vec![Source::whole(format!(
                "{AVERAGE}diffusion_model{}",
                name.replace('.', "")
            ))],
            Self::Clip { prefix } => {
                let short = name.strip_prefix("text_model.").unwrap_or(name);
                vec![
                    Source::whole(format!("{prefix}text_model.{short}")),
                    Source::whole(format!("{prefix}{short}")),
                ]
            }
            Self::OpenClip { prefix } => {
                let mut source = open_clip(name.strip_prefix("text_model.").unwrap_or(name));
                source.name.insert_str(0, prefix);
                vec![source]
            }
            Self::DiffusersUNet(layout) => diffusers::unet(name, layout),
            Self::DiffusersAutoencoder { levels } => diffusers::autoencoder(name, *levels),
            Self::DiffusersBert => vec![Source::whole(diffusers::bert(name))],
        }
    }
}

/// What precedes the names of moving averages.
const AVERAGE: &str = "model_ema.";

/// OpenCLIP's name of a weight that transformers calls `name`.
fn open_clip(name: &str) -> Source {
    let name = name
        .replace("embeddings.token_embedding", "token_embedding")
        .replace(
            "embeddings.position_embedding.weight",
            "positional_embedding",
        )
        .replace("final_layer_norm", "ln_final")
        .replace("encoder.layers", "transformer.resblocks")
        .replace("layer_norm", "ln_")
        .replace("mlp.fc1", "mlp.c_fc")
        .replace("mlp.fc2", "mlp.c_proj")
        .replace("self_attn", "attn");
    for (third, projection) in ["q_proj.", "k_proj.", "v_proj."].into_iter().enumerate() {
        if name.contains(projection) {
            return Source {
                third: Some(third),
                ..Source::whole(name.replace(projection, "in_proj_"))
            };
        }
    }
    Source::whole(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clip_is_found_with_and_without_its_scope() {
        let naming = Naming::Clip {
            prefix: "cond_stage_model.transformer.".into(),
        };
        let names: Vec<_> = naming
            .sources("text_model.final_layer_norm.bias")
            .into_iter()
            .map(|source| source.name)
            .collect();
        assert_eq!(
            names,
            [
                "cond_stage_model.transformer.text_model.final_layer_norm.bias",
                "cond_stage_model.transformer.final_layer_norm.bias"
            ]
        );
    }

    #[test]
    fn averages_have_names_without_dots() {
        let found = Naming::Average.sources("input_blocks.0.0.weight");
        let name = "model_ema.diffusion_modelinput_blocks00weight";
        assert_eq!(found, [Source::whole(name)]);
    }

    #[test]
    fn open_clip_names_follow_its_modules() {
        let naming = Naming::OpenClip {
            prefix: "cond_stage_model.model.".into(),
        };
        let layer = "text_model.encoder.layers.3";
        for (graph, file, third) in [
            (
                format!("{layer}.self_attn.q_proj.weight"),
                "transformer.resblocks.3.attn.in_proj_weight",
                Some(0),
            ),
            (
                format!("{layer}.self_attn.v_proj.bias"),
                "transformer.resblocks.3.attn.in_proj_bias",
                Some(2),
            ),
            (
                format!("{layer}.self_attn.out_proj.bias"),
                "transformer.resblocks.3.attn.out_proj.bias",
                None,
            ),
            (
                format!("{layer}.layer_norm2.weight"),
                "transformer.resblocks.3.ln_2.weight",
                None,
            ),
            (
                format!("{layer}.mlp.fc1.weight"),
                "transformer.resblocks.3.mlp.c_fc.weight",
                None,
            ),
            (
                "text_model.embeddings.position_embedding.weight".into(),
                "positional_embedding",
                None,
            ),
            (
                "text_model.embeddings.token_embedding.weight".into(),
                "token_embedding.weight",
                None,
            ),
            (
                "text_model.final_layer_norm.weight".into(),
                "ln_final.weight",
                None,
            ),
        ] {
            let name = format!("cond_stage_model.model.{file}");
            let expected = Source {
                third,
                ..Source::whole(name)
            };
            assert_eq!(naming.sources(&graph), [expected]);
        }
    }
}
