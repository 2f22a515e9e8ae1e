//! The CPU: f32, on a fixed number of threads.
//!
//! Every reduction runs in an order that depends on the shape of one image and on nothing else: not on the batch, the number
//! of threads or the machine's load. So the same request gives the same bytes alone, in a batch, on one thread or on many.
//!
//! Weights stay mapped as they are on disk and are converted where they are used.

mod arena;
mod assign;
mod attention;
mod codebook;
mod conv2d;
mod elementwise;
mod epilogue;
mod group_norm;
mod layer_norm;
mod linear;
mod math;
mod matmul;
mod memory;
mod peak;
mod simd;

pub use peak::Peak;

use crate::backend::{Backend, Load, Meter, Selection, Step};
use crate::error::{Error, Result};
use crate::graph::{Graph, Node, Param};
use crate::ops::{Blocks, Op, Slice, Summed};
use crate::plan::Place;
use crate::plan::fuse::{CUTS, STACKING};
use crate::tensor::Shape;
use crate::weights::{Dtype, TensorView, Weights};
use arena::{Arena, Views};
use rayon::ThreadPool;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The CPU as a device.
pub struct Cpu {
    pool: ThreadPool,
    stop: Arc<AtomicBool>,
    /// The most memory to use, in bytes.
    limit: Option<usize>,
    cuts: bool,
    meter: Arc<Meter>,
}

impl Cpu {
    /// The CPU with `threads` threads (0: one per core). A run ends early, between two operations, once `stop` is set.
    ///
    /// # Errors
    /// If the system refuses the threads.
    pub fn new(threads: usize, stop: Arc<AtomicBool>) -> Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .map_err(|error| Error::Device(format!("cannot start {threads} threads: {error}")))?;
        Ok(Self {
            pool,
            stop,
            limit: None,
            cuts: true,
            meter: Arc::default(),
        })
    }

    /// The same, as if there were no more than `limit` bytes of memory.
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

    /// The number of threads.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }
}

impl Backend for Cpu {
    type Arena = Arena;
    type Kernel = ();
    type Weight = TensorView;
    type Replay = ();

    fn name(&self) -> String {
        format!("cpu ({} threads, f32)", self.threads())
    }

    fn element_bytes(&self) -> usize {
        size_of::<f32>()
    }

    fn admit(&self, arena_bytes: usize, loads: &[Load<Self>], weights: &Weights) -> Result<()> {
        let Some(limit) = self.limit else {
            return Ok(());
        };
        let weight_bytes = self.weight_bytes(loads, weights)?;
        memory::within(limit, weight_bytes, arena_bytes)
    }

    fn room(&self, loads: &[Load<Self>], weights: &Weights) -> Result<Option<usize>> {
        let weight_bytes = self.weight_bytes(loads, weights)?;
        let bytes = self.limit.or_else(memory::available);
        Ok(bytes.map(|bytes| bytes.saturating_sub(weight_bytes)))
    }

    /// Weights are read where they lie in the map, and the rules of [`stacking`](crate::plan::fuse::STACKING) would have them copied together.
    fn gains_by(&self, rule: &str) -> bool {
        !STACKING.contains(&rule) && (self.cuts || !CUTS.contains(&rule))
    }

    fn blocks(&self, _: &Graph, norm: &Node) -> Option<Blocks> {
        Some(Blocks {
            rows: group_norm::rows_of_block(norm.shape),
            summed: Summed::Groups,
        })
    }

    fn sums_alike(&self, (): &(), (): &()) -> bool {
        true
    }

    fn alloc(&self, bytes: usize) -> Result<Arena> {
        Arena::new(bytes, self.meter.take(bytes))
    }

    fn write(&self, arena: &mut Arena, place: Place, values: &[f32]) -> Result<()> {
        arena.slice_mut(place)?.copy_from_slice(values);
        Ok(())
    }

    fn read(&self, arena: &Arena, place: Place, values: &mut [f32]) -> Result<()> {
        values.copy_from_slice(arena.slice(place)?);
        Ok(())
    }

    fn select(&self, node: &Node, inputs: &[Shape]) -> Result<Selection<Self>> {
        let workspace = match &node.op {
            Op::Attention(op) => attention::workspace(op, inputs),
            _ => 0,
        };
        Ok(Selection {
            kernel: (),
            workspace_bytes: workspace * size_of::<f32>(),
            tail_bytes: 0,
            also: None,
        })
    }

    fn load(&self, (): &(), params: &[&Param], weights: &Weights) -> Result<Vec<TensorView>> {
        let params = params.iter();
        params
            .map(|param| weights.get(&param.name, &param.shape))
            .collect()
    }

    fn run(&self, arena: &mut Arena, steps: &[Step<Self>], (): &mut ()) -> Result<()> {
        self.pool.install(|| {
            for step in steps {
                if self.stop.load(Ordering::Relaxed) {
                    return Err(Error::Interrupted);
                }
                run_step(arena, step)?;
                step.weights
                    .iter()
                    .filter(|w| is_wide(w))
                    .for_each(TensorView::release);
            }
            Ok(())
        })
    }
}

/// Whether a weight is let go after it was read. In f32 a network's weights are twice the memory that their halves need, and a
/// checkpoint in f32 may be larger than memory; the file's pages are mapped again when the next run reads them.
fn is_wide(weight: &TensorView) -> bool {
    const WORTH_A_CALL: usize = 256 << 10;
    weight.dtype() == Dtype::F32 && weight.bytes().len() >= WORTH_A_CALL
}

fn run_step(arena: &mut Arena, step: &Step<Cpu>) -> Result<()> {
    if let Op::Assign(op) = &step.op {
        return assign::run(op, arena, &step.inputs);
    }
    let Views {
        inputs,
        output,
        workspace,
    } = arena.views(&step.inputs, step.output, step.workspace)?;
    if output.is_empty() {
        return Ok(());
    }
    match &step.op {
        Op::Linear(op) => {
            if !linear::run(op, &inputs, &step.weights, output) {
                define(step, &inputs, output);
            }
        }
        Op::Conv2d(op) => {
            if !conv2d::run(op, &inputs, &step.weights, output) {
                define(step, &inputs, output);
            }
        }
        Op::Attention(op) => attention::run(op, &inputs, workspace, output),
        Op::GroupNorm(op) => group_norm::run(op, &inputs, &step.weights, output),
        Op::GroupStatistics(op) if op.blocks.summed == Summed::Groups => {
            group_norm::statistics(op, &inputs, output);
        }
        Op::GroupNormalise(op) if op.blocks.summed == Summed::Groups => {
            group_norm::normalise(op, &inputs, &step.weights, output);
        }
        Op::LayerNorm(op) => layer_norm::run(op, &inputs, &step.weights, output),
        Op::Activate(op) => elementwise::activation(op, &inputs, output),
        Op::Geglu(_) => elementwise::geglu(&inputs, output),
        Op::Add(_) => elementwise::add(&inputs, output),
        Op::AddChannels(op) => elementwise::add_channels(op, &inputs, output),
        Op::ScaleShift(op) => elementwise::scale_shift(op, &inputs, output),
        Op::Concat(op) => elementwise::concat(op, &inputs, output),
        Op::Upsample2x(_) => elementwise::upsample(&inputs, output),
        Op::Codebook(op) => codebook::run(op, &inputs, &step.weights, output),
        Op::AveragePool2x(_) => elementwise::average_pool(&inputs, output),
        Op::Embedding(op) => elementwise::embedding(op, &inputs, &step.weights, output),
        Op::Input(_)
        | Op::AddPositions(_)
        | Op::Reshape(_)
        | Op::GatherToken(_)
        | Op::TimestepEmbedding(_)
        | Op::Guidance(_)
        | Op::Combine(_)
        | Op::Blend(_)
        | Op::Assign(_)
        | Op::GroupStatistics(_)
        | Op::GroupNormalise(_)
        | Op::CountNotFinite(_) => define(step, &inputs, output),
    }
    Ok(())
}

/// Runs an operation by its definition: fast enough for the small ones.
fn define(step: &Step<Cpu>, inputs: &[Slice], output: &mut [f32]) {
    let values: Vec<Vec<f32>> = step.weights.iter().map(TensorView::to_f32).collect();
    let params: Vec<Slice> = step
        .weights
        .iter()
        .zip(&values)
        .map(|(view, data)| Slice {
            shape: view.shape(),
            data,
        })
        .collect();
    step.op.operator().eval(inputs, &params, output);
}
