//! A sampler's step as a graph: the network, guidance, the sampler's update as linear combinations, and the assignment of their results to the
//! state that the next step begins with.

use crate::error::Result;
use crate::graph::{Graph, Value};
use crate::models::autoencoder;
use crate::models::config::UNetConfig;
use crate::models::unet::{self, Timestep, UNetInputs};
use crate::ops::Axis;
use crate::tensor::Shape;

/// The scope of the first stage in a graph that needs a part of it.
pub const FIRST_STAGE: &str = "first_stage_model";

/// The name of the coefficients that make the predicted image.
pub(super) const IMAGE: &str = "coefficients.image";

/// The sizes of a sampling step.
#[derive(Clone, Copy, Debug)]
pub struct StepSizes {
    /// Images.
    pub batch: usize,
    /// Height, width and channels of a latent.
    pub latent: [usize; 3],
    /// What the network attends to: `[calls, tokens, features]`.
    pub context: Option<Shape>,
    /// Channels that are concatenated to the latent's.
    pub concat: usize,
    /// Whether the network is told classes.
    pub class_labels: bool,
    /// Whether the network is asked twice, without and with the condition.
    pub guided: bool,
    /// Whether a part of the image is known beforehand.
    pub kept: bool,
    /// Entries of the codebook that predicted images are quantised by.
    pub codebook: Option<usize>,
    /// Rows of the sampler's tables: network calls of a run.
    pub rows: usize,
    /// Earlier results that the sampler keeps.
    pub memory: usize,
}

impl StepSizes {
    /// A step of a sampler of one row that remembers nothing: the network on `batch` latents of the given height and width, and where it attends
    /// to something, on `tokens` tokens.
    pub fn new(
        config: &UNetConfig,
        tokens: usize,
        batch: usize,
        [height, width]: [usize; 2],
        guided: bool,
    ) -> Self {
        let calls = if guided { 2 * batch } else { batch };
        let context = |features| [calls, tokens, features].into();
        Self {
            batch,
            latent: [height, width, config.out_channels],
            context: config.context_dim.map(context),
            concat: config.concat_channels(),
            class_labels: config.num_classes.is_some(),
            guided,
            kept: false,
            codebook: None,
            rows: 1,
            memory: 0,
        }
    }
}

/// The graph of one sampling step.
///
/// # Shapes
/// The state, `state` and `memory.1` on, and `noise` are `[N, h, w, C]`. Constants are the `context`, the settings of `guidance [2]`, the
/// `timesteps [S]`, `concat [N, h, w, K]`, `class_labels [calls]`, and for each vector of the state its `coefficients [S, 3 + memory]`; `step [1]` is
/// the row. Results are the count `not_finite [N]` and the next state; what each vector was before the step is kept as `state.before` and so on.
/// Where a part of the image is known, its latent `kept.latent` and the mask `kept.mask` of what is not are constants like the state, the levels
/// `kept.levels [S, 2]` are exact, and `kept.noise` is like `noise`. Where predicted images are quantised, `coefficients.image [S, 3 + memory]` are
/// constants, and the other coefficients are one more: of the nearest codes.
///
/// # Errors
/// As [`unet::forward`].
pub fn step(config: &UNetConfig, sizes: &StepSizes) -> Result<Graph> {
    let [height, width, channels] = sizes.latent;
    let shape = [sizes.batch, height, width, channels];
    let mut g = Graph::new();
    let row = g.input_exact("step", [1]);
    let noise = g.input("noise", shape);
    let vectors: Vec<Value> = (0..=sizes.memory)
        .map(|index| g.input(&vector(index), shape))
        .collect();
    let x = match sizes.kept {
        true => keep(&mut g, row, vectors[0], sizes)?,
        false => vectors[0],
    };
    let calls = if sizes.guided { 2 } else { 1 } * sizes.batch;
    let mut sample = twice(&mut g, x, sizes.guided)?;
    if sizes.concat > 0 {
        let concat = g.constant("concat", [sizes.batch, height, width, sizes.concat]);
        let concat = twice(&mut g, concat, sizes.guided)?;
        sample = g.concat(&[sample, concat], Axis::Channels)?;
    }
    let inputs = UNetInputs {
        sample,
        timestep: Timestep::Row {
            timesteps: g.constant_exact("timesteps", [sizes.rows]),
            row,
        },
        context: sizes.context.map(|shape| g.constant("context", shape)),
        class_labels: sizes
            .class_labels
            .then(|| g.constant_exact("class_labels", [calls])),
    };
    let mut output = unet::forward(&mut g, config, inputs)?;
    if sizes.guided {
        let settings = g.constant_exact("guidance", [2]);
        output = g.scope("guidance", |g| g.guidance(output, settings))?;
    }
    let mut terms = [&[x, output, noise], &vectors[1..]].concat();
    let image = match sizes.codebook {
        Some(codes) => {
            let [image, quantised] = quantise(&mut g, row, &terms, codes, sizes.rows)?;
            terms.push(quantised);
            Some(image)
        }
        None => None,
    };
    g.scope("sampler", |g| {
        let state = update(g, &vectors, row, &terms, sizes.rows)?;
        let watched = match image {
            // Of what is no number there are codes too.
            Some(image) => g.concat(&[state, image], Axis::Channels)?,
            None => state,
        };
        let count = g.count_not_finite(watched)?;
        g.output("not_finite", count);
        Ok(())
    })?;
    Ok(g)
}

/// Puts combinations of `terms` in the place of the sampler's vectors, whose old values are kept; gives the new state.
fn update(
    g: &mut Graph,
    vectors: &[Value],
    row: Value,
    terms: &[Value],
    rows: usize,
) -> Result<Value> {
    let shape = g.shape(vectors[0]);
    let mut next = Vec::with_capacity(vectors.len());
    for index in 0..vectors.len() {
        let table = g.constant_exact(&coefficients(index), [rows, terms.len()]);
        next.push(g.combine(table, row, terms)?);
    }
    for (index, &value) in vectors.iter().enumerate() {
        let kept = g.input(&before(index), shape);
        let kept = g.assign(kept, value)?;
        g.output(&before(index), kept);
    }
    let mut state = Vec::with_capacity(vectors.len());
    for (index, (&value, next)) in vectors.iter().zip(next).enumerate() {
        let assigned = g.assign(value, next)?;
        g.output(&vector(index), assigned);
        state.push(assigned);
    }
    Ok(state[0])
}

/// The state with what is known beforehand in its place, at the level of noise that the row begins with.
///
/// # Source
/// The arguments `mask` and `x0` of CompVis's `DDIMSampler.ddim_sampling`.
fn keep(g: &mut Graph, row: Value, x: Value, sizes: &StepSizes) -> Result<Value> {
    let shape = g.shape(x);
    let latent = g.constant("kept.latent", shape);
    let mask = g.constant("kept.mask", shape);
    let levels = g.constant_exact("kept.levels", [sizes.rows, 2]);
    let noise = g.input("kept.noise", shape);
    g.scope("kept", |g| {
        let noised = g.combine(levels, row, &[latent, noise])?;
        g.blend(mask, x, noised)
    })
}

/// The predicted image, a combination of `terms`, and its nearest codes.
fn quantise(
    g: &mut Graph,
    row: Value,
    terms: &[Value],
    codes: usize,
    rows: usize,
) -> Result<[Value; 2]> {
    let table = g.constant_exact(IMAGE, [rows, terms.len()]);
    let image = g.scope("sampler", |g| g.combine(table, row, terms))?;
    let [_, quantised] = g.scope(FIRST_STAGE, |g| autoencoder::quantise(g, image, codes))?;
    Ok([image, quantised])
}

/// One after the other, for the two calls of guidance.
fn twice(g: &mut Graph, x: Value, guided: bool) -> Result<Value> {
    match guided {
        true => g.concat(&[x, x], Axis::Batch),
        false => Ok(x),
    }
}

/// The name of a state vector: the state itself is 0, the memory follows, latest first.
pub(super) fn vector(index: usize) -> String {
    match index {
        0 => "state".to_owned(),
        _ => format!("memory.{index}"),
    }
}

/// The name of what a state vector was before the step.
pub(super) fn before(index: usize) -> String {
    format!("{}.before", vector(index))
}

/// The name of the coefficients that make the next vector `index`.
pub(super) fn coefficients(index: usize) -> String {
    format!("coefficients.{index}")
}
