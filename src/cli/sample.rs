//! `ldm sample` and `ldm img2img`: which requests are carried out, and what becomes of those that fail.

mod studio;

use super::args::{LongPrompt, SampleArgs};
use super::console::Console;
use super::jobs::{self, Job};
use super::stop::Stop;
use super::{model, request};
use latent_diffusion::pipeline::{Model, Request};
use latent_diffusion::{Error, Result};
use studio::Studio;

/// Exit code of a batch file some of whose requests failed.
const SOME_FAILED: u8 = 7;

/// What is drawn where the built-in model is asked for nothing.
const DEMO_PROMPT: &str = "a red balloon over snowy mountains at sunset";

/// Draws what the arguments ask for.
///
/// # Errors
/// If a request cannot be carried out; in a batch file, only if none after it could be either.
pub fn run(args: &SampleArgs, console: &Console, stop: &Stop) -> Result<u8> {
    if args.batch_count == 0 {
        return Err(Error::request("batch count 0: there is nothing to draw"));
    }
    let jobs = jobs::list(args)?;
    let model = model::open(&args.model, console)?;
    match args.from_file.is_some() {
        true => batch_file(jobs, args, model, console, stop),
        false => command_line(jobs, args, model, console, stop).map(|()| 0),
    }
}

/// As [`run`], where every request needs an image to start from.
///
/// # Errors
/// If there is none; else as [`run`].
pub fn run_from_image(args: &SampleArgs, console: &Console, stop: &Stop) -> Result<u8> {
    if args.settings.init_image.is_none() && args.from_file.is_none() {
        return Err(Error::request(
            "img2img: name the image to start from with --init-image",
        ));
    }
    run(args, console, stop)
}

/// All of a command line is checked before any of it is carried out.
fn command_line(
    jobs: Vec<Result<Job>>,
    args: &SampleArgs,
    model: Model,
    console: &Console,
    stop: &Stop,
) -> Result<()> {
    let mut jobs = jobs.into_iter().collect::<Result<Vec<_>>>()?;
    if jobs.is_empty() {
        jobs.push(unprompted(args, &model, console)?);
    }
    let requests = jobs
        .iter()
        .map(|job| prepare(job, args, &model, console))
        .collect::<Result<Vec<_>>>()?;
    let images: usize = requests.iter().map(|request| request.batch).sum();
    if args.place.is_stdout() && images.saturating_mul(args.batch_count) > 1 {
        return Err(Error::request(
            "standard output takes one image: name a file or folder for several",
        ));
    }
    let mut studio = Studio::open(args, model, console, stop)?;
    for (number, (job, request)) in jobs.iter().zip(requests).enumerate() {
        studio.carry_out(job, request, args.skip_existing.then_some(number))?;
    }
    console.end();
    Ok(())
}

/// A request of a batch file that cannot be carried out does not keep the others from it.
fn batch_file(
    jobs: Vec<Result<Job>>,
    args: &SampleArgs,
    model: Model,
    console: &Console,
    stop: &Stop,
) -> Result<u8> {
    let mut studio = Studio::open(args, model, console, stop)?;
    let (mut total, mut failed) = (0, 0);
    for (index, job) in jobs.into_iter().enumerate() {
        if args.shard.is_some_and(|shard| !shard.holds(index)) {
            continue;
        }
        total += 1;
        let prepared = job.and_then(|job| Ok((prepare(&job, args, studio.model(), console)?, job)));
        let error = match prepared {
            Err(error) => error,
            Ok((request, job)) => match studio.carry_out(&job, request, Some(index)) {
                Ok(()) => continue,
                Err(error @ (Error::Request(_) | Error::NotFinite { .. })) => error,
                // A full disk or a damaged model would meet the other requests too.
                Err(error) => return Err(error),
            },
        };
        failed += 1;
        studio.report_failure(index, &error)?;
    }
    console.end();
    if failed == 0 {
        return Ok(0);
    }
    console.note(&format!("{failed} of {total} requests failed"));
    Ok(SOME_FAILED)
}

/// The request of a job, checked.
fn prepare(job: &Job, args: &SampleArgs, model: &Model, console: &Console) -> Result<Request> {
    let request = request::build(&job.prompt, &job.settings, model, console)?;
    if args.long_prompt == LongPrompt::Error
        && let Ok(tokenizer) = model.tokenizer()
        && let Some(dropped) = tokenizer.encode(&request.prompt)?.dropped
    {
        return Err(Error::request(format!(
            "the prompt is longer than the text encoder reads; it would drop \"{dropped}\""
        )));
    }
    Ok(request)
}

/// The one job of a command line without a prompt.
fn unprompted(args: &SampleArgs, model: &Model, console: &Console) -> Result<Job> {
    let prompt = match (&model.config.text, &args.model.model) {
        (None, _) => "",
        (Some(_), None) => {
            console.note(&format!("no prompt given: drawing \"{DEMO_PROMPT}\""));
            DEMO_PROMPT
        }
        (Some(_), Some(_)) => {
            return Err(Error::request(
                "no prompt given: say what to draw with --prompt (an empty one is legal: -p \"\")",
            ));
        }
    };
    Ok(Job {
        id: None,
        prompt: prompt.to_owned(),
        settings: args.settings.clone(),
    })
}
