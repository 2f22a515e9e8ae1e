//! Times work on demand, so that another program can take turns with it: one side of the comparisons of `tools/gpu_check.py`.
//!
//! `turns DEVICE [MODEL [uncut]]` reads a line of JSON and answers with one: `{"list": SET}` with the cases of a set, `{"prepare": WORK}` with a
//! number, `{"run": NUMBER, "times": K}` with the seconds of each of K runs, `{"clear": true}` forgets all work; `{"error": TEXT}` is the
//! answer where something cannot be. A run is from the call until its end was seen, on the clock of the host.

#[allow(dead_code, unused_imports, reason = "the tests use the rest")]
#[path = "../../tests/cases/mod.rs"]
mod cases;
mod describe;
#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../../tests/cases/networks.rs"]
mod networks;
mod rate;
mod work;

use cases::Case;
use cases::real::distinct;
use latent_diffusion::backend::Backend;
use latent_diffusion::cpu::Cpu;
use latent_diffusion::cuda::{Cuda, Emulation, Precision, Target};
use latent_diffusion::models::config::ModelConfig;
use latent_diffusion::models::{OpenOptions, autoencoder, unet};
use latent_diffusion::pipeline::{Model, Pipeline};
use latent_diffusion::selfcheck::checked;
use latent_diffusion::{Error, Result};
use serde_json::{Value, json};
use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::Instant;
use work::Run;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // `cargo bench` passes an option of its own, a filter perhaps, and nobody to take turns with.
    let device = words
        .first()
        .filter(|_| !words.iter().any(|w| w == "--bench"));
    let Some(device) = device else {
        println!("turns: for tools/gpu_check.py, which says on which device");
        return;
    };
    let model = words.get(1).map(String::as_str);
    // PyTorch leaves out nothing that follows from other work.
    let cuts = words.get(2).is_none_or(|word| word != "uncut");
    let served = match device.as_str() {
        "cpu" => Cpu::new(0, Arc::default())
            .and_then(|device| serve(device.with_cuts(cuts), model, None)),
        "cuda" => Cuda::gpu(0, Precision::F16, 0, Arc::default())
            .and_then(|device| {
                checked(device.warned(Arc::new(|said| eprintln!("warning: {said}"))))
            })
            .and_then(|device| serve(device.with_cuts(cuts), model, Some(&rate::tensor_cores))),
        "emulator" => emulator()
            .and_then(|device| serve(device.with_cuts(cuts), model, Some(&rate::tensor_cores))),
        other => Err(Error::Device(format!("`{other}` is no device here"))),
    };
    if let Err(error) = served {
        eprintln!("{error}");
        std::process::exit(i32::from(error.exit_code()));
    }
}

/// The emulator as fast as it goes, for trying things out.
fn emulator() -> Result<Cuda> {
    Cuda::emulator(
        Emulation::plain(0),
        Target::a100(Precision::F16),
        Arc::default(),
    )
}

/// Makes work of so many rounds, of what every GPU has or not, and says how many FLOPs it is.
type Rate<B> = dyn Fn(&Arc<B>, usize, bool) -> Result<(Run, u64)>;

/// Answers until nobody asks any more.
fn serve<B: Backend + 'static>(
    device: B,
    model: Option<&str>,
    rate: Option<&Rate<B>>,
) -> Result<()> {
    let backend = Arc::new(device);
    let open = |path| Model::open(path, &OpenOptions::default());
    let model = model.map(open).transpose()?;
    let pipeline = model.map(|model| Arc::new(Pipeline::new(backend.clone(), model)));
    let mut server = Server {
        backend,
        pipeline,
        rate,
        runs: vec![],
    };
    for line in std::io::stdin().lock().lines() {
        let refused = |problem: &dyn std::fmt::Display| Error::request(problem.to_string());
        let answer = line
            .map_err(|problem| refused(&problem))
            .and_then(|line| serde_json::from_str(&line).map_err(|problem| refused(&problem)))
            .and_then(|question| server.answer(&question))
            .unwrap_or_else(|error| json!({"error": error.to_string()}));
        let mut out = std::io::stdout().lock();
        // A reader that has gone away asks no more either.
        let _ = writeln!(out, "{answer}").and_then(|()| out.flush());
    }
    Ok(())
}

struct Server<'a, B: Backend> {
    backend: Arc<B>,
    pipeline: Option<Arc<Pipeline<B>>>,
    rate: Option<&'a Rate<B>>,
    runs: Vec<Run>,
}

impl<B: Backend + 'static> Server<'_, B> {
    fn answer(&mut self, question: &Value) -> Result<Value> {
        if question["list"].is_string() {
            let cases = set(question)?.into_iter().enumerate();
            let cases = cases.map(|(index, (case, count))| describe::case(index, &case, count));
            return Ok(json!({"cases": cases.collect::<Vec<_>>()}));
        }
        if question["prepare"].is_object() {
            let start = Instant::now();
            let (mut run, flops) = self.prepare(&question["prepare"])?;
            run()?;
            self.runs.push(run);
            let seconds = start.elapsed().as_secs_f64();
            return Ok(json!({"number": self.runs.len() - 1, "seconds": seconds, "flops": flops}));
        }
        if question["run"].is_u64() {
            let run = self.runs.get_mut(number(question, "run")?);
            let run = run.ok_or_else(|| Error::request("no work of this number is ready"))?;
            let seconds = (0..number(question, "times")?).map(|_| {
                let start = Instant::now();
                run()?;
                Ok(start.elapsed().as_secs_f64())
            });
            return Ok(json!({"seconds": seconds.collect::<Result<Vec<_>>>()?}));
        }
        self.runs.clear();
        Ok(json!({}))
    }

    /// The work, and its FLOPs where only this side knows them.
    fn prepare(&self, work: &Value) -> Result<(Run, u64)> {
        let pipeline = || {
            let pipeline = self.pipeline.as_ref();
            pipeline.ok_or_else(|| Error::request("there is no model: name its folder"))
        };
        let run = match work["work"].as_str() {
            Some("rate") => {
                let rate = self
                    .rate
                    .ok_or_else(|| Error::request("there are no tensor cores"))?;
                let portable = work["portable"] == true;
                return rate(&self.backend, number(work, "rounds")?, portable);
            }
            Some("op") => {
                let case = set(work)?.into_iter().nth(number(work, "index")?);
                let (case, _) = case.ok_or_else(|| Error::request("no case has this index"))?;
                let flush = work["flush"].is_u64().then(|| number(work, "flush"));
                let flush = flush.transpose()?.unwrap_or(0);
                work::operation(&self.backend, &case, number(work, "copies")?, flush)
            }
            Some("flush") => {
                let copies = number(work, "copies")?;
                work::flush(&self.backend, number(work, "flush")?, copies)
            }
            Some("unet") => work::unet(pipeline()?, &self.backend, number(work, "batch")?),
            Some("text") => work::text(pipeline()?, &self.backend, number(work, "batch")?),
            Some("decode") => work::decode(pipeline()?, &self.backend),
            Some("steps") => {
                let sizes = [number(work, "batch")?, number(work, "steps")?];
                work::steps(pipeline()?, &self.backend, sizes)
            }
            Some("image") => work::image(pipeline()?, number(work, "steps")?),
            _ => Err(Error::request(format!("{work} is no work known here"))),
        };
        run.map(|run| (run, 0))
    }
}

fn number(of: &Value, key: &str) -> Result<usize> {
    let number = of[key]
        .as_u64()
        .and_then(|number| usize::try_from(number).ok());
    number.ok_or_else(|| Error::request(format!("`{key}` is missing")))
}

/// A list of cases, each with how often it occurs: `awkward`, or `sd1` for Stable Diffusion 1.x at 512x512, its UNet for `batch` samples.
fn set(question: &Value) -> Result<Vec<(Case, usize)>> {
    let name = question["list"].as_str().or(question["set"].as_str());
    if name != Some("sd1") {
        return Ok(cases::awkward().into_iter().map(|case| (case, 1)).collect());
    }
    let (unet, first_stage, _) = networks::parts(ModelConfig::stable_diffusion_1());
    let graph = unet::build(&unet, number(question, "batch")?, [64, 64], 77)?;
    let mut cases = distinct("unet 64x64", graph);
    let decoder = autoencoder::build_decoder(&first_stage, 1, [64, 64])?;
    cases.extend(distinct("decoder 512x512", decoder));
    Ok(cases)
}
