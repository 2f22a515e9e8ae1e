//! The samplers that remember nothing: DDIM, Euler, Euler ancestral, DDPM and LCM.
//!
//! The first four are one formula, equation 12 of DDIM: predict image and noise, then put them together again at the
//! next level with some of the noise exchanged for fresh noise. They differ in how much, and in the levels they visit:
//!
//! | sampler | levels | fresh noise |
//! |---|---|---|
//! | DDIM | whole timesteps | `eta` times the posterior's |
//! | Euler | noise ratios | none |
//! | Euler ancestral | noise ratios | `eta` times the posterior's, `eta = 1` |
//! | DDPM | whole timesteps | mean of `eta = 1`, and a choice of variance |

use super::Row;
use super::combination::Combination;
use super::grid::Step;
use crate::models::config::Prediction;
use crate::schedule::Level;

/// The image that a network's `output` at `level` speaks of.
///
/// # Source
/// Noise: arXiv:2006.11239, equation 15; velocity: arXiv:2202.00512, appendix D.
pub(super) fn image(prediction: Prediction, level: Level, output: Combination) -> Combination {
    let Level { alpha, sigma, .. } = level;
    match prediction {
        Prediction::Epsilon => 1.0 / alpha * (Combination::X - sigma * output),
        Prediction::V => alpha * Combination::X - sigma * output,
        Prediction::Sample => output,
    }
}

/// The noise that a network's `output` at `level` speaks of.
pub(super) fn noise(prediction: Prediction, level: Level, output: Combination) -> Combination {
    let Level { alpha, sigma, .. } = level;
    match prediction {
        Prediction::Epsilon => output,
        Prediction::V => sigma * Combination::X + alpha * output,
        Prediction::Sample => 1.0 / sigma * (Combination::X - alpha * output),
    }
}

/// The state after `step`, with a share `fresh` of its noise drawn anew.
///
/// # Source
/// Song et al., arXiv:2010.02502, equation 12. With `fresh = 0` and levels counted by ratio it is Euler's method on the
/// probability-flow ODE, `d x / d ratio = noise` (Karras et al., arXiv:2206.00364).
pub(super) fn transfer(
    prediction: Prediction,
    step: Step,
    output: Combination,
    fresh: f64,
) -> Combination {
    let image = image(prediction, step.from, output);
    mixed(step.to, image, noise(prediction, step.from, output), fresh)
}

/// Image and noise at a level, with a share `fresh` of the noise drawn anew.
fn mixed(at: Level, image: Combination, noise: Combination, fresh: f64) -> Combination {
    let kept = (at.sigma.powi(2) - fresh.powi(2)).max(0.0).sqrt();
    at.alpha * image + kept * noise + fresh * Combination::NOISE
}

/// Variance that the forward process adds between the two levels: `beta` of a step.
fn added_variance(step: Step) -> f64 {
    1.0 - (step.from.alpha / step.to.alpha).powi(2)
}

/// Variance of the state at `to` given the state at `from` and the image.
///
/// # Source
/// arXiv:2006.11239, equation 7.
fn posterior_variance(step: Step) -> f64 {
    (step.to.sigma / step.from.sigma).powi(2) * added_variance(step)
}

/// DDIM; on a grid of ratios, Euler (`eta = 0`) and Euler ancestral (`eta = 1`).
pub(super) fn ddim(prediction: Prediction, steps: &[Step], eta: f64) -> Vec<Row> {
    let row = |step: &Step| {
        let fresh = eta * posterior_variance(*step).sqrt();
        Row::memoryless(
            step.from,
            transfer(prediction, *step, Combination::OUTPUT, fresh),
        )
    };
    steps.iter().map(row).collect()
}

/// DDIM with the predicted image made of codes. The predicted noise stays what the network said.
///
/// # Source
/// `quantize_denoised` in CompVis's `ddim.py`.
pub(super) fn ddim_quantised(prediction: Prediction, steps: &[Step], eta: f64) -> Vec<Row> {
    let row = |step: &Step| {
        let fresh = eta * posterior_variance(*step).sqrt();
        let noise = noise(prediction, step.from, Combination::OUTPUT);
        let next = mixed(step.to, Combination::QUANTISED, noise, fresh);
        quantised(prediction, *step, next)
    };
    steps.iter().map(row).collect()
}

fn quantised(prediction: Prediction, step: Step, next: Combination) -> Row {
    Row {
        quantised: Some(image(prediction, step.from, Combination::OUTPUT)),
        ..Row::memoryless(step.from, next)
    }
}

/// Ancestral sampling. `large` goes from the posterior's variance (0) to the forward step's (1): `v_posterior` in CompVis,
/// `fixed_small` and `fixed_large` in diffusers. Nothing is drawn at timestep 0.
///
/// # Source
/// arXiv:2006.11239, algorithm 2 and section 3.2.
pub(super) fn ddpm(prediction: Prediction, steps: &[Step], large: f64) -> Vec<Row> {
    let row = |step: &Step| {
        let fresh = posterior_variance(*step).sqrt();
        let next = transfer(prediction, *step, Combination::OUTPUT, fresh);
        Row::memoryless(step.from, with_variance(*step, next, large))
    };
    steps.iter().map(row).collect()
}

/// DDPM with the predicted image made of codes: the posterior given that image.
///
/// # Source
/// `quantize_denoised` in CompVis's `ddpm.py`.
pub(super) fn ddpm_quantised(prediction: Prediction, steps: &[Step], large: f64) -> Vec<Row> {
    let row = |step: &Step| {
        let fresh = posterior_variance(*step).sqrt();
        let next = transfer(Prediction::Sample, *step, Combination::QUANTISED, fresh);
        quantised(prediction, *step, with_variance(*step, next, large))
    };
    steps.iter().map(row).collect()
}

/// An ancestral step with DDPM's choice of variance.
fn with_variance(step: Step, ancestral: Combination, large: f64) -> Combination {
    let variance = if step.from.timestep > 0.0 {
        (1.0 - large) * posterior_variance(step) + large * added_variance(step)
    } else {
        0.0
    };
    let mean = ancestral - ancestral.of_noise() * Combination::NOISE;
    mean + variance.sqrt() * Combination::NOISE
}

/// Latent consistency: each step goes to the image at once, and all but the last back up to the next level.
///
/// # Source
/// Luo et al., arXiv:2310.04378 (multistep latent consistency sampling); boundary scalings: Song et al., arXiv:2303.01469,
/// appendix C, with data deviation 0.5 and timesteps scaled by 10 as released.
pub(super) fn lcm(prediction: Prediction, steps: &[Step]) -> Vec<Row> {
    const DATA_VARIANCE: f64 = 0.25;
    let row = |step: &Step| {
        let time = 10.0 * step.from.timestep;
        let scale = time * time + DATA_VARIANCE;
        let (skip, out) = (DATA_VARIANCE / scale, time / scale.sqrt());
        let estimate = image(prediction, step.from, Combination::OUTPUT);
        let denoised = out * estimate + skip * Combination::X;
        Row::memoryless(
            step.from,
            step.to.alpha * denoised + step.to.sigma * Combination::NOISE,
        )
    };
    steps.iter().map(row).collect()
}
