//! Group normalisations of small images, done by the product whose result they read: no launch follows for them.
//!
//! The block that completes some columns of an image, whole groups of them, normalises these (kernels/in_place.cuh); nobody waits for it. So one
//! block does what a launch of its own has many for: it is asked of images of one block of moments alone, which are those of the networks' lowest
//! levels, and taken where the tile's columns are few enough that a launch costs more.
//!
//! What is taken changes no bit: otherwise the normalisation is launched, by the same moments. So it may hang on the batch, as tiles do.

use super::cost;
use super::kernel::{self, Argument, Layout, Recipe, Target};
use super::moments::{BLOCK_ROWS, rows_of_image};
use crate::graph::{Graph, Value};
use crate::ops::Op;

/// A normalisation that a product is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct InPlace {
    /// Whose result it is.
    norm: Value,
    /// The number of its factors among the learnt tensors of both nodes; its addends follow.
    factors: usize,
    /// Channels of a group.
    group: usize,
    silu: bool,
    eps: f32,
}

/// How a product normalises in place.
pub(super) struct Taken {
    /// What its entry is passed.
    pub(super) arguments: [Argument; 7],
    /// The factors and the addends.
    pub(super) recipes: [Recipe; 2],
}

/// What an entry is passed where nothing is normalised.
pub(super) const NOTHING: [Argument; 7] = [
    Argument::Null,
    Argument::Null,
    Argument::Null,
    Argument::Int(0),
    Argument::Int(0),
    Argument::Int(0),
    Argument::Float(0.0),
];

/// The normalisation that is node `norm` of `graph`, as the node `product` is asked for it; `None` if it is not.
pub(super) fn asked(graph: &Graph, norm: usize, product: usize) -> Option<InPlace> {
    let [norm, product] = [norm, product].map(Value::at);
    let Op::GroupNorm(op) = &graph.node(norm).op else {
        return None;
    };
    let x = graph.shape(norm);
    let alone = op.sources == 1 && op.scale_shift.is_none();
    (alone && rows_of_image(x) == BLOCK_ROWS).then(|| InPlace {
        norm,
        factors: graph.node(product).op.operator().params().len(),
        group: x.channels() / op.groups,
        silu: op.silu,
        eps: op.eps,
    })
}

/// Columns that are normalised together, of a product of `n` in tiles of so many: whole tiles and whole groups.
pub(super) fn columns(tile: usize, group: usize) -> usize {
    let mut together = tile;
    while !together.is_multiple_of(group) {
        together += tile;
    }
    together
}

/// Elements of an image of `n` channels that one block normalises then.
pub(super) fn elements(tile: usize, group: usize, n: usize) -> usize {
    BLOCK_ROWS * columns(tile, group).min(n)
}

impl InPlace {
    /// What an entry is passed for a product of `n` columns in tiles of so many, and the weights that come behind its `weights`; `None` where a launch
    /// costs less.
    ///
    /// # Errors
    /// A sentence, if an entry does not count to its sizes.
    pub(super) fn taken(
        &self,
        tile: usize,
        [n, weights]: [usize; 2],
        target: &Target,
    ) -> Result<Option<Taken>, String> {
        if cost::in_place(elements(tile, self.group, n)) > cost::alone(target) {
            return Ok(None);
        }
        let arguments = [
            Argument::Also(self.norm),
            Argument::Weight(weights),
            Argument::Weight(weights + 1),
            kernel::int(columns(tile, self.group))?,
            kernel::int(self.group)?,
            Argument::Int(i32::from(self.silu)),
            Argument::Float(self.eps),
        ];
        let recipes = [self.factors, self.factors + 1].map(|param| Recipe {
            layout: Layout::Vector,
            params: vec![param],
        });
        Ok(Some(Taken { arguments, recipes }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_whole_tiles_and_whole_groups() {
        for (tile, group, together) in [(80, 40, 80), (64, 40, 320), (160, 10, 160), (128, 3, 384)]
        {
            assert_eq!(columns(tile, group), together);
        }
        assert_eq!(elements(64, 40, 200), 64 * 200);
    }
}
