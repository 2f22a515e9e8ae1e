//! Carrying out requests, one after another, on one model and device.
//!
//! Each image is written as soon as it is decoded, so that stopping, or a failure later on, costs nothing that was finished.

use super::super::console::Console;
use super::super::engine::Engine;
use super::super::jobs::Job;
use super::super::output::{Names, Output};
use super::super::stop::Stop;
use super::super::{device, metadata};
use super::Orders;
use super::pixels::Pixels;
use latent_diffusion::image::{Existing, encode_png, write_latent};
use latent_diffusion::pipeline::{Given, Model, Request};
use latent_diffusion::{Error, Result, Tensor};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Instant;

/// The default name of an image in a folder.
const STEM: &str = "{index:05}-{seed}";

/// Everything that is needed to carry out requests.
pub(super) struct Studio<'a> {
    engine: Engine,
    output: Output,
    orders: &'a Orders<'a>,
    console: &'a Console,
    /// The archive that all images go to, and how many images before the next request it held from the beginning.
    pixels: Option<Pixels>,
    finished: usize,
}

impl<'a> Studio<'a> {
    /// Gets the device and the place for images ready.
    pub(super) fn open(
        orders: &'a Orders<'a>,
        model: Model,
        console: &'a Console,
        stop: &Stop,
    ) -> Result<Self> {
        let device = device::open(&orders.args.engine, console, stop)?;
        Ok(Self {
            output: Output::prepare(&orders.args.place, "png")?,
            engine: Engine::new(device, model).with_tiling(orders.args.engine.vae_tiling),
            orders,
            console,
            pixels: None,
            finished: 0,
        })
    }

    /// Collects the images of these requests, all that will be carried out, in an archive.
    pub(super) fn collect(
        &mut self,
        path: &Path,
        jobs: &[Job],
        requests: &[Request],
    ) -> Result<()> {
        let Some(Request { width, height, .. }) = requests.first() else {
            return Ok(());
        };
        if requests
            .iter()
            .any(|r| (r.width, r.height) != (*width, *height))
        {
            return Err(Error::request(
                "the images of an archive are all of one size: give one with --size",
            ));
        }
        let mut labels = vec![];
        for request in requests {
            let Given::Class(class) = request.given else {
                continue;
            };
            labels.extend(vec![class as i64; self.orders.images(request)]);
        }
        let images = requests.iter().map(|request| self.orders.images(request));
        let sizes = [images.sum(), *height, *width];
        let each = requests.iter().zip(jobs);
        let each = each.map(|(r, job)| metadata::settings(r, &job.settings, r.seed));
        let made = json!({
            "model": self.model().name,
            "images": sizes[0],
            "requests": each.collect::<Vec<_>>(),
        });
        let pixels = Pixels::open(path, sizes, labels, &made)?;
        self.finished = pixels.done();
        if self.finished > 0 {
            self.console.note(&format!(
                "{} of {} images are there already",
                self.finished, sizes[0]
            ));
        }
        self.pixels = Some(pixels);
        Ok(())
    }

    /// Writes the archive, where there is one.
    pub(super) fn finish(self) -> Result<()> {
        match self.pixels {
            Some(pixels) => self.console.result(&pixels.finish()?.display().to_string()),
            None => Ok(()),
        }
    }

    pub(super) fn model(&self) -> &Model {
        self.engine.model()
    }

    /// Makes and writes the images of a request. `index` is its number in a batch file, for their names: whoever works on
    /// the file gives an image the same name.
    pub(super) fn carry_out(
        &mut self,
        job: &Job,
        mut request: Request,
        index: Option<usize>,
    ) -> Result<()> {
        let (images, together) = (self.orders.images(&request), request.batch);
        let runs = images.div_ceil(together);
        let mut done = self.finished.min(images);
        self.finished -= done;
        request.seed = request.seed_of(done);
        while done < images {
            request.batch = together.min(images - done);
            if !self.skips() || self.missing(job, &request, index) {
                self.announce(&request, done / together, runs);
                self.run(job, &request, index)?;
            }
            done += request.batch;
            request.seed = request.seed_of(request.batch);
        }
        Ok(())
    }

    /// Whether images whose files are there are left out; an archive goes on by itself.
    fn skips(&self) -> bool {
        self.orders.args.skip_existing && self.pixels.is_none()
    }

    /// Whether some image of the request is not there yet.
    fn missing(&self, job: &Job, request: &Request, index: Option<usize>) -> bool {
        let there = |image| {
            let names = names(job, request, image, index);
            self.output.existing(&names, "png").is_some()
        };
        !(0..request.batch).all(there)
    }

    fn run(&mut self, job: &Job, request: &Request, index: Option<usize>) -> Result<()> {
        let (start, console) = (Instant::now(), self.console);
        let latents = self
            .engine
            .sample_latents(request, &mut |event| console.event(event))?;
        for (image, latent) in latents.iter().enumerate() {
            let names = names(job, request, image, index);
            if self.skips() && self.output.existing(&names, "png").is_some() {
                continue;
            }
            let pixels = request.finish(self.decode(latent, request.seed_of(image))?)?;
            let seconds = start.elapsed().as_secs_f64();
            if !self.orders.args.no_png {
                self.keep(&pixels, request, job, &names, seconds)?;
            }
            if let Some(archive) = &mut self.pixels {
                archive.add(&pixels)?;
            }
        }
        Ok(())
    }

    fn announce(&self, request: &Request, run: usize, runs: usize) {
        let seeds = match request.batch {
            1 => format!("seed {}", request.seed),
            images => format!("seeds {} to {}", request.seed, request.seed_of(images - 1)),
        };
        match runs {
            1 => self.console.note(&seeds),
            _ => self
                .console
                .note(&format!("{seeds} (run {} of {runs})", run + 1)),
        }
        self.console.begin(&seeds);
    }

    /// The image of a latent. What sampling has made is kept where decoding fails.
    fn decode(&self, latent: &Tensor, seed: u64) -> Result<Tensor> {
        let mut report = |event| self.console.event(event);
        self.engine
            .decode(latent, &mut report)
            .inspect_err(|error| {
                let name = format!("ldm-{}-{seed}.safetensors", std::process::id());
                let path = std::env::temp_dir().join(name);
                if !matches!(error, Error::Interrupted)
                    && write_latent(&path, latent, Existing::Keep).is_ok()
                {
                    let path = path.display();
                    self.console.note(&format!(
                        "the latent was kept: `ldm decode {path}`, with the same --model, makes the image"
                    ));
                }
            })
    }

    /// Writes an image, and says where.
    fn keep(
        &mut self,
        image: &Tensor,
        request: &Request,
        job: &Job,
        names: &Names,
        seconds: f64,
    ) -> Result<()> {
        let seed = names.seed.unwrap_or(request.seed);
        let mut fields = metadata::settings(request, &job.settings, seed);
        let chunks = match self.orders.args.no_metadata {
            true => vec![],
            false => {
                let changed = &self.orders.args.model;
                metadata::chunks(request, &fields, seed, &self.engine, changed)
            }
        };
        let bytes = encode_png(image, &chunks)?;
        let path = self.output.write(&bytes, names, "png", self.console)?;
        let path = path.map(|path| path.display().to_string());
        if !self.orders.args.json {
            return path.map_or(Ok(()), |path| self.console.result(&path));
        }
        fields.insert("path".into(), json!(path));
        fields.insert("seconds".into(), json!((seconds * 1e3).round() / 1e3));
        if let Some(id) = &job.id {
            fields.insert("id".into(), json!(id));
        }
        let line = Value::Object(fields).to_string();
        match path {
            Some(_) => self.console.result(&line),
            // The image itself took standard output.
            None => {
                self.console.note(&line);
                Ok(())
            }
        }
    }

    /// Says that a request of a batch file could not be carried out.
    pub(super) fn report_failure(&self, index: usize, error: &Error) -> Result<()> {
        self.console
            .error(&format!("request {}: {error}", index + 1));
        match self.orders.args.json {
            true => {
                let line = json!({"request": index + 1, "error": error.to_string()});
                self.console.result(&line.to_string())
            }
            false => Ok(()),
        }
    }
}

/// What the file of an image of the request may be called after.
fn names<'a>(job: &'a Job, request: &'a Request, image: usize, index: Option<usize>) -> Names<'a> {
    Names {
        stem: job.name.as_deref().unwrap_or(STEM),
        index,
        seed: Some(request.seed_of(image)),
        prompt: &request.prompt,
        id: job.id.as_deref(),
    }
}
