//! NVIDIA GPUs, through kernels of our own, and the same kernels on the processor.
//!
//! [`select`] chooses, as a pure function of shapes, which entries of `kernels/` compute a node. What it answers is data ([`Kernel`]); one
//! place, `launch.rs`, turns it into launches. Who runs them is behind a small door with two sides: a GPU's driver, or the emulator.
//!
//! - What runs is chosen by a file for each operation (`linear.rs`, `conv2d.rs`, `attention.rs`, ...), and by `link.rs` for several at once.
//! - Which tile: `tile.rs` and `tile_sm90.rs`, by the model of time in `cost.rs` or a measured table (`tuned.rs`); `predict.rs` adds up whole plans.
//! - Of weights `recipe.rs` says what they are made of, `pack.rs` makes them, `packed.rs` keeps them in files, `weights.rs` on the device.
//! - `tier.rs` leaves out kernels that only some GPUs run. `launch.rs` and `replay.rs` run steps, and behind `door.rs` are `driver.rs` and `emulator.rs`.

mod attention;
mod attention_large;
mod attention_sm90;
mod codebook;
mod conv2d;
mod cost;
mod counters;
mod diagnosis;
mod door;
mod driver;
mod elementwise;
mod emulator;
mod gpu;
mod group_norm;
mod in_place;
pub mod kernel;
mod launch;
mod layer_norm;
mod linear;
mod link;
mod memory;
mod moments;
mod movement;
mod pack;
mod packed;
mod predict;
mod probe;
mod product;
mod recipe;
mod replay;
mod sampling;
mod select;
mod sums;
pub mod table;
pub mod tensor_map;
mod tier;
mod tile;
mod tile_sm90;
mod tuned;
mod weights;

pub use driver::gpus;
pub use emulator::Emulation;
pub use gpu::Gpu;
pub use kernel::{Argument, Kernel, Kernels, Launch, Operand, Precision, Sums, Target};
pub use link::link;
pub use predict::{Predicted, floor, predict};
pub use recipe::{Layout, Recipe};
pub use replay::Replay;
pub use select::select;
pub use tier::Warn;
pub use tuned::{TileSize, Tuned, shape_name, tile_sizes};

use crate::backend::{Backend, Expected, Lap, Load, Meter, Selection, Step, Taken, Transfer};
use crate::error::{Error, Result};
use crate::graph::{Graph, Node, Param};
use crate::ops::Blocks;
use crate::plan::fuse::CUTS;
use crate::plan::{Place, Plan};
use crate::tensor::Shape;
use crate::weights::Weights;
use counters::Counters;
use door::{Call, Door, Memory, Span};
use link::link_tuned;
use memory::made;
use rayon::ThreadPool;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use weights::Store;

/// A GPU, or the emulator, as a device. A clone is the same device: it shares memory and weights.
#[derive(Clone)]
pub struct Cuda {
    door: Arc<dyn Door>,
    target: Target,
    store: Arc<Store>,
    counters: Arc<Counters>,
    pool: Arc<ThreadPool>,
    stop: Arc<AtomicBool>,
    /// The most memory to use, in bytes.
    limit: Option<usize>,
    cuts: bool,
    meter: Arc<Meter>,
    tuned: Arc<Tuned>,
    warn: Arc<Warn>,
    /// Whether launches can be recorded, as far as is known.
    records: Arc<AtomicBool>,
}

/// The values of one session.
pub struct Arena(
    Arc<dyn Memory>,
    #[expect(dead_code, reason = "counts until it is dropped")] Taken,
);

/// A weight on the device, which every session over the same checkpoint shares.
pub struct Weight(Arc<dyn Memory>);

impl Cuda {
    /// The GPU number `ordinal`, with activations of `precision` and `threads` threads (0: one per core) to prepare weights. A run ends
    /// early once `stop` is set.
    ///
    /// # Errors
    /// If there is no such GPU, or it cannot be used: a sentence that says why.
    pub fn gpu(
        ordinal: u32,
        precision: Precision,
        threads: usize,
        stop: Arc<AtomicBool>,
    ) -> Result<Self> {
        let (door, gpu) = driver::open(ordinal)?;
        let target = gpu.target(precision);
        Self::new(door, target, threads, stop)
    }

    /// The emulator, as if it were the GPU that `target` describes.
    ///
    /// # Errors
    /// If this build has no emulator.
    pub fn emulator(emulation: Emulation, target: Target, stop: Arc<AtomicBool>) -> Result<Self> {
        let door = emulator::open(emulation)?;
        Self::new(door, target, emulation.threads, stop)
    }

    fn new(
        door: Arc<dyn Door>,
        target: Target,
        threads: usize,
        stop: Arc<AtomicBool>,
    ) -> Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        let pool = pool
            .build()
            .map_err(|error| Error::Device(format!("cannot start {threads} threads: {error}")))?;
        Ok(Self {
            door,
            target,
            store: Arc::default(),
            counters: Arc::default(),
            pool: Arc::new(pool),
            stop,
            limit: None,
            cuts: true,
            meter: Arc::default(),
            tuned: Arc::default(),
            warn: Arc::new(|_| ()),
            records: Arc::new(true.into()),
        })
    }

    /// The GPU; `None` for the emulator.
    pub fn hardware(&self) -> Option<&Gpu> {
        self.door.gpu()
    }

    /// What kernels are chosen for.
    pub fn target(&self) -> &Target {
        &self.target
    }

    fn stopped(&self) -> Result<()> {
        match self.stop.load(Ordering::Relaxed) {
            true => Err(Error::Interrupted),
            false => Ok(()),
        }
    }
}

impl Backend for Cuda {
    type Arena = Arena;
    type Kernel = Kernel;
    type Weight = Weight;
    type Replay = Replay;

    fn name(&self) -> String {
        let device = match self.hardware() {
            Some(_) => self.door.name(),
            None => format!("{} of {}", self.door.name(), self.modelled().name),
        };
        format!(
            "{device}, {}{}",
            self.target.precision.suffix(),
            self.tier()
        )
    }

    fn gains_by(&self, rule: &str) -> bool {
        self.cuts || !CUTS.contains(&rule)
    }

    fn element_bytes(&self) -> usize {
        self.target.precision.bytes()
    }

    fn sums_in_halves(&self) -> bool {
        self.target.sums != Sums::F32
    }

    fn wider(&self) -> Option<Self> {
        (self.target.precision == Precision::F16).then(|| {
            self.at(Target {
                precision: Precision::F32,
                ..self.target
            })
        })
    }

    fn room(&self, loads: &[Load<'_, Self>], weights: &Weights) -> Result<Option<usize>> {
        let missing = self
            .store
            .missing_bytes(made(loads), weights, self.target.precision)?;
        let free = self.free_bytes()?;
        Ok(free.map(|free| free.saturating_sub(missing)))
    }

    fn weight_bytes(&self, loads: &[Load<'_, Self>], weights: &Weights) -> Result<usize> {
        Store::default().missing_bytes(made(loads), weights, self.target.precision)
    }

    fn blocks(&self, graph: &Graph, norm: &Node) -> Option<Blocks> {
        link::blocks(graph, norm, &self.target)
    }

    fn sums_alike(&self, whole: &Kernel, band: &Kernel) -> bool {
        sums::order(whole) == sums::order(band)
    }

    fn transfer(&self) -> Transfer {
        Transfer {
            same_memory: false,
            flops_per_element: 16_384,
        }
    }

    fn alloc(&self, bytes: usize) -> Result<Arena> {
        let memory = self.store.alloc(&*self.door, bytes)?;
        let taken = self.meter.take(memory.bytes());
        Ok(Arena(memory, taken))
    }

    fn write(&self, arena: &mut Arena, place: Place, values: &[f32]) -> Result<()> {
        let precision = precision(place, self.target.precision);
        let mut bytes = vec![0; values.len() * precision.bytes()];
        pack::write(values, precision, &mut bytes);
        self.door
            .write(&span(arena, place.offset, bytes.len())?, &bytes)
    }

    fn read(&self, arena: &Arena, place: Place, values: &mut [f32]) -> Result<()> {
        let precision = precision(place, self.target.precision);
        let mut bytes = vec![0; values.len() * precision.bytes()];
        self.door
            .read(&span(arena, place.offset, bytes.len())?, &mut bytes)?;
        pack::read(&bytes, precision, values);
        Ok(())
    }

    fn select(&self, node: &Node, inputs: &[Shape]) -> Result<Selection<Self>> {
        let target = self
            .tuned
            .target(&self.target, &node.op, inputs, node.shape);
        let kernel = select(&node.op, inputs, node.shape, &target);
        let kernel = kernel.map_err(|problem| {
            Error::Device(format!(
                "node `{}` ({}): {problem}",
                node.name,
                node.op.name()
            ))
        })?;
        Ok(Selection {
            workspace_bytes: kernel.workspace_bytes,
            tail_bytes: 0,
            also: None,
            kernel,
        })
    }

    fn link(
        &self,
        graph: &Graph,
        selections: Vec<Selection<Self>>,
    ) -> Result<Vec<Selection<Self>>> {
        let mut kernels: Vec<Kernel> = selections.into_iter().map(|s| s.kernel).collect();
        link_tuned(graph, &mut kernels, &self.target, &self.tuned).map_err(Error::Device)?;
        let selection = |kernel: Kernel| Selection {
            workspace_bytes: kernel.workspace_bytes,
            tail_bytes: kernel.tail_bytes(),
            also: kernel.also(),
            kernel,
        };
        Ok(kernels.into_iter().map(selection).collect())
    }

    fn expected<'a>(
        &self,
        plan: &Plan,
        kernels: impl Iterator<Item = &'a Kernel>,
    ) -> Option<Expected> {
        Some(predict::expected(
            plan,
            kernels,
            &self.modelled(),
            &self.target,
        ))
    }

    fn admit(&self, arena_bytes: usize, loads: &[Load<'_, Self>], weights: &Weights) -> Result<()> {
        let weight_bytes = self
            .store
            .missing_bytes(made(loads), weights, self.target.precision)?;
        let needed = arena_bytes + weight_bytes;
        let enough = |free: Option<usize>| free.is_none_or(|free| needed <= free);
        if enough(self.free_bytes()?) {
            return Ok(());
        }
        self.store.drop_unused();
        match self.free_bytes()? {
            Some(free) if needed > free => Err(Error::Memory(format!(
                "{} has {} MiB of memory free, and {} MiB are needed: {} of weights and {} of activations; use a smaller size or batch",
                self.door.name(),
                free >> 20,
                needed.div_ceil(1 << 20),
                weight_bytes.div_ceil(1 << 20),
                arena_bytes.div_ceil(1 << 20),
            ))),
            _ => Ok(()),
        }
    }

    fn load(&self, kernel: &Kernel, params: &[&Param], weights: &Weights) -> Result<Vec<Weight>> {
        let precision = self.target.precision;
        let load = |recipe: &Recipe| {
            let tensors = memory::tensors(recipe, params).ok_or_else(|| {
                let all = params.len();
                Error::Device(format!(
                    "{recipe:?} of {all} tensors: a defect of this program"
                ))
            })?;
            self.store
                .load(&*self.door, &tensors, weights, recipe.layout, precision)
                .map(Weight)
        };
        self.pool
            .install(|| kernel.recipes.iter().map(load).collect())
    }

    fn run(&self, arena: &mut Arena, steps: &[Step<Self>], replay: &mut Replay) -> Result<()> {
        replay.run(self, arena, steps)
    }

    fn time(
        &self,
        arena: &mut Arena,
        steps: &[Step<Self>],
        replay: &mut Replay,
    ) -> Result<Duration> {
        replay.time(self, arena, steps)
    }

    fn profile(&self, arena: &mut Arena, step: &Step<Self>) -> Result<Vec<Lap>> {
        let calls = launch::calls(step, &arena.0, &self.target, (&*self.door, &self.counters))?;
        let lap = |call: Call| {
            self.stopped()?;
            Ok(Lap {
                time: self.door.time(&call)?,
                kernel: call.entry.name.to_owned(),
            })
        };
        calls.into_iter().map(lap).collect()
    }
}

/// The type of the elements at `place` on a device that works at `working`.
fn precision(place: Place, working: Precision) -> Precision {
    if place.exact { Precision::F32 } else { working }
}

fn span(arena: &Arena, offset: usize, bytes: usize) -> Result<Span> {
    Span::new(&arena.0, offset, bytes)
        .ok_or_else(|| Error::Memory("a value outside the arena: a defect of this program".into()))
}

#[cfg(test)]
mod tests;
