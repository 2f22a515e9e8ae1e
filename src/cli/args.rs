//! The arguments, as data: canonical names in the help, everybody else's accepted as hidden aliases.
//!
//! Numbers are read as wide as they come (`--width -512` is a number); what they must be is said by the request's own checks,
//! in sentences.

use super::device::{Device, Dtype};
use super::parity::ParityArgs;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;

const EXIT_CODES: &str = "\
Exit codes:
  0    done, and every promised file written
  1    failure while running (NaN in a result, a parity check that fails)
  2    the request cannot be carried out as it stands (usage)
  3    a model or input file is missing, damaged or of the wrong kind
  4    the device cannot be used
  5    out of memory
  6    an output cannot be written
  7    a batch file was finished, but some of its requests failed
  130  stopped by Ctrl-C, 143 by SIGTERM; finished images are kept

Examples:
  ldm -p \"a red balloon over snowy mountains at sunset\"
  ldm sample -m ./stable-diffusion-v1-5 -p \"a lovely cat\" --steps 25 --sampler \"DPM++ 2M\" --scheduler karras
  ldm img2img -i sketch.png --strength 0.6 -p \"a watercolour of a harbour\"
  ldm sample --from-file prompts.txt --outdir images
  ldm inspect outputs/00000-1.png
  ldm bench -m synthetic:sd1 --what unet --size 256";

/// Latent diffusion on a hand-written engine.
#[derive(Parser)]
#[command(name = "ldm", version, about, after_help = EXIT_CODES, arg_required_else_help = false)]
pub struct Cli {
    #[command(flatten)]
    pub console: ConsoleArgs,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Draw images from prompts; the command where none is named
    #[command(aliases = ["txt2img", "t2i", "generate", "run"], args_override_self = true)]
    Sample(Box<SampleArgs>),
    /// Draw images from an image and prompts
    #[command(alias = "i2i", args_override_self = true)]
    Img2img(Box<SampleArgs>),
    /// Turn images into latents
    Encode(CodecArgs),
    /// Turn latents into images
    Decode(CodecArgs),
    /// Describe a model, or how an image was made
    #[command(aliases = ["info", "metadata", "png-info"])]
    Inspect(InspectArgs),
    /// Time a model's networks, operation by operation
    Bench(BenchArgs),
    /// List what can compute, or check the one device that is asked for
    #[command(aliases = ["list-devices", "doctor"])]
    Devices(EngineArgs),
    /// Compare with what PyTorch answered
    Parity(ParityArgs),
    /// Anything else, so that the answer can be better than a list.
    #[command(external_subcommand)]
    Unknown(Vec<OsString>),
}

#[derive(Args)]
pub struct ConsoleArgs {
    /// Say more on standard error
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// Say nothing but errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Show no progress bar
    #[arg(long, global = true)]
    pub no_progress: bool,
}

#[derive(Args, Clone)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// Model: a folder (diffusers, CompVis), a .safetensors file, org/name in the Hugging Face cache, or synthetic:sd1,
    /// synthetic:sd2, synthetic:PATH for random weights; the built-in demo where none is given
    #[arg(short, long, aliases = ["ckpt", "checkpoint"], value_name = "MODEL")]
    pub model: Option<PathBuf>,
    /// Variant of the weights in a diffusers folder, such as fp16
    #[arg(long)]
    pub variant: Option<String>,
    /// Text encoder layers to stop before the last one, counted from 1 (none)
    #[arg(long, value_name = "N")]
    pub clip_skip: Option<usize>,
    /// How timesteps are chosen: leading, linspace or trailing [default: the model's]
    #[arg(long, value_name = "RULE")]
    pub timestep_spacing: Option<String>,
    #[arg(long, hide = true)]
    pub sd_version: Option<String>,
}

#[derive(Args)]
#[command(next_help_heading = "Device")]
pub struct EngineArgs {
    /// Where to compute: auto, cpu, cuda, cuda:N or emulator
    #[arg(long, default_value = "auto", aliases = ["backend", "device-id", "cuda-device"])]
    pub device: Device,
    /// Precision: auto, f32, f16 or bf16; the CPU computes in f32
    #[arg(long, default_value = "auto", aliases = ["type", "precision"])]
    pub dtype: Dtype,
    /// Threads [default: one per core]
    #[arg(short, long, default_value_t = 0, hide_default_value = true)]
    pub threads: usize,
}

#[derive(Args)]
pub struct SampleArgs {
    /// What to draw; may be repeated, and - reads it from standard input
    #[arg(value_name = "PROMPT")]
    pub words: Vec<String>,
    /// What to draw; may be repeated
    #[arg(short, long, value_name = "PROMPT")]
    pub prompt: Vec<String>,
    /// A file that holds one prompt
    #[arg(long, value_name = "FILE")]
    pub prompt_file: Option<PathBuf>,
    /// A file of requests: .txt with a prompt per line, or .jsonl with an object of these options per line
    #[arg(long, aliases = ["prompts", "batch-file"], value_name = "FILE")]
    pub from_file: Option<PathBuf>,
    /// Take the prompt and settings from an image that this or another program made
    #[arg(long, value_name = "IMAGE")]
    pub from_image: Option<PathBuf>,
    #[command(flatten)]
    pub settings: Settings,
    /// Runs per prompt; image i uses seed + i
    #[arg(short, long, default_value_t = 1, aliases = ["n-iter", "num-samples", "num-images", "n"], value_name = "N", help_heading = "Output")]
    pub batch_count: usize,
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Describe each image as a line of JSON instead of its path alone
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    /// Write no settings into the image
    #[arg(long, aliases = ["disable-metadata", "disable-image-metadata"], help_heading = "Output")]
    pub no_metadata: bool,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// What a request says beside its prompt; a line of a batch file may say the same.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "Sampling")]
pub struct Settings {
    /// What to steer away from
    #[arg(short, long, aliases = ["negative", "neg", "uncond-prompt"], value_name = "PROMPT")]
    pub negative_prompt: Option<String>,
    /// Sampling steps, 1 to 1000 [default: the model's]
    #[arg(long, aliases = ["ddim-steps", "n-steps", "num-inference-steps", "sample-steps", "custom-steps"], allow_negative_numbers = true, value_name = "N")]
    pub steps: Option<i64>,
    /// Scale of classifier-free guidance; 1 is without [default: the model's]
    #[arg(long, aliases = ["cfg", "scale", "guidance-scale"], allow_negative_numbers = true, value_name = "X")]
    pub cfg_scale: Option<f64>,
    /// How far guidance's contrast is brought back, 0 to 1
    #[arg(long, allow_negative_numbers = true, value_name = "X")]
    pub guidance_rescale: Option<f64>,
    /// Seed of the first image; -1 for a random one [default: random]
    #[arg(short, long, allow_negative_numbers = true, value_name = "N")]
    pub seed: Option<i128>,
    /// Pixels across [default: the model's]
    #[arg(
        short = 'W',
        long,
        alias = "W",
        allow_negative_numbers = true,
        value_name = "PIXELS"
    )]
    pub width: Option<i64>,
    /// Pixels down [default: the model's]
    #[arg(
        short = 'H',
        long,
        alias = "H",
        allow_negative_numbers = true,
        value_name = "PIXELS"
    )]
    pub height: Option<i64>,
    /// Width and height in one: 512x768
    #[arg(long, value_name = "WxH", allow_negative_numbers = true)]
    pub size: Option<String>,
    /// Sampler: DDPM, DDIM, PLMS, Euler, Euler a, Heun, DPM++ 2M, DPM++ 2M SDE, UniPC or LCM [default: the model's]
    #[arg(long, aliases = ["sampling-method", "sample-method", "sampler-name"], value_name = "NAME")]
    pub sampler: Option<String>,
    /// Spacing of noise levels: normal, karras, exponential, sgm_uniform or simple
    #[arg(long, aliases = ["schedule", "sigma-schedule"], value_name = "NAME")]
    pub scheduler: Option<String>,
    /// Share of fresh noise per step (DDIM, Euler a), 0 to 1
    #[arg(
        long,
        alias = "ddim-eta",
        allow_negative_numbers = true,
        value_name = "X"
    )]
    pub eta: Option<f64>,
    /// Image to start from
    #[arg(short, long, aliases = ["init-img", "image", "img2img", "input"], value_name = "FILE")]
    pub init_image: Option<PathBuf>,
    /// How far to depart from the initial image, 0 to 1 [default: 0.75]
    #[arg(long, aliases = ["denoising-strength", "denoise", "img2img-strength"], allow_negative_numbers = true, value_name = "X")]
    pub strength: Option<f64>,
    /// Noise as PyTorch makes it on the cpu or on cuda [default: cpu]
    #[arg(long, value_name = "WHERE")]
    pub rng: Option<String>,
    /// Images per forward pass; their total is batch count times batch size
    #[arg(long, aliases = ["n-samples", "bsize"], allow_negative_numbers = true, value_name = "N", help_heading = "Output")]
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
            seed: self.seed.or(base.seed),
            width: self.width.or(base.width),
            height: self.height.or(base.height),
            size: self.size.or(base.size),
            sampler: self.sampler.or(base.sampler),
            scheduler: self.scheduler.or(base.scheduler),
            eta: self.eta.or(base.eta),
            init_image: self.init_image.or(base.init_image),
            strength: self.strength.or(base.strength),
            rng: self.rng.or(base.rng),
            batch_size: self.batch_size.or(base.batch_size),
        }
    }
}

/// Where results go.
#[derive(Args)]
#[command(next_help_heading = "Output")]
pub struct PlaceArgs {
    /// File to write, replaced if it exists; {index:05}, {seed}, {prompt}, {id} and %05d are filled in, and - is standard output
    #[arg(short, long, alias = "final-image", value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Folder to write to, where nothing is ever replaced [default: outputs]
    #[arg(long, aliases = ["out-dir", "output-dir", "output-directory", "logdir"], conflicts_with = "output", value_name = "FOLDER")]
    pub outdir: Option<PathBuf>,
}

#[derive(Args)]
pub struct CodecArgs {
    /// Files to convert
    #[arg(required = true, value_name = "FILE")]
    pub inputs: Vec<PathBuf>,
    #[command(flatten)]
    pub place: PlaceArgs,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
}

#[derive(Args)]
pub struct InspectArgs {
    /// An image, or a model as --model names it; the built-in demo where nothing is named
    #[arg(value_name = "PATH")]
    pub path: Option<PathBuf>,
    #[command(flatten)]
    pub model: ModelArgs,
    /// Read every weight, and fail if one is NaN or infinite
    #[arg(long)]
    pub check_weights: bool,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct BenchArgs {
    /// Which network to time
    #[arg(long, value_enum, default_value = "all")]
    pub what: Part,
    /// Size of the image in pixels, 512 or 512x768 [default: the model's]
    #[arg(long, value_name = "WxH")]
    pub size: Option<String>,
    /// Images per run
    #[arg(long, alias = "batch-size", default_value_t = 1, value_name = "N")]
    pub batch: usize,
    /// Runs; the fastest counts
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub repeat: usize,
    /// How many of the slowest nodes are listed
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub top: usize,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// A part of a model that can be timed.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// One evaluation of the denoising network
    Unet,
    /// From a latent to an image
    Decode,
    /// From an image to a latent
    Encode,
    /// The text encoder
    Text,
    /// Each of them
    All,
}
