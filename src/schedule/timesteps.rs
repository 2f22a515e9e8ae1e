//! How a few of the training timesteps are chosen.

use super::{Schedule, evenly};
use crate::models::config::TimestepSpacing;

impl Schedule {
    /// `steps` whole timesteps by the model's rule, descending.
    ///
    /// The offset of the leading rule is reduced where it would push the first timestep past the last trained one: with
    /// SD's offset of 1 and 1000 steps, diffusers fails there.
    ///
    /// # Source
    /// diffusers' `DDIMScheduler.set_timesteps`; arXiv:2305.08891, table 2. One step of linspace starts at the last
    /// timestep, as counting down does, where `numpy.linspace` counts up and leaves the first.
    pub fn timesteps(&self, steps: usize) -> Vec<usize> {
        let count = self.timestep_count();
        let descending = (0..steps).rev();
        match self.spacing() {
            TimestepSpacing::Leading => {
                let stride = count / steps;
                let offset = self
                    .config
                    .steps_offset
                    .min(count - 1 - stride * (steps - 1));
                descending.map(|i| i * stride + offset).collect()
            }
            TimestepSpacing::Linspace => {
                let points = evenly(0.0, (count - 1) as f64, steps);
                points
                    .iter()
                    .rev()
                    .map(|t| t.round_ties_even() as usize)
                    .collect()
            }
            TimestepSpacing::Trailing => self.trailing(steps),
        }
    }

    /// The whole timesteps of the multistep solvers: as [`Schedule::timesteps`], but the point after the last step counts
    /// as one of the evenly spread points, and is dropped.
    ///
    /// # Source
    /// diffusers' `DPMSolverMultistepScheduler.set_timesteps` and `UniPCMultistepScheduler.set_timesteps`.
    pub fn timesteps_of_intervals(&self, steps: usize) -> Vec<usize> {
        let count = self.timestep_count();
        match self.spacing() {
            TimestepSpacing::Leading => {
                let stride = count / (steps + 1);
                let offset = self.config.steps_offset.min(count - 1 - stride * steps);
                (1..=steps).rev().map(|i| i * stride + offset).collect()
            }
            TimestepSpacing::Linspace => {
                let points = evenly(0.0, (count - 1) as f64, steps + 1);
                let kept = points.iter().skip(1).rev();
                kept.map(|t| t.round_ties_even() as usize).collect()
            }
            TimestepSpacing::Trailing => self.trailing(steps),
        }
    }

    /// CompVis's own rule, exactly: every `count / steps`th timestep, plus one.
    ///
    /// For many counts this makes more steps than were asked for (28 makes 29). Where the original indexes past its table
    /// and fails (3, 9, 27, 36, 37 and all above 500, among others) the last trained timestep stands in.
    ///
    /// # Source
    /// `make_ddim_timesteps` of CompVis/latent-diffusion, method `uniform`.
    pub fn compvis_timesteps(&self, steps: usize) -> Vec<usize> {
        let count = self.timestep_count();
        let mut timesteps: Vec<usize> = (0..count)
            .step_by(count / steps)
            .map(|t| (t + 1).min(count - 1))
            .collect();
        timesteps.dedup();
        timesteps.reverse();
        timesteps
    }

    /// Evenly spread whole timesteps that include the last.
    fn trailing(&self, steps: usize) -> Vec<usize> {
        let count = self.timestep_count() as f64;
        let stride = count / steps as f64;
        (0..steps)
            .map(|i| (count - i as f64 * stride).round_ties_even() as usize - 1)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::config::ScheduleConfig;

    fn schedule(timestep_spacing: TimestepSpacing) -> Schedule {
        let config = ScheduleConfig {
            timestep_spacing: Some(timestep_spacing),
            ..ScheduleConfig::default()
        };
        Schedule::new(&config).unwrap()
    }

    #[test]
    fn every_number_of_steps_visits_that_many_trained_timesteps() {
        for spacing in [
            TimestepSpacing::Leading,
            TimestepSpacing::Linspace,
            TimestepSpacing::Trailing,
        ] {
            let schedule = schedule(spacing);
            for steps in 1..=1000 {
                let timesteps = schedule.timesteps(steps);
                assert_eq!(timesteps.len(), steps);
                assert!(timesteps[0] <= 999);
                assert!(timesteps.windows(2).all(|pair| pair[0] > pair[1]));
            }
        }
    }

    /// Counts of parity with CompVis: some numbers of steps give more, and those that fail there do not fail here.
    #[test]
    fn compvis_timesteps_are_compvis_s() {
        let schedule = schedule(TimestepSpacing::Leading);
        for (asked, made) in [
            (28, 29),
            (30, 31),
            (75, 77),
            (150, 167),
            (400, 500),
            (50, 50),
        ] {
            assert_eq!(schedule.compvis_timesteps(asked).len(), made);
        }
        assert_eq!(schedule.compvis_timesteps(4), [751, 501, 251, 1]);
        assert_eq!(schedule.compvis_timesteps(3), [999, 667, 334, 1]);
        assert_eq!(schedule.compvis_timesteps(1000).len(), 999);
    }
}
