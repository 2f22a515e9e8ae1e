//! What matrix products and convolutions share: a product `[m, k] x [n, k]^T` with an epilogue, and what its entries are passed.
//!
//! A convolution is the product in which a row is a pixel of the result and a column a filter tap and a channel, so both operations differ
//! only in the name of their entries and in a few sizes.

use super::kernel::{self, Argument, Kernel, Launch, Layout, Precision, Recipe, Target};
use super::tile::{Cut, PART, Problem};
use crate::ops::{Activation, Channels, Epilogue};
use crate::tensor::Shape;

/// The side of the f32 entries' tile.
const F32_SIDE: usize = 64;

/// Columns that a thread of an epilogue finishes together.
const EIGHT: usize = 8;

/// Threads of a block that adds up parts.
const SUM_THREADS: usize = 256;

/// A matrix product to be launched.
pub(super) struct Product<'a> {
    /// The operation, as its entries begin.
    name: &'static str,
    /// What the product is before its epilogue.
    shape: Shape,
    /// Columns of the operands.
    k: usize,
    /// Channels of the tensors that make up the first operand.
    sources: Vec<usize>,
    /// The weight and, where there is one, the bias.
    recipes: Vec<Recipe>,
    /// What is fused.
    epilogue: &'a Epilogue,
    /// Rows of the table of the epilogue's channels.
    channel_rows: usize,
}

/// The right operand of a product `[n, k]`, and which of its node's learnt tensors it is made of, by number.
pub(super) struct Factor {
    pub(super) n: usize,
    pub(super) k: usize,
    /// The matrices, whose rows follow one another.
    pub(super) matrices: Vec<usize>,
    /// As many biases, or none.
    pub(super) biases: Vec<usize>,
}

impl Factor {
    /// The weight, in rows of `columns`, and the bias, if there is one.
    fn recipes(&self, columns: usize, gated: bool) -> Vec<Recipe> {
        let matrix = Recipe {
            layout: Layout::Matrix {
                rows: self.n,
                columns,
                gated,
            },
            params: self.matrices.clone(),
        };
        let bias = Recipe {
            layout: match gated {
                true => Layout::GatedVector,
                false => Layout::Vector,
            },
            params: self.biases.clone(),
        };
        let bias = Some(bias).filter(|bias| !bias.params.is_empty());
        std::iter::once(matrix).chain(bias).collect()
    }
}

impl<'a> Product<'a> {
    /// The product of the first `sources` of `inputs` with a weight that `output` is made of.
    ///
    /// # Errors
    /// A sentence, if the entries do not count to its sizes.
    pub(super) fn new(
        name: &'static str,
        (inputs, sources): (&[Shape], usize),
        factor: &Factor,
        epilogue: &'a Epilogue,
        output: Shape,
    ) -> Result<Self, String> {
        let (sources, operands) = inputs
            .split_at_checked(sources)
            .filter(|(sources, _)| matches!(sources.len(), 1 | 2))
            .ok_or("takes one or two sources")?;
        let Factor { n, k, .. } = *factor;
        let product = Self {
            name,
            shape: output.with_channels(n),
            k,
            sources: sources.iter().map(Shape::channels).collect(),
            recipes: factor.recipes(k.next_multiple_of(PART), epilogue.gate),
            epilogue,
            channel_rows: operands.first().map_or(0, Shape::batch),
        };
        if product.k == 0 {
            return Err("has no channels to sum over".to_owned());
        }
        for shape in sources.iter().chain([&product.shape]) {
            kernel::elements(*shape)?;
        }
        kernel::elements([n, product.pitch()].into())?;
        Ok(product)
    }

    /// The launches; `sizes` are the entry's own, between those of the result and those of the weight.
    ///
    /// # Errors
    /// A sentence, if the device cannot hold them.
    pub(super) fn kernel(&self, sizes: &[Argument], target: &Target) -> Result<Kernel, String> {
        if self.shape.is_empty() {
            return Ok(Kernel {
                recipes: self.recipes.clone(),
                ..Kernel::nothing()
            });
        }
        match target.precision {
            Precision::F16 => self.f16(sizes, target),
            Precision::F32 => self.f32(sizes),
        }
    }

    /// The channels of both sources as sizes.
    pub(super) fn source_sizes(&self) -> Result<[Argument; 2], String> {
        let second = self.sources.get(1).copied().unwrap_or(0);
        Ok([kernel::int(self.sources[0])?, kernel::int(second)?])
    }

    fn f32(&self, sizes: &[Argument]) -> Result<Kernel, String> {
        let arguments = [
            &[Argument::Output][..],
            &self.factors(),
            &self.addends(),
            &self.result_sizes()?,
            sizes,
            &[kernel::int(self.pitch())?],
            &self.epilogue_sizes()?,
        ];
        let launch = Launch {
            entry: format!("{}_f32_{F32_SIDE}x{F32_SIDE}", self.name),
            grid: [self.tiles([F32_SIDE; 2])?, 1, 1],
            shared_bytes: 0,
            arguments: arguments.concat(),
        };
        Ok(Kernel {
            launches: vec![launch],
            workspace_bytes: 0,
            recipes: self.recipes.clone(),
        })
    }

    fn f16(&self, sizes: &[Argument], target: &Target) -> Result<Kernel, String> {
        let [images, rows] = self.images_and_rows();
        let problem = Problem {
            images,
            rows,
            n: self.shape.channels(),
            k: self.k,
            aligned: self.sources.iter().all(|c| c.is_multiple_of(EIGHT)),
        };
        let Cut { tile, parts, part } = problem.cut(target)?;
        let eights = self.shape.rows() * problem.n.div_ceil(EIGHT);
        let (partial, workspace_bytes) = match parts {
            1 => (Argument::Null, 0),
            _ => {
                let bytes = parts * eights * EIGHT * Precision::F32.bytes();
                (Argument::Workspace { offset: 0, bytes }, bytes)
            }
        };
        let arguments = [
            &[Argument::Output, partial][..],
            &self.factors(),
            &self.addends(),
            &self.result_sizes()?,
            sizes,
            &[kernel::int(self.pitch())?, kernel::int(part)?],
            &self.epilogue_sizes()?,
        ];
        let what = if problem.aligned { "" } else { "_any" };
        let mut launches = vec![Launch {
            entry: format!("{}{what}_f16_{}x{}", self.name, tile.rows, tile.columns),
            grid: [self.tiles([tile.rows, tile.columns])?, count(parts)?, 1],
            shared_bytes: count(tile.shared_bytes())?,
            arguments: arguments.concat(),
        }];
        if parts > 1 {
            let arguments = [
                &[Argument::Output, partial][..],
                &self.addends(),
                &[kernel::int(parts)?],
                &self.result_sizes()?,
                &self.epilogue_sizes()?,
            ];
            launches.push(Launch {
                entry: "product_sum_f16".to_owned(),
                grid: [count(eights.div_ceil(SUM_THREADS))?, 1, 1],
                shared_bytes: 0,
                arguments: arguments.concat(),
            });
        }
        Ok(Kernel {
            launches,
            workspace_bytes,
            recipes: self.recipes.clone(),
        })
    }

    /// Columns of the packed weight: whole stages.
    fn pitch(&self) -> usize {
        self.k.next_multiple_of(PART)
    }

    /// Blocks that compute the result in tiles of so many rows and columns.
    fn tiles(&self, [rows, columns]: [usize; 2]) -> Result<u32, String> {
        count(self.shape.rows().div_ceil(rows) * self.shape.channels().div_ceil(columns))
    }

    fn images_and_rows(&self) -> [usize; 2] {
        let images = self.shape.batch();
        [images, self.shape.rows() / images.max(1)]
    }

    /// `x`, the tensor its channels go on in, and the weight.
    fn factors(&self) -> [Argument; 3] {
        let second = input(self.sources.len() == 2, 1);
        [Argument::Input(0), second, Argument::Weight(0)]
    }

    /// What the epilogue adds: bias, channels and their row, residual.
    fn addends(&self) -> [Argument; 4] {
        let bias = match self.recipes.len() > 1 {
            true => Argument::Weight(1),
            false => Argument::Null,
        };
        let (channels, first) = (self.epilogue.channels, self.sources.len());
        let residual = first + channels.map_or(0, Channels::operands);
        [
            bias,
            input(channels.is_some(), first),
            input(channels == Some(Channels::Row), first + 1),
            input(self.epilogue.residual, residual),
        ]
    }

    fn result_sizes(&self) -> Result<[Argument; 2], String> {
        Ok([
            kernel::int(self.shape.rows())?,
            kernel::int(self.shape.channels())?,
        ])
    }

    fn epilogue_sizes(&self) -> Result<[Argument; 4], String> {
        // As kernels/activation.cuh numbers them.
        let activation = match self.epilogue.activation {
            None => 0,
            Some(Activation::Silu) => 1,
            Some(Activation::Gelu) => 2,
            Some(Activation::QuickGelu) => 3,
        };
        let [_, rows] = self.images_and_rows();
        Ok([
            kernel::int(rows)?,
            kernel::int(self.channel_rows)?,
            Argument::Int(activation),
            Argument::Int(i32::from(self.epilogue.gate)),
        ])
    }
}

fn input(there: bool, index: usize) -> Argument {
    match there {
        true => Argument::Input(index),
        false => Argument::Null,
    }
}

/// A number of blocks or bytes as a launch takes it.
fn count(number: usize) -> Result<u32, String> {
    u32::try_from(number).map_err(|_| format!("{number} blocks are more than a launch has"))
}

#[cfg(test)]
mod tests;
