//! Kernels that only some GPUs run, and the device without them.
//!
//! Those for Hopper GPUs alone rest on more of the hardware than others do, so where they go wrong a device goes on with those that every GPU runs.
//! Both families read weights packed in the same way, but add in other orders: whoever tells one result's origin from another's says which it was.

use super::Cuda;
use super::kernel::{Kernels, Precision, Target};
use std::sync::Arc;

/// Who is told of what a device cannot do and does otherwise.
pub type Warn = dyn Fn(&str) + Send + Sync;

impl Target {
    /// Whether what only Hopper GPUs run may be chosen.
    pub fn hopper(&self) -> bool {
        self.compute_capability == 90 && self.kernels == Kernels::All
    }
}

impl Cuda {
    /// The same device, its memory and weights too, choosing kernels for another target.
    pub(super) fn at(&self, target: Target) -> Self {
        Self {
            target,
            ..self.clone()
        }
    }

    /// The same device, which tells `warn` of what it does otherwise than asked.
    pub fn warned(self, warn: Arc<Warn>) -> Self {
        Self { warn, ..self }
    }

    /// Tells who is to be told.
    pub fn warn(&self, sentence: &str) {
        (self.warn)(sentence);
    }

    /// The same device, its memory and weights too, with the kernels that every GPU runs. A table of tiles is of the others.
    pub fn portable(&self) -> Self {
        let portable = self.at(Target {
            kernels: Kernels::Portable,
            ..self.target
        });
        match self.target.hopper() {
            true => portable.preferring(None),
            false => portable,
        }
    }

    /// The same device with nothing loaded or said, choosing as if it had one multiprocessor: small shapes then take the kernels that large ones
    /// take elsewhere, and a block computes one tile after another.
    pub fn in_small(&self) -> Self {
        let small = Self {
            store: Arc::default(),
            meter: Arc::default(),
            limit: None,
            records: Arc::new(true.into()),
            ..self.at(self.target.with_multiprocessors(1))
        };
        small.preferring(None).warned(Arc::new(|_| ()))
    }

    /// What names say of a GPU that does not take all kernels it could.
    pub(super) fn tier(&self) -> &'static str {
        let Target {
            precision,
            compute_capability,
            kernels,
            ..
        } = self.target;
        match (precision, compute_capability, kernels) {
            (Precision::F16, 90, Kernels::Portable) => ", portable kernels",
            _ => "",
        }
    }
}
