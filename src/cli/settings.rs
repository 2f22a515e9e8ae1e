//! What a request may say besides its prompt: on the command line, or on a line of a batch file.

use super::number::{real, whole};
use clap::Args;
use std::path::PathBuf;

/// What a request says beside its prompt; a line of a batch file may say the same.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "Sampling")]
pub struct Settings {
    /// What to steer away from
    #[arg(short, long, aliases = ["negative", "neg", "uncond-prompt"], value_name = "PROMPT")]
    pub negative_prompt: Option<String>,
    /// Sampling steps, 1 to 1000 [default: the model's]
    #[arg(long, aliases = ["ddim-steps", "n-steps", "num-inference-steps", "sample-steps", "custom-steps"], allow_negative_numbers = true, value_name = "N", value_parser = whole::<i64>)]
    pub steps: Option<i64>,
    /// Scale of classifier-free guidance; 1 is without [default: the model's]
    #[arg(long, aliases = ["cfg", "scale", "guidance-scale"], allow_negative_numbers = true, value_name = "X", value_parser = real)]
    pub cfg_scale: Option<f64>,
    /// How far guidance's contrast is brought back, 0 to 1
    #[arg(long, allow_negative_numbers = true, value_name = "X", value_parser = real)]
    pub guidance_rescale: Option<f64>,
    /// Guide only at noise levels (sigma, as k-diffusion counts) above START and up to END; elsewhere the network is asked once a step
    #[arg(long, aliases = ["cfg-interval", "guidance-range"], allow_hyphen_values = true, value_name = "START:END")]
    pub guidance_interval: Option<String>,
    /// Seed of the first image; -1 for a random one [default: random]
    #[arg(short, long, allow_negative_numbers = true, value_name = "N", value_parser = whole::<i128>)]
    pub seed: Option<i128>,
    /// Pixels across [default: the model's, in the proportions of an initial image]
    #[arg(
        short = 'W',
        long,
        alias = "W",
        allow_negative_numbers = true,
        value_name = "PIXELS", value_parser = whole::<i64>)]
    pub width: Option<i64>,
    /// Pixels down [default: the model's]
    #[arg(
        short = 'H',
        long,
        alias = "H",
        allow_negative_numbers = true,
        value_name = "PIXELS", value_parser = whole::<i64>)]
    pub height: Option<i64>,
    /// Width and height in one: 512x768
    #[arg(long, value_name = "WxH", allow_hyphen_values = true)]
    pub size: Option<String>,
    /// Take the nearest size that the model can make instead of refusing one that it cannot
    #[arg(long)]
    pub round_size: bool,
    /// Sampler: DDPM, DDIM, PLMS, Euler, Euler a, Heun, DPM++ 2M, DPM++ 2M SDE, UniPC or LCM [default: the model's]
    #[arg(long, aliases = ["sampling-method", "sample-method", "sampler-name"], value_name = "NAME")]
    pub sampler: Option<String>,
    /// Spacing of noise levels: normal, karras, exponential, sgm_uniform or simple [default: the model's, or else normal]
    #[arg(long, aliases = ["schedule", "sigma-schedule"], value_name = "NAME")]
    pub scheduler: Option<String>,
    /// Share of fresh noise per step (DDIM, Euler a), 0 to 1
    #[arg(
        long,
        alias = "ddim-eta",
        allow_negative_numbers = true,
        value_name = "X", value_parser = real)]
    pub eta: Option<f64>,
    /// Put the codebook's nearest codes in the place of each predicted image (DDIM and DDPM, autoencoders with a codebook)
    #[arg(long, aliases = ["quantize-denoised", "quantise-x0"])]
    pub quantize_x0: bool,
    /// Image to start from
    #[arg(short, long, aliases = ["init-img", "image", "img2img", "input"], value_name = "FILE")]
    pub init_image: Option<PathBuf>,
    /// Which part of the image to draw anew: white in a picture of the same size
    #[arg(long, aliases = ["mask-image", "mask-path"], value_name = "FILE")]
    pub mask: Option<PathBuf>,
    /// Draw what is black in the mask instead
    #[arg(long)]
    pub invert_mask: bool,
    /// Soften the mask's edge by this many pixels where the result is pasted into the image [default: 0]
    #[arg(long, allow_negative_numbers = true, value_name = "PIXELS", value_parser = real)]
    pub mask_blur: Option<f64>,
    /// Class to draw: an option of the command line that may be repeated, and of a line
    #[arg(skip)]
    pub class: Option<String>,
    /// Map of labels to draw: an 8-bit gray or palette PNG whose levels are labels
    #[arg(long, aliases = ["segmentation", "segmap"], value_name = "PNG")]
    pub labels: Option<PathBuf>,
    /// Layout to draw: JSON such as {"boxes": [{"class": "Dog", "box": [x, y, width, height]}]}, in shares of the picture
    #[arg(long, value_name = "JSON")]
    pub layout: Option<PathBuf>,
    /// Names of the classes in a layout, a name per line in the order of their numbers [default: classes.txt beside the model]
    #[arg(long, value_name = "FILE")]
    pub classes: Option<PathBuf>,
    /// Neighbours of the prompt in the database that a retrieval-augmented model is shown, 0 to 20 [default: 10]
    #[arg(short = 'k', long, aliases = ["knn", "neighbors"], allow_negative_numbers = true, value_name = "N", value_parser = whole::<i64>)]
    pub neighbours: Option<i64>,
    /// How far to depart from the initial image, 0 to 1 [default: 0.75]
    #[arg(long, aliases = ["denoising-strength", "denoise", "img2img-strength"], allow_negative_numbers = true, value_name = "X", value_parser = real)]
    pub strength: Option<f64>,
    /// Noise as PyTorch makes it on the cpu or on cuda [default: cpu]
    #[arg(long, value_name = "WHERE")]
    pub rng: Option<String>,
    /// Images per forward pass; their total is batch count times batch size
    #[arg(long, aliases = ["n-samples", "bsize", "batch"], allow_negative_numbers = true, value_name = "N", help_heading = "Output", value_parser = whole::<i64>)]
    pub batch_size: Option<i64>,
}

impl Settings {
    /// These settings, and those of `base` where these say nothing.
    pub fn over(self, base: &Self) -> Self {
        let base = base.clone();
        Self {
            negative_prompt: self.negative_prompt.or(base.negative_prompt),
            steps: self.steps.or(base.steps),
            cfg_scale: self.cfg_scale.or(base.cfg_scale),
            guidance_rescale: self.guidance_rescale.or(base.guidance_rescale),
            guidance_interval: self.guidance_interval.or(base.guidance_interval),
            seed: self.seed.or(base.seed),
            // A size says both sides, whatever was said of one before.
            width: self.width.or(base.width.filter(|_| self.size.is_none())),
            height: self.height.or(base.height.filter(|_| self.size.is_none())),
            size: self.size.or(base.size),
            round_size: self.round_size || base.round_size,
            sampler: self.sampler.or(base.sampler),
            scheduler: self.scheduler.or(base.scheduler),
            eta: self.eta.or(base.eta),
            quantize_x0: self.quantize_x0 || base.quantize_x0,
            init_image: self.init_image.or(base.init_image),
            mask: self.mask.or(base.mask),
            invert_mask: self.invert_mask || base.invert_mask,
            mask_blur: self.mask_blur.or(base.mask_blur),
            class: self.class.or(base.class),
            labels: self.labels.or(base.labels),
            layout: self.layout.or(base.layout),
            classes: self.classes.or(base.classes),
            neighbours: self.neighbours.or(base.neighbours),
            strength: self.strength.or(base.strength),
            rng: self.rng.or(base.rng),
            batch_size: self.batch_size.or(base.batch_size),
        }
    }
}
