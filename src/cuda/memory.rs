//! How much memory a device has, and what is in it.

use super::{Cuda, Layout, Recipe};
use crate::backend::{Load, Meter};
use crate::error::Result;
use crate::graph::Param;

impl Cuda {
    /// The same, as if it had no more than `limit` bytes of memory.
    pub fn with_limit(self, limit: Option<usize>) -> Self {
        Self { limit, ..self }
    }

    /// The same, whose plans leave out what follows from other work, or do not.
    pub fn with_cuts(self, cuts: bool) -> Self {
        Self { cuts, ..self }
    }

    /// Bytes of values.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Bytes of the weights that are on the device now.
    pub fn loaded_bytes(&self) -> usize {
        self.store.bytes()
    }

    /// Bytes that can still be had; `None` where nobody knows.
    pub(super) fn free_bytes(&self) -> Result<Option<usize>> {
        let limit = self
            .limit
            .map(|limit| limit.saturating_sub(self.store.bytes()));
        let free = [limit, self.door.free_bytes()?];
        Ok(free.into_iter().flatten().min())
    }
}

/// Each weight with the tensors it is made of.
pub(super) fn made<'a>(
    loads: &'a [Load<'_, Cuda>],
) -> impl Iterator<Item = (Vec<&'a Param>, Layout)> {
    let recipes = loads
        .iter()
        .flat_map(|load| load.kernel.recipes.iter().map(move |recipe| (load, recipe)));
    recipes.filter_map(|(load, recipe)| Some((tensors(recipe, &load.params)?, recipe.layout)))
}

/// The tensors, of its node's, that a weight is made of.
pub(super) fn tensors<'a>(recipe: &Recipe, params: &[&'a Param]) -> Option<Vec<&'a Param>> {
    let made_of = recipe.params.iter();
    made_of.map(|&index| params.get(index).copied()).collect()
}
