//! What a model is, apart from its weights: one description for every system, whatever file said it.
//!
//! CompVis wrote `config.yaml`, diffusers a folder of `config.json`, and each leaves things to defaults in its own code.
//! Here all of that is resolved once, into sizes per level and plain choices, so that a network's builder reads one
//! struct and never asks where it came from. A choice that no network of this crate implements is refused where the
//! file is read, with the key's name; it has no field here.

mod compvis;
mod conditioning;
mod diffusers;
mod folder;
mod json;
mod limits;
mod presets;
mod schedule;
mod scheduler;
mod section;
mod transformers;
mod written;

pub use compvis::from_yaml;
pub use folder::unsupported_parts;
pub use json::from_python_json;
pub use schedule::{BetaSchedule, Prediction, SamplingDefaults, ScheduleConfig, TimestepSpacing};
pub use scheduler::unsupported_settings;
pub use written::to_yaml;

/// Everything that is known about a model before its weights are read.
///
/// A folder may hold a single component (an autoencoder alone, say); the others are `None` then.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The denoising network.
    pub unet: Option<UNetConfig>,
    /// The first stage, between pixels and latents.
    pub autoencoder: Option<AutoencoderConfig>,
    /// The encoder of prompts, or of layouts, where there is one.
    pub text: Option<TextConfig>,
    /// What the model is told besides the noisy latent.
    pub condition: Condition,
    /// The forward process, and how its steps are chosen.
    pub schedule: ScheduleConfig,
    /// Latents are multiplied by this after encoding and divided by it before decoding.
    pub scale_factor: f64,
    /// Side of the latents that the model was trained on, in latent pixels.
    pub latent_size: Option<usize>,
    /// Whether the denoising network runs with the moving average of its weights, where the checkpoint holds it.
    pub use_ema: bool,
    /// What the model's authors recommend for sampling.
    pub sampling: SamplingDefaults,
    /// Parts of the model that this crate cannot run, each as the end of a sentence that begins with the model's name. The
    /// other parts can be run alone.
    pub unsupported: Vec<String>,
}

impl ModelConfig {
    /// The most tokens that the transformers attend to.
    pub fn context_tokens(&self) -> usize {
        // The authors of the retrieval model go up to twenty neighbours beside the prompt.
        const VECTORS: usize = 1 + 20;
        match (&self.condition, &self.text) {
            (Condition::Vectors, _) => VECTORS,
            (_, Some(text)) => text.positions(),
            (_, None) => 1,
        }
    }
}

impl Default for ModelConfig {
    /// A model without any component.
    fn default() -> Self {
        Self {
            unet: None,
            autoencoder: None,
            text: None,
            condition: Condition::None,
            schedule: ScheduleConfig::default(),
            scale_factor: 1.0,
            latent_size: None,
            use_ema: false,
            sampling: SamplingDefaults::default(),
            unsupported: vec![],
        }
    }
}

/// What a model is told besides the noisy latent, and the way it takes it: by cross-attention, or as further channels of the latent.
///
/// # Source
/// Section 3.3 of the paper; `cond_stage_config` and `conditioning_key` in CompVis's configurations.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// Nothing.
    None,
    /// A prompt, read by the text encoder and attended to.
    Text,
    /// A class, attended to as one token: a learnt vector.
    Class {
        /// Number of classes.
        classes: usize,
        /// Width of a vector.
        width: usize,
    },
    /// A class, whose embedding is added to the timestep's: CompVis's `adm`. [`UNetConfig::num_classes`] counts them.
    Label,
    /// Objects and their boxes as tokens, read by the text encoder and attended to.
    Layout,
    /// Vectors as they are, attended to: the CLIP embeddings of a prompt and of its neighbours in a database.
    Vectors,
    /// An image at low resolution, as channels.
    LowResolution,
    /// The encoded image without what is to be filled in, then the mask, as channels.
    MaskedImage,
    /// A map of labels, rescaled, as channels.
    Segmentation(RescalerConfig),
    /// A prompt, attended to; and the mask, then the encoded image without what is to be filled in, as channels.
    TextAndMaskedImage,
}

impl Condition {
    /// Whether it is made by a network of its own, besides a text encoder.
    pub fn has_weights(&self) -> bool {
        matches!(self, Self::Class { .. } | Self::Segmentation(_))
    }
}

/// The network that brings a map of labels, a channel each, to the latent's size and to few channels.
///
/// # Source
/// `SpatialRescaler` in CompVis's `encoders/modules.py`.
#[derive(Clone, Debug, PartialEq)]
pub struct RescalerConfig {
    /// Labels: channels of the map.
    pub in_channels: usize,
    /// Channels that the UNet is given.
    pub out_channels: usize,
    /// How often the map's sides are halved.
    pub halvings: usize,
    /// Whether the 1x1 convolution has a bias.
    pub bias: bool,
}

/// A text encoder.
#[derive(Clone, Debug, PartialEq)]
pub enum TextConfig {
    /// CLIP's.
    Clip(ClipConfig),
    /// That of the first latent diffusion models.
    Bert(BertConfig),
}

impl TextConfig {
    /// The length that every text is padded to.
    pub fn positions(&self) -> usize {
        match self {
            Self::Clip(config) => config.positions,
            Self::Bert(config) => config.positions,
        }
    }

    /// Number of tokens that are known.
    pub fn vocab(&self) -> usize {
        match self {
            Self::Clip(config) => config.vocab,
            Self::Bert(config) => config.vocab,
        }
    }
}

/// The UNet of section 3.3 of the paper: ADM's network with cross-attention.
///
/// # Source
/// `ldm/modules/diffusionmodules/openaimodel.py` of CompVis/latent-diffusion; sizes in the paper's tables 12 to 15.
#[derive(Clone, Debug, PartialEq)]
pub struct UNetConfig {
    /// Channels of the input, concatenated conditioning included.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Width of the first convolution; the time embedding is four times as wide.
    pub model_channels: usize,
    /// The resolutions, finest first; each is half the size of the one before.
    pub levels: Vec<UNetLevel>,
    /// The attention between the two middle res blocks, at the last level's width.
    pub middle: Attention,
    /// Width of the context that the transformers attend to; `None` makes their second attention a self-attention.
    pub context_dim: Option<usize>,
    /// Whether a spatial transformer's `proj_in` and `proj_out` are linear (SD 2) or 1x1 convolutions. The arithmetic is
    /// the same; only the rank of the weights differs.
    pub linear_projections: bool,
    /// Whether [`Attention::Pixels`] finds all heads' queries first, then all keys, then all values; otherwise one head's three after the
    /// other's.
    pub new_attention_order: bool,
    /// Whether the time embedding scales and shifts the normalised activations, rather than being added.
    pub scale_shift_norm: bool,
    /// Whether res blocks change the resolution, rather than (transposed) convolutions.
    pub res_block_updown: bool,
    /// Number of class labels whose embedding is added to the time embedding.
    pub num_classes: Option<usize>,
    /// Groups of every group normalisation.
    pub norm_groups: usize,
    /// Epsilon of the group normalisations of the res blocks and the output; 1e-6 in spatial transformers, always.
    pub norm_eps: f32,
}

impl UNetConfig {
    /// Channels of the input that are not the latent's.
    pub fn concat_channels(&self) -> usize {
        self.in_channels.saturating_sub(self.out_channels)
    }

    /// What both sides of a latent must be a multiple of, so that each level halves the one before without a remainder.
    pub fn factor(&self) -> usize {
        1 << self.levels.len().saturating_sub(1)
    }
}

/// One resolution of a [`UNetConfig`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UNetLevel {
    /// Width.
    pub channels: usize,
    /// Res blocks on the way down; there is one more on the way up.
    pub res_blocks: usize,
    /// What follows each res block.
    pub attention: Attention,
}

/// What follows a UNet's res block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Attention {
    /// Nothing.
    None,
    /// Self-attention over pixels, from the networks without transformers (`AttentionBlock`).
    Pixels {
        /// Number of heads; the width is divided among them.
        heads: usize,
    },
    /// A spatial transformer.
    Transformer {
        /// Number of heads; the width is divided among them.
        heads: usize,
        /// Number of transformer blocks.
        depth: usize,
    },
}

/// The autoencoder of section 3.1, with a KL penalty or a codebook.
///
/// # Source
/// `ldm/modules/diffusionmodules/model.py` (`Encoder`, `Decoder`) of CompVis/latent-diffusion.
#[derive(Clone, Debug, PartialEq)]
pub struct AutoencoderConfig {
    /// Channels of the image that goes in.
    pub in_channels: usize,
    /// Channels of the image that comes out.
    pub out_channels: usize,
    /// Width of the encoder's first convolution.
    pub base_channels: usize,
    /// The resolutions, finest first; each is half the size of the one before.
    pub levels: Vec<AutoencoderLevel>,
    /// Res blocks per level in the encoder; the decoder has one more.
    pub res_blocks: usize,
    /// Whether there is attention between the two middle res blocks (one head).
    pub middle_attention: bool,
    /// Channels between the encoder and `quant_conv`, and between `post_quant_conv` and the decoder; with a KL penalty the
    /// encoder makes twice as many, a mean and a log variance.
    pub z_channels: usize,
    /// Channels of the latent.
    pub embed_dim: usize,
    /// Entries of the codebook, where there is one rather than a KL penalty.
    pub codebook: Option<usize>,
    /// Whether `quant_conv` follows the encoder.
    pub quant_conv: bool,
    /// Whether `post_quant_conv` precedes the decoder.
    pub post_quant_conv: bool,
    /// Groups of every group normalisation; their epsilon is 1e-6.
    pub norm_groups: usize,
}

impl AutoencoderConfig {
    /// How many pixels one latent pixel spans along each side: `f` in the paper.
    pub fn factor(&self) -> usize {
        1 << self.levels.len().saturating_sub(1)
    }
}

/// One resolution of an [`AutoencoderConfig`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AutoencoderLevel {
    /// Width.
    pub channels: usize,
    /// Whether attention (one head) follows each res block.
    pub attention: bool,
}

/// A CLIP text encoder.
///
/// # Source
/// Radford et al., arXiv:2103.00020, section 2.4; transformers' `CLIPTextModel` and OpenCLIP have the same arithmetic.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipConfig {
    /// Number of tokens.
    pub vocab: usize,
    /// Width.
    pub width: usize,
    /// Transformer layers that the weights hold.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of the feed-forward networks inside.
    pub mlp: usize,
    /// Number of positions: the length that every prompt is padded to.
    pub positions: usize,
    /// Activation of the feed-forward networks.
    pub activation: ClipActivation,
    /// Epsilon of the layer normalisations.
    pub norm_eps: f32,
    /// Width of the vector that stands for a whole prompt, beside images' vectors; `None` where the model has no map to it.
    pub projection: Option<usize>,
    /// How many of the last layers are left out before the final normalisation: 0, or 1 for the penultimate layer (SD 2).
    pub skip_layers: usize,
    /// Token that ends a prompt, where the configuration says.
    pub eos_token: Option<u32>,
    /// Token that fills a prompt up, where the configuration says.
    pub pad_token: Option<u32>,
}

/// Activation of a text encoder's feed-forward networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClipActivation {
    /// `x * sigmoid(1.702 x)`: OpenAI's CLIP.
    QuickGelu,
    /// `x * Phi(x)`, with the error function: OpenCLIP.
    Gelu,
}

/// The text encoder that the first latent diffusion models learnt with their UNet; in prompts it reads BERT's word pieces.
///
/// # Source
/// `BERTEmbedder` in CompVis's `encoders/modules.py`; `LDMBertModel` in diffusers.
#[derive(Clone, Debug, PartialEq)]
pub struct BertConfig {
    /// Number of tokens.
    pub vocab: usize,
    /// Width.
    pub width: usize,
    /// Transformer layers.
    pub layers: usize,
    /// Number of positions: the length that every prompt or layout is padded to.
    pub positions: usize,
}
