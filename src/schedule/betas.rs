//! The variances of training, and their rescaling to zero terminal SNR.

use super::evenly;
use crate::models::config::{BetaSchedule, ScheduleConfig};

/// The variance that each timestep adds.
///
/// # Source
/// CompVis `make_beta_schedule`; the squared cosine: Nichol and Dhariwal, arXiv:2102.09672, equation 17.
pub(super) fn betas(config: &ScheduleConfig) -> impl Iterator<Item = f64> {
    let (start, end, count) = (config.beta_start, config.beta_end, config.timesteps);
    let betas: Vec<f64> = match config.beta_schedule {
        BetaSchedule::Linear => evenly(start, end, count),
        BetaSchedule::ScaledLinear => evenly(start.sqrt(), end.sqrt(), count)
            .iter()
            .map(|root| root * root)
            .collect(),
        BetaSchedule::SquaredCosine => {
            let alpha_bar = |i: usize| {
                let t = i as f64 / count as f64;
                ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2)
                    .cos()
                    .powi(2)
            };
            (0..count)
                .map(|i| (1.0 - alpha_bar(i + 1) / alpha_bar(i)).min(0.999))
                .collect()
        }
    };
    betas.into_iter()
}

/// Shifts and stretches `sqrt(alpha_bar)` so that the last is zero and the first stays.
pub(super) fn rescale_to_zero_terminal_snr(alpha_bar: &mut [f64]) {
    let (Some(first), Some(last)) = (alpha_bar.first(), alpha_bar.last()) else {
        return;
    };
    let (first, last) = (first.sqrt(), last.sqrt());
    for a in alpha_bar {
        *a = ((a.sqrt() - last) * first / (first - last)).powi(2);
    }
}
