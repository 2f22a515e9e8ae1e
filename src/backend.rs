//! The seam between what is computed and where: six verbs.
//!
//! `alloc`, `write` and `read` move bytes, `select` chooses a kernel from shapes alone, `load` brings a weight to the device, `run` does the work.
//! `link` lets chosen kernels spare what others know, and `wider` is the device with a larger range of numbers. The others only answer planning: what
//! there is room for (`admit`, `room`, `weight_bytes`), how long it should take (`expected`), and in which pieces an image may be computed with the
//! same result (`blocks`, `sums_alike`, `transfer`). Everything above (sessions, pipelines, the command line) is generic over this trait;
//! everything below knows nothing of models.

use crate::error::Result;
use crate::graph::{Graph, Node, Param, Value};
use crate::ops::{Blocks, Cost, Op};
pub use crate::plan::bands::schedule::Transfer;
use crate::plan::{Place, Plan};
use crate::tensor::Shape;
use crate::weights::Weights;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A device that runs graphs.
pub trait Backend: Sized {
    /// Device memory for the values of one session.
    type Arena;
    /// A chosen kernel, ready to be launched.
    type Kernel;
    /// A weight where the device wants it.
    type Weight;
    /// What a device remembers of a list of steps between its runs, so that the next run is cheaper: a recorded graph of launches.
    type Replay: Default;

    /// The device's name, for people.
    fn name(&self) -> String;

    /// Bytes of a value's element, unless the value is exact.
    fn element_bytes(&self) -> usize;

    /// The same device with elements of a larger range, for what overflows in this one's; `None` if it has no larger one.
    fn wider(&self) -> Option<Self> {
        None
    }

    /// Whether some sums are kept in elements of 16 bits, and overflow where one in f32 would not.
    fn sums_in_halves(&self) -> bool {
        false
    }

    /// Refuses a program that the device has no room for, before any of it is loaded: `arena_bytes` of values, and the weights of `loads`.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory) with the bytes that are needed and those that are free.
    fn admit(&self, arena_bytes: usize, loads: &[Load<Self>], weights: &Weights) -> Result<()> {
        let _ = (arena_bytes, loads, weights);
        Ok(())
    }

    /// Bytes of memory that are left for values once the weights of `loads` are there; `None` where nobody knows.
    ///
    /// # Errors
    /// If a weight is missing or does not fit, or the device fails.
    fn room(&self, loads: &[Load<Self>], weights: &Weights) -> Result<Option<usize>> {
        let _ = (loads, weights);
        Ok(None)
    }

    /// Bytes that the weights of `loads` take on the device, each once: as they are stored, unless it packs them. None of them is read.
    ///
    /// # Errors
    /// If a weight is missing or does not fit.
    fn weight_bytes(&self, loads: &[Load<Self>], weights: &Weights) -> Result<usize> {
        let params: HashSet<&Param> = loads
            .iter()
            .flat_map(|load| &load.params)
            .copied()
            .collect();
        let stored = |param: &Param| weights.stored_bytes(&param.name, &param.shape);
        params.into_iter().map(stored).sum()
    }

    /// Whether the device gains by this [fusion rule](crate::plan::fuse::rules).
    fn gains_by(&self, rule: &str) -> bool {
        let _ = rule;
        true
    }

    /// The blocks in which the device sums the statistics of the normalisation `norm` of `graph`; `None` if not by whole rows, so that a band of
    /// the image would not get the bits it gets as a part of it.
    fn blocks(&self, graph: &Graph, norm: &Node) -> Option<Blocks> {
        let _ = (graph, norm);
        None
    }

    /// Whether `band`, chosen for some rows of an image, adds up every result in the order of `whole`, chosen for all of them.
    fn sums_alike(&self, whole: &Self::Kernel, band: &Self::Kernel) -> bool {
        let _ = (whole, band);
        false
    }

    /// What it takes to keep values on the host between the parts of a computation.
    fn transfer(&self) -> Transfer {
        Transfer {
            same_memory: true,
            flops_per_element: 64,
        }
    }

    /// Memory for `bytes` bytes of values.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory) if there is not as much.
    fn alloc(&self, bytes: usize) -> Result<Self::Arena>;

    /// Stores host values at a place.
    ///
    /// # Errors
    /// If the device fails.
    fn write(&self, arena: &mut Self::Arena, place: Place, values: &[f32]) -> Result<()>;

    /// Fetches the values at a place.
    ///
    /// # Errors
    /// If the device fails.
    fn read(&self, arena: &Self::Arena, place: Place, values: &mut [f32]) -> Result<()>;

    /// The kernel for a node whose operands have the shapes `inputs`: a pure choice that needs no device.
    ///
    /// # Errors
    /// If the device has no kernel for these shapes.
    fn select(&self, node: &Node, inputs: &[Shape]) -> Result<Selection<Self>>;

    /// Lets the kernels of a graph's nodes spare what others of them know already, such as statistics of their operands.
    ///
    /// # Errors
    /// If the device cannot hold what is chosen then.
    fn link(
        &self,
        graph: &Graph,
        selections: Vec<Selection<Self>>,
    ) -> Result<Vec<Selection<Self>>> {
        let _ = graph;
        Ok(selections)
    }

    /// What a run of a plan's body should take, by a model of the device's time; `None` where there is none. `kernels` are those of the plan's nodes.
    fn expected<'a>(
        &self,
        plan: &Plan,
        kernels: impl Iterator<Item = &'a Self::Kernel>,
    ) -> Option<Expected>
    where
        Self: 'a,
    {
        let _ = (plan, kernels);
        None
    }

    /// The weights of a node, whose learnt tensors are `params`, as `kernel` reads them.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape.
    fn load(
        &self,
        kernel: &Self::Kernel,
        params: &[&Param],
        weights: &Weights,
    ) -> Result<Vec<Self::Weight>>;

    /// Runs steps in order. `replay` belongs to these steps and this arena, and is empty the first time.
    ///
    /// # Errors
    /// If the device fails, or the user asked to stop.
    fn run(
        &self,
        arena: &mut Self::Arena,
        steps: &[Step<Self>],
        replay: &mut Self::Replay,
    ) -> Result<()>;

    /// As [`run`](Self::run), and says how long the steps take, by the device's own clock if it has one.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    fn time(
        &self,
        arena: &mut Self::Arena,
        steps: &[Step<Self>],
        replay: &mut Self::Replay,
    ) -> Result<Duration> {
        let start = Instant::now();
        self.run(arena, steps, replay)?;
        Ok(start.elapsed())
    }

    /// Runs one step, and says what each of its kernels takes.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    fn profile(&self, arena: &mut Self::Arena, step: &Step<Self>) -> Result<Vec<Lap>> {
        let time = self.time(
            arena,
            std::slice::from_ref(step),
            &mut Self::Replay::default(),
        )?;
        let kernel = step.op.name().to_owned();
        Ok(vec![Lap { kernel, time }])
    }
}

/// What a run is predicted to take. It is no measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expected {
    /// How long.
    pub seconds: f64,
    /// The least that it could take, with nothing lost between products at the device's peak or weights at its memory's.
    pub floor_seconds: f64,
    /// Kernels.
    pub launches: usize,
}

/// What one kernel of a step takes.
#[derive(Clone, Debug)]
pub struct Lap {
    /// What runs.
    pub kernel: String,
    /// How long.
    pub time: Duration,
}

/// Bytes of values on a device: now, and at the worst moment.
#[derive(Debug, Default)]
pub struct Meter {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Meter {
    /// Counts `bytes` more until the answer is dropped.
    pub fn take(self: &Arc<Self>, bytes: usize) -> Taken {
        let now = self.now.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.most.fetch_max(now, Ordering::Relaxed);
        let meter = self.clone();
        Taken { meter, bytes }
    }

    /// Bytes at the worst moment since this was asked last.
    pub fn most(&self) -> usize {
        let now = self.now.load(Ordering::Relaxed);
        self.most.swap(now, Ordering::Relaxed)
    }
}

/// Bytes that a [`Meter`] counts.
#[derive(Debug)]
pub struct Taken {
    meter: Arc<Meter>,
    bytes: usize,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.meter.now.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A kernel and what it needs besides its operands.
pub struct Selection<B: Backend> {
    /// The choice.
    pub kernel: B::Kernel,
    /// Bytes of scratch memory while it runs.
    pub workspace_bytes: usize,
    /// Bytes that it leaves behind its result for those who read that, and that live as long.
    pub tail_bytes: usize,
    /// A later node whose result it computes too; that node's kernel has nothing left to do.
    pub also: Option<Value>,
}

/// The rule that a graph's kernels are [linked](Backend::link).
pub const LINK: &str = "kernels that leave each other what they know";

/// What a node of a program needs of a checkpoint.
pub struct Load<'a, B: Backend> {
    /// The kernel that reads it.
    pub kernel: &'a B::Kernel,
    /// The node's learnt tensors, in the order of [`Operator::params`](crate::ops::Operator::params), and behind them those of a node whose result is
    /// computed [too](Selection::also).
    pub params: Vec<&'a Param>,
}

/// One operation of a program, with everything in its place.
pub struct Step<B: Backend> {
    /// The module path.
    pub name: String,
    /// What is computed.
    pub op: Op,
    /// How.
    pub kernel: B::Kernel,
    /// Where the operands lie.
    pub inputs: Vec<Place>,
    /// Where the result goes.
    pub output: Place,
    /// Where that of another node goes, which the kernel computes [too](Selection::also).
    pub also: Option<Place>,
    /// Where scratch memory starts, if the kernel asked for any: its offset and size in bytes.
    pub workspace: Option<(usize, usize)>,
    /// The learnt tensors, as the kernel reads them.
    pub weights: Vec<B::Weight>,
    /// The work.
    pub cost: Cost,
}
