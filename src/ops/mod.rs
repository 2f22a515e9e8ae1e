//! The operations a latent diffusion model is made of, and the one list of them.
//!
//! Each file holds one operation: its attributes, the [`Graph`](crate::graph::Graph) method that appends it, its shape rule, its cost,
//! and its definition, `eval`: a plain loop over f32 tensors that sums in f64. Every device is tested against that loop.
//!
//! The set is closed on purpose. [`Op`] is matched exhaustively everywhere, so a new operation does not compile until each
//! device has an answer for it.

mod activation;
mod add;
mod assign;
mod attention;
mod average_pool;
mod blend;
mod channels;
mod codebook;
mod combine;
mod concat;
mod conv2d;
mod count_not_finite;
mod embedding;
mod gather;
mod geglu;
mod group_norm;
mod group_statistics;
mod guidance;
mod input;
mod layer_norm;
mod linear;
mod reshape;
mod scale_shift;
mod timestep_embedding;
mod upsample;

pub use activation::{Activate, Activation};
pub use add::{Add, AddPositions};
pub use assign::Assign;
pub(crate) use attention::Strides;
pub use attention::{Attention, Qkv};
pub use average_pool::AveragePool2x;
pub use blend::Blend;
pub use channels::{AddChannels, Channels};
pub use codebook::Codebook;
pub use combine::Combine;
pub use concat::{Axis, Concat};
pub use conv2d::{Beside, Conv2d, Padding, Upsampling};
pub use count_not_finite::CountNotFinite;
pub use embedding::Embedding;
pub use gather::GatherToken;
pub use geglu::Geglu;
pub use group_norm::GroupNorm;
pub use group_statistics::{Blocks, GroupNormalise, GroupStatistics, Summed, block_rows};
pub use guidance::Guidance;
pub use input::Input;
pub use layer_norm::LayerNorm;
pub use linear::{Affine, Epilogue, Linear};
pub use reshape::Reshape;
pub use scale_shift::ScaleShift;
pub use timestep_embedding::TimestepEmbedding;
pub use upsample::Upsample2x;

use crate::graph::Param;
use crate::tensor::Shape;

/// What an operation knows about itself.
pub trait Operator {
    /// The shape of the result, or the rule that the operands break.
    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String>;

    /// The work done, from shapes alone.
    fn cost(&self, inputs: &[Shape], output: Shape) -> Cost;

    /// The learnt tensors, in the order `eval` takes them.
    fn params(&self) -> Vec<&Param> {
        Vec::new()
    }

    /// The definition: writes every element of `output`, which holds anything before.
    fn eval(&self, inputs: &[Slice], params: &[Slice], output: &mut [f32]);
}

/// A borrowed dense f32 tensor.
#[derive(Clone, Copy, Debug)]
pub struct Slice<'a> {
    /// The sizes.
    pub shape: Shape,
    /// The elements, row-major.
    pub data: &'a [f32],
}

/// The work of one operation, for profiles and rooflines.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Floating-point operations, a multiply-add counted as two.
    pub flops: u64,
    /// Activation elements read and written, each once.
    pub activations: u64,
    /// Parameter elements read, each once.
    pub parameters: u64,
}

impl Cost {
    /// The cost of reading `inputs` and `params`, writing `output`, and computing `flops`.
    fn of(flops: usize, inputs: &[Shape], output: Shape, params: &[&Param]) -> Self {
        let read: usize = inputs.iter().map(Shape::len).sum();
        let parameters: usize = params.iter().map(|p| p.shape.len()).sum();
        Self {
            flops: flops as u64,
            activations: (read + output.len()) as u64,
            parameters: parameters as u64,
        }
    }

    /// Bytes that must cross the memory bus, for elements of the given sizes in bytes.
    pub fn bytes(&self, activation_bytes: usize, parameter_bytes: usize) -> u64 {
        self.activations * activation_bytes as u64 + self.parameters * parameter_bytes as u64
    }
}

impl std::ops::Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            flops: self.flops + other.flops,
            activations: self.activations + other.activations,
            parameters: self.parameters + other.parameters,
        }
    }
}

/// Declares [`Op`] and everything that follows from the list alone.
macro_rules! operations {
    ($($(#[doc = $doc:literal])+ $variant:ident => $name:literal,)+) => {
        /// One operation with its attributes.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Op {
            $($(#[doc = $doc])+ $variant($variant),)+
        }

        impl Op {
            /// The operation's rules.
            pub fn operator(&self) -> &dyn Operator {
                match self {
                    $(Self::$variant(op) => op,)+
                }
            }

            /// The operation's name: the stem of its files.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => $name,)+
                }
            }
        }

        $(impl From<$variant> for Op {
            fn from(op: $variant) -> Self {
                Self::$variant(op)
            }
        })+
    };
}

operations! {
    /// A tensor set from outside.
    Input => "input",
    /// Matrix product with a weight, and what is fused after it.
    Linear => "linear",
    /// Two-dimensional convolution, and what is fused around it.
    Conv2d => "conv2d",
    /// Normalisation over groups of channels, and the scale, shift and SiLU fused after it.
    GroupNorm => "group_norm",
    /// The sums of a normalisation over groups, block of rows by block of rows.
    GroupStatistics => "group_statistics",
    /// Normalisation over groups of channels by given statistics.
    GroupNormalise => "group_normalise",
    /// Normalisation over channels.
    LayerNorm => "layer_norm",
    /// Multi-head attention.
    Attention => "attention",
    /// Elementwise non-linearity.
    Activate => "activation",
    /// Gated linear unit with GELU.
    Geglu => "geglu",
    /// Sum of two tensors of one shape.
    Add => "add",
    /// Sum with one value per channel, an image's own or a row of a table.
    AddChannels => "add_channels",
    /// Scale and shift per channel, an image's own or a row of a table.
    ScaleShift => "scale_shift",
    /// Sum with a learnt value per position.
    AddPositions => "add_positions",
    /// Tensors joined along an axis.
    Concat => "concat",
    /// The same elements under another shape.
    Reshape => "reshape",
    /// Nearest-neighbour upsampling by two.
    Upsample2x => "upsample",
    /// Averages of two by two pixels.
    AveragePool2x => "average_pool",
    /// Rows of a learnt table.
    Embedding => "embedding",
    /// The nearest rows of a learnt table.
    Codebook => "codebook",
    /// One token of each sequence.
    GatherToken => "gather",
    /// Sinusoidal features of the timestep.
    TimestepEmbedding => "timestep_embedding",
    /// Classifier-free guidance.
    Guidance => "guidance",
    /// Linear combination: one update of a sampler.
    Combine => "combine",
    /// One tensor inside of a mask, another outside of it.
    Blend => "blend",
    /// An input's next value, in its own place.
    Assign => "assign",
    /// How many elements of each image are NaN or infinite.
    CountNotFinite => "count_not_finite",
}

/// Fails with `sentence` unless `condition` holds: the form of every shape rule.
fn require(condition: bool, sentence: impl FnOnce() -> String) -> Result<(), String> {
    if condition { Ok(()) } else { Err(sentence()) }
}

/// Whether `x` has shape `whole`, or fewer images of it that repeat, one after another, until there are as many.
fn repeats(x: Shape, whole: Shape) -> bool {
    let (own, all) = (x.batch(), whole.batch());
    x == whole || own > 0 && all.is_multiple_of(own) && x.with_batch(all) == whole
}

/// The number that `index` holds, of a table of `rows` rows: the last for one beyond it.
fn row(index: Slice, rows: usize) -> usize {
    (index.data[0] as usize).min(rows.saturating_sub(1))
}

/// The inputs, if there are exactly `N`.
fn exactly<const N: usize>(inputs: &[Shape]) -> Result<[Shape; N], String> {
    inputs
        .try_into()
        .map_err(|_| format!("takes {N} operands, not {}", inputs.len()))
}
