//! Samplers as data: each turns a schedule into rows of coefficients, and one small loop runs them all.
//!
//! DDPM, DDIM, Euler, Euler a and LCM are in `first_order.rs`; PLMS, Heun, DPM-Solver++ and UniPC in `multistep.rs`; the timesteps that each visits
//! in `grid.rs`.
//!
//! Between calls of the network every sampler takes linear combinations of the same few vectors, with coefficients
//! that are known before the first call. So a sampler here is a function from numbers to numbers, in f64, and what is
//! left to do on a device is, per [`Row`],
//!
//! ```text
//! output  = network(x, timestep)                        guidance included
//! x'      = combination of (x, output, noise, memory)
//! memory' = combinations of the same
//! ```
//!
//! which is the same work for DDIM and for UniPC: a device captures it once and reads the coefficients from a table.
//! [`Trajectory::run`] is that loop, in its plainest form.
//!
//! Three observations keep the rows this small:
//!
//! - The state is always variance-preserving (see [`crate::schedule`]), the scale that the networks were trained on. Where
//!   k-diffusion divides its state by `sqrt(sigma^2 + 1)` before each call, here there is nothing to scale. The images are
//!   the same, and the states are `sqrt(sigma^2 + 1)` times smaller.
//! - What a network predicts (noise, velocity, image) is a combination of state and output, so it is folded into the
//!   coefficients, which stay finite for a velocity at zero signal.
//! - A state that a step began from is a combination of where it led and of the memory; nothing but results is remembered.
//!
//! A row draws noise only where its coefficient is not zero. CompVis draws at every step even where `eta` is 0, but then it
//! uses none of the draws, and with one stream per image nobody else reads on from there.

mod combination;
mod first_order;
mod grid;
mod multistep;
mod name;
mod trajectory;

pub use combination::{Combination, MAX_MEMORY, TERMS};
pub use name::{Sampler, SigmaSpacing};
pub use trajectory::{Row, Start, Trajectory};

use crate::error::{Error, Result};
use crate::models::config::{Prediction, TimestepSpacing};
use crate::schedule::Schedule;
use grid::{Step, Stride};

/// What a request says about sampling; the rest is the schedule's.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of steps, 1 to 1000.
    pub steps: usize,
    /// How noise ratios are spread, for the samplers that count by them.
    pub sigmas: SigmaSpacing,
    /// How much of the posterior's noise is drawn afresh: 0 where none is given, except 1 for Euler a. Used by DDIM and
    /// Euler a.
    pub eta: Option<f64>,
    /// DDPM's variance, from the posterior's (0) to the forward step's (1).
    pub large_variance: f64,
    /// Image to image: the share of the trajectory that is run, above 0 and up to 1. `None` starts from noise alone.
    pub strength: Option<f64>,
    /// Choose timesteps as CompVis does, exactly: see [`Schedule::compvis_timesteps`].
    pub compvis_timesteps: bool,
    /// Put a codebook's nearest codes in the place of predicted images.
    pub quantise: bool,
    /// Number of timesteps that a latent consistency model was distilled on.
    pub original_steps: usize,
}

impl Options {
    /// The given number of steps, and everything else as usual.
    pub fn new(steps: usize) -> Self {
        Self {
            steps,
            sigmas: SigmaSpacing::Normal,
            eta: None,
            large_variance: 0.0,
            strength: None,
            compvis_timesteps: false,
            quantise: false,
            original_steps: 50,
        }
    }
}

impl Sampler {
    /// The trajectory of this sampler on a schedule.
    ///
    /// # Errors
    /// If the steps, the strength or the spacing do not fit the sampler or the schedule.
    pub fn plan(self, schedule: &Schedule, options: &Options) -> Result<Trajectory> {
        let schedule = &schedule.or_spacing(self.usual_spacing());
        check(schedule, options)?;
        let prediction = schedule.prediction();
        let visited = match self {
            Self::Ddpm => grid::whole_timesteps(schedule, options, Stride::ToNext)?,
            Self::Ddim | Self::Plms => grid::whole_timesteps(schedule, options, Stride::Fixed)?,
            Self::Euler | Self::EulerAncestral | Self::Heun => grid::ratios(schedule, options)?,
            Self::DpmSolver2M | Self::DpmSolver2MSde | Self::UniPc => {
                grid::ratios_at_whole_timesteps(schedule, options)?
            }
            Self::Lcm => grid::distilled_timesteps(schedule, options)?,
        };
        let (steps, start) = self.begin(schedule, options, visited)?;
        let rows = match self {
            Self::Ddpm if options.quantise => {
                first_order::ddpm_quantised(prediction, &steps, options.large_variance)
            }
            Self::Ddim if options.quantise => {
                first_order::ddim_quantised(prediction, &steps, options.eta.unwrap_or(0.0))
            }
            _ if options.quantise => {
                return Err(Error::request(format!(
                    "{} keeps no predicted image that could be quantised: DDIM and DDPM do",
                    self.name()
                )));
            }
            Self::Ddpm => first_order::ddpm(prediction, &steps, options.large_variance),
            Self::Ddim => first_order::ddim(prediction, &steps, options.eta.unwrap_or(0.0)),
            Self::Euler => first_order::ddim(prediction, &steps, 0.0),
            Self::EulerAncestral => {
                first_order::ddim(prediction, &steps, options.eta.unwrap_or(1.0))
            }
            Self::Lcm => first_order::lcm(prediction, &steps),
            Self::Plms => {
                let again = grid::once_more(schedule, options, &steps);
                multistep::plms(prediction, &steps, again)
            }
            Self::Heun => multistep::heun(prediction, &steps),
            Self::DpmSolver2M => multistep::dpm_solver(prediction, &steps, false),
            Self::DpmSolver2MSde => multistep::dpm_solver(prediction, &steps, true),
            Self::UniPc => multistep::unipc(prediction, &steps),
        };
        if !rows
            .iter()
            .all(|row| row.next.iter().chain(&row.quantised).all(|c| c.is_finite()))
        {
            return Err(Error::request(format!(
                "{} has no finite coefficients on this noise schedule: its betas are too small or too large",
                self.name()
            )));
        }
        let memory = rows.first().map_or(0, |row| row.next.len() - 1);
        Ok(Trajectory {
            start,
            memory,
            rows,
        })
    }

    /// How timesteps are chosen where the model does not say: as in diffusers' class of this sampler.
    pub fn usual_spacing(self) -> TimestepSpacing {
        match self {
            Self::Ddpm | Self::Ddim | Self::Plms | Self::Lcm => TimestepSpacing::Leading,
            Self::Euler
            | Self::EulerAncestral
            | Self::Heun
            | Self::DpmSolver2M
            | Self::DpmSolver2MSde
            | Self::UniPc => TimestepSpacing::Linspace,
        }
    }

    /// The steps that are run of those visited, and the state before the first of them.
    ///
    /// Image to image skips the first `steps - floor(steps * strength)` and starts from the image at the level where the rest
    /// begins. From noise alone, the ratio samplers start with the share of noise of their first level unless their
    /// timesteps are leading, and all others with noise of unit variance; both as diffusers has it.
    fn begin(
        self,
        schedule: &Schedule,
        options: &Options,
        mut visited: Vec<Step>,
    ) -> Result<(Vec<Step>, Start)> {
        if let (Some(strength), false) = (options.strength, self == Self::Lcm) {
            let run = (visited.len() as f64 * strength) as usize;
            visited.drain(..visited.len() - run);
        }
        let Some(Step { from: first, .. }) = visited.first().copied() else {
            return Err(Error::request(format!(
                "strength {} of {} steps leaves none to run: ask for more of either",
                options.strength.unwrap_or(1.0),
                options.steps
            )));
        };
        if schedule.prediction() == Prediction::Epsilon
            && schedule.ends_in_pure_noise()
            && first.timestep > (schedule.timestep_count() - 2) as f64
        {
            return Err(Error::request(
                "this schedule ends in pure noise (zero terminal SNR), where a network that predicts noise says nothing \
                 about the image: it needs a v-prediction model, or leading timesteps",
            ));
        }
        let by_ratio = matches!(self, Self::Euler | Self::EulerAncestral | Self::Heun);
        let leading = schedule.spacing() == TimestepSpacing::Leading
            && !matches!(
                options.sigmas,
                SigmaSpacing::SgmUniform | SigmaSpacing::Simple
            );
        let start = match options.strength {
            Some(_) => Start {
                latent: first.alpha,
                noise: first.sigma,
            },
            None => Start {
                latent: 0.0,
                noise: if by_ratio && !leading {
                    first.sigma
                } else {
                    1.0
                },
            },
        };
        Ok((visited, start))
    }
}

/// Refuses numbers that no sampler can work with.
fn check(schedule: &Schedule, options: &Options) -> Result<()> {
    let share = |what: &str, value: f64| {
        if (0.0..=1.0).contains(&value) {
            Ok(())
        } else {
            Err(Error::request(format!(
                "{what} is a share between 0 and 1, not {value}"
            )))
        }
    };
    if options.steps < 1 || options.steps > schedule.timestep_count() {
        return Err(Error::request(format!(
            "{} steps: this model was trained on {} timesteps, so ask for 1 to {}",
            options.steps,
            schedule.timestep_count(),
            schedule.timestep_count()
        )));
    }
    share("eta", options.eta.unwrap_or(0.0))?;
    share("the variance of DDPM", options.large_variance)?;
    share("strength", options.strength.unwrap_or(1.0))
}

#[cfg(test)]
mod tests;
