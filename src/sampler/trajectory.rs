//! The rows that a sampler leaves behind, and the loop that runs them.

use super::combination::Combination;
use crate::schedule::Level;

/// One call of the network, and what follows from it.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The level of the state before the call, whose timestep the network is told; between two for some samplers.
    pub at: Level,
    /// The vectors after this row: the state, then the memory, latest first. Of each, the first `3 + memory` coefficients
    /// can be other than 0, and the last.
    pub next: Vec<Combination>,
    /// The predicted image, a combination itself, if its nearest codes take part in what follows.
    pub quantised: Option<Combination>,
}

impl Row {
    pub(super) fn new(at: Level, next: Vec<Combination>) -> Self {
        Self {
            at,
            next,
            quantised: None,
        }
    }

    pub(super) fn memoryless(at: Level, next: Combination) -> Self {
        Self::new(at, vec![next])
    }

    /// Whether this row uses fresh noise.
    pub fn draws_noise(&self) -> bool {
        self.next.iter().any(|c| c.of_noise() != 0.0)
    }
}

/// A whole sampling run, but for the network.
#[derive(Clone, Debug, PartialEq)]
pub struct Trajectory {
    /// The first state is `latent` times the encoded image plus `noise` times standard normal noise; from noise alone,
    /// `latent` is 0.
    pub start: Start,
    /// How many earlier results are kept, 0 to [`MAX_MEMORY`](super::MAX_MEMORY).
    pub memory: usize,
    /// The calls of the network, in order; all quantise the predicted image, or none.
    pub rows: Vec<Row>,
}

/// The mixture that the first state is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Start {
    /// Share of the encoded image.
    pub latent: f64,
    /// Share of standard normal noise.
    pub noise: f64,
}

impl Trajectory {
    /// Whether predicted images are quantised.
    pub fn quantises(&self) -> bool {
        self.rows.iter().any(|row| row.quantised.is_some())
    }

    /// As [`run_quantised`](Self::run_quantised), for a trajectory that quantises nothing.
    pub fn run(
        &self,
        x: Vec<f64>,
        draw: impl FnMut(usize) -> Vec<f64>,
        network: impl FnMut(&[f64], f64) -> Vec<f64>,
    ) -> Vec<f64> {
        self.run_quantised(x, draw, network, <[f64]>::to_vec)
    }

    /// Runs the rows on host vectors in f64: what every device does with them in its own precision.
    ///
    /// `x` is the first state, mixed as [`Trajectory::start`] says; `draw` gives as many fresh normal values; `network`
    /// answers for a state and a timestep; `quantise` gives the nearest codes of an image.
    pub fn run_quantised(
        &self,
        x: Vec<f64>,
        mut draw: impl FnMut(usize) -> Vec<f64>,
        mut network: impl FnMut(&[f64], f64) -> Vec<f64>,
        mut quantise: impl FnMut(&[f64]) -> Vec<f64>,
    ) -> Vec<f64> {
        let size = x.len();
        let mut state = vec![vec![0.0; size]; 1 + self.memory];
        state[0] = x;
        for row in &self.rows {
            let output = network(&state[0], row.at.timestep);
            let noise = if row.draws_noise() {
                draw(size)
            } else {
                vec![0.0; size]
            };
            let combined = |combination: &Combination| {
                let vectors = [&state[0], &output, &noise].into_iter().chain(&state[1..]);
                let mut sum = vec![0.0; size];
                for (coefficient, vector) in combination.coefficients().iter().zip(vectors) {
                    for (s, v) in sum.iter_mut().zip(vector) {
                        *s += coefficient * v;
                    }
                }
                sum
            };
            let quantised = row
                .quantised
                .as_ref()
                .map(|image| quantise(&combined(image)));
            let combined = |combination: &Combination| {
                let mut sum = combined(combination);
                for (s, v) in sum.iter_mut().zip(quantised.iter().flatten()) {
                    *s += combination.of_quantised() * v;
                }
                sum
            };
            state = row.next.iter().map(combined).collect();
        }
        state.swap_remove(0)
    }
}
