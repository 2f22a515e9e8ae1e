//! The autoencoder on large images: in bands of rows, where the whole does not fit.

use super::{Event, Pipeline, broken, compute};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::session::{Bands, Program};
use crate::tensor::Tensor;
use crate::weights::Weights;
use std::str::FromStr;
use std::sync::Arc;

/// Whether the autoencoder runs in bands. The image is the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tiling {
    /// Where the whole does not fit in the device's memory.
    #[default]
    Auto,
    /// Always, in a quarter of the memory that the whole would take, or as little more as is possible, if that is less than the whole.
    On,
    /// Never.
    Off,
}

impl FromStr for Tiling {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "auto" => Ok(Self::Auto),
            "on" | "true" | "yes" => Ok(Self::On),
            "off" | "false" | "no" => Ok(Self::Off),
            _ => Err("expected auto, on or off".into()),
        }
    }
}

/// The half of an autoencoder that is asked for: its graph for a batch, its weights, and the names of its input and result.
pub(super) struct Half<'a> {
    pub(super) build: &'a dyn Fn(usize) -> Result<Graph>,
    pub(super) weights: &'a Weights,
    pub(super) input: &'a str,
    pub(super) output: &'a str,
    pub(super) stage: &'a str,
}

impl Tiling {
    /// The bands in which a network, of which `build` makes the graph for a batch, runs on `backend`; `None` if it runs as a whole.
    ///
    /// # Errors
    /// If it does not fit the device even in bands.
    pub(super) fn bands<B: Backend>(
        self,
        backend: &Arc<B>,
        build: &dyn Fn(usize) -> Result<Graph>,
        (batch, weights): (usize, &Weights),
    ) -> Result<Option<Bands<B>>> {
        if self == Self::Off {
            return Ok(None);
        }
        let program = Program::new(&**backend, build(batch)?)?;
        let (loads, arena_bytes) = (program.loads(), program.plan().arena_bytes);
        // A device that is short of memory first lets go of what nobody uses.
        let admitted = backend.admit(arena_bytes, &loads, weights).is_ok();
        let room = backend.room(&loads, weights)?;
        let fits = admitted && room.is_none_or(|room| arena_bytes <= room);
        if self == Self::Auto && fits {
            return Ok(None);
        }
        let room = room.unwrap_or(usize::MAX);
        if self == Self::Auto {
            return Bands::new(backend, build(1)?, room).map(Some);
        }
        let mut limit = (arena_bytes / batch.max(1) / 4).min(room);
        loop {
            match Bands::new(backend, build(1)?, limit) {
                Err(Error::Memory(_)) if limit < room && limit < arena_bytes => {
                    limit = (limit + limit / 4 + 1).min(room);
                }
                // A small image takes less as a whole than in bands with what they keep.
                Err(Error::Memory(_)) if fits => return Ok(None),
                planned => return planned.map(Some),
            }
        }
    }
}

impl<B: Backend> Pipeline<B> {
    /// The same, with the autoencoder in bands as `tiling` says.
    pub fn with_tiling(self, tiling: Tiling) -> Self {
        Self { tiling, ..self }
    }

    /// Half of the autoencoder on `value`, in bands or as a whole, and once more with the range of f32 where halves overflowed.
    pub(super) fn autoencode(
        &self,
        half: &Half,
        value: &Tensor,
        report: &mut dyn FnMut(Event),
    ) -> Result<Tensor> {
        match self.autoencode_on(&self.backend, half, value) {
            Err(error @ Error::NotFinite { .. }) => {
                let wider = self.wider(error, report)?;
                self.autoencode_on(&wider, half, value)
            }
            outcome => outcome,
        }
    }

    fn autoencode_on(&self, backend: &Arc<B>, half: &Half, value: &Tensor) -> Result<Tensor> {
        let batch = value.shape().batch();
        let bands = self
            .tiling
            .bands(backend, half.build, (batch, half.weights))?;
        let Some(bands) = bands else {
            let network = ((half.build)(batch)?, half.weights);
            return compute(
                backend,
                network,
                (half.input, value),
                half.output,
                half.stage,
            );
        };
        let image = |index: usize| {
            let inputs = [(half.input, &value.item(index)?)];
            let result = bands.run(half.weights, &inputs, half.output);
            result.map_err(|error| match error {
                Error::NotFinite { stage, what, .. } => {
                    broken(&**backend, format!("{}, {stage}", half.stage), what)
                }
                other => other,
            })
        };
        Tensor::stack(&(0..batch).map(image).collect::<Result<Vec<_>>>()?)
    }
}
