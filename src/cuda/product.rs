//! What matrix products and convolutions share: a product `[m, k] x [n, k]^T` with an epilogue, and what its entries are passed.
//!
//! A convolution is the product in which a row is a pixel of the result and a column a filter tap and a channel, so both operations differ
//! only in the name of their entries and in a few sizes. Hopper GPUs have entries of their own (`sm90.rs`), chosen where they take less time.

mod halves;
mod pixels;
mod sm90;
mod together;

use super::kernel::{self, Argument, Kernel, Launch, Precision, Recipe, Target};
use super::moments::Asked;
use super::tile::{Cut, MOST_ROWS, PART, Problem};
use crate::ops::{Activation, Channels, Epilogue};
use crate::tensor::Shape;
pub(super) use halves::HALVES;
pub(super) use pixels::Pixels;
pub(super) use sm90::Rows;

/// The side of the f32 entries' tile.
const F32_SIDE: usize = 64;

/// Columns that a thread of an epilogue finishes together.
const EIGHT: usize = 8;

/// A matrix product to be launched.
pub(super) struct Product<'a> {
    /// The operation, as its entries begin.
    name: &'static str,
    /// What the product is before its epilogue.
    shape: Shape,
    /// Columns of the operands.
    k: usize,
    /// As the factor's.
    phases: usize,
    /// As the factor's.
    bounded: usize,
    /// Channels of the tensors that make up the first operand.
    sources: Vec<usize>,
    /// Whether a tile's rows are of one image, or no source's images repeat.
    tiles_are_whole: bool,
    /// Those tensors, as the entry takes them.
    pointers: Vec<Argument>,
    /// The weight and, where there is one, the bias.
    recipes: Vec<Recipe>,
    /// What is fused.
    epilogue: &'a Epilogue,
    /// Rows of the table of the epilogue's channels.
    channel_rows: usize,
    /// Rows of the residual.
    residual_rows: usize,
    /// What is asked for besides the result.
    asked: Asked,
}

/// The left operand of a product: tensors side by side.
pub(super) struct Sources<'a> {
    /// Of the tensors.
    pub(super) shapes: &'a [Shape],
    /// The tensors as the entry takes them.
    pub(super) pointers: Vec<Argument>,
    /// Of the node's operands behind them.
    pub(super) others: &'a [Shape],
}

/// The right operand of a product, `[n, k]`, and how it is made.
pub(super) struct Factor {
    pub(super) n: usize,
    pub(super) k: usize,
    /// How many products the result is made of, each some of an image's rows with a weight of its own: the z of the grid.
    pub(super) phases: usize,
    /// Columns, the first of `k`, that a normalisation may have made. What lies beside an image is what it is.
    pub(super) bounded: usize,
    /// The weight in rows of [`pitch`] columns and, where there is one, the bias.
    pub(super) recipes: Vec<Recipe>,
}

/// Columns of a packed weight of `k`: whole stages.
pub(super) fn pitch(k: usize) -> usize {
    k.next_multiple_of(PART)
}

/// Whether rows of all of these are whole vectors of halves.
pub(super) fn is_aligned(sources: &[Shape]) -> bool {
    let mut channels = sources.iter().map(Shape::channels);
    channels.all(|channels| channels.is_multiple_of(EIGHT))
}

/// One or two tensors from operand `first` on, as entries take them.
pub(super) fn pair(first: usize, count: usize) -> [Argument; 2] {
    [input(count > 0, first), input(count > 1, first + 1)]
}

/// The channels of one or two tensors, or of none, as sizes.
pub(super) fn widths(shapes: &[Shape]) -> Result<[Argument; 2], String> {
    if shapes.len() > 2 {
        return Err(format!("takes one or two sources, not {}", shapes.len()));
    }
    let width = |index: usize| kernel::int(shapes.get(index).map_or(0, Shape::channels));
    Ok([width(0)?, width(1)?])
}

impl<'a> Product<'a> {
    /// The product of `sources` with a weight that `output` is made of.
    ///
    /// # Errors
    /// A sentence, if the entries do not count to its sizes.
    pub(super) fn new(
        name: &'static str,
        sources: Sources,
        factor: Factor,
        epilogue: &'a Epilogue,
        output: Shape,
    ) -> Result<Self, String> {
        let Factor {
            n,
            k,
            phases,
            bounded,
            recipes,
        } = factor;
        let last = sources.shapes.last();
        let repeats = last.is_some_and(|x| x.batch() < output.batch());
        let rows_of_image = output.rows() / output.batch().max(1);
        let residual = sources.others.last().filter(|_| epilogue.residual);
        let product = Self {
            name,
            shape: output.with_channels(n),
            k,
            phases,
            bounded,
            sources: sources.shapes.iter().map(Shape::channels).collect(),
            tiles_are_whole: !repeats || rows_of_image.is_multiple_of(MOST_ROWS),
            pointers: sources.pointers,
            recipes,
            epilogue,
            channel_rows: sources.others.first().map_or(0, Shape::batch),
            residual_rows: residual.map_or(0, Shape::rows),
            asked: Asked::Nothing,
        };
        if product.k == 0 {
            return Err("has no channels to sum over".to_owned());
        }
        for shape in sources.shapes.iter().chain([&product.shape]) {
            kernel::elements(*shape)?;
        }
        kernel::elements([n * phases, pitch(k)].into())?;
        Ok(product)
    }

    /// The same, and what is asked for besides.
    pub(super) fn and(self, asked: Asked) -> Self {
        Self { asked, ..self }
    }

    fn finds_moments(&self) -> bool {
        self.asked != Asked::Nothing
    }

    /// The launches; `sizes` are the entry's own, between those of the result and those of the weight, and `rows` what the copy engine of a
    /// Hopper GPU is told of the first operand, if it can bring it.
    ///
    /// # Errors
    /// A sentence, if the device cannot hold them.
    pub(super) fn kernel(
        &self,
        sizes: &[Argument],
        rows: Option<Rows>,
        target: &Target,
    ) -> Result<Kernel, String> {
        if self.shape.is_empty() {
            return Ok(Kernel {
                recipes: self.recipes.clone(),
                ..Kernel::nothing()
            });
        }
        match target.precision {
            Precision::F16 => match rows.map(|rows| self.sm90(rows, target)).transpose()? {
                Some(Some(kernel)) => Ok(kernel),
                _ => self.f16(sizes, target),
            },
            Precision::F32 => self.f32(sizes),
        }
    }

    /// The launch where the rows of the one source, whole vectors of halves, are normalised first: the weight holds what it can of that, and
    /// the last weight the sums of its rows.
    ///
    /// # Errors
    /// As [`kernel`](Self::kernel).
    pub(super) fn normalised(&self, eps: f32, target: &Target) -> Result<Kernel, String> {
        let recipes = self.recipes.clone();
        if self.shape.is_empty() {
            return Ok(Kernel {
                recipes,
                ..Kernel::nothing()
            });
        }
        if let Some(kernel) = self.normalised_sm90(eps, target)? {
            return Ok(kernel);
        }
        let problem = self.quicker_sums(target, Problem::nominal_undivided_clocks);
        let tile = problem.undivided(target)?;
        let [bias, others @ ..] = self.addends();
        let arguments = [
            &[Argument::Output, Argument::Input(0)][..],
            &[Argument::Weight(0), bias, Argument::Weight(2)],
            &others,
            &self.result_sizes()?,
            &[kernel::int(self.k)?, kernel::int(pitch(self.k))?],
            &self.epilogue_sizes()?,
            &[Argument::Float(eps)],
        ];
        let launch = Launch {
            entry: self.entry(&problem, &tile),
            grid: [self.tiles([tile.rows, tile.columns])?, 1, 1],
            shared_bytes: count(tile.shared_bytes())?,
            arguments: arguments.concat(),
        };
        Ok(Kernel {
            launches: vec![launch],
            workspace_bytes: 0,
            recipes,
        })
    }

    fn f32(&self, sizes: &[Argument]) -> Result<Kernel, String> {
        let arguments = [
            &[Argument::Output][..],
            &self.pointers,
            &[Argument::Weight(0)],
            &self.addends(),
            &self.result_sizes()?,
            sizes,
            &[kernel::int(pitch(self.k))?],
            &self.epilogue_sizes()?,
        ];
        let launch = Launch {
            entry: format!("{}_f32_{F32_SIDE}x{F32_SIDE}", self.name),
            grid: [self.tiles([F32_SIDE; 2])?, 1, count(self.phases)?],
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
        let problem = self.quicker_sums(target, Problem::nominal_clocks);
        let Cut { tile, parts, part } = problem.cut(target)?;
        let tiles = self.tiles([tile.rows, tile.columns])?;
        let together = self.together(parts, tiles as usize, [tile.rows, tile.columns], target)?;
        let arguments = [
            &[Argument::Output][..],
            &together.arguments,
            &self.pointers,
            &[Argument::Weight(0)],
            &self.addends(),
            &self.result_sizes()?,
            sizes,
            &[kernel::int(pitch(self.k))?, kernel::int(part)?],
            &self.epilogue_sizes()?,
        ];
        let launch = Launch {
            entry: self.entry(&problem, &tile),
            grid: [tiles, count(parts)?, count(self.phases)?],
            shared_bytes: count(tile.shared_bytes())?,
            arguments: arguments.concat(),
        };
        Ok(Kernel {
            launches: vec![launch],
            workspace_bytes: together.workspace_bytes,
            recipes: together.recipes,
        })
    }

    fn problem(&self) -> Problem {
        let [images, rows] = self.images_and_rows();
        Problem {
            images,
            rows: rows / self.phases,
            phases: self.phases,
            n: self.shape.channels(),
            k: self.k,
            aligned: self.tiles_are_whole && self.sources.iter().all(|c| c.is_multiple_of(EIGHT)),
            moments: self.finds_moments(),
            in_halves: 0,
        }
    }

    /// Blocks that compute a phase of the result in tiles of so many rows and columns.
    fn tiles(&self, [rows, columns]: [usize; 2]) -> Result<u32, String> {
        let own = self.shape.rows() / self.phases;
        count(own.div_ceil(rows) * self.shape.channels().div_ceil(columns))
    }

    fn images_and_rows(&self) -> [usize; 2] {
        let images = self.shape.batch();
        [images, self.shape.rows() / images.max(1)]
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

    fn epilogue_sizes(&self) -> Result<[Argument; 5], String> {
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
            kernel::int(self.residual_rows)?,
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
