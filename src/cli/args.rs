//! The arguments, as data: canonical names in the help, everybody else's accepted as hidden aliases.
//!
//! Numbers are read as wide as they come (`--width -512` is a number); what they must be is said by the request's own checks,
//! in sentences.

use super::device::{Device, Dtype};
use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;

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
  130  stopped by Ctrl-C, 143 by SIGTERM; finished images are kept";

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
    /// List what can compute
    #[command(aliases = ["list-devices", "doctor"])]
    Devices(EngineArgs),
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
