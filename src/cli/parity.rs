//! `ldm parity`: the engine's answers against PyTorch's, dump by dump.

use super::args::ModelArgs;
use super::console::Console;
use super::device::{self, Device};
use super::engine::EngineArgs;
use super::model;
use super::stop::Stop;
use clap::Args;
use latent_diffusion::parity::{Comparison, Dump, Report, check};
use latent_diffusion::pipeline::Tiling;
use latent_diffusion::{Error, Result};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Exit code where an output departs.
const FAILED: u8 = 1;

#[derive(Args)]
pub struct ParityArgs {
    /// Dumps, as tools/dumps writes them
    #[arg(long = "dump", value_name = "DUMP", num_args = 1.., required = true)]
    dumps: Vec<PathBuf>,
    /// Largest relative L2 error that passes [default: 1e-4 where the device computes in f32, 1e-2 in f16; 5e-4 and 3e-2 for
    /// a sampler]
    #[arg(long, value_name = "T", value_parser = tolerance)]
    tolerance: Option<f64>,
    /// Print a JSON object per output
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

fn tolerance(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value >= 0.0 && value.is_finite() => Ok(value),
        _ => Err("expected a number that is not negative, 1e-4 for example".into()),
    }
}

/// Compares every dump. The exit code is 0 where all outputs pass, 1 where one fails, and that of the error where a dump cannot
/// be used, which does not keep the others from being compared.
///
/// # Errors
/// If the model or the device cannot be used.
pub fn run(args: &ParityArgs, console: &Console, stop: &Stop) -> Result<u8> {
    let device = device::open(&args.engine, console, stop)?;
    let model = model::open(&args.model, console)?;
    if args.engine.vae_tiling == Tiling::On {
        console.note(
            "`--vae-tiling on` changes nothing here: parity runs the autoencoder as a whole, to which bands are equal to the bit",
        );
    }
    let mut code = 0;
    for path in &args.dumps {
        if args.dumps.len() > 1 {
            console.note(&format!("{}:", path.display()));
        }
        let report = Dump::open(path).and_then(|dump| {
            for name in dump.unread() {
                console.note(&format!(
                    "`input.{name}` of {} is not read: `{}` takes no such input",
                    path.display(),
                    dump.component().name()
                ));
            }
            match &device {
                Device::Cpu(device) => check(device, &model, &dump, args.tolerance),
                Device::Cuda(device) => check(device, &model, &dump, args.tolerance),
            }
        });
        match report {
            Ok(report) => {
                print(path, &report, args.json, console)?;
                if !report.pass() {
                    code = code.max(FAILED);
                }
            }
            Err(error @ (Error::File { .. } | Error::Tensor { .. } | Error::Shape { .. })) => {
                console.error(&error.to_string());
                code = code.max(error.exit_code());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(code)
}

fn print(path: &Path, report: &Report, as_json: bool, console: &Console) -> Result<()> {
    if !report.unknown_nodes.is_empty() {
        let first = report.unknown_nodes.iter().take(3);
        let first: Vec<_> = first.map(String::as_str).collect();
        console.note(&format!(
            "{} of the dump's nodes have no counterpart in the graph and are not compared: {}...",
            report.unknown_nodes.len(),
            first.join(", ")
        ));
    }
    for output in &report.outputs {
        let line = match as_json {
            true => json_line(path, report, output),
            false => line(report, output),
        };
        console.result(&line)?;
    }
    Ok(())
}

fn line(report: &Report, output: &Comparison) -> String {
    let verdict = if output.pass { "PASS" } else { "FAIL" };
    let departure = match &report.departure {
        Some(node) => format!(
            "  (the first node to depart is {}, by {:.2e})",
            node.name, node.relative_error
        ),
        None => String::new(),
    };
    format!(
        "{:<18} {:<17} {:<18} {:>8.2e} {:>8.2e} {verdict}{departure}",
        report.component.name(),
        output.name,
        output.shape.to_string(),
        output.relative_error,
        output.max_abs_error,
    )
}

fn json_line(path: &Path, report: &Report, output: &Comparison) -> String {
    let departure = report.departure.as_ref().map(|node| {
        json!({
            "node": node.name,
            "shape": node.shape.dims(),
            "relative_l2": node.relative_error,
            "max_abs": node.max_abs_error,
        })
    });
    json!({
        "dump": path.display().to_string(),
        "component": report.component.name(),
        "output": output.name,
        "shape": output.shape.dims(),
        "relative_l2": output.relative_error,
        "max_abs": output.max_abs_error,
        "tolerance": output.tolerance,
        "pass": output.pass,
        "first_departure": departure,
    })
    .to_string()
}
