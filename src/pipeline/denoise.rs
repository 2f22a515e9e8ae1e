//! The sampling loop: one graph for every step of every sampler.
//!
//! Timesteps and coefficients are tables, set once, of which a step reads its row. So a step is: set its number (and fresh noise, where its row
//! uses some), run, and look at one count. All else stays on the device.
//!
//! Where guidance is kept to an interval of noise levels, the steps outside of it run a second graph over the same weights, of the condition's calls
//! alone. Where one takes over from the other the state goes through the host: a device's elements are f32 or fewer digits, so no bit is lost.

use super::step::{self, IMAGE, StepSizes, before, coefficients, vector};
use super::{Event, Guided, not_finite};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::models::config::UNetConfig;
use crate::ops::Cost;
use crate::sampler::{Combination, Row, Trajectory};
use crate::session::Session;
use crate::tensor::{Shape, Tensor};
use crate::weights::Weights;
use std::sync::Arc;

/// A network with a sampler's update behind it, ready to run.
pub struct Denoiser<B: Backend> {
    /// Of guided steps and of those that are not, as far as there are any.
    sessions: Vec<Session<B>>,
    calls: Vec<Call>,
    memory: usize,
    /// Whether each row noises what is kept of an image.
    keeps: bool,
}

/// What a row needs besides its tables.
struct Call {
    /// Which of the sessions runs it.
    session: usize,
    /// Whether it uses fresh noise.
    draws_noise: bool,
}

impl<B: Backend> Denoiser<B> {
    /// The UNet for latents of shape `[h, w, C]`, and the rows of `trajectory`. If these quantise, the weights also hold the first stage's,
    /// under [`FIRST_STAGE`](super::FIRST_STAGE).
    ///
    /// # Errors
    /// If the network does not fit the latents or the context, or weights are missing, or there is no codebook to quantise by, or the device has too
    /// little memory.
    pub fn new(
        backend: &Arc<B>,
        (config, weights): (&UNetConfig, &Weights),
        guided: &Guided,
        latent: [usize; 3],
        trajectory: &Trajectory,
    ) -> Result<Self> {
        let rows = &trajectory.rows;
        let mut told = vec![guided.clone()];
        if guided.settings.is_some() {
            told.push(guided.without_guidance()?);
        }
        let asks = |told: &Guided, row: &Row| told.settings.is_some() == guided.guides(row.at);
        told.retain(|told| rows.iter().any(|row| asks(told, row)));
        let graphs = told.iter().map(|told| {
            let sizes = sizes(told, latent, trajectory)?;
            step::step(config, &sizes)
        });
        let mut sessions = Session::together(backend, graphs.collect::<Result<_>>()?, weights)?;
        for (session, told) in sessions.iter_mut().zip(&told) {
            tell(session, told, trajectory)?;
        }
        let session = |row: &Row| told.iter().position(|told| asks(told, row));
        let calls = rows.iter().map(|row| Call {
            session: session(row).unwrap_or(0),
            draws_noise: row.draws_noise(),
        });
        Ok(Self {
            calls: calls.collect(),
            sessions,
            memory: trajectory.memory,
            keeps: guided.kept.is_some(),
        })
    }

    /// The work of each row in turn, without what is done once a run.
    pub fn costs(&self) -> impl Iterator<Item = Cost> {
        let calls = self.calls.iter();
        calls.map(|call| self.sessions[call.session].cost())
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
        let total = self.calls.len();
        let mut state = vec![Tensor::zeros(x.shape()); 1 + self.memory];
        state[0] = x.clone();
        let mut running = None;
        for (index, call) in self.calls.iter().enumerate() {
            if running != Some(call.session) {
                if let Some(before) = running {
                    state = self.state(before)?;
                }
                for (index, value) in state.iter().enumerate() {
                    self.sessions[call.session].set(&vector(index), value)?;
                }
                running = Some(call.session);
            }
            let session = &mut self.sessions[call.session];
            session.set("step", &Tensor::full([1], index as f32))?;
            if self.keeps {
                session.set("kept.noise", &draw()?)?;
            }
            if call.draws_noise {
                session.set("noise", &draw()?)?;
            }
            session.run()?;
            let bad: f32 = session.get("not_finite")?.data().iter().sum();
            if bad > 0.0 {
                let stage = format!("the UNet, step {} of {total}", index + 1);
                let bad = (bad as usize).min(x.shape().len());
                return Err(self.fault(call.session, &stage, bad, x.shape())?);
            }
            report(Event::Step {
                done: index + 1,
                total,
            });
        }
        match running {
            Some(last) => self.sessions[last].get(&vector(0)),
            None => Ok(x.clone()),
        }
    }

    /// The vectors of the state where a session has it.
    fn state(&self, session: usize) -> Result<Vec<Tensor>> {
        let vectors = 0..=self.memory;
        vectors
            .map(|index| self.sessions[session].get(&vector(index)))
            .collect()
    }

    /// What went wrong in the last step of a session, which is run again from the state before it.
    fn fault(&mut self, session: usize, stage: &str, bad: usize, shape: Shape) -> Result<Error> {
        let session = &mut self.sessions[session];
        for index in 0..=self.memory {
            let value = session.get(&before(index))?;
            session.set(&vector(index), &value)?;
        }
        not_finite(bad, shape, stage, session)
    }
}

/// The sizes of a step of `trajectory` on latents of shape `[h, w, C]`.
fn sizes(told: &Guided, latent: [usize; 3], trajectory: &Trajectory) -> Result<StepSizes> {
    Ok(StepSizes {
        batch: told.batch,
        latent,
        context: told.context.as_ref().map(Tensor::shape),
        concat: told.concat.as_ref().map_or(0, |c| c.shape().channels()),
        class_labels: told.class_labels.is_some(),
        guided: told.settings.is_some(),
        kept: told.kept.is_some(),
        codebook: match trajectory.quantises() {
            true => Some(told.codebook.ok_or_else(no_codebook)?),
            false => None,
        },
        rows: trajectory.rows.len(),
        memory: trajectory.memory,
    })
}

/// Sets what all steps of a session have in common.
fn tell<B: Backend>(
    session: &mut Session<B>,
    told: &Guided,
    trajectory: &Trajectory,
) -> Result<()> {
    let (rows, memory) = (&trajectory.rows, trajectory.memory);
    let given = [
        ("context", &told.context),
        ("concat", &told.concat),
        ("class_labels", &told.class_labels),
    ];
    for (name, value) in given {
        if let Some(value) = value {
            session.set(name, value)?;
        }
    }
    if let Some(settings) = told.settings {
        session.set("guidance", &Tensor::new([2], settings.to_vec())?)?;
    }
    if let Some(kept) = &told.kept {
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
    Ok(())
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
