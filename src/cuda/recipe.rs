//! A kernel's weights as data: how each lies on the device, and which of its node's learnt tensors it is made of.
//!
//! Most are one tensor each. Others are made of several, so that one product does the work of many: queries, keys and values; a
//! convolution and the 1x1 convolution beside it; a linear map and the normalisation before it.

use super::Precision;

/// A weight as a kernel reads it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Recipe {
    /// How it lies on the device.
    pub layout: Layout,
    /// The tensors it is made of, as numbers among [`Operator::params`](crate::ops::Operator::params), in the order that the layout says.
    pub params: Vec<usize>,
}

impl Recipe {
    /// A tensor each, in their order.
    pub fn each(layouts: impl IntoIterator<Item = Layout>) -> Vec<Self> {
        let recipe = |(param, layout)| Self {
            layout,
            params: vec![param],
        };
        layouts.into_iter().enumerate().map(recipe).collect()
    }
}

/// How learnt tensors are laid out on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// As stored, as f32: biases, factors of normalisations, codes that a search compares. Several follow one another.
    Vector,
    /// As stored, at the working precision: tables of embeddings.
    Table,
    /// The operand of a product, at the working precision: `[O, C, R, S]` or `[O, C]` as `rows x columns`, zero where there is no element. A row is
    /// an output channel; along it run the filter taps and, within a tap, the input channels. The rows of several follow one another.
    Matrix {
        /// At least the output channels.
        rows: usize,
        /// At least taps times input channels.
        columns: usize,
        /// The two halves of the output channels alternate, so that a value and its gate lie side by side.
        gated: bool,
    },
    /// Of a 3x3 filter over an image upsampled by two, as [`Matrix`](Self::Matrix): the rows of the first [phase](crate::ops::Upsampling::Phases), of
    /// four taps each, then those of the next. Weights of one pixel are added up in f32 and rounded once.
    Phases {
        /// At least four times the input channels.
        columns: usize,
    },
    /// As [`Vector`](Self::Vector), the two halves alternating.
    GatedVector,
    /// As [`Matrix`](Self::Matrix), but rows go on with the same rows of the tensors that follow.
    Beside {
        /// At least the output channels.
        rows: usize,
        /// At least what all rows hold together.
        columns: usize,
    },
    /// The sum of vectors, as f32.
    Total,
    /// The factors `[C]` of a normalisation, then matrices of `C` columns as in [`Matrix`](Self::Matrix): each column times its factor.
    Scaled {
        /// As in [`Matrix`](Self::Matrix).
        rows: usize,
        /// As in [`Matrix`](Self::Matrix).
        columns: usize,
        /// As in [`Matrix`](Self::Matrix).
        gated: bool,
    },
    /// Of the same tensors as [`Scaled`](Self::Scaled): the sum of each of its rows, as rounded there, as f32.
    ScaledSums {
        /// As in [`Matrix`](Self::Matrix).
        gated: bool,
    },
    /// The addends `[C]` of a normalisation, then matrices, then their biases or none: each row times the addends, and its bias, as f32.
    Addends {
        /// How many matrices.
        matrices: usize,
        /// As in [`Matrix`](Self::Matrix).
        gated: bool,
    },
}

impl Layout {
    /// The type of the elements on a device that works at `precision`.
    pub fn precision(self, precision: Precision) -> Precision {
        match self {
            Self::Vector
            | Self::GatedVector
            | Self::Total
            | Self::ScaledSums { .. }
            | Self::Addends { .. } => Precision::F32,
            Self::Table
            | Self::Matrix { .. }
            | Self::Phases { .. }
            | Self::Beside { .. }
            | Self::Scaled { .. } => precision,
        }
    }
}
