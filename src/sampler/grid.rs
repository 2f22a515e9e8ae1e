//! Which levels a trajectory visits.
//!
//! Three families, as their authors released them. DDPM, DDIM and PLMS visit whole training timesteps. Euler and Heun visit
//! noise ratios, at timesteps that may be fractional. The multistep solvers visit noise ratios at whole timesteps. LCM
//! visits timesteps of the coarse grid that it was distilled on.

use super::{Options, SigmaSpacing};
use crate::error::{Error, Result};
use crate::models::config::TimestepSpacing;
use crate::schedule::{Level, Schedule, evenly};

/// One stride of a trajectory. On most grids a step begins where the one before ended; DDIM's strides by a fixed number of
/// timesteps may not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub from: Level,
    pub to: Level,
}

/// Where a step among whole timesteps leads.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Stride {
    /// To the next timestep visited, and in the end to no noise: DDPM.
    ToNext,
    /// `count / steps` timesteps on, and in the end to the schedule's final level: DDIM and PLMS. With the leading rule
    /// that is the next timestep visited; with the others it is what diffusers does all the same.
    Fixed,
}

/// Whole timesteps by the schedule's rule, or by CompVis's, whose strides always lead to the next timestep visited.
pub(super) fn whole_timesteps(
    schedule: &Schedule,
    options: &Options,
    stride: Stride,
) -> Result<Vec<Step>> {
    refuse_spacing(options)?;
    let timesteps = if options.compvis_timesteps {
        schedule.compvis_timesteps(options.steps)
    } else {
        schedule.timesteps(options.steps)
    };
    let end = match stride {
        Stride::ToNext => Level::CLEAN,
        Stride::Fixed => schedule.final_level(),
    };
    let fixed = schedule.timestep_count() / options.steps;
    let step = |(i, &t): (usize, &usize)| Step {
        from: schedule.level(t),
        to: if stride == Stride::ToNext || options.compvis_timesteps {
            timesteps.get(i + 1).map_or(end, |&t| schedule.level(t))
        } else {
            t.checked_sub(fixed).map_or(end, |t| schedule.level(t))
        },
    };
    Ok(timesteps.iter().enumerate().map(step).collect())
}

/// Refuses a spacing of noise ratios where timesteps are visited by a rule of their own.
fn refuse_spacing(options: &Options) -> Result<()> {
    match options.sigmas {
        SigmaSpacing::Normal => Ok(()),
        other => Err(Error::request(format!(
            "`{}` spacing is for samplers that count noise by sigma (Euler, Euler a, Heun, DPM++ 2M, DPM++ 2M SDE, UniPC); \
             this one visits whole timesteps",
            other.name()
        ))),
    }
}

/// Where PLMS's first step begins when it is taken once more: a fixed stride before the timestep visited next.
///
/// # Source
/// diffusers' `PNDMScheduler.step_plms`. With the leading rule, and as CompVis has it, that is where the first step began.
pub(super) fn once_more(schedule: &Schedule, options: &Options, steps: &[Step]) -> Level {
    let fixed = schedule.timestep_count() / options.steps;
    match steps {
        [_, next, ..] if !options.compvis_timesteps => {
            schedule.level(next.from.timestep as usize + fixed)
        }
        [first, ..] => first.from,
        [] => Level::CLEAN,
    }
}

/// Noise ratios at timesteps that may be fractional, ending at no noise. Karras's and exponential ratios lie between the
/// first and the last ratio of the timesteps that would be visited without them.
pub(super) fn ratios(schedule: &Schedule, options: &Options) -> Result<Vec<Step>> {
    let (steps, last) = (options.steps, (schedule.timestep_count() - 1) as f64);
    let timesteps = match (options.sigmas, schedule.spacing()) {
        (SigmaSpacing::SgmUniform | SigmaSpacing::Simple, _) => named_timesteps(schedule, options),
        (_, TimestepSpacing::Linspace) if !options.compvis_timesteps => {
            let mut points = evenly(0.0, last, steps);
            points.reverse();
            points
        }
        _ => as_f64(&rule(schedule, options, Schedule::timesteps)),
    };
    let levels: Vec<Level> = timesteps
        .iter()
        .map(|t| schedule.level_between(*t))
        .collect();
    let ends = match (levels.first(), levels.last()) {
        (Some(first), Some(last)) => (last.ratio(), first.ratio()),
        _ => schedule.ratio_range(),
    };
    let spaced = options.sigmas.spread(ends, steps).map(|ratios| {
        let level = |ratio: &f64| Level::from_ratio(schedule.timestep_of_ratio(*ratio), *ratio);
        ratios.iter().map(level).collect()
    });
    strictly_falling(spaced.unwrap_or(levels), options)
}

/// Noise ratios at whole timesteps, ending at no noise. Karras's and exponential ratios span the whole schedule; the first
/// are evaluated at the nearest timestep, the others at the one below, as diffusers has it. (In its f32 the first timestep
/// of exponential ratios, 999, comes out a rounding short and is cut to 998.)
pub(super) fn ratios_at_whole_timesteps(
    schedule: &Schedule,
    options: &Options,
) -> Result<Vec<Step>> {
    let levels = match options.sigmas.spread(schedule.ratio_range(), options.steps) {
        Some(ratios) => {
            let whole = |t: f64| match options.sigmas {
                SigmaSpacing::Exponential => t.floor(),
                _ => t.round_ties_even(),
            };
            let level = |r: &f64| Level::from_ratio(whole(schedule.timestep_of_ratio(*r)), *r);
            ratios.iter().map(level).collect()
        }
        None => {
            let timesteps = match options.sigmas {
                SigmaSpacing::SgmUniform | SigmaSpacing::Simple => {
                    let points = named_timesteps(schedule, options);
                    points.iter().map(|t| t.round_ties_even()).collect()
                }
                _ => as_f64(&rule(schedule, options, Schedule::timesteps_of_intervals)),
            };
            timesteps
                .iter()
                .map(|t| schedule.level_between(*t))
                .collect()
        }
    };
    strictly_falling(levels, options)
}

/// A subset of the `original_steps` timesteps that a latent consistency model was distilled on. Image to image takes it
/// from the part of them within `strength`, and keeps the number of steps.
///
/// # Source
/// diffusers' `LCMScheduler.set_timesteps`.
pub(super) fn distilled_timesteps(schedule: &Schedule, options: &Options) -> Result<Vec<Step>> {
    refuse_spacing(options)?;
    let original = options.original_steps.clamp(1, schedule.timestep_count());
    let stride = schedule.timestep_count() / original;
    let kept = (original as f64 * options.strength.unwrap_or(1.0)) as usize;
    if options.steps > kept {
        return Err(Error::request(format!(
            "LCM takes its steps from {kept} of the {original} timesteps it was distilled on: ask for at most {kept} steps, \
             not {}, or for a larger strength",
            options.steps
        )));
    }
    let index = |i: usize| (i as f64 * (kept as f64 / options.steps as f64)) as usize;
    let level = |i: usize| schedule.level((kept - index(i)) * stride - 1);
    let step = |i: usize| Step {
        from: level(i),
        to: if i + 1 < options.steps {
            level(i + 1)
        } else {
            Level::CLEAN
        },
    };
    Ok((0..options.steps).map(step).collect())
}

/// The schedule's own rule, or CompVis's where it is asked for.
fn rule(
    schedule: &Schedule,
    options: &Options,
    own: impl Fn(&Schedule, usize) -> Vec<usize>,
) -> Vec<usize> {
    if options.compvis_timesteps {
        schedule.compvis_timesteps(options.steps)
    } else {
        own(schedule, options.steps)
    }
}

/// The timesteps of the two spacings that name timesteps instead of ratios.
fn named_timesteps(schedule: &Schedule, options: &Options) -> Vec<f64> {
    let (count, steps) = (schedule.timestep_count(), options.steps);
    let last = (count - 1) as f64;
    let timestep = |i: usize| match options.sigmas {
        SigmaSpacing::Simple => last - (i * count / steps) as f64,
        _ => last * (1.0 - i as f64 / steps as f64),
    };
    (0..steps).map(timestep).collect()
}

/// The steps between levels, the last one to no noise.
fn strictly_falling(levels: Vec<Level>, options: &Options) -> Result<Vec<Step>> {
    if levels
        .windows(2)
        .any(|pair| pair[0].ratio() <= pair[1].ratio())
    {
        return Err(Error::request(format!(
            "{} steps are more than there are distinct noise levels for this sampler: ask for fewer",
            options.steps
        )));
    }
    let ends = levels.iter().skip(1).chain(std::iter::once(&Level::CLEAN));
    let steps = levels.iter().zip(ends);
    Ok(steps.map(|(&from, &to)| Step { from, to }).collect())
}

fn as_f64(timesteps: &[usize]) -> Vec<f64> {
    timesteps.iter().map(|&t| t as f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::config::ScheduleConfig;

    #[test]
    fn named_spacings_visit_the_timesteps_they_name() {
        let schedule = Schedule::new(&ScheduleConfig::default()).unwrap();
        let visited = |sigmas| {
            let options = Options {
                sigmas,
                ..Options::new(4)
            };
            let steps = ratios(&schedule, &options).unwrap();
            steps.iter().map(|s| s.from.timestep).collect::<Vec<_>>()
        };
        assert_eq!(visited(SigmaSpacing::Simple), [999.0, 749.0, 499.0, 249.0]);
        assert_eq!(
            visited(SigmaSpacing::SgmUniform),
            [999.0, 749.25, 499.5, 249.75]
        );
    }

    #[test]
    fn ratio_spacings_span_the_model_s_own_range() {
        let schedule = Schedule::new(&ScheduleConfig::default()).unwrap();
        for sigmas in [SigmaSpacing::Karras, SigmaSpacing::Exponential] {
            let options = Options {
                sigmas,
                ..Options::new(10)
            };
            let steps = ratios_at_whole_timesteps(&schedule, &options).unwrap();
            let (smallest, largest) = schedule.ratio_range();
            assert!((steps[0].from.ratio() / largest - 1.0).abs() < 1e-12);
            assert!((steps[9].from.ratio() / smallest - 1.0).abs() < 1e-12);
            assert_eq!(steps[9].to, Level::CLEAN);
        }
    }
}
