//! What a model is, apart from its weights: one description for every system, whatever file said it.
//!
//! CompVis wrote `config.yaml`, diffusers a folder of `config.json`, and each leaves things to defaults in its own code.
//! Here all of that is resolved once, into sizes per level and plain choices, so that a network's builder reads one
//! struct and never asks where it came from. A choice that no network of this crate implements is refused where the
//! file is read, with the key's name; it has no field here.

mod compvis;
mod diffusers;
mod folder;
mod limits;
mod presets;
mod schedule;
mod section;
mod transformers;

pub use compvis::from_yaml;
pub use folder::unsupported_parts;
pub use schedule::{BetaSchedule, Prediction, SamplingDefaults, ScheduleConfig, TimestepSpacing};

/// Everything that is known about a model before its weights are read.
///
/// A folder may hold a single component (an autoencoder alone, say); the others are `None` then.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The denoising network.
    pub unet: Option<UNetConfig>,
    /// The first stage, between pixels and latents.
    pub autoencoder: Option<AutoencoderConfig>,
    /// The prompt's encoder; `None` also for an unconditional model.
    pub text: Option<ClipConfig>,
    /// The forward process, and how its steps are chosen.
    pub schedule: ScheduleConfig,
    /// Latents are multiplied by this after encoding and divided by it before decoding.
    pub scale_factor: f64,
    /// Side of the latents that the model was trained on, in latent pixels.
    pub latent_size: Option<usize>,
    /// What the model's authors recommend for sampling.
    pub sampling: SamplingDefaults,
    /// Parts of the model that this crate cannot run, each as the end of a sentence that begins with the model's name. The
    /// other parts can be run alone.
    pub unsupported: Vec<String>,
}

impl Default for ModelConfig {
    /// A model without any component.
    fn default() -> Self {
        Self {
            unet: None,
            autoencoder: None,
            text: None,
            schedule: ScheduleConfig::default(),
            scale_factor: 1.0,
            latent_size: None,
            sampling: SamplingDefaults::default(),
            unsupported: vec![],
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

/// The autoencoder of section 3.1, with a KL penalty.
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
    /// Channels between the encoder and `quant_conv`, and between `post_quant_conv` and the decoder; the encoder makes
    /// twice as many, a mean and a log variance.
    pub z_channels: usize,
    /// Channels of the latent.
    pub embed_dim: usize,
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
