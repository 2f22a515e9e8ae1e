//! `ldm sample` and `ldm img2img`: which requests are carried out, and what becomes of those that fail.

mod pixels;
mod studio;

use super::args::{LongPrompt, SampleArgs};
use super::console::Console;
use super::jobs::{self, Job};
use super::retrieve::Retriever;
use super::stop::Stop;
use super::{model, request};
use latent_diffusion::models::config::Condition;
use latent_diffusion::pipeline::{Model, Request, Task};
use latent_diffusion::{Error, Result};
use studio::Studio;

/// Exit code of a batch file some of whose requests failed.
const SOME_FAILED: u8 = 7;

/// Images computed together where only their number in all is said: as many as CompVis's `sample_diffusion.py` takes.
const TOGETHER: usize = 10;

/// What is drawn where the built-in model is asked for nothing.
const DEMO_PROMPT: &str = "a red balloon over snowy mountains at sunset";

/// Draws what the arguments ask for.
///
/// # Errors
/// If a request cannot be carried out; in a batch file, only if none after it could be either.
pub fn run(args: &SampleArgs, console: &Console, stop: &Stop) -> Result<u8> {
    let jobs = jobs::list(args)?;
    draw(
        jobs,
        args,
        model::open(&args.model, console)?,
        console,
        stop,
    )
}

/// Draws the jobs of a command line.
///
/// # Errors
/// As [`run`].
pub fn draw(
    mut jobs: Vec<Result<Job>>,
    args: &SampleArgs,
    model: Model,
    console: &Console,
    stop: &Stop,
) -> Result<u8> {
    let num = args.num.or_else(|| number_meant(&mut jobs, args, &model));
    if args.batch_count == 0 || num == Some(0) {
        let what = if num.is_some() {
            "number"
        } else {
            "batch count"
        };
        return Err(Error::request(format!(
            "{what} 0: there is nothing to draw"
        )));
    }
    let orders = Orders {
        args,
        num,
        retriever: Retriever::open(args, &model, console, stop)?,
    };
    match args.from_file.is_some() {
        true => batch_file(jobs, &orders, model, console, stop),
        false => command_line(jobs, &orders, model, console, stop).map(|()| 0),
    }
}

/// The arguments, how many images of each request they ask for, if in all, and where its neighbours are found.
struct Orders<'a> {
    args: &'a SampleArgs,
    num: Option<usize>,
    retriever: Option<Retriever>,
}

impl Orders<'_> {
    /// How many images of a request are asked for.
    fn images(&self, request: &Request) -> usize {
        let runs = self.args.batch_count;
        self.num
            .unwrap_or_else(|| runs.saturating_mul(request.batch))
    }
}

/// What `-n 50000` means for models without prompts, and so without negative ones: CompVis's number of images.
fn number_meant(jobs: &mut [Result<Job>], args: &SampleArgs, model: &Model) -> Option<usize> {
    let number = args.settings.negative_prompt.as_ref()?.parse().ok();
    let number = number.filter(|_| model.config.text.is_none());
    if number.is_some() {
        for job in jobs.iter_mut().flatten() {
            job.settings.negative_prompt = None;
        }
    }
    number
}

/// As [`run`], of a model that must be able to carry out `task`.
///
/// # Errors
/// If it is not; else as [`run`].
pub fn run_task(task: Task, args: &SampleArgs, console: &Console, stop: &Stop) -> Result<u8> {
    let model = model::open(&args.model, console)?;
    if !model.tasks().contains(&task) {
        return Err(model.cannot(task));
    }
    draw(jobs::list(args)?, args, model, console, stop)
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
    orders: &Orders,
    model: Model,
    console: &Console,
    stop: &Stop,
) -> Result<()> {
    let args = orders.args;
    let mut jobs = jobs.into_iter().collect::<Result<Vec<_>>>()?;
    if jobs.is_empty() {
        jobs.push(unprompted(orders, &model, console)?);
    }
    let requests = jobs
        .iter()
        .map(|job| prepare(job, orders, &model, console))
        .collect::<Result<Vec<_>>>()?;
    let images = requests.iter().map(|request| orders.images(request));
    if args.place.is_stdout() && images.fold(0, usize::saturating_add) > 1 {
        return Err(Error::request(
            "standard output takes one image: name a file or folder for several",
        ));
    }
    let mut studio = Studio::open(orders, model, console, stop)?;
    if let Some(path) = &args.npz {
        studio.collect(path, &jobs, &requests)?;
    }
    for (number, (job, request)) in jobs.iter().zip(requests).enumerate() {
        studio.carry_out(job, request, args.skip_existing.then_some(number))?;
    }
    studio.finish()?;
    console.end();
    Ok(())
}

/// A request of a batch file that cannot be carried out does not keep the others from it.
fn batch_file(
    jobs: Vec<Result<Job>>,
    orders: &Orders,
    model: Model,
    console: &Console,
    stop: &Stop,
) -> Result<u8> {
    let args = orders.args;
    let mut studio = Studio::open(orders, model, console, stop)?;
    let (mut total, mut failed) = (0, 0);
    for (index, job) in jobs.into_iter().enumerate() {
        if args.shard.is_some_and(|shard| !shard.holds(index)) {
            continue;
        }
        total += 1;
        let prepared =
            job.and_then(|job| Ok((prepare(&job, orders, studio.model(), console)?, job)));
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
fn prepare(job: &Job, orders: &Orders, model: &Model, console: &Console) -> Result<Request> {
    let mut request = request::build(
        &job.prompt,
        &job.settings,
        model,
        orders.retriever.as_ref(),
        console,
    )?;
    if let (Some(num), None) = (orders.num, job.settings.batch_size) {
        request.batch = num.min(TOGETHER);
    }
    if orders.args.npz.is_some() && job.settings.seed.is_none() {
        request.seed = 0;
    }
    if let Ok(tokenizer) = model.tokenizer() {
        for text in [&request.prompt, &request.negative_prompt] {
            let dropped = tokenizer.encode(text)?.dropped;
            if let (LongPrompt::Error, Some(dropped)) = (orders.args.long_prompt, dropped) {
                return Err(Error::request(format!(
                    "the prompt is longer than the text encoder reads; it would drop \"{dropped}\""
                )));
            }
        }
    }
    Ok(request)
}

/// The one job of a command line without a prompt.
fn unprompted(orders: &Orders, model: &Model, console: &Console) -> Result<Job> {
    let args = orders.args;
    let prompt = match (&model.config.text, &args.model.model) {
        (None, _) => "",
        // Its text encoder reads no words.
        _ if model.config.condition == Condition::Layout => "",
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
    let mut job = Job::new(prompt.to_owned(), args.settings.clone());
    if orders.num.is_some() && model.config.text.is_none() {
        // What `-n` meant is in the number.
        job.settings.negative_prompt = None;
    }
    Ok(job)
}
