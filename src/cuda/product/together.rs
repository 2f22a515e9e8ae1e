//! What the blocks of a product leave each other in memory: sums of a split `K`, moments of what they store, an image to be normalised.

use super::Product;
use crate::cuda::in_place;
use crate::cuda::kernel::{self, Argument, Precision, Recipe, Target};
use crate::cuda::moments::{self, Asked};

/// What blocks of a product do together.
pub(super) struct Together {
    /// Scratch memory that they meet in.
    pub(super) workspace_bytes: usize,
    /// The product's weights, and those of what it normalises.
    pub(super) recipes: Vec<Recipe>,
    /// What the entry is passed for all of it.
    pub(super) arguments: Vec<Argument>,
}

impl Product<'_> {
    /// What blocks do together that add up sums or moments, with `tiles` tiles of a phase, of so many rows and columns, whose `K` is in so many parts.
    pub(super) fn together(
        &self,
        parts: usize,
        tiles: usize,
        [rows, columns]: [usize; 2],
        target: &Target,
    ) -> Result<Together, String> {
        let tiles = tiles * self.phases;
        let (mut bytes, mut counters) = (0, 0);
        let [mut partial, mut blocks, mut tail] = [Argument::Null; 3];
        let mut piece = 0;
        if parts > 1 {
            bytes = parts * tiles * rows * columns * Precision::F32.bytes();
            partial = Argument::Workspace { offset: 0, bytes };
            counters = tiles;
        }
        if self.finds_moments() {
            let (arguments, scratch, more) = moments::arguments(self.shape, columns, bytes);
            [blocks, tail] = arguments;
            bytes += scratch;
            piece = moments::piece(self.shape);
            // Behind those of all tiles, whether they are used or not.
            counters = tiles + more;
        }
        let counters = match counters {
            0 => Argument::Null,
            _ => Argument::Counters(counters),
        };
        let mut recipes = self.recipes.clone();
        let mut normalised = in_place::NOTHING;
        if let Asked::Normalised(norm) = &self.asked {
            let sizes = [self.shape.channels(), recipes.len()];
            if let Some(taken) = norm.taken(columns, sizes, target)? {
                normalised = taken.arguments;
                recipes.extend(taken.recipes);
            }
        }
        let own = [partial, blocks, tail, counters, kernel::int(piece)?];
        Ok(Together {
            workspace_bytes: bytes,
            recipes,
            arguments: [&own[..], &normalised].concat(),
        })
    }
}
