//! A latent in overlapping patches, for networks that were trained on small ones: each patch is asked for alone, and where they
//! overlap their answers are averaged, those near a patch's border with less weight.
//!
//! # Source
//! `split_input_params` in CompVis's `ddpm.py`, as its super-resolution notebook sets them. Its patches leave out what remains at the
//! right and at the bottom; here the last patch ends with the latent.

use super::{Event, Guided, Model, not_finite};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::models::config::{Condition, UNetConfig};
use crate::models::unet;
use crate::sampler::Trajectory;
use crate::session::Session;
use crate::tensor::Tensor;
use crate::weights::Weights;
use std::sync::Arc;

/// Side of a patch, in latent pixels.
const SIDE: usize = 128;
/// Distance from one patch to the next.
const STRIDE: usize = 64;
/// Weights of a patch's pixels, from its border to its middle.
const WEIGHTS: [f32; 2] = [0.01, 0.5];

/// How a latent is cut up.
#[derive(Clone, Debug, PartialEq)]
pub struct Patches {
    size: [usize; 2],
    /// Height and width of every patch.
    patch: [usize; 2],
    /// Top left corners.
    corners: Vec<[usize; 2]>,
    /// The weight of each pixel of a patch.
    weights: Vec<f32>,
    /// The sum of the weights at each pixel of the latent.
    total: Vec<f32>,
}

impl Patches {
    /// The patches of a latent of `[height, width]`; one, if it is no larger than a patch.
    pub fn new(size: [usize; 2]) -> Self {
        let patch = size.map(|side| side.min(SIDE));
        let [rows, columns] = [0, 1].map(|axis| starts(size[axis], patch[axis]));
        let corners: Vec<_> = rows
            .iter()
            .flat_map(|&y| columns.iter().map(move |&x| [y, x]))
            .collect();
        let weights = (0..patch[0] * patch[1]).map(|index| {
            let place = [index / patch[1], index % patch[1]];
            let distance = |axis: usize| {
                let last = patch[axis].saturating_sub(1).max(1) as f32;
                let from_start = place[axis] as f32 / last;
                from_start.min(1.0 - from_start)
            };
            distance(0).min(distance(1)).clamp(WEIGHTS[0], WEIGHTS[1])
        });
        let mut patches = Self {
            size,
            patch,
            corners,
            weights: weights.collect(),
            total: vec![0.0; size[0] * size[1]],
        };
        for &corner in &patches.corners {
            for (index, place) in patches.pixels(corner).enumerate() {
                patches.total[place] += patches.weights[index];
            }
        }
        patches
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.corners.len()
    }

    /// Where the pixels of the patch at `corner` lie in the latent.
    fn pixels(&self, [top, left]: [usize; 2]) -> impl Iterator<Item = usize> + use<> {
        let ([height, width], across) = (self.patch, self.size[1]);
        (0..height * width).map(move |i| (top + i / width) * across + left + i % width)
    }

    /// The patch `number` of a latent.
    ///
    /// # Shapes
    /// `[N, h, w, C]` gives `[N, patch height, patch width, C]`.
    fn cut(&self, latent: &Tensor, number: usize) -> Result<Tensor> {
        let channels = latent.shape().channels();
        let area = self.size[0] * self.size[1] * channels;
        let mut values = vec![];
        for image in latent.data().chunks_exact(area) {
            for place in self.pixels(self.corners[number]) {
                values.extend_from_slice(&image[place * channels..][..channels]);
            }
        }
        let [height, width] = self.patch;
        Tensor::new([latent.shape().batch(), height, width, channels], values)
    }

    /// What the network of `session` answers for a latent, with further channels where there are some, patch after patch.
    fn ask<B: Backend>(
        &self,
        session: &mut Session<B>,
        latent: &Tensor,
        concat: Option<&Tensor>,
    ) -> Result<Tensor> {
        let mut answer = Tensor::zeros(latent.shape());
        for number in 0..self.count() {
            let mut sample = self.cut(latent, number)?;
            if let Some(concat) = concat {
                sample = sample.beside(&self.cut(concat, number)?)?;
            }
            session.set("sample", &sample)?;
            session.run()?;
            self.add(&mut answer, number, &session.get("sample")?);
        }
        Ok(answer)
    }

    /// Adds what was answered for patch `number` to the weighted sum of all.
    fn add(&self, sum: &mut Tensor, number: usize, answer: &Tensor) {
        let channels = sum.shape().channels();
        let area = self.size[0] * self.size[1] * channels;
        let patch = self.weights.len() * channels;
        let images = sum.data_mut().chunks_exact_mut(area);
        for (image, answer) in images.zip(answer.data().chunks_exact(patch)) {
            for (index, place) in self.pixels(self.corners[number]).enumerate() {
                let weight = self.weights[index] / self.total[place];
                let pixel = &mut image[place * channels..][..channels];
                for (sum, value) in pixel.iter_mut().zip(&answer[index * channels..]) {
                    *sum += weight * value;
                }
            }
        }
    }
}

impl Model {
    /// Height and width of the patches that the network is asked for, where a latent of `[height, width]` is not asked for as a whole.
    pub(super) fn patch(&self, size: [usize; 2]) -> Option<[usize; 2]> {
        let enlarging = self.config.condition == Condition::LowResolution;
        (enlarging && size.iter().any(|&side| side > SIDE)).then(|| size.map(|s| s.min(SIDE)))
    }
}

/// The network on `batch` patches of `[height, width]`.
pub(super) fn network(config: &UNetConfig, batch: usize, patch: [usize; 2]) -> Result<Graph> {
    unet::build(config, batch, patch, 0)
}

/// Where the patches begin along one side, the last one at the end of it.
fn starts(side: usize, patch: usize) -> Vec<usize> {
    let last = side - patch;
    let mut starts: Vec<usize> = (0..last).step_by(STRIDE).collect();
    starts.push(last);
    starts
}

/// Samples as [`Denoiser`](super::Denoiser) does, but asks the network for one patch after another: memory is a patch's, whatever the
/// size of the latent. What follows from the network's answers is computed on the host.
///
/// # Shapes
/// `x` is the first state, `[N, h, w, C]`; so is what is returned.
///
/// # Errors
/// If the model is conditioned on more than channels, a state is not finite, or the device fails, or the user asked to stop.
pub(super) fn run<B: Backend>(
    backend: &Arc<B>,
    (config, weights): (&UNetConfig, &Weights),
    guided: &Guided,
    (x, trajectory): (&Tensor, &Trajectory),
    draw: &mut dyn FnMut() -> Result<Tensor>,
    report: &mut dyn FnMut(Event),
) -> Result<Tensor> {
    let Some([batch, height, width, _]) = x.shape().image() else {
        return Err(Error::request("a latent is [N, h, w, C]"));
    };
    if guided.context.is_some() || guided.class_labels.is_some() || guided.settings.is_some() {
        return Err(Error::request(
            "only models that are conditioned on channels alone are sampled in patches",
        ));
    }
    if trajectory.quantises() {
        return Err(Error::request(
            "large images are sampled in patches, where predicted images cannot be quantised: leave out `--quantize-x0`, or take \
             a smaller image",
        ));
    }
    let patches = Patches::new([height, width]);
    let graph = network(config, batch, patches.patch)?;
    let mut session = Session::new(backend, graph, weights)?;
    let total = trajectory.rows.len();
    let mut state = vec![Tensor::zeros(x.shape()); 1 + trajectory.memory];
    state[0] = x.clone();
    for (step, row) in trajectory.rows.iter().enumerate() {
        let timestep = Tensor::full([batch], row.at.timestep as f32);
        session.set("timestep", &timestep)?;
        let output = patches.ask(&mut session, &state[0], guided.concat.as_ref())?;
        let noise = match row.draws_noise() {
            true => draw()?,
            false => Tensor::zeros(x.shape()),
        };
        let next = row.next.iter().map(|combination| {
            let vectors = [&state[0], &output, &noise].into_iter().chain(&state[1..]);
            let terms: Vec<_> = combination.coefficients().iter().zip(vectors).collect();
            Tensor::from_fn(x.shape(), |index| {
                let terms = terms
                    .iter()
                    .map(|(c, vector)| *c * f64::from(vector.data()[index]));
                terms.sum::<f64>() as f32
            })
        });
        state = next.collect();
        let bad = state[0].count_not_finite();
        if bad > 0 {
            let stage = format!("the UNet, step {} of {total}", step + 1);
            return Err(not_finite(bad, x.shape(), &stage, &mut session)?);
        }
        report(Event::Step {
            done: step + 1,
            total,
        });
    }
    Ok(state.swap_remove(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_cover_a_latent_and_end_with_it() {
        for (size, corners) in [
            ([128, 100], vec![[0, 0]]),
            ([128, 130], vec![[0, 0], [0, 2]]),
            (
                [200, 192],
                vec![[0, 0], [0, 64], [64, 0], [64, 64], [72, 0], [72, 64]],
            ),
        ] {
            let patches = Patches::new(size);
            assert_eq!(patches.corners, corners, "{size:?}");
            assert!(patches.total.iter().all(|&total| total > 0.0));
        }
    }

    #[test]
    fn patches_of_a_picture_make_the_picture() {
        let size = [150, 130];
        let patches = Patches::new(size);
        let latent = Tensor::from_fn([2, size[0], size[1], 3], |i| (i % 97) as f32 - 40.0);
        let mut sum = Tensor::zeros(latent.shape());
        for number in 0..patches.count() {
            patches.add(&mut sum, number, &patches.cut(&latent, number).unwrap());
        }
        assert!(
            sum.max_abs_error(&latent) < 1e-4,
            "{}",
            sum.max_abs_error(&latent)
        );
    }

    #[test]
    fn a_patch_counts_least_at_its_border() {
        let patches = Patches::new([128, 128]);
        let weight = |y: usize, x: usize| patches.weights[y * 128 + x];
        assert_eq!([weight(0, 64), weight(64, 127)], [0.01; 2]);
        assert!((weight(30, 64) - 30.0 / 127.0).abs() < 1e-6);
        assert!((weight(20, 64) - weight(107, 64)).abs() < 1e-6);
        assert!(weight(63, 63) > 0.49 && weight(63, 63) <= 0.5);
    }
}
