//! The forward process on a computer: how much signal and how much noise a latent holds at each training timestep.
//!
//! Everything is kept in one form, the *variance-preserving* one of the paper: at a [`Level`] a latent is
//! `alpha * image + sigma * noise` with `alpha^2 + sigma^2 = 1`, which is what the networks were trained on. The samplers
//! from the k-diffusion family count noise by the ratio `sigma / alpha` instead (14.6 at the end of Stable Diffusion's
//! schedule, 83.8 at the end of the paper's own); a ratio is only another name for a level, so it is converted where a
//! grid of ratios is built and nowhere else.
//!
//! Tables are f64 from the betas on. PyTorch code keeps them in f32; that difference is rounding, never intent.

use crate::error::{Error, Result};
use crate::models::config::{Prediction, ScheduleConfig, TimestepSpacing};

mod betas;
mod timesteps;

/// What a table that reaches zero signal stands for where a ratio must be finite: the smallest `alpha_bar` that f16
/// holds, a ratio of 4096.
///
/// # Source
/// diffusers' `EulerDiscreteScheduler` with `rescale_betas_zero_snr`.
const SMALLEST_ALPHA_BAR: f64 = 1.0 / (1 << 24) as f64;

/// A point of the forward process: a latent here is `alpha * image + sigma * noise`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// The time the network is told; fractional where a sampler goes between training timesteps.
    pub timestep: f64,
    /// Share of signal.
    pub alpha: f64,
    /// Share of noise, `sqrt(1 - alpha^2)`.
    pub sigma: f64,
}

impl Level {
    /// No noise left: where every trajectory ends unless its schedule says otherwise.
    pub const CLEAN: Self = Self {
        timestep: 0.0,
        alpha: 1.0,
        sigma: 0.0,
    };

    /// The level whose signal has the variance `alpha_bar`.
    fn from_alpha_bar(timestep: f64, alpha_bar: f64) -> Self {
        Self {
            timestep,
            alpha: alpha_bar.sqrt(),
            sigma: (1.0 - alpha_bar).sqrt(),
        }
    }

    /// The level of the given ratio of noise to signal.
    pub fn from_ratio(timestep: f64, ratio: f64) -> Self {
        let alpha = 1.0 / (ratio * ratio + 1.0).sqrt();
        Self {
            timestep,
            alpha,
            sigma: ratio * alpha,
        }
    }

    /// Noise to signal: the `sigma` of Karras et al. (arXiv:2206.00364).
    pub fn ratio(self) -> f64 {
        self.sigma / self.alpha
    }

    /// Half the logarithm of the signal-to-noise ratio: the `lambda` of DPM-Solver (arXiv:2206.00927). Infinite at
    /// [`Level::CLEAN`].
    pub fn lambda(self) -> f64 {
        self.alpha.ln() - self.sigma.ln()
    }
}

/// The levels of all training timesteps, and how a few of them are chosen.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Cumulative product of `1 - beta`, by timestep.
    alpha_bar: Vec<f64>,
    /// Noise to signal, by timestep; finite everywhere.
    ratios: Vec<f64>,
    config: ScheduleConfig,
}

impl Schedule {
    /// The tables of a configuration.
    ///
    /// # Errors
    /// If there are fewer than two timesteps, or the betas are not between 0 and 1.
    ///
    /// # Source
    /// Ho et al., arXiv:2006.11239, section 2; rescaling: Lin et al., arXiv:2305.08891, algorithm 1.
    pub fn new(config: &ScheduleConfig) -> Result<Self> {
        let betas_fit = 0.0 < config.beta_start
            && config.beta_start <= config.beta_end
            && config.beta_end < 1.0;
        if config.timesteps < 2 || config.timesteps > 100_000 || !betas_fit {
            return Err(Error::request(format!(
                "a noise schedule of {} timesteps with betas from {} to {}: 2 to 100000 timesteps and rising betas between \
                 0 and 1 are expected",
                config.timesteps, config.beta_start, config.beta_end
            )));
        }
        let mut signal = 1.0;
        let mut alpha_bar: Vec<f64> = betas::betas(config)
            .map(|beta| {
                signal *= 1.0 - beta;
                signal
            })
            .collect();
        if config.zero_terminal_snr {
            betas::rescale_to_zero_terminal_snr(&mut alpha_bar);
        }
        let ratio = |a: &f64| ((1.0 - a) / a).sqrt();
        let ratios = alpha_bar
            .iter()
            .map(|a| {
                if *a > 0.0 {
                    ratio(a)
                } else {
                    ratio(&SMALLEST_ALPHA_BAR)
                }
            })
            .collect();
        Ok(Self {
            alpha_bar,
            ratios,
            config: config.clone(),
        })
    }

    /// What the network predicts.
    pub fn prediction(&self) -> Prediction {
        self.config.prediction
    }

    /// The rule for choosing timesteps: leading, as CompVis has it, where nobody says.
    pub fn spacing(&self) -> TimestepSpacing {
        let rule = self.config.timestep_spacing;
        rule.unwrap_or(TimestepSpacing::Leading)
    }

    /// The same levels, with timesteps chosen by `rule` where the configuration does not say.
    pub fn or_spacing(&self, rule: TimestepSpacing) -> Self {
        let mut schedule = self.clone();
        schedule.config.timestep_spacing.get_or_insert(rule);
        schedule
    }

    /// Number of training timesteps.
    pub fn timestep_count(&self) -> usize {
        self.alpha_bar.len()
    }

    /// Whether the last timestep is noise alone.
    pub fn ends_in_pure_noise(&self) -> bool {
        self.config.zero_terminal_snr
    }

    /// The level of a training timestep; past the last one, the last one's.
    pub fn level(&self, timestep: usize) -> Level {
        let timestep = timestep.min(self.timestep_count() - 1);
        Level::from_alpha_bar(timestep as f64, self.alpha_bar[timestep])
    }

    /// Where the whole-timestep samplers of diffusers and CompVis end: clean, or as noisy as timestep 0.
    pub fn final_level(&self) -> Level {
        if self.config.set_alpha_to_one {
            Level::CLEAN
        } else {
            self.level(0)
        }
    }

    /// The level at a fractional timestep, its ratio interpolated between its neighbours'.
    pub fn level_between(&self, timestep: f64) -> Level {
        let last = self.timestep_count() - 1;
        let timestep = timestep.clamp(0.0, last as f64);
        let low = (timestep as usize).min(last - 1);
        let (from, to) = (self.ratios[low], self.ratios[low + 1]);
        Level::from_ratio(timestep, from + (to - from) * (timestep - low as f64))
    }

    /// The fractional timestep of a ratio, interpolated in its logarithm; ratios off the table get its ends.
    pub fn timestep_of_ratio(&self, ratio: f64) -> f64 {
        let above = self.ratios.partition_point(|r| *r <= ratio);
        let low = above.saturating_sub(1).min(self.timestep_count() - 2);
        let (from, to) = (self.ratios[low].ln(), self.ratios[low + 1].ln());
        low as f64 + ((ratio.ln() - from) / (to - from)).clamp(0.0, 1.0)
    }

    /// The smallest and the largest ratio of the table.
    pub fn ratio_range(&self) -> (f64, f64) {
        (self.ratios[0], self.ratios[self.timestep_count() - 1])
    }
}

/// `points` values evenly from `first` to `last`; a single one is `last`.
pub(crate) fn evenly(first: f64, last: f64, points: usize) -> Vec<f64> {
    let gap = (last - first) / (points.max(2) - 1) as f64;
    let mut values: Vec<f64> = (0..points).map(|i| first + i as f64 * gap).collect();
    if let Some(end) = values.last_mut() {
        *end = last;
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(change: impl FnOnce(&mut ScheduleConfig)) -> Schedule {
        let mut config = ScheduleConfig::default();
        change(&mut config);
        Schedule::new(&config).unwrap()
    }

    /// Known to one decimal.
    #[test]
    fn largest_ratios_are_those_of_the_published_models() {
        for (start, end, largest) in [
            (0.00085, 0.012, 14.6),
            (0.0015, 0.0195, 83.8),
            (0.0015, 0.0205, 101.6),
            (0.0015, 0.0155, 38.7),
            (0.0015, 0.015, 35.1),
        ] {
            let schedule = schedule(|c| (c.beta_start, c.beta_end) = (start, end));
            assert!((schedule.ratio_range().1 - largest).abs() < 0.05);
        }
    }

    #[test]
    fn rescaled_schedules_end_in_noise_alone_and_keep_their_first_level() {
        let plain = schedule(|_| ());
        let rescaled = schedule(|c| c.zero_terminal_snr = true);
        assert_eq!(rescaled.level(999).alpha, 0.0);
        assert!((rescaled.level(0).alpha - plain.level(0).alpha).abs() < 1e-15);
        assert!((rescaled.ratio_range().1 - 4096.0).abs() < 0.01);
    }

    #[test]
    fn timesteps_of_ratios_are_inverse_to_levels() {
        let schedule = schedule(|_| ());
        for timestep in [0, 1, 500, 998, 999] {
            let ratio = schedule.level(timestep).ratio();
            assert!((schedule.timestep_of_ratio(ratio) - timestep as f64).abs() < 1e-9);
        }
        assert_eq!(schedule.timestep_of_ratio(0.0), 0.0);
        assert_eq!(schedule.timestep_of_ratio(1e9), 999.0);
        assert_eq!(
            schedule.level_between(2000.0),
            schedule.level_between(999.0)
        );
    }

    #[test]
    fn betas_out_of_range_are_refused() {
        for (start, end) in [(0.0, 0.02), (0.02, 0.01), (0.01, 1.0), (f64::NAN, 0.5)] {
            let config = ScheduleConfig {
                beta_start: start,
                beta_end: end,
                ..ScheduleConfig::default()
            };
            assert!(Schedule::new(&config).is_err());
        }
    }
}
