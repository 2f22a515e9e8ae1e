//! The one list of operation cases: tests run the awkward ones, benchmarks those and the real ones.
//!
//! A case is an operation with its attributes, and operands drawn from a seed. Whether the operation is a textbook one or one
//! that the fusion pass makes, and whichever device runs it, its own `eval` says what the answer is.
//!
//! [`awkward`] cases are small, so that the definition, a plain loop in f64, is affordable; between them they meet every edge a
//! kernel can have. [`real`] cases are taken from the networks themselves, so they are the shapes that matter by construction.

mod attention;
mod conv2d;
mod elementwise;
mod linear;
mod movement;
mod norm;
pub mod real;
mod sampling;

pub use attention::attention;
pub use conv2d::{Filter, conv2d};
pub use linear::linear;
pub use real::real;

use latent_diffusion::cuda::{self, Kernel, Target};
use latent_diffusion::graph::Param;
use latent_diffusion::ops::{Channels, Cost, Epilogue, Op};
use latent_diffusion::rng::Noise;
use latent_diffusion::{Graph, Shape, Tensor};

/// Images in the batch of an awkward case: odd, and more than two.
pub const IMAGES: usize = 3;

/// One operation on operands of given shapes.
#[derive(Clone, Debug)]
pub struct Case {
    /// The operation and what is awkward about it.
    pub name: String,
    /// What is computed.
    pub op: Op,
    /// On what.
    pub operands: Vec<Operand>,
}

/// An operand of a case.
#[derive(Clone, Debug, PartialEq)]
pub struct Operand {
    /// The sizes.
    pub shape: Shape,
    /// The elements.
    pub values: Values,
    /// How many times the batch the outermost size is: 2 for the two halves of guidance, 0 for what all images share.
    pub per_image: usize,
}

/// Where an operand's elements come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Normal deviates.
    Normal {
        /// Their mean.
        mean: f32,
        /// Their standard deviation.
        deviation: f32,
    },
    /// Exact integers below a limit: ids and timesteps.
    Below(usize),
    /// Exact values: the settings of guidance, the coefficients of a sampler, the number of a row.
    Exactly(Vec<f32>),
    /// Normal deviates of which every third is NaN and every fifth infinite.
    Broken,
}

impl Operand {
    /// Standard normal activations.
    pub fn normal(shape: impl Into<Shape>) -> Self {
        Self::spread(shape, 0.0, 1.0)
    }

    /// Normal activations of another mean and deviation.
    pub fn spread(shape: impl Into<Shape>, mean: f32, deviation: f32) -> Self {
        Self {
            shape: shape.into(),
            values: Values::Normal { mean, deviation },
            per_image: 1,
        }
    }

    /// Integers in `0..limit`.
    pub fn below(shape: impl Into<Shape>, limit: usize) -> Self {
        Self {
            values: Values::Below(limit),
            ..Self::normal(shape)
        }
    }

    /// The same values for every image.
    pub fn shared(values: &[f32]) -> Self {
        Self::table([values.len()], values)
    }

    /// As [`shared`](Self::shared), in another shape.
    pub fn table(shape: impl Into<Shape>, values: &[f32]) -> Self {
        Self {
            shape: shape.into(),
            values: Values::Exactly(values.to_vec()),
            per_image: 0,
        }
    }

    /// Activations that all images share.
    pub fn common(shape: impl Into<Shape>) -> Self {
        Self {
            per_image: 0,
            ..Self::normal(shape)
        }
    }

    /// Activations of which each image has two items: without and with the condition.
    pub fn halves(shape: impl Into<Shape>) -> Self {
        Self {
            per_image: 2,
            ..Self::normal(shape)
        }
    }

    /// Whether the values are exact on every device.
    pub fn is_exact(&self) -> bool {
        !matches!(self.values, Values::Normal { .. } | Values::Broken)
    }

    /// The elements; those of operand `index` of a case are its own.
    fn draw(&self, index: usize) -> Tensor {
        let mut noise = Noise::cpu(1000 + index as u64);
        match &self.values {
            Values::Normal { mean, deviation } => {
                let drawn = noise.normal(self.shape.len());
                Tensor::from_fn(self.shape, |i| mean + deviation * drawn[i])
            }
            Values::Below(limit) => {
                let drawn = noise.normal(self.shape.len());
                Tensor::from_fn(self.shape, |i| {
                    (drawn[i].abs() * 1e6) as usize as f32 % *limit as f32
                })
            }
            Values::Exactly(values) => Tensor::from_fn(self.shape, |i| values[i]),
            Values::Broken => {
                let drawn = noise.normal(self.shape.len());
                Tensor::from_fn(self.shape, |i| match i {
                    _ if i % 3 == 0 => f32::NAN,
                    _ if i % 5 == 0 => f32::INFINITY.copysign(drawn[i]),
                    _ => drawn[i],
                })
            }
        }
    }
}

impl Case {
    /// The operation as a graph: operands `0`, `1`, .. and the result `y`.
    ///
    /// The operands are declared results too, so that they can be read after a run: no kernel may touch them.
    pub fn graph(&self) -> Graph {
        let mut g = Graph::new();
        let inputs: Vec<_> = (self.operands.iter().enumerate())
            .map(|(index, operand)| {
                let name = index.to_string();
                let value = match operand.is_exact() {
                    true => g.input_exact(&name, operand.shape),
                    false => g.input(&name, operand.shape),
                };
                g.output(&name, value);
                value
            })
            .collect();
        let y = g
            .push(self.op.clone(), &inputs)
            .unwrap_or_else(|error| panic!("{}: {error}", self.name));
        g.output("y", y);
        g
    }

    /// The operands' elements.
    pub fn inputs(&self) -> Vec<Tensor> {
        (self.operands.iter().enumerate())
            .map(|(index, operand)| operand.draw(index))
            .collect()
    }

    fn shapes(&self) -> Vec<Shape> {
        self.operands.iter().map(|operand| operand.shape).collect()
    }

    /// The work of one run.
    pub fn cost(&self) -> Cost {
        let (shapes, operator) = (self.shapes(), self.op.operator());
        let output = operator.infer(&shapes);
        output.map_or(Cost::default(), |output| operator.cost(&shapes, output))
    }

    /// What a GPU of this kind runs for it.
    pub fn kernel(&self, target: &Target) -> Kernel {
        let shapes = self.shapes();
        let output = self.op.operator().infer(&shapes);
        let output = output.unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let kernel = cuda::select(&self.op, &shapes, output, target);
        kernel.unwrap_or_else(|problem| panic!("{}: {problem}", self.name))
    }
}

/// Every awkward case.
pub fn awkward() -> Vec<Case> {
    [
        linear::cases(),
        conv2d::cases(),
        attention::cases(),
        norm::cases(),
        elementwise::cases(),
        movement::cases(),
        sampling::cases(),
    ]
    .concat()
}

/// A case of `op`, named after it.
fn case(what: impl std::fmt::Display, op: impl Into<Op>, operands: Vec<Operand>) -> Case {
    let op = op.into();
    Case {
        name: format!("{}: {what}", op.name()),
        op,
        operands,
    }
}

fn param(name: &str, shape: impl Into<Shape>) -> Param {
    Param {
        name: name.to_owned(),
        shape: shape.into(),
    }
}

/// The case with its first operand in two pieces, of `channels` channels each, which the operation joins.
fn join(mut case: Case, channels: [usize; 2]) -> Case {
    let x = case.operands[0].shape;
    let pieces = channels.map(|channels| Operand::normal(x.with_channels(channels)));
    case.operands.splice(..1, pieces);
    let sources = match &mut case.op {
        Op::Linear(op) => &mut op.sources,
        Op::Conv2d(op) => &mut op.sources,
        Op::GroupNorm(op) => &mut op.sources,
        op => panic!("{} joins nothing", op.name()),
    };
    *sources = 2;
    case.name += &format!(", channels {channels:?} joined");
    case
}

/// The case on twice as many images, except for the operand of this number, which repeats.
fn repeat(mut case: Case, operand: usize) -> Case {
    let others = case.operands.iter_mut().enumerate();
    for (_, other) in others.filter(|(index, x)| *index != operand && x.per_image == 1) {
        *other = Operand::halves(other.shape.with_batch(2 * IMAGES));
    }
    case.name += &format!(", operand {operand} repeated");
    case
}

/// The operands that an epilogue adds to a product of shape `product`, of which it leaves `output`.
fn extras(epilogue: Epilogue, product: Shape, output: Shape) -> Vec<Operand> {
    let channels = epilogue
        .channels
        .map(|channels| self::channels(channels, product));
    let residual = epilogue.residual.then(|| Operand::normal(output));
    channels.into_iter().flatten().chain(residual).collect()
}

/// The operands of what is added to the channels of a tensor of shape `x`; of a table, not the first row.
fn channels(channels: Channels, x: Shape) -> Vec<Operand> {
    let c = x.channels();
    match channels {
        Channels::PerImage => vec![Operand::normal([x.batch(), c])],
        Channels::Row => vec![Operand::common([4, c]), Operand::shared(&[2.0])],
    }
}

/// Which channels there are to add.
const CHANNELS: [Channels; 2] = [Channels::PerImage, Channels::Row];

/// Every epilogue that fusion may make of a product, and those it never does but the definition allows.
fn epilogues(gates: &[bool]) -> Vec<Epilogue> {
    use latent_diffusion::ops::Activation::{Gelu, QuickGelu, Silu};
    let mut all = vec![];
    for channels in [None, Some(Channels::PerImage), Some(Channels::Row)] {
        for activation in [None, Some(Silu), Some(Gelu), Some(QuickGelu)] {
            for &gate in gates {
                for residual in [false, true] {
                    all.push(Epilogue {
                        channels,
                        activation,
                        gate,
                        residual,
                    });
                }
            }
        }
    }
    all
}

/// ` + channels` or ` + row`.
fn channels_name(channels: Channels) -> &'static str {
    match channels {
        Channels::PerImage => " + channels",
        Channels::Row => " + row",
    }
}

/// `+ channels + silu`, or nothing where nothing is fused.
fn epilogue_name(epilogue: Epilogue) -> String {
    let activation = epilogue
        .activation
        .map(|a| format!(" + {a:?}").to_lowercase());
    [
        epilogue.channels.map(channels_name),
        activation.as_deref(),
        epilogue.gate.then_some(" + gate"),
        epilogue.residual.then_some(" + residual"),
    ]
    .into_iter()
    .flatten()
    .collect()
}
