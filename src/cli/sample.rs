//! `ldm sample` and `ldm img2img`: requests in, images out.
//!
//! Each image is written as soon as it is decoded, so that stopping, or a failure later on, costs nothing that was finished.

use super::args::SampleArgs;
use super::console::Console;
use super::jobs::{self, Job};
use super::output::{Names, Output};
use super::stop::Stop;
use super::{device, metadata, model, request};
use latent_diffusion::backend::Backend;
use latent_diffusion::cpu::Cpu;
use latent_diffusion::image::{Existing, encode_png, write_latent};
use latent_diffusion::pipeline::{Event, Model, Pipeline, Request};
use latent_diffusion::{Error, Result, Tensor};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Exit code of a batch file some of whose requests failed.
const SOME_FAILED: u8 = 7;

/// What is drawn where the built-in model is asked for nothing.
const DEMO_PROMPT: &str = "a red balloon over snowy mountains at sunset";

/// Draws what the arguments ask for.
///
/// # Errors
/// If a request cannot be carried out; in a batch file, only if none after it could be either.
pub fn run(args: &SampleArgs, console: &Console, stop: &Stop) -> Result<u8> {
    let mut jobs = jobs::list(args)?;
    if args.batch_count == 0 {
        return Err(Error::request("batch count 0: there is nothing to draw"));
    }
    let model = model::open(&args.model, console)?;
    if jobs.is_empty() {
        jobs.push(Ok(unprompted(args, &model, console)?));
    }
    let is_batch_file = args.from_file.is_some();
    if !is_batch_file {
        // All of a command line is checked before any of it is carried out.
        for job in jobs.iter().flatten() {
            request::build(&job.prompt, &job.settings, &model)?;
        }
    }
    let backend = device::open(&args.engine, console, stop)?;
    let mut studio = Studio {
        output: Output::prepare(&args.place, "png")?,
        args,
        device: backend.name(),
        pipeline: Pipeline::new(backend, model),
        console,
    };
    let (total, mut failed) = (jobs.len(), 0);
    for (index, job) in jobs.into_iter().enumerate() {
        let outcome = job.and_then(|job| studio.carry_out(&job, args.batch_count));
        match outcome {
            Err(error) if is_batch_file && concerns_one_request(&error) => {
                failed += 1;
                studio.report_failure(index, &error)?;
            }
            outcome => outcome?,
        }
    }
    console.end();
    if failed > 0 {
        console.note(&format!("{failed} of {total} requests failed"));
        return Ok(SOME_FAILED);
    }
    Ok(0)
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

/// Whether the requests after the one that failed may still succeed.
fn concerns_one_request(error: &Error) -> bool {
    matches!(
        error,
        Error::Request(_) | Error::File { .. } | Error::NotFinite { .. }
    )
}

/// Everything that is needed to carry out one request after another.
struct Studio<'a> {
    pipeline: Pipeline<Cpu>,
    device: String,
    output: Output,
    args: &'a SampleArgs,
    console: &'a Console,
}

impl Studio<'_> {
    fn carry_out(&mut self, job: &Job, runs: usize) -> Result<()> {
        let mut request = request::build(&job.prompt, &job.settings, self.pipeline.model())?;
        for run in 0..runs {
            let start = Instant::now();
            self.announce(&request, run, runs);
            let console = self.console;
            let latents = self
                .pipeline
                .sample_latents(&request, &mut |event| match event {
                    Event::Warning(sentence) => console.note(&format!("warning: {sentence}")),
                    Event::Step { done, total } => console.progress(done, total),
                    Event::Decoded { .. } => {}
                })?;
            for (index, latent) in latents.iter().enumerate() {
                let seed = request.seed_of(index);
                let image = self.decode(latent, seed)?;
                let seconds = start.elapsed().as_secs_f64();
                self.keep(&image, &request, job, seed, seconds)?;
            }
            request.seed = request.seed_of(request.batch);
        }
        Ok(())
    }

    fn announce(&self, request: &Request, run: usize, runs: usize) {
        let last = request.seed_of(request.batch.saturating_sub(1));
        let seeds = match request.batch {
            1 => format!("seed {}", request.seed),
            _ => format!("seeds {} to {last}", request.seed),
        };
        let of = if runs > 1 {
            format!(" (run {} of {runs})", run + 1)
        } else {
            String::new()
        };
        self.console.note(&format!("{seeds}{of}"));
        self.console.begin(&seeds);
    }

    /// The image of a latent. What sampling has made is kept where decoding fails.
    fn decode(&self, latent: &Tensor, seed: u64) -> Result<Tensor> {
        self.pipeline.decode(latent).inspect_err(|error| {
            if !matches!(error, Error::Interrupted) {
                let path = std::env::temp_dir()
                    .join(format!("ldm-{}-{seed}.safetensors", std::process::id()));
                if write_latent(&path, latent, Existing::Keep).is_ok() {
                    let path = path.display();
                    self.console.note(&format!(
                        "the latent was kept: `ldm decode {path}` makes the image"
                    ));
                }
            }
        })
    }

    /// Writes an image, and says where.
    fn keep(
        &mut self,
        image: &Tensor,
        request: &Request,
        job: &Job,
        seed: u64,
        seconds: f64,
    ) -> Result<()> {
        let fields = metadata::settings(request, &job.settings, seed);
        let chunks = match self.args.no_metadata {
            true => vec![],
            false => metadata::chunks(request, &fields, seed, self.pipeline.model(), &self.device),
        };
        let stem = format!("{{index:05}}-{seed}");
        let names = Names {
            stem: &stem,
            seed: Some(seed),
            prompt: &request.prompt,
            id: job.id.as_deref(),
        };
        let bytes = encode_png(image, &chunks)?;
        match self.output.write(&bytes, &names, "png", self.console)? {
            Some(path) if self.args.json => {
                self.console.result(&described(&path, job, fields, seconds))
            }
            Some(path) => self.console.result(&path.display().to_string()),
            None => Ok(()),
        }
    }

    fn report_failure(&self, index: usize, error: &Error) -> Result<()> {
        self.console
            .error(&format!("request {}: {error}", index + 1));
        match self.args.json {
            true => self
                .console
                .result(&json!({"request": index + 1, "error": error.to_string()}).to_string()),
            false => Ok(()),
        }
    }
}

/// A line of JSON about an image that was written.
fn described(path: &Path, job: &Job, mut fields: Map<String, Value>, seconds: f64) -> String {
    let path = PathBuf::from(path);
    fields.insert("path".into(), json!(path.display().to_string()));
    fields.insert("seconds".into(), json!((seconds * 1e3).round() / 1e3));
    if let Some(id) = &job.id {
        fields.insert("id".into(), json!(id));
    }
    Value::Object(fields).to_string()
}
