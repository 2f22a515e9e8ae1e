//! The sampling loop: one graph for every step of every sampler.
//!
//! The graph holds the network, guidance, the sampler's update as linear combinations, and the assignment of their results to the state
//! that the next step begins with. Timesteps and coefficients are tables, set once, of which a step reads its row. So a step is: set its
//! number (and fresh noise, where its row uses some), run, and look at one count. All else stays on the device.

use super::{Event, Guided, not_finite};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::graph::{Graph, Value};
use crate::models::autoencoder;
use crate::models::config::UNetConfig;
use crate::models::unet::{self, Timestep, UNetInputs};
use crate::ops::Axis;
use crate::sampler::{Combination, Trajectory};
use crate::session::Session;
use crate::tensor::{Shape, Tensor};
use crate::weights::Weights;
use std::sync::Arc;

/// The scope of the first stage in a graph that needs a part of it.
pub const FIRST_STAGE: &str = "first_stage_model";

/// The name of the coefficients that make the predicted image.
const IMAGE: &str = "coefficients.image";

/// The sizes of a sampling step.
#[derive(Clone, Copy, Debug)]
pub struct StepSizes {
    /// Images.
    pub batch: usize,
    /// Height, width and channels of a latent.
    pub latent: [usize; 3],
    /// What the network attends to: `[calls, tokens, features]`.
    pub context: Option<Shape>,
    /// Channels that are concatenated to the latent's.
    pub concat: usize,
    /// Whether the network is told classes.
    pub class_labels: bool,
    /// Whether the network is asked twice, without and with the condition.
    pub guided: bool,
    /// Whether a part of the image is known beforehand.
    pub kept: bool,
    /// Entries of the codebook that predicted images are quantised by.
    pub codebook: Option<usize>,
    /// Rows of the sampler's tables: network calls of a run.
    pub rows: usize,
    /// Earlier results that the sampler keeps.
    pub memory: usize,
}

/// The graph of one sampling step.
///
/// # Shapes
/// The state, `state` and `memory.1` on, and `noise` are `[N, h, w, C]`. Constants are the `context`, the settings of `guidance [2]`, the
/// `timesteps [S]`, `concat [N, h, w, K]`, `class_labels [calls]`, and for each vector of the state its `coefficients [S, 3 + memory]`; `step [1]` is the row. Results are the
/// count `not_finite [N]` and the next state; what each vector was before the step is kept as `state.before` and so on. Where a part of the image
/// is known, its latent `kept.latent` and the mask `kept.mask` of what is not are constants like the state, the levels `kept.levels [S, 2]` are
/// exact, and `kept.noise` is like `noise`. Where predicted images are quantised, `coefficients.image [S, 3 + memory]` are constants, and the
/// other coefficients are one more: of the nearest codes.
///
/// # Errors
/// As [`unet::forward`].
pub fn step(config: &UNetConfig, sizes: &StepSizes) -> Result<Graph> {
    let [height, width, channels] = sizes.latent;
    let shape = [sizes.batch, height, width, channels];
    let mut g = Graph::new();
    let row = g.input_exact("step", [1]);
    let noise = g.input("noise", shape);
    let vectors: Vec<Value> = (0..=sizes.memory)
        .map(|index| g.input(&vector(index), shape))
        .collect();
    let x = match sizes.kept {
        true => keep(&mut g, row, vectors[0], sizes)?,
        false => vectors[0],
    };
    let calls = if sizes.guided { 2 } else { 1 } * sizes.batch;
    let mut sample = twice(&mut g, x, sizes.guided)?;
    if sizes.concat > 0 {
        let concat = g.constant("concat", [sizes.batch, height, width, sizes.concat]);
        let concat = twice(&mut g, concat, sizes.guided)?;
        sample = g.concat(&[sample, concat], Axis::Channels)?;
    }
    let inputs = UNetInputs {
        sample,
        timestep: Timestep::Row {
            timesteps: g.constant_exact("timesteps", [sizes.rows]),
            row,
        },
        context: sizes.context.map(|shape| g.constant("context", shape)),
        class_labels: sizes
            .class_labels
            .then(|| g.constant_exact("class_labels", [calls])),
    };
    let mut output = unet::forward(&mut g, config, inputs)?;
    if sizes.guided {
        let settings = g.constant_exact("guidance", [2]);
        output = g.scope("guidance", |g| g.guidance(output, settings))?;
    }
    let mut terms = [&[x, output, noise], &vectors[1..]].concat();
    let image = match sizes.codebook {
        Some(codes) => {
            let [image, quantised] = quantise(&mut g, row, &terms, codes, sizes.rows)?;
            terms.push(quantised);
            Some(image)
        }
        None => None,
    };
    g.scope("sampler", |g| {
        let mut next = Vec::with_capacity(vectors.len());
        for index in 0..vectors.len() {
            let table = g.constant_exact(&coefficients(index), [sizes.rows, terms.len()]);
            next.push(g.combine(table, row, &terms)?);
        }
        for (index, &value) in vectors.iter().enumerate() {
            let kept = g.input(&before(index), shape);
            let kept = g.assign(kept, value)?;
            g.output(&before(index), kept);
        }
        let mut state = vec![];
        for (index, (&value, next)) in vectors.iter().zip(next).enumerate() {
            let assigned = g.assign(value, next)?;
            g.output(&vector(index), assigned);
            state.push(assigned);
        }
        let watched = match image {
            // Of what is no number there are codes too.
            Some(image) => g.concat(&[state[0], image], Axis::Channels)?,
            None => state[0],
        };
        let count = g.count_not_finite(watched)?;
        g.output("not_finite", count);
        Ok(())
    })?;
    Ok(g)
}

/// The state with what is known beforehand in its place, at the level of noise that the row begins with.
///
/// # Source
/// The arguments `mask` and `x0` of CompVis's `DDIMSampler.ddim_sampling`.
fn keep(g: &mut Graph, row: Value, x: Value, sizes: &StepSizes) -> Result<Value> {
    let shape = g.shape(x);
    let latent = g.constant("kept.latent", shape);
    let mask = g.constant("kept.mask", shape);
    let levels = g.constant_exact("kept.levels", [sizes.rows, 2]);
    let noise = g.input("kept.noise", shape);
    g.scope("kept", |g| {
        let noised = g.combine(levels, row, &[latent, noise])?;
        g.blend(mask, x, noised)
    })
}

/// The predicted image, a combination of `terms`, and its nearest codes.
fn quantise(
    g: &mut Graph,
    row: Value,
    terms: &[Value],
    codes: usize,
    rows: usize,
) -> Result<[Value; 2]> {
    let table = g.constant_exact(IMAGE, [rows, terms.len()]);
    let image = g.scope("sampler", |g| g.combine(table, row, terms))?;
    let [_, quantised] = g.scope(FIRST_STAGE, |g| autoencoder::quantise(g, image, codes))?;
    Ok([image, quantised])
}

/// One after the other, for the two calls of guidance.
fn twice(g: &mut Graph, x: Value, guided: bool) -> Result<Value> {
    match guided {
        true => g.concat(&[x, x], Axis::Batch),
        false => Ok(x),
    }
}

/// A network with a sampler's update behind it, ready to run.
pub struct Denoiser<B: Backend> {
    session: Session<B>,
    memory: usize,
    /// For each row, whether it uses fresh noise.
    draws_noise: Vec<bool>,
    /// Whether each row noises what is kept of an image.
    keeps: bool,
}

impl<B: Backend> Denoiser<B> {
    /// The UNet for latents of shape `[h, w, C]`, and the rows of `trajectory`. If these quantise, the weights also hold the first stage's,
    /// under [`FIRST_STAGE`].
    ///
    /// # Errors
    /// If the network does not fit the latents or the context, or weights are missing, or there is no codebook to quantise by.
    pub fn new(
        backend: &Arc<B>,
        (config, weights): (&UNetConfig, &Weights),
        guided: &Guided,
        latent: [usize; 3],
        trajectory: &Trajectory,
    ) -> Result<Self> {
        let (rows, memory) = (&trajectory.rows, trajectory.memory);
        let sizes = StepSizes {
            batch: guided.batch,
            latent,
            context: guided.context.as_ref().map(Tensor::shape),
            concat: guided.concat.as_ref().map_or(0, |c| c.shape().channels()),
            class_labels: guided.class_labels.is_some(),
            guided: guided.settings.is_some(),
            kept: guided.kept.is_some(),
            codebook: match trajectory.quantises() {
                true => Some(guided.codebook.ok_or_else(no_codebook)?),
                false => None,
            },
            rows: rows.len(),
            memory,
        };
        let mut session = Session::new(backend, step(config, &sizes)?, weights)?;
        let given = [
            ("context", &guided.context),
            ("concat", &guided.concat),
            ("class_labels", &guided.class_labels),
        ];
        for (name, value) in given {
            if let Some(value) = value {
                session.set(name, value)?;
            }
        }
        if let Some(settings) = guided.settings {
            session.set("guidance", &Tensor::new([2], settings.to_vec())?)?;
        }
        if let Some(kept) = &guided.kept {
            session.set("kept.latent", &kept.latent)?;
            session.set("kept.mask", &kept.mask)?;
            let levels = rows.iter().flat_map(|row| [row.at.alpha, row.at.sigma]);
            let levels = levels.map(|share| share as f32).collect();
            session.set("kept.levels", &Tensor::new([rows.len(), 2], levels)?)?;
        }
        let timesteps = rows.iter().map(|row| row.at.timestep as f32).collect();
        session.set("timesteps", &Tensor::new([rows.len()], timesteps)?)?;
        let used = |c: &Combination| c.coefficients()[..3 + memory].to_vec();
        if trajectory.quantises() {
            let images = rows.iter().flat_map(|row| row.quantised.as_ref().map(used));
            session.set(IMAGE, &table(images)?)?;
        }
        for index in 0..=memory {
            let next = rows.iter().map(|row| &row.next[index]);
            let next = next.map(|c| {
                let quantised = trajectory.quantises().then(|| c.of_quantised());
                used(c).into_iter().chain(quantised).collect()
            });
            session.set(&coefficients(index), &table(next)?)?;
        }
        Ok(Self {
            session,
            memory,
            draws_noise: rows.iter().map(|row| row.draws_noise()).collect(),
            keeps: guided.kept.is_some(),
        })
    }

    /// Runs every row from the state `x`; `draw` gives fresh noise of the state's shape where a row uses some: first for what is kept of an
    /// image, then for the update.
    ///
    /// # Errors
    /// If a state is not finite, or the device fails, or the user asked to stop.
    pub fn run(
        &mut self,
        x: &Tensor,
        draw: &mut dyn FnMut() -> Result<Tensor>,
        report: &mut dyn FnMut(Event),
    ) -> Result<Tensor> {
        let total = self.draws_noise.len();
        self.session.set(&vector(0), x)?;
        for index in 1..=self.memory {
            self.session
                .set(&vector(index), &Tensor::zeros(x.shape()))?;
        }
        for index in 0..total {
            self.session.set("step", &Tensor::full([1], index as f32))?;
            if self.keeps {
                self.session.set("kept.noise", &draw()?)?;
            }
            if self.draws_noise[index] {
                self.session.set("noise", &draw()?)?;
            }
            self.session.run()?;
            let bad: f32 = self.session.get("not_finite")?.data().iter().sum();
            if bad > 0.0 {
                let stage = format!("the UNet, step {} of {total}", index + 1);
                let bad = (bad as usize).min(x.shape().len());
                return Err(self.fault(&stage, bad, x.shape())?);
            }
            report(Event::Step {
                done: index + 1,
                total,
            });
        }
        self.session.get(&vector(0))
    }

    /// What went wrong in the last step, which is run again from the state before it.
    fn fault(&mut self, stage: &str, bad: usize, shape: Shape) -> Result<Error> {
        for index in 0..=self.memory {
            let value = self.session.get(&before(index))?;
            self.session.set(&vector(index), &value)?;
        }
        not_finite(bad, shape, stage, &mut self.session)
    }
}

/// Rows of coefficients as a tensor.
fn table(rows: impl Iterator<Item = Vec<f64>>) -> Result<Tensor> {
    let rows: Vec<Vec<f64>> = rows.collect();
    let width = rows.first().map_or(0, Vec::len);
    let values = rows.iter().flatten().map(|&c| c as f32).collect();
    Tensor::new([rows.len(), width], values)
}

/// The refusal to quantise predicted images of a model that has no codes.
pub(super) fn no_codebook() -> Error {
    Error::request(
        "this model's autoencoder has no codebook that predicted images could be quantised by: leave out `--quantize-x0`",
    )
}

/// The name of a state vector: the state itself is 0, the memory follows, latest first.
fn vector(index: usize) -> String {
    match index {
        0 => "state".to_owned(),
        _ => format!("memory.{index}"),
    }
}

/// The name of what a state vector was before the step.
fn before(index: usize) -> String {
    format!("{}.before", vector(index))
}

/// The name of the coefficients that make the next vector `index`.
fn coefficients(index: usize) -> String {
    format!("coefficients.{index}")
}
