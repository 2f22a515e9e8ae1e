//! How far from its definition a correct kernel may be: derived from the arithmetic, never fitted to what was seen.
//!
//! A definition sums in f64; a kernel sums `K` terms in f32 in an order of its own, with a rounding error of at most
//! `u = 2^-24` of the running sum at each step. As independent errors they add up to about `sqrt(K) u sum |terms|`, and
//! exceed `LAMBDA sqrt(K) u sum |terms|` with a probability of at most `2 exp(-LAMBDA^2 / 2)`.
//! `sum |terms|`, the condition of the sum, is the definition evaluated on absolute values.
//!
//! # Source
//! Higham and Mary, "A new approach to probabilistic rounding error analysis", SIAM J. Sci. Comput. 41 (2019), theorem 2.4.

mod halves;
mod parts;
mod statistics;

use latent_diffusion::Shape;
use latent_diffusion::backend::Backend;
use latent_diffusion::ops::{
    Attention, Axis, Channels, Concat, Conv2d, Epilogue, Linear, Op, Operator, Slice, Upsampling,
};

/// Unit roundoff of f32, in which every device accumulates.
const U: f64 = f32::EPSILON as f64 / 2.0;

/// Of a million elements, one exceeds this many deviations with probability 0.03 if every rounding were at its worst.
const LAMBDA: f64 = 6.0;

/// Roundings beside the sum's, at most: bias, channels, activation (an exponential and a quotient, 2 units each), the argument's
/// error in it, a gate's product, residual, and the definition's own two.
const STEPS: f64 = 12.0;

/// Unit roundoff of the elements a device keeps between operations.
pub fn device_roundoff<B: Backend>(backend: &B) -> f64 {
    match backend.element_bytes() {
        2 => f64::from(half::f16::EPSILON.to_f32()) / 2.0,
        _ => U,
    }
}

/// An owned operand.
pub struct Elements {
    /// The sizes.
    pub shape: Shape,
    /// The elements.
    pub data: Vec<f32>,
}

impl Elements {
    /// The operand as a definition takes it.
    pub fn slice(&self) -> Slice<'_> {
        Slice {
            shape: self.shape,
            data: &self.data,
        }
    }

    fn map(&self, change: impl Fn(f32) -> f32) -> Self {
        Self {
            shape: self.shape,
            data: self.data.iter().map(|&x| change(x)).collect(),
        }
    }
}

/// The allowed distance from the definition.
pub struct Bound {
    /// Per element: the condition of what is computed.
    condition: Vec<f64>,
    /// The error is at most this times the condition, for one deviation and for [`LAMBDA`] of them.
    factors: [f64; 2],
    /// What is added to that for numbers too small for a full significand.
    floor: f64,
}

impl Bound {
    /// The bound for an operation on given operands as the device holds them, where the definition says `expected` and the device keeps
    /// elements of unit roundoff `roundoff`.
    pub fn new(
        op: &Op,
        inputs: &[Elements],
        params: &[Elements],
        expected: &[f32],
        roundoff: f64,
    ) -> Self {
        if let Some((op, inputs)) = parts::unstacked(op, inputs) {
            return Self::new(&op, &inputs, params, expected, roundoff);
        }
        if let Some((op, inputs, params)) = parts::unfolded(op, inputs, params) {
            let bound = Self::new(&op, &inputs, &params, expected, roundoff);
            return bound.of_folded(&op, roundoff);
        }
        let absolute = || evaluate(op, &abs(inputs), &abs(params), expected.len());
        let (condition, terms, growth) = match op {
            Op::Linear(Linear {
                weight, epilogue, ..
            })
            | Op::Conv2d(Conv2d {
                weight, epilogue, ..
            }) => {
                let beside = match op {
                    Op::Conv2d(op) => op
                        .beside
                        .as_ref()
                        .map_or(0, |b| b.map.weight.shape.channels()),
                    _ => 0,
                };
                let terms = weight.shape.dims()[1..].iter().product::<usize>() + beside;
                (absolute(), terms as f64, growth(*epilogue))
            }
            Op::GroupNorm(norm) => {
                let x = joined(&inputs[..norm.sources]);
                let channels = x.shape.channels();
                let image = x.data.len() / x.shape.batch();
                let group = |i: usize| (i / image, i % channels / (channels / norm.groups));
                let terms = (image / norm.groups) as f64;
                let mut condition = normalised(&x, params, norm.eps, group);
                if let Some(of) = norm.scale_shift {
                    let v = abs(&inputs[norm.sources..]);
                    let v: Vec<Slice> = v.iter().map(Elements::slice).collect();
                    for (i, condition) in condition.iter_mut().enumerate() {
                        let v = of_image(of, i / image, &v);
                        let [scale, shift] =
                            [0, channels].map(|at| f64::from(v[at + i % channels]));
                        *condition = *condition * (1.0 + scale) + shift;
                    }
                }
                (condition, terms, 2.3)
            }
            Op::GroupStatistics(op) => {
                let (condition, terms) = statistics::summed(&inputs[0], op, expected.len());
                (condition, terms, 2.3)
            }
            Op::GroupNormalise(norm) => {
                let [_, parts, blocks, _] = inputs[1].shape.image().expect("statistics");
                let blocks = (parts / norm.groups * blocks) as f64;
                (statistics::given(inputs, params, norm), blocks, 2.3)
            }
            Op::LayerNorm(norm) => {
                let channels = inputs[0].shape.channels();
                let group = |i: usize| (i / channels, 0);
                (
                    normalised(&inputs[0], params, norm.eps, group),
                    channels as f64,
                    1.0,
                )
            }
            Op::Attention(attention) => {
                // The weights of the mixture are what they are; only the values are made positive.
                let values = [
                    inputs[0].map(|x| x),
                    inputs[1].map(|x| x),
                    inputs[2].map(f32::abs),
                ];
                let condition = evaluate(op, &values, params, expected.len());
                let keys = inputs[1].shape.dims()[1] as f64;
                (condition, keys, mixture(attention, inputs))
            }
            // An angle of up to 1000 from a frequency whose exponent, up to 9.2, is rounded once and the result four times.
            Op::TimestepEmbedding(_) => {
                let largest = inputs[0]
                    .data
                    .iter()
                    .fold(1f32, |most, t| most.max(t.abs()));
                (vec![f64::from(largest); expected.len()], 1.0, 1.0)
            }
            Op::Guidance(_) => (guided(inputs, expected), 1.0, 1.0),
            Op::Combine(_) => (absolute(), inputs.len() as f64, 1.0),
            Op::Assign(op) if op.combined > 0 => (absolute(), (op.terms + 2) as f64, 1.0),
            Op::Blend(_) => {
                let [m, a, b] = [0, 1, 2].map(|index: usize| &inputs[index].data);
                let sizes = |i: usize| [m, a, b].map(|x| f64::from(x[i].abs()));
                let condition = (0..expected.len())
                    .map(sizes)
                    .map(|[m, a, b]| m * a + (1.0 + m) * b);
                (condition.collect(), 1.0, 1.0)
            }
            Op::Activate(_) => (
                inputs[0].data.iter().map(|x| f64::from(x.abs())).collect(),
                1.0,
                1.0,
            ),
            Op::Geglu(_)
            | Op::Add(_)
            | Op::AddChannels(_)
            | Op::ScaleShift(_)
            | Op::AddPositions(_)
            | Op::AveragePool2x(_) => (absolute(), 1.0, 2.3),
            // Only moved or counted: equal to the bit wherever the elements are f32.
            Op::Input(_)
            | Op::Assign(_)
            | Op::CountNotFinite(_)
            | Op::Concat(_)
            | Op::Reshape(_)
            | Op::Upsample2x(_)
            | Op::Embedding(_)
            | Op::GatherToken(_) => (absolute(), 0.0, 0.0),
            // The number of a code is right or wrong.
            Op::Codebook(_) => (vec![0.0; expected.len()], 0.0, 0.0),
        };
        let (stored, floor) = if roundoff > U {
            rounded(op, inputs, terms, roundoff)
        } else {
            (0.0, 0.0)
        };
        let factor = |deviations: f64| growth * (deviations * terms.sqrt() + STEPS) * U + stored;
        Self {
            condition,
            factors: [factor(1.0), factor(LAMBDA)],
            floor,
        }
    }

    /// The same where rows are normalised first. Either the rows are rounded once more, or the weights times their factors are, and what is then
    /// compared with may have been rounded before: twice the roundoff before the epilogue.
    fn of_folded(mut self, op: &Op, roundoff: f64) -> Self {
        let growth = match op {
            Op::Linear(op) => growth(op.epilogue),
            _ => 1.0,
        };
        let rounded = if roundoff > U {
            2.0 * growth * roundoff
        } else {
            0.0
        };
        self.factors
            .iter_mut()
            .for_each(|factor| *factor += rounded);
        self
    }

    /// Fails with both errors and both bounds if one of them is exceeded, or not a number.
    pub fn check(&self, found: &[f32], expected: &[f32]) -> Result<(), String> {
        let error = |i: usize| (f64::from(found[i]) - f64::from(expected[i])).abs();
        let all = 0..expected.len();
        let norm =
            |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
        let l2 = norm(&mut all.clone().map(error));
        let l2_bound = self.factors[0] * norm(&mut self.condition.iter().copied())
            + self.floor * (expected.len() as f64).sqrt();
        let allowed = |i: usize| self.factors[1] * self.condition[i] + self.floor;
        let excess = |i: usize| error(i) - allowed(i);
        let worst = all
            .max_by(|&a, &b| excess(a).total_cmp(&excess(b)))
            .unwrap_or(0);
        if found.len() == expected.len() && l2 <= l2_bound && excess(worst) <= 0.0 {
            return Ok(());
        }
        let size = norm(&mut expected.iter().map(|&y| f64::from(y)));
        Err(format!(
            "relative L2 error {:.2e}, at most {:.2e} is rounding; element {worst} is {:e}, not {:e}, off by {:.2e} where {:.2e} is rounding",
            l2 / size,
            l2_bound / size,
            found[worst],
            expected[worst],
            error(worst),
            allowed(worst),
        ))
    }
}

/// What elements of 16 bits add: relative to the condition, and at the least. Operands are compared as they are held, sums are f32
/// everywhere, so the result is rounded once, and what is only moved not at all. Attention also rounds the weights of its mixture, for the
/// second product: after a factor of 2^12 on weights of which the largest is 1 (kernels/attention.cu). A convolution in phases rounds sums of
/// weights.
fn rounded(op: &Op, inputs: &[Elements], terms: f64, roundoff: f64) -> (f64, f64) {
    /// Half of the smallest half.
    const SMALLEST: f64 = 1.0 / (1u64 << 25) as f64;
    match op {
        Op::Attention(_) => {
            let values = inputs[2].data.iter();
            let largest = values.fold(0f32, |most, v| most.max(v.abs()));
            let weights = SMALLEST / f64::from(1 << 12) * terms * f64::from(largest);
            (2.0 * roundoff, SMALLEST + weights)
        }
        Op::Conv2d(Conv2d {
            upsampling: Upsampling::Phases,
            ..
        }) => (2.0 * roundoff, SMALLEST),
        _ if terms == 0.0 || matches!(op, Op::GroupStatistics(_)) => (0.0, 0.0),
        _ => (roundoff, SMALLEST),
    }
}

/// How much an epilogue enlarges a relative error of the sum. The slope of each activation is at most 1.13, and its value is at
/// least half its positive argument, hence 2.3 per activation; a gate has one factor plain and one activated.
fn growth(epilogue: Epilogue) -> f64 {
    let activation = if epilogue.activation.is_some() {
        2.3
    } else {
        1.0
    };
    let gate = if epilogue.gate { 3.3 } else { 1.0 };
    activation * gate
}

/// The values of `channels` for an image, written down once more.
fn of_image<'a>(channels: Channels, image: usize, operands: &[Slice<'a>]) -> &'a [f32] {
    let row = match channels {
        Channels::PerImage => image,
        Channels::Row => operands[1].data[0] as usize,
    };
    let width = operands[0].shape.channels();
    &operands[0].data[row * width..][..width]
}

/// How much attention enlarges relative errors: an error of the logits changes each weight and their sum by as much, and a logit,
/// of at most `scale |q| |k|`, has the error of a sum over the head.
fn mixture(attention: &Attention, inputs: &[Elements]) -> f64 {
    let size = inputs[0].shape.channels() / attention.heads;
    let longest = |x: &Elements| {
        let lengths = x
            .data
            .chunks(size)
            .map(|v| v.iter().map(|x| f64::from(x * x)).sum::<f64>());
        lengths.fold(0.0, f64::max).sqrt()
    };
    let logit = f64::from(attention.scale) * longest(&inputs[0]) * longest(&inputs[1]);
    1.0 + 2.0 * logit * (size as f64).sqrt() / (inputs[1].shape.dims()[1] as f64).sqrt()
}

/// The condition of a normalisation over `group`s of elements: `(|x| + mean |x|) |w| / deviation + |b|`.
fn normalised(
    x: &Elements,
    params: &[Elements],
    eps: f32,
    group: impl Fn(usize) -> (usize, usize),
) -> Vec<f64> {
    let mut sums = std::collections::HashMap::<(usize, usize), [f64; 4]>::new();
    for (i, &v) in x.data.iter().enumerate() {
        let v = f64::from(v);
        let sum = sums.entry(group(i)).or_default();
        for (sum, v) in sum.iter_mut().zip([1.0, v, v * v, v.abs()]) {
            *sum += v;
        }
    }
    let channels = x.shape.channels();
    let condition = |(i, &v): (usize, &f32)| {
        let [count, sum, squares, magnitude] = sums[&group(i)];
        let variance = (squares / count - (sum / count).powi(2)).max(0.0);
        let scale = 1.0 / (variance + f64::from(eps)).sqrt();
        let [w, b] = [0, 1].map(|p: usize| f64::from(params[p].data[i % channels].abs()));
        (f64::from(v.abs()) + magnitude / count) * scale * w + b
    };
    x.data.iter().enumerate().map(condition).collect()
}

/// The sources of a normalisation as one tensor; a second of fewer images repeats.
fn joined(sources: &[Elements]) -> Elements {
    let images = sources[0].shape.batch();
    let whole = |x: &Elements| Elements {
        shape: x.shape.with_batch(images),
        data: x.data.repeat(images / x.shape.batch()),
    };
    let sources: Vec<Elements> = sources.iter().map(whole).collect();
    let slices: Vec<Slice> = sources.iter().map(Elements::slice).collect();
    let shapes: Vec<Shape> = sources.iter().map(|x| x.shape).collect();
    let concat = Concat {
        axis: Axis::Channels,
    };
    let shape = concat.infer(&shapes).expect("sources that fit");
    let mut data = vec![0.0; shape.len()];
    concat.eval(&slices, &[], &mut data);
    Elements { shape, data }
}

/// The condition of guidance: of `u + s (c - u)`, and of the factor that restores the deviation.
fn guided(inputs: &[Elements], expected: &[f32]) -> Vec<f64> {
    let (without, with) = inputs[0].data.split_at(expected.len());
    let [scale, rescale] = [0, 1].map(|i: usize| f64::from(inputs[1].data[i]));
    // Each deviation is a sum over an image; the factor is about one or less, as guidance only enlarges the deviation.
    let terms = if rescale == 0.0 {
        0.0
    } else {
        (expected.len() as f64).sqrt()
    };
    without
        .iter()
        .zip(with)
        .map(|(u, c)| f64::from(u.abs()) + scale * f64::from(u.abs() + c.abs()))
        .map(|condition| condition * (1.0 + terms / STEPS))
        .collect()
}

fn abs(elements: &[Elements]) -> Vec<Elements> {
    elements.iter().map(|x| x.map(f32::abs)).collect()
}

fn evaluate(op: &Op, inputs: &[Elements], params: &[Elements], len: usize) -> Vec<f64> {
    let [x, w] =
        [inputs, params].map(|all| all.iter().map(Elements::slice).collect::<Vec<Slice>>());
    let mut output = vec![0f32; len];
    op.operator().eval(&x, &w, &mut output);
    output.into_iter().map(f64::from).collect()
}
