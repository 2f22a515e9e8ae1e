//! The samplers that use earlier results: PLMS, Heun, DPM-Solver++ and UniPC.
//!
//! PLMS and Heun keep what the network said; DPM-Solver++ and UniPC keep the images it implied. Two of them correct a step
//! after seeing the network's answer at its end. Neither needs the state from before the step for that: the step was a
//! combination of that state and of results still in memory, so the correction is a combination of the state it led to
//! and of the same results.

use super::Row;
use super::combination::Combination;
use super::first_order::{image, noise, transfer};
use super::grid::Step;
use crate::models::config::Prediction;
use crate::schedule::Level;

const X: Combination = Combination::X;
const OUTPUT: Combination = Combination::OUTPUT;
const NOISE: Combination = Combination::NOISE;
const MEMORY: [Combination; 3] = Combination::MEMORY;

/// Pseudo linear multistep: DDIM with the network's output extrapolated through up to four points. The first step is
/// taken twice, the second time with the mean of the outputs at both its ends, so `n` steps evaluate the network `n + 1`
/// times. The second time it is taken to the timestep visited next, from `again`: where strides are fixed and timesteps are not that far
/// apart, it is another step.
///
/// # Source
/// Liu et al., arXiv:2202.09778 (pseudo linear multistep), begun as CompVis's `plms.py` does: without Runge-Kutta steps. A
/// single step is not taken twice. Image to image begins at its level's timestep, where diffusers, whose list of timesteps
/// repeats one, begins one earlier.
pub(super) fn plms(prediction: Prediction, steps: &[Step], again: Level) -> Vec<Row> {
    let [m1, m2, m3] = MEMORY;
    let mut rows = Vec::with_capacity(steps.len() + 1);
    for (i, step) in steps.iter().enumerate() {
        let output = match i {
            0 => OUTPUT,
            1 => 0.5 * (3.0 * OUTPUT - m1),
            2 => 1.0 / 12.0 * (23.0 * OUTPUT - 16.0 * m1 + 5.0 * m2),
            _ => 1.0 / 24.0 * (55.0 * OUTPUT - 59.0 * m1 + 37.0 * m2 - 9.0 * m3),
        };
        let next = transfer(prediction, *step, output, 0.0);
        rows.push(Row::new(step.from, vec![next, OUTPUT, m1, m2]));
        if let (0, Some(second)) = (i, steps.get(1)) {
            let again = Step {
                from: again,
                to: second.from,
            };
            let other = transfer(prediction, again, OUTPUT, 0.0);
            // The state before the first step is a combination of where that led and of the output kept.
            let ratio = other.of_state() / next.of_state();
            let half = 0.5 * other.of_output();
            let corrected = ratio * X + half * OUTPUT + (half - ratio * next.of_output()) * m1;
            rows.push(Row::new(second.from, vec![corrected, m1, m2, m3]));
        }
    }
    rows
}

/// Heun's second-order method on the probability-flow ODE in the noise ratio: an Euler step, corrected by the mean of the
/// slopes at both its ends. The last step, to no noise, stays Euler's.
///
/// # Source
/// Karras et al., arXiv:2206.00364, algorithm 1; `n` steps evaluate the network `2 n - 1` times.
pub(super) fn heun(prediction: Prediction, steps: &[Step]) -> Vec<Row> {
    let [slope_before, ..] = MEMORY;
    let mut rows = Vec::with_capacity(2 * steps.len());
    for step in steps {
        let slope = noise(prediction, step.from, OUTPUT);
        let next = transfer(prediction, *step, OUTPUT, 0.0);
        rows.push(Row::new(step.from, vec![next, slope]));
        if step.to.sigma > 0.0 {
            let slope_after = noise(prediction, step.to, OUTPUT);
            let length = step.to.ratio() - step.from.ratio();
            let corrected = X + 0.5 * step.to.alpha * length * (slope_after - slope_before);
            rows.push(Row::new(step.to, vec![corrected, slope_before]));
        }
    }
    rows
}

/// DPM-Solver++ of second order, multistep (2M), the ODE or (`sde`) the SDE solver; first order where there is no earlier
/// image yet and on the last step, to no noise.
///
/// # Source
/// Lu et al., arXiv:2211.01095, algorithm 2 (midpoint), and its section on SDE solvers.
pub(super) fn dpm_solver(prediction: Prediction, steps: &[Step], sde: bool) -> Vec<Row> {
    let [before, ..] = MEMORY;
    let row = |i: usize| {
        let step = steps[i];
        let now = image(prediction, step.from, OUTPUT);
        let h = step.to.lambda() - step.from.lambda();
        let extrapolated = match i.checked_sub(1).map(|j| steps[j]) {
            Some(last) if h.is_finite() => {
                let r = (last.to.lambda() - last.from.lambda()) / h;
                now + 0.5 / r * (now - before)
            }
            _ => now,
        };
        let shrink = step.to.sigma / step.from.sigma;
        let next = if sde {
            let fresh = (-(-2.0 * h).exp_m1()).sqrt();
            shrink * (-h).exp() * X
                + step.to.alpha * fresh * fresh * extrapolated
                + step.to.sigma * fresh * NOISE
        } else {
            shrink * X - step.to.alpha * (-h).exp_m1() * extrapolated
        };
        Row::new(step.from, vec![next, now])
    };
    (0..steps.len()).map(row).collect()
}

/// UniPC of second order, for images, with `B(h) = e^h - 1` (`bh2`): each state is first corrected with the image seen
/// there, then the next is predicted from it.
///
/// # Source
/// Zhao et al., arXiv:2302.04867, in the multistep form for data prediction; first order on the first step and the last.
pub(super) fn unipc(prediction: Prediction, steps: &[Step]) -> Vec<Row> {
    let [before, before_that, _] = MEMORY;
    let second_order = |i: usize| i > 0 && i + 1 < steps.len();
    let mut rows: Vec<Row> = Vec::with_capacity(steps.len());
    for (i, step) in steps.iter().enumerate() {
        let now = image(prediction, step.from, OUTPUT);
        let corrected = match i.checked_sub(1) {
            None => X,
            Some(j) => {
                let last = steps[j];
                let h = last.to.lambda() - last.from.lambda();
                let weight = last.to.alpha * (-h).exp_m1();
                if second_order(j) {
                    let r = (lambda_before(steps, j) - last.from.lambda()) / h;
                    let (to_before, to_now) = corrector_weights(h, r);
                    let bend = 1.0 / r * (before_that - before);
                    X - weight * ((to_before - 0.5) * bend + to_now * (now - before))
                } else {
                    X - 0.5 * weight * (now - before)
                }
            }
        };
        let h = step.to.lambda() - step.from.lambda();
        let extrapolated = if second_order(i) {
            let r = (lambda_before(steps, i) - step.from.lambda()) / h;
            now + 0.5 / r * (before - now)
        } else {
            now
        };
        let next = step.to.sigma / step.from.sigma * corrected
            - step.to.alpha * (-h).exp_m1() * extrapolated;
        rows.push(Row::new(step.from, vec![next, now, before]));
    }
    rows
}

/// `lambda` where the step before step `i` began.
fn lambda_before(steps: &[Step], i: usize) -> f64 {
    Level::lambda(steps[i - 1].from)
}

/// The corrector's weights of the earlier difference and of the new one: the solution of UniPC's 2x2 system for
/// points `r` and 1.
fn corrector_weights(h: f64, r: f64) -> (f64, f64) {
    let big_b = (-h).exp_m1();
    let phi_2 = big_b / -h - 1.0;
    let phi_3 = phi_2 / -h - 0.5;
    let (b1, b2) = (phi_2 / big_b, 2.0 * phi_3 / big_b);
    let to_before = (b1 - b2) / (1.0 - r);
    (to_before, b1 - to_before)
}
