//! How much memory a device has, and what is in it.

use super::{Cuda, Layout};
use crate::backend::{Load, Meter};
use crate::error::Result;
use crate::graph::Param;

impl Cuda {
    /// The same, as if it had no more than `limit` bytes of memory.
    pub fn with_limit(self, limit: Option<usize>) -> Self {
        Self { limit, ..self }
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

/// Each weight with the layout it is read in.
pub(super) fn layouts<'a>(
    loads: &'a [Load<'_, Cuda>],
) -> impl Iterator<Item = (&'a Param, Layout)> {
    loads
        .iter()
        .filter_map(|load| Some((load.param, *load.kernel.layouts.get(load.index)?)))
}
