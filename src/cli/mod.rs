//! The command line: the only part that knows of arguments, the environment, signals and exit codes.
//!
//! Each command is a file with one function. What it returns becomes the process's exit code here, and every failure is one
//! sentence on standard error; so no command prints its own errors or exits by itself.

mod args;
mod argv;
mod bench;
mod codec;
mod console;
mod convert;
mod device;
mod engine;
mod given;
mod inpaint;
mod inspect;
mod jobs;
mod list;
mod metadata;
mod model;
mod networks;
mod number;
mod output;
mod pack;
mod parity;
mod plan;
mod reconstruct;
mod request;
mod retrieve;
mod sample;
mod settings;
mod shard;
mod stop;
mod tune;

use anyhow::Result;
use args::{Cli, Command};
use clap::{CommandFactory, Parser};
use console::Console;
use latent_diffusion::Error;
use latent_diffusion::error::nearest;
use latent_diffusion::pipeline::Task;
use std::ffi::OsString;
use std::process::ExitCode;
use stop::Stop;

/// Runs the command that the process's arguments ask for.
pub fn main() -> ExitCode {
    let commands = command_names();
    let arguments = argv::normalise(std::env::args_os(), &commands);
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(answer) => {
            // Help, the version or a usage error; if nobody reads it there is nobody to tell.
            let _ = answer.print();
            return ExitCode::from(answer.exit_code() as u8);
        }
    };
    let console = Console::new(&cli.console);
    let code = Stop::listen().and_then(|stop| {
        run(cli.command, &commands, &console, &stop)
            .or_else(|error| failed(&error, &console, &stop))
    });
    ExitCode::from(code.unwrap_or_else(|error| {
        console.error(&format!("{error:#}"));
        1
    }))
}

/// Carries out a command; the exit code is 0 unless the command has a reason of its own for another.
fn run(command: Command, commands: &[String], console: &Console, stop: &Stop) -> Result<u8> {
    match command {
        Command::Sample(args) => return Ok(sample::run(&args, console, stop)?),
        Command::Img2img(args) => return Ok(sample::run_from_image(&args, console, stop)?),
        Command::Inpaint(args) => return Ok(inpaint::run(&args, console, stop)?),
        Command::Upscale(args) => {
            return Ok(sample::run_task(Task::Upscale, &args, console, stop)?);
        }
        Command::Segment2img(args) => {
            return Ok(sample::run_task(Task::Segmentation, &args, console, stop)?);
        }
        Command::Layout2img(args) => {
            return Ok(sample::run_task(Task::Layout, &args, console, stop)?);
        }
        Command::Retrieve2img(args) => {
            return Ok(sample::run_task(Task::Retrieval, &args, console, stop)?);
        }
        Command::Encode(args) => codec::encode(&args, console, stop)?,
        Command::Decode(args) => codec::decode(&args, console, stop)?,
        Command::Reconstruct(args) => reconstruct::run(&args, console, stop)?,
        Command::Inspect(args) => inspect::run(&args, console)?,
        Command::Convert(args) => convert::run(&args, console, stop)?,
        Command::List(args) => list::run(&args, console)?,
        Command::Pack(args) => pack::run(&args, console, stop)?,
        Command::Plan(args) => plan::run(&args, console, stop)?,
        Command::Bench(args) => bench::run(&args, console, stop)?,
        Command::Tune(args) => tune::run(&args, console, stop)?,
        Command::Devices(args) => device::list(&args, console, stop)?,
        Command::Parity(args) => return Ok(parity::run(&args, console, stop)?),
        Command::Unknown(words) => return Err(unknown(&words, commands).into()),
    }
    Ok(0)
}

/// Says what went wrong, and gives the exit code for it.
fn failed(error: &anyhow::Error, console: &Console, stop: &Stop) -> Result<u8> {
    match error.downcast_ref::<Error>() {
        Some(Error::Interrupted) => {
            console.note("stopped; finished files are kept");
            Ok(stop.exit_code())
        }
        Some(known) => {
            console.error(&format!("{error:#}"));
            Ok(known.exit_code())
        }
        None => {
            console.error(&format!("{error:#}"));
            Ok(1)
        }
    }
}

/// The names of all commands, aliases included.
fn command_names() -> Vec<String> {
    let cli = Cli::command();
    let names = cli
        .get_subcommands()
        .flat_map(|command| std::iter::once(command.get_name()).chain(command.get_all_aliases()));
    names.chain(["help"]).map(str::to_owned).collect()
}

/// A first word that is no command.
fn unknown(words: &[OsString], commands: &[String]) -> Error {
    let word = words
        .first()
        .map(|word| word.to_string_lossy().into_owned());
    let word = word.unwrap_or_default();
    let later = ["serve", "server", "completions"];
    Error::request(if later.contains(&word.as_str()) {
        format!("`ldm {word}` is not part of this version; `ldm --help` lists what is")
    } else {
        match nearest(&word, commands.iter().map(String::as_str)) {
            Some(near) => format!("`{word}` is no command; did you mean `ldm {near}`?"),
            None => format!(
                "`{word}` is no command; to draw it: ldm -p \"{word}\". `ldm --help` lists the commands"
            ),
        }
    })
}
