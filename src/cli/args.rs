//! The arguments, as data: canonical names in the help, everybody else's accepted as hidden aliases.
//!
//! Numbers are read as wide as they come (`--width -512` is a number); what they must be is said by the request's own checks,
//! in sentences.

use super::bench::BenchArgs;
use super::engine::EngineArgs;
use super::number::count;
use super::pack::PackArgs;
use super::parity::ParityArgs;
use super::plan::PlanArgs;
use super::settings::Settings;
use super::shard::Shard;
use super::tune::TuneArgs;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

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
  ldm sample -m ./sd-v1-5 -p \"a lovely cat\" --steps 25 --sampler \"DPM++ 2M\"
  ldm img2img -i sketch.png --strength 0.6 -p \"a watercolour of a harbour\"
  ldm inpaint -i photo.png --mask hole.png
  ldm upscale -i small.png -m ./bsr_sr
  ldm layout2img --layout scene.json -m ./layout2img-openimages256
  ldm sample --from-file prompts.txt --outdir images
  ldm reconstruct -m ./vq-f4 photo.png
  ldm inspect outputs/00000-1.png
  ldm plan -m ./sd-v1-5 --size 2048x2048 --memory 8GiB
  ldm bench -m synthetic:sd1 --what unet --size 256";

/// Draws images from text with latent diffusion models, on an engine of its own.
#[derive(Parser)]
#[command(name = "ldm", version, after_help = EXIT_CODES, arg_required_else_help = false)]
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
    /// Draw a part of an image anew
    #[command(alias = "fill", args_override_self = true)]
    Inpaint(Box<InpaintArgs>),
    /// Enlarge an image four times
    #[command(aliases = ["superres", "super-resolution", "sr"], args_override_self = true)]
    Upscale(Box<SampleArgs>),
    /// Draw images of a map of labels
    #[command(aliases = ["seg2img", "semantic"], args_override_self = true)]
    Segment2img(Box<SampleArgs>),
    /// Draw images of objects in boxes
    #[command(alias = "l2i", args_override_self = true)]
    Layout2img(Box<SampleArgs>),
    /// Draw images of prompts with the help of a database's images
    #[command(aliases = ["knn2img", "rdm"], args_override_self = true)]
    Retrieve2img(Box<SampleArgs>),
    /// Turn images into latents
    Encode(EncodeArgs),
    /// Turn latents into images
    Decode(CodecArgs),
    /// Turn images into latents and back, and measure what is lost
    Reconstruct(ReconstructArgs),
    /// Describe a model, or how an image was made
    #[command(aliases = ["info", "metadata", "png-info"])]
    Inspect(InspectArgs),
    /// Write a model as one folder of what sampling needs: half-precision weights, configuration, tokenizer
    Convert(ConvertArgs),
    /// List the published systems and first stages: what each takes, costs and does by default
    #[command(aliases = ["models", "systems"])]
    List(ListArgs),
    /// Say what a run takes of memory, before anything is loaded
    #[command(alias = "memory")]
    Plan(Box<PlanArgs>),
    /// Time a model's networks, operation by operation
    Bench(BenchArgs),
    /// Write a model's weights beside it as a GPU reads them, for quicker starts; what was written for such a GPU before is replaced
    Pack(Box<PackArgs>),
    /// Find the quickest tile of every product on this GPU, for all later runs
    Tune(Box<TuneArgs>),
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
    #[arg(short, long, global = true, help_heading = "Messages")]
    pub verbose: bool,
    /// Say nothing but errors
    #[arg(short, long, global = true, help_heading = "Messages")]
    pub quiet: bool,
    /// Show no progress bar
    #[arg(long, global = true, help_heading = "Messages")]
    pub no_progress: bool,
}

#[derive(Args, Clone, Default)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// Model: a folder (diffusers, CompVis), a .safetensors or .ckpt file, org/name in the Hugging Face cache, or
    /// synthetic:NAME, of a system of `ldm list`, or synthetic:PATH for random weights; the built-in demo where none is given
    #[arg(short, long, aliases = ["ckpt", "checkpoint"], value_name = "MODEL")]
    pub model: Option<PathBuf>,
    /// Variant of the weights in a diffusers folder, such as fp16
    #[arg(long)]
    pub variant: Option<String>,
    /// Configuration of a checkpoint in CompVis's names: a .yaml file, or the name of a system of `ldm list` [default: the one beside
    /// it, or the system that its tensors are of]
    #[arg(long, value_name = "NAME|FILE")]
    pub config: Option<PathBuf>,
    /// Take the moving average of the UNet's weights from a checkpoint that holds it [default: as its configuration says]
    #[arg(long, aliases = ["use-ema"])]
    pub ema: bool,
    /// Take the UNet's weights as training left them
    #[arg(long, conflicts_with = "ema")]
    pub no_ema: bool,
    /// Text encoder layers to stop before the last one, counted from 1 (none)
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = count)]
    pub clip_skip: Option<usize>,
    /// How timesteps are chosen: leading, linspace or trailing [default: the model's]
    #[arg(long, value_name = "RULE")]
    pub timestep_spacing: Option<String>,
    #[arg(long, hide = true)]
    pub sd_version: Option<String>,
}

impl ModelArgs {
    /// Whether the moving average is asked for, or asked not to be taken.
    pub fn average(&self) -> Option<bool> {
        (self.ema || self.no_ema).then_some(self.ema)
    }
}

#[derive(Args)]
pub struct SampleArgs {
    /// What to draw; may be repeated, and - reads it from standard input
    #[arg(value_name = "PROMPT")]
    pub words: Vec<String>,
    /// What to draw; may be repeated
    #[arg(short, long, value_name = "PROMPT")]
    pub prompt: Vec<String>,
    /// Class to draw, by its number or name, or a range such as 0-999; may be repeated
    #[arg(long, alias = "class-label", value_name = "CLASS")]
    pub class: Vec<String>,
    /// A file that holds one prompt
    #[arg(long, value_name = "FILE")]
    pub prompt_file: Option<PathBuf>,
    /// A file of requests: .txt with a prompt per line, or .jsonl with an object of these options per line; - is
    /// standard input, with a prompt per line
    #[arg(long, aliases = ["prompts", "batch-file"], value_name = "FILE")]
    pub from_file: Option<PathBuf>,
    /// Carry out only share I of N of the batch file, counted from 0; auto asks the scheduler (Slurm and others)
    #[arg(long, requires = "from_file", value_name = "I/N")]
    pub shard: Option<Shard>,
    /// Take the prompt and settings from an image that this or another program made
    #[arg(long, value_name = "IMAGE")]
    pub from_image: Option<PathBuf>,
    #[command(flatten)]
    pub settings: Settings,
    /// What to do with a prompt that is longer than the text encoder reads
    #[arg(
        long,
        value_enum,
        default_value = "truncate",
        value_name = "HOW",
        help_heading = "Sampling"
    )]
    pub long_prompt: LongPrompt,
    /// Runs per prompt; image i uses seed + i
    #[arg(short, long, default_value_t = 1, aliases = ["n-iter", "num-samples"], allow_negative_numbers = true, value_name = "N", help_heading = "Output", value_parser = count)]
    pub batch_count: usize,
    /// Images per prompt or class in all, up to ten at a time unless --batch-size says otherwise; image i uses seed + i. For models
    /// without prompts -n means the same
    #[arg(long, aliases = ["n", "num-images"], conflicts_with = "batch_count", allow_negative_numbers = true, value_name = "N", help_heading = "Output", value_parser = count)]
    pub num: Option<usize>,
    /// Collect all images in a .npz archive too, as evaluations read it; a run that was stopped goes on where it was. The seed is 0
    /// unless --seed says otherwise
    #[arg(
        long,
        conflicts_with = "from_file",
        value_name = "FILE",
        help_heading = "Output"
    )]
    pub npz: Option<PathBuf>,
    /// Write no image files beside the archive
    #[arg(long, requires = "npz", help_heading = "Output")]
    pub no_png: bool,
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Describe each image as a line of JSON instead of its path alone
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    /// Leave out images whose files are there already; give a --seed too, which their names hold
    #[arg(long, alias = "resume", help_heading = "Output")]
    pub skip_existing: bool,
    /// Write no settings into the image
    #[arg(long, aliases = ["disable-metadata", "disable-image-metadata"], help_heading = "Output")]
    pub no_metadata: bool,
    #[command(flatten)]
    pub retrieval: RetrievalArgs,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
}

#[derive(Args)]
pub struct InpaintArgs {
    /// Folder of pairs NAME.png and NAME_mask.png, whose results are called NAME.png
    #[arg(long, conflicts_with_all = ["init_image", "mask", "from_file"], value_name = "FOLDER", help_heading = "Sampling")]
    pub indir: Option<PathBuf>,
    #[command(flatten)]
    pub sample: SampleArgs,
}

/// What a retrieval-augmented model is helped by.
#[derive(Args)]
#[command(next_help_heading = "Model")]
pub struct RetrievalArgs {
    /// Database of image embeddings to find neighbours in: a .npz file with an array `embedding`
    #[arg(long, value_name = "NPZ")]
    pub database: Option<PathBuf>,
    /// CLIP model whose text encoder reads the prompts of a retrieval-augmented model
    #[arg(long, value_name = "MODEL")]
    pub clip: Option<PathBuf>,
}

/// What to do with a prompt that is too long.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LongPrompt {
    /// Drop its end, and say what was dropped
    Truncate,
    /// Refuse it
    Error,
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

impl PlaceArgs {
    /// Whether results go to standard output.
    pub fn is_stdout(&self) -> bool {
        self.output.as_deref() == Some(Path::new("-"))
    }
}

#[derive(Args)]
pub struct CodecArgs {
    /// Files to convert
    #[arg(required_unless_present = "named", value_name = "FILE")]
    pub inputs: Vec<PathBuf>,
    /// A file to convert; may be repeated
    #[arg(short = 'i', long = "init-image", aliases = ["init-img", "image", "input", "latent"], value_name = "FILE")]
    pub named: Vec<PathBuf>,
    #[command(flatten)]
    pub place: PlaceArgs,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
}

impl CodecArgs {
    /// Every file: those without an option first.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.inputs.iter().chain(&self.named)
    }
}

#[derive(Args)]
pub struct EncodeArgs {
    /// Store the numbers of the nearest codes too, for an autoencoder with a codebook
    #[arg(long)]
    pub indices: bool,
    #[command(flatten)]
    pub codec: CodecArgs,
}

#[derive(Args)]
pub struct ReconstructArgs {
    /// Describe each image as a line of JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub codec: CodecArgs,
}

#[derive(Args)]
pub struct InspectArgs {
    /// An image, or a model as --model names it; the built-in demo where nothing is named
    #[arg(value_name = "PATH")]
    pub path: Option<PathBuf>,
    /// Read every weight, and fail if one is NaN or infinite
    #[arg(long)]
    pub check_weights: bool,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub model: ModelArgs,
}

#[derive(Args)]
pub struct ConvertArgs {
    /// The model, as --model names it
    #[arg(value_name = "MODEL")]
    pub path: Option<PathBuf>,
    /// Folder to make; one that is there is never written to
    #[arg(short, long, aliases = ["outdir", "out"], value_name = "FOLDER")]
    pub output: PathBuf,
    /// Precision of the weights
    #[arg(long, value_enum, default_value = "f16", aliases = ["type", "precision"])]
    pub dtype: Stored,
    #[command(flatten)]
    pub model: ModelArgs,
}

/// Precision of weights in a file.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Stored {
    /// Two bytes a number
    #[value(alias = "fp16")]
    F16,
    /// Four
    #[value(alias = "fp32")]
    F32,
}

#[derive(Args)]
pub struct ListArgs {
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}
