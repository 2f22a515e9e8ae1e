//! How long launches should take, in clocks: the one model by which tiles are chosen (`tile.rs`) and whole networks predicted (`predict.rs`).
//!
//! The multiprocessor with the most blocks is the last to end. A block takes as long as its tensor cores compute, or as its operands are on
//! their way from the second-level cache, whichever is longer. To that comes what it costs to start. All constants are planning figures from
//! data sheets and publications: none was measured, and nothing but a choice or a prediction may hang on them.

use super::kernel::{Precision, Target};

/// Clocks of a block's way of a first stage through memory, and of its results back.
pub(super) const START: f64 = 2000.0;

/// Bytes that reach a multiprocessor from the second-level cache in a clock.
const CACHE: f64 = 40.0;

/// A block alone on its multiprocessor has nobody to take its place while it waits.
const ALONE: f64 = 1.25;

/// Multiply-adds that a multiprocessor makes in a clock by `wgmma`, of halves with f32 sums.
const WGMMA: f64 = 2048.0;

/// Exponentials that a multiprocessor computes in a clock.
const EXPONENTIALS: f64 = 16.0;

/// Equal blocks that share the multiprocessors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocks {
    /// How many.
    pub count: usize,
    /// How many a multiprocessor holds at once.
    pub at_once: usize,
    /// Multiply-adds of each, as if the tensor cores were always busy.
    pub products: f64,
    /// Exponentials of each.
    pub exponentials: f64,
    /// Bytes that each reads from the second-level cache.
    pub fetched: f64,
    /// Loads and products go on by themselves, beside the threads and at the full rate: on Hopper GPUs.
    pub wgmma: bool,
}

impl Blocks {
    /// Clocks until the multiprocessor with the most blocks is done with them.
    pub fn clocks(&self, target: &Target) -> f64 {
        let busiest = self.count.div_ceil(target.multiprocessors.max(1) as usize);
        let rate = match self.wgmma {
            true => WGMMA,
            false => products_per_clock(target),
        };
        let computed = self.products / rate + self.exponentials / EXPONENTIALS;
        let each = computed.max(self.fetched / CACHE);
        let alone = if busiest == 1 && !self.wgmma {
            ALONE
        } else {
            1.0
        };
        let rounds = busiest.div_ceil(self.at_once.max(1)) as f64;
        busiest as f64 * each * alone + rounds * START
    }
}

/// Clocks from the end of a launch of a recording to the start of the next: 1.2 microseconds, or a third where a kernel starts while the one
/// before it ends.
pub(super) fn launched(target: &Target) -> f64 {
    match target.hopper() {
        true => 700.0,
        false => 2000.0,
    }
}

/// Clocks in which so many bytes pass between the second-level cache and all multiprocessors.
pub(super) fn streamed(bytes: f64, target: &Target) -> f64 {
    bytes / (f64::from(target.multiprocessors.max(1)) * CACHE)
}

/// Clocks from a block's last sum until the last of `parts` that share a tile has read the sums of all, of `bytes` each.
pub(super) fn joined(parts: usize, bytes: usize) -> f64 {
    match parts {
        1 => 0.0,
        _ => START + ((1 + parts) * bytes) as f64 / CACHE,
    }
}

/// Clocks in which one block normalises so many elements of what it, or others, just stored: two ways to the second-level cache, for the moments and
/// for the elements, each of which takes an exponential and a reciprocal.
pub(super) fn in_place(elements: usize) -> f64 {
    START / 2.0 + 2.0 * elements as f64 / EXPONENTIALS
}

/// Clocks of a launch that has next to nothing to do.
pub(super) fn alone(target: &Target) -> f64 {
    START + launched(target)
}

/// Multiply-adds that a multiprocessor makes in a clock by `mma.sync`, of halves with f32 sums. Consumer GPUs have a quarter of a data
/// centre's; from Hopper on `mma.sync` reaches two thirds of what the tensor cores can do. Floats are multiplied elsewhere.
fn products_per_clock(target: &Target) -> f64 {
    match (target.precision, target.compute_capability) {
        (Precision::F16, 80) => 1024.0,
        (Precision::F16, 90..) => 1340.0,
        (Precision::F16, _) => 256.0,
        (Precision::F32, 80) => 64.0,
        (Precision::F32, _) => 128.0,
    }
}
