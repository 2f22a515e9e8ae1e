//! What the launches of a whole plan should take, by the model of `cost.rs`: predictions, and not measurements.
//!
//! A launch lasts as long as its slowest part: its blocks, what comes from memory, or what passes through the second-level cache. Weights come
//! from memory, as those of one network are more than any cache holds; the other operands of a launch do where they do not fit in the cache
//! together. All of it is read off the launch itself, so a kernel that was never thought of here is predicted by what it touches.

use super::cost::{self, Blocks, START, joined, launched, streamed};
use super::gpu::Gpu;
use super::kernel::{Argument, Kernel, Launch, Layout, Precision, Target};
use super::product::HALVES;
use super::tile::{self, IN_HALVES};
use super::{Cuda, in_place, table, tile_sm90};
use crate::backend::Expected;
use crate::ops::{Attention, Conv2d, Op};
use crate::plan::Plan;
use crate::tensor::Shape;

/// What products reach of the tensor cores' rate where no tile says it.
const EFFICIENCY: f64 = 0.6;

/// What attention by products of warpgroups reaches of the tensor cores' rate, and how many of its exponentials are polynomials.
const WARPGROUPS: f64 = 0.95;
const POLYNOMIALS: f64 = 3.0 / 16.0;

/// What streaming from memory reaches of the data sheet's rate.
const STREAM: f64 = 0.85;

/// What one launch is expected to take.
#[derive(Clone, Debug)]
pub struct Predicted {
    /// Of the plan's graph.
    pub node: usize,
    /// What runs.
    pub entry: String,
    /// Blocks that share the multiprocessors.
    pub blocks: usize,
    /// Floating-point operations of products, a multiply-add counted as two.
    pub flops: f64,
    /// Bytes read and written: every operand once.
    pub bytes: f64,
    /// Seconds from its start to the next launch's.
    pub seconds: f64,
}

/// What every launch of a plan, in order, should take on `gpu`. `kernels` are those of the plan's nodes, chosen for `target`.
pub fn predict<'a>(
    plan: &Plan,
    kernels: impl IntoIterator<Item = &'a Kernel>,
    gpu: &Gpu,
    target: &Target,
) -> Vec<Predicted> {
    let mut predicted = vec![];
    for (index, kernel) in kernels.into_iter().enumerate() {
        let node = Node::new(plan, index, kernel, target);
        predicted.extend(kernel.launches.iter().map(|launch| {
            let (weights, others) = node.bytes(launch);
            let blocks = node.blocks(launch);
            let cached = others <= gpu.cache_bytes as f64;
            let from_memory = weights + if cached { 0.0 } else { others };
            let clocks = match blocks {
                Some(blocks) => {
                    blocks.clocks(target) + node.joined(launch) + node.normalised(launch)
                }
                None => START + streamed(others, target),
            };
            let memory = from_memory / (gpu.memory_rate * STREAM);
            Predicted {
                node: index,
                entry: launch.entry.clone(),
                blocks: blocks.map_or_else(|| grid(launch), |blocks| blocks.count),
                flops: node.flops(launch),
                bytes: weights + others,
                seconds: memory.max(clocks / gpu.clock_rate) + launched(target) / gpu.clock_rate,
            }
        }));
    }
    predicted
}

impl Cuda {
    /// The GPU that times are predicted for: this one, or that which the emulator stands for.
    pub fn modelled(&self) -> Gpu {
        let gpu = self.door.gpu().cloned();
        gpu.unwrap_or_else(|| Gpu::nearest(&self.target))
    }
}

/// What the body of a plan should take, all launches together.
pub(super) fn expected<'a>(
    plan: &Plan,
    kernels: impl IntoIterator<Item = &'a Kernel>,
    gpu: &Gpu,
    target: &Target,
) -> Expected {
    let launches = predict(plan, kernels, gpu, target).into_iter();
    let body: Vec<f64> = launches
        .filter(|launch| launch.node >= plan.prologue)
        .map(|launch| launch.seconds)
        .collect();
    Expected {
        seconds: body.iter().sum(),
        floor_seconds: floor(plan, gpu, target.precision),
        launches: body.len(),
    }
}

/// The least seconds for the body of a plan: each node's products at the device's peak or its weights from memory, whichever is longer, with
/// all other values on chip and nothing lost between.
pub fn floor(plan: &Plan, gpu: &Gpu, precision: Precision) -> f64 {
    let nodes = plan.graph.nodes().iter().skip(plan.prologue);
    let least = nodes.map(|node| {
        let cost = plan.graph.cost_of(node);
        let flops = if is_product(&node.op) { cost.flops } else { 0 };
        let weights = cost.parameters as f64 * precision.bytes() as f64;
        (flops as f64 / gpu.flops(precision)).max(weights / gpu.memory_rate)
    });
    least.sum()
}

/// Whether an operation's work is that of matrix products.
fn is_product(op: &Op) -> bool {
    matches!(op, Op::Linear(_) | Op::Conv2d(_) | Op::Attention(_))
}

/// Whether a launch makes products on tensor cores: those of a node share its work.
fn multiplies(launch: &Launch) -> bool {
    let families = ["linear_", "conv2d_", "attention_"];
    families.iter().any(|name| launch.entry.starts_with(name))
        && !launch.entry.contains("_softmax_")
}

fn grid(launch: &Launch) -> usize {
    launch.grid.iter().map(|&blocks| blocks as usize).product()
}

/// The tile that an entry is named after: its rows, and its columns or keys.
fn tile_of(launch: &Launch) -> Option<[usize; 2]> {
    launch.entry.split('_').find_map(|part| {
        let (rows, columns) = part.split_once('x')?;
        Some([rows.parse().ok()?, columns.parse().ok()?])
    })
}

/// A node with its kernel, and what its launches share.
struct Node<'a> {
    op: &'a Op,
    /// What else the kernel computes.
    also: Option<&'a Op>,
    kernel: &'a Kernel,
    target: &'a Target,
    inputs: Vec<Shape>,
    output: Shape,
    flops: f64,
    parameters: f64,
}

impl<'a> Node<'a> {
    fn new(plan: &'a Plan, index: usize, kernel: &'a Kernel, target: &'a Target) -> Self {
        let node = &plan.graph.nodes()[index];
        let cost = plan.graph.cost_of(node);
        // Nine taps are packed as four for each of four phases.
        let packed = match kernel.recipes.first().map(|recipe| recipe.layout) {
            Some(Layout::Phases { .. }) => 16.0 / 9.0,
            _ => 1.0,
        };
        Self {
            op: &node.op,
            also: kernel.also().map(|value| &plan.graph.node(value).op),
            kernel,
            target,
            inputs: plan.graph.operands(node),
            output: node.shape,
            flops: cost.flops as f64,
            parameters: cost.parameters as f64 * packed,
        }
    }

    /// Bytes of the weights that a launch reads, and of its other operands.
    fn bytes(&self, launch: &Launch) -> (f64, f64) {
        let element = self.target.precision.bytes();
        let reads_weights = |launch: &&Launch| {
            let mut memories = launch.arguments.iter().map(|argument| argument.memory());
            memories.any(|memory| memory == Argument::Weight(0))
        };
        let first = self.kernel.launches.iter().find(reads_weights);
        let weights = match first.is_some_and(|first| std::ptr::eq(first, launch)) {
            true => self.parameters * element as f64,
            false => 0.0,
        };
        // A tensor has two maps where an entry could take another for the second.
        let mut memories: Vec<Argument> = launch.arguments.iter().map(|a| a.memory()).collect();
        memories.dedup();
        let others = memories.into_iter().map(|memory| match memory {
            Argument::Output | Argument::Also(_) => self.output.len() * element,
            Argument::Input(index) => self.inputs.get(index).map_or(0, Shape::len) * element,
            Argument::Workspace { bytes, .. } => bytes,
            _ => 0,
        });
        (weights, others.sum::<usize>() as f64)
    }

    /// What a launch does of the node's products.
    fn flops(&self, launch: &Launch) -> f64 {
        match is_product(self.op) && multiplies(launch) {
            true => {
                self.flops
                    / self
                        .kernel
                        .launches
                        .iter()
                        .filter(|l| multiplies(l))
                        .count() as f64
            }
            false => 0.0,
        }
    }

    /// Clocks in which the blocks that share a tile add up their sums.
    fn joined(&self, launch: &Launch) -> f64 {
        match (self.op, tile_of(launch)) {
            (Op::Linear(_) | Op::Conv2d(_), Some([rows, columns])) => {
                let bytes = rows * columns * Precision::F32.bytes();
                joined(launch.grid[1] as usize, bytes)
            }
            _ => 0.0,
        }
    }

    /// Clocks in which a block normalises what was stored.
    fn normalised(&self, launch: &Launch) -> f64 {
        match (self.also, tile_of(launch)) {
            (Some(Op::GroupNorm(norm)), Some([_, columns])) => {
                let channels = self.output.channels();
                let group = channels / norm.groups;
                cost::in_place(in_place::elements(columns, group, channels))
            }
            _ => 0.0,
        }
    }

    /// The blocks of a launch that makes products; `None` for those that move and add.
    fn blocks(&self, launch: &Launch) -> Option<Blocks> {
        let flops = self.flops(launch);
        if flops == 0.0 {
            return None;
        }
        let entry = table::entry(&launch.entry);
        let resident = entry.map_or(1, |entry| entry.blocks_per_multiprocessor as usize);
        let fits = self.target.shared_bytes_per_block / launch.shared_bytes.max(1);
        let at_once = resident.min(fits as usize);
        let blocks = match (self.op, tile_of(launch)) {
            (Op::Linear(op), Some(tile)) => self.product(launch, op.features(), tile),
            (Op::Conv2d(op), Some(tile)) => self.product(launch, op.weight.shape.batch(), tile),
            (Op::Attention(op), Some(tile)) => self.flash(op, launch, tile)?,
            _ => Blocks {
                count: grid(launch),
                at_once,
                products: flops / 2.0 / grid(launch) as f64 / EFFICIENCY,
                exponentials: 0.0,
                fetched: 0.0,
                wgmma: false,
            },
        };
        Some(Blocks { at_once, ..blocks })
    }

    /// The blocks of a product of `n` columns: a tile each, or a part of one along y, of a phase along z.
    fn product(&self, launch: &Launch, n: usize, [rows, columns]: [usize; 2]) -> Blocks {
        let m = self.output.rows();
        let [_, parts, phases] = launch.grid.map(|blocks| blocks as usize);
        let depth = self.flops(launch) / (2 * m * n * parts) as f64;
        let count = (m / phases).div_ceil(rows) * n.div_ceil(columns) * parts * phases;
        if launch.entry.ends_with("_sm90")
            && let Some(tile) = tile_sm90::named([rows, columns])
        {
            return tile.blocks(count, depth);
        }
        let in_halves = launch.entry.ends_with(HALVES);
        let efficiency = tile::efficiency([rows, columns], in_halves).unwrap_or(EFFICIENCY);
        let multiplied = match (in_halves, self.op) {
            (false, _) => depth,
            // What is beside is summed in f32.
            (
                true,
                Op::Conv2d(Conv2d {
                    beside: Some(b), ..
                }),
            ) => {
                let beside = b.map.weight.shape.channels() as f64 / parts as f64;
                beside + (depth - beside) * IN_HALVES
            }
            (true, _) => depth * IN_HALVES,
        };
        Blocks {
            count,
            at_once: 1,
            products: (rows * columns) as f64 * multiplied / efficiency,
            exponentials: 0.0,
            fetched: ((rows + columns) * self.target.precision.bytes()) as f64 * depth,
            wgmma: false,
        }
    }

    /// The blocks of a flash attention: so many queries of a head each, against all keys.
    fn flash(
        &self,
        op: &Attention,
        launch: &Launch,
        [queries, step]: [usize; 2],
    ) -> Option<Blocks> {
        let [_, keys, _] = op.roles(&self.inputs)?[1].tokens()?;
        let size = self.output.channels() / op.heads.max(1);
        let scores = (queries * keys.next_multiple_of(step)) as f64;
        let padded = size.next_multiple_of(16) + size.next_multiple_of(8);
        let wgmma = launch.entry.ends_with("_sm90");
        // Eight columns more sum the weights.
        let (products, exponentials) = match wgmma {
            true => ((padded + 8) as f64 / WARPGROUPS, 1.0 - POLYNOMIALS),
            false => (padded as f64 / EFFICIENCY, 1.0),
        };
        Some(Blocks {
            count: grid(launch),
            at_once: 1,
            products: scores * products,
            exponentials: scores * exponentials,
            fetched: (2 * (queries + keys) * size * self.target.precision.bytes()) as f64,
            wgmma,
        })
    }
}
