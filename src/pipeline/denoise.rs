//! The sampling loop: one graph for every step of every sampler.
//!
//! The graph holds the network, guidance, and the sampler's update as linear combinations whose coefficients are inputs. So a step is:
//! set the timestep and the coefficients of a row, run.

use super::{Event, finite};
use crate::backend::Backend;
use crate::error::Result;
use crate::graph::{Graph, Value};
use crate::models::config::UNetConfig;
use crate::models::unet::{self, UNetInputs};
use crate::ops::Axis;
use crate::sampler::{Row, Trajectory};
use crate::session::Session;
use crate::tensor::Tensor;
use crate::weights::Weights;
use std::sync::Arc;

/// What the network is told besides the noisy latent.
#[derive(Clone, Debug)]
pub struct Guided {
    /// Images.
    pub batch: usize,
    /// `[N, L, D]`, or with guidance `[2N, L, D]`, the unconditional half first.
    pub context: Option<Tensor>,
    /// Scale and rescaling of guidance, if the network is asked twice.
    pub settings: Option<[f32; 2]>,
}

impl Guided {
    /// No condition at all.
    pub fn unconditional(batch: usize) -> Self {
        Self {
            batch,
            context: None,
            settings: None,
        }
    }
}

/// A network with a sampler's update behind it, ready to run.
pub struct Denoiser<B: Backend> {
    session: Session<B>,
    memory: usize,
    calls: usize,
}

impl<B: Backend> Denoiser<B> {
    /// The UNet for latents of shape `[h, w, C]` and a sampler that remembers `memory` results.
    ///
    /// # Errors
    /// If the network does not fit the latents or the context, or weights are missing.
    pub fn new(
        backend: &Arc<B>,
        (config, weights): (&UNetConfig, &Weights),
        guided: &Guided,
        [height, width, channels]: [usize; 3],
        memory: usize,
    ) -> Result<Self> {
        let calls = guided.batch * if guided.settings.is_some() { 2 } else { 1 };
        let shape = [guided.batch, height, width, channels];
        let mut g = Graph::new();
        let x = g.input(&vector(0), shape);
        let noise = g.input("noise", shape);
        let kept: Vec<Value> = (0..memory)
            .map(|index| g.input(&vector(index + 1), shape))
            .collect();
        let inputs = UNetInputs {
            sample: match guided.settings {
                Some(_) => g.concat(&[x, x], Axis::Batch)?,
                None => x,
            },
            timestep: g.input_exact("timestep", [calls]),
            context: guided
                .context
                .as_ref()
                .map(|c| g.input("context", c.shape())),
            class_labels: None,
        };
        let mut output = unet::forward(&mut g, config, inputs)?;
        if guided.settings.is_some() {
            let settings = g.input_exact("guidance", [2]);
            output = g.scope("guidance", |g| g.guidance(output, settings))?;
        }
        let step = g.input_exact("step", [1]);
        let terms: Vec<Value> = [x, output, noise].into_iter().chain(kept).collect();
        for index in 0..=memory {
            let coefficients = g.input_exact(&coefficients(index), [1, terms.len()]);
            let next = g.scope("sampler", |g| g.combine(coefficients, step, &terms))?;
            g.output(&vector(index), next);
        }
        let mut session = Session::new(backend, g, weights)?;
        session.set("step", &Tensor::zeros([1]))?;
        if let Some(context) = &guided.context {
            session.set("context", context)?;
        }
        if let Some(settings) = guided.settings {
            session.set("guidance", &Tensor::new([2], settings.to_vec())?)?;
        }
        Ok(Self {
            session,
            memory,
            calls,
        })
    }

    /// Runs every row of `trajectory` from the state `x`; `draw` gives fresh noise of the state's shape where a row uses some.
    ///
    /// # Errors
    /// If a state is not finite, or the device fails, or the user asked to stop.
    pub fn run(
        &mut self,
        trajectory: &Trajectory,
        x: Tensor,
        draw: &mut dyn FnMut() -> Result<Tensor>,
        report: &mut dyn FnMut(Event),
    ) -> Result<Tensor> {
        let total = trajectory.rows.len();
        let mut state = x;
        for (index, row) in trajectory.rows.iter().enumerate() {
            self.session.set(&vector(0), &state)?;
            if row.draws_noise() {
                self.session.set("noise", &draw()?)?;
            }
            self.set_row(row)?;
            self.session.run()?;
            let stage = format!("the UNet, step {} of {total}", index + 1);
            state = finite(self.session.get(&vector(0))?, &stage, &mut self.session)?;
            for kept in 1..=self.memory {
                let vector = vector(kept);
                let value = self.session.get(&vector)?;
                self.session.set(&vector, &value)?;
            }
            report(Event::Step {
                done: index + 1,
                total,
            });
        }
        Ok(state)
    }

    fn set_row(&mut self, row: &Row) -> Result<()> {
        let timestep = Tensor::full([self.calls], row.timestep as f32);
        self.session.set("timestep", &timestep)?;
        for (index, next) in row.next.iter().enumerate() {
            let used = next.coefficients()[..3 + self.memory].iter();
            let values: Vec<f32> = used.map(|&c| c as f32).collect();
            let tensor = Tensor::new([1, values.len()], values)?;
            self.session.set(&coefficients(index), &tensor)?;
        }
        Ok(())
    }
}

/// The name of a state vector: the state itself is 0, the memory follows, latest first.
fn vector(index: usize) -> String {
    match index {
        0 => "state".to_owned(),
        _ => format!("memory.{index}"),
    }
}

/// The name of the coefficients that make the next vector `index`.
fn coefficients(index: usize) -> String {
    format!("coefficients.{index}")
}
