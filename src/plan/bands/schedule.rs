//! Which values are kept between passes, which are computed again, and how many rows are computed at once.
//!
//! To begin with everything that two passes read is kept. What is quicker to compute again than to move to the host and back is not; and
//! where the memory does not hold what is kept, more is computed again, first what costs least for its size. Then every pass takes as
//! few bands as fit.

use super::{Band, Network, Pass, Statistics, height};
use crate::error::{Error, Result};
use crate::graph::{Graph, Value};
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

/// Bytes of an element on the host.
const HOST_BYTES: usize = 4;

/// What it takes to keep values on the host: planning figures of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Whether the host's memory is the device's own, so that what is kept there is not out of the way.
    pub same_memory: bool,
    /// Floating-point operations that take as long as moving one element there or back.
    pub flops_per_element: u64,
}

/// The passes that compute a network in bands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// In this order.
    pub passes: Vec<Pass>,
    /// Bytes of the largest arena.
    pub arena_bytes: usize,
    /// Bytes of values on the host at the worst moment, what is given to the first pass left out.
    pub host_bytes: usize,
    /// Bytes of the device's memory at the worst moment, without weights: what the limit is for.
    pub peak_bytes: usize,
}

/// Says how many bytes the arena of a pass's graph has; nothing, if its kernels would not sum as those of the whole image.
pub type Measure<'a> = dyn Fn(&Pass, &Graph) -> Result<Option<usize>> + 'a;

impl Schedule {
    /// Passes that stay within `limit` bytes, without weights.
    ///
    /// # Errors
    /// [`Error::Memory`] if there are none.
    pub fn new(
        network: &Network,
        measure: &Measure,
        transfer: Transfer,
        limit: usize,
    ) -> Result<Self> {
        let planner = Planner {
            network,
            measure,
            transfer,
            limit,
            narrowest: RefCell::default(),
        };
        let all = network.candidates();
        let mut kept = planner.worth_keeping(&all);
        let mut excess = planner.excess(&kept)?;
        while excess > 0 {
            let mut best: Option<(usize, u64, BTreeSet<Value>)> = None;
            for value in &all {
                let mut other = kept.clone();
                if !other.remove(value) {
                    other.insert(*value);
                }
                let rank = (planner.excess(&other)?, planner.cost(&other));
                if best.as_ref().is_none_or(|(e, cost, _)| rank < (*e, *cost)) {
                    best = Some((rank.0, rank.1, other));
                }
            }
            match best.filter(|(less, ..)| *less < excess) {
                Some((less, _, other)) => (excess, kept) = (less, other),
                None => return Err(planner.refusal(&kept)?),
            }
        }
        planner.schedule(network.passes(&kept))
    }
}

/// What a pass takes in its narrowest bands.
#[derive(Clone, Copy)]
struct Narrowest {
    arena_bytes: usize,
    /// Of the largest value on its way to or from the host.
    moving_bytes: usize,
    /// Whether no sum is made in another order than in the whole image.
    alike: bool,
}

struct Planner<'a> {
    network: &'a Network<'a>,
    measure: &'a Measure<'a>,
    transfer: Transfer,
    limit: usize,
    /// What has been found out of passes.
    narrowest: RefCell<HashMap<Pass, Narrowest>>,
}

impl Planner<'_> {
    fn graph(&self) -> &Graph {
        self.network.graph
    }

    /// The candidates that are quicker to move than to compute again.
    fn worth_keeping(&self, all: &BTreeSet<Value>) -> BTreeSet<Value> {
        let mut kept = all.clone();
        let mut largest: Vec<Value> = all.iter().copied().collect();
        largest.sort_by_key(|v| std::cmp::Reverse(self.graph().shape(*v).len()));
        let mut cost = self.cost(&kept);
        for value in largest {
            kept.remove(&value);
            match self.cost(&kept) {
                less if less < cost => cost = less,
                _ => {
                    kept.insert(value);
                }
            }
        }
        kept
    }

    /// The work of all passes, moving included.
    fn cost(&self, kept: &BTreeSet<Value>) -> u64 {
        let graph = self.graph();
        let flops = |index: &usize| {
            let node = &graph.nodes()[*index];
            let shapes: Vec<_> = node.inputs.iter().map(|&v| graph.shape(v)).collect();
            node.op.operator().cost(&shapes, node.shape).flops
        };
        let moved =
            |value: &Value| graph.shape(*value).len() as u64 * self.transfer.flops_per_element;
        let passes = self.network.passes(kept);
        let of_pass = |pass: &Pass| {
            let work: u64 = pass.nodes.iter().map(flops).sum();
            work + pass.reads.iter().chain(&pass.keeps).map(moved).sum::<u64>()
        };
        passes.iter().map(of_pass).sum()
    }

    /// Bytes of the values that are kept while each pass runs.
    fn held(&self, passes: &[Pass]) -> Vec<usize> {
        let mut held = vec![0; passes.len()];
        for (first, pass) in passes.iter().enumerate() {
            for value in &pass.keeps {
                let is_result = self.graph().outputs().iter().any(|(_, v)| v == value);
                let last = match is_result {
                    true => passes.len() - 1,
                    false => passes
                        .iter()
                        .rposition(|p| p.reads.contains(value))
                        .unwrap_or(first),
                };
                for held in &mut held[first..=last] {
                    *held += self.graph().shape(*value).len() * HOST_BYTES;
                }
            }
        }
        held
    }

    /// Bytes by which passes exceed the limit in their narrowest bands, one with another.
    fn excess(&self, kept: &BTreeSet<Value>) -> Result<usize> {
        let passes = self.network.passes(kept);
        let held = self.held(&passes);
        let mut excess = 0;
        for (pass, held) in passes.iter().zip(held) {
            excess += self.needed_at_least(pass, held)?.saturating_sub(self.limit);
        }
        Ok(excess)
    }

    /// Bytes that a pass needs beside the `held` ones; twice the limit, if it may not be cut as it must be to fit.
    fn needed_at_least(&self, pass: &Pass, held: usize) -> Result<usize> {
        let known = self.narrowest.borrow().get(pass).copied();
        let narrowest = match known {
            Some(narrowest) => narrowest,
            None => {
                let rows = self.rows(pass);
                let bands = self.bands(pass, rows, self.most_bands(pass, rows));
                let narrowest = self.measure(pass, rows, &bands)?;
                let mut all = self.narrowest.borrow_mut();
                *all.entry(pass.clone()).or_insert(narrowest)
            }
        };
        let host_bytes = held + narrowest.moving_bytes;
        let needed = self.needed(narrowest.arena_bytes, host_bytes);
        Ok(match narrowest.alike {
            true => needed,
            // Whole, it is alike.
            false => match self.cut(pass, held)? {
                Some(cut) => self.needed(cut.arena_bytes, cut.host_bytes),
                None => needed.max(self.limit.saturating_mul(2)),
            },
        })
    }

    /// What a pass takes in these bands.
    fn measure(&self, pass: &Pass, rows: usize, bands: &[Band]) -> Result<Narrowest> {
        let heights: BTreeSet<usize> = bands.iter().map(|band| band.rows).collect();
        let (mut arena_bytes, mut alike) = (0, true);
        for height in &heights {
            let graph = self.network.part(pass, rows, *height)?;
            match (self.measure)(pass, &graph)? {
                Some(bytes) => arena_bytes = arena_bytes.max(bytes),
                None => alike = false,
            }
        }
        let tallest = heights.last().copied().unwrap_or(rows);
        let moved = pass.reads.iter().chain(&pass.keeps);
        let moved = moved.map(|v| super::rows_of(self.graph().shape(*v), rows, tallest).len());
        Ok(Narrowest {
            arena_bytes,
            moving_bytes: moved.max().unwrap_or(0) * HOST_BYTES,
            alike,
        })
    }

    /// The pass in as few bands as fit beside `held` bytes, if any number does.
    fn cut(&self, pass: &Pass, held: usize) -> Result<Option<Pass>> {
        let rows = self.rows(pass);
        let most = self.most_bands(pass, rows);
        let mut count = 1;
        loop {
            let bands = self.bands(pass, rows, count);
            let taken = self.measure(pass, rows, &bands)?;
            let host_bytes = held + taken.moving_bytes;
            if taken.alike && self.needed(taken.arena_bytes, host_bytes) <= self.limit {
                return Ok(Some(Pass {
                    rows,
                    bands,
                    arena_bytes: taken.arena_bytes,
                    host_bytes,
                    ..pass.clone()
                }));
            }
            if count == most {
                return Ok(None);
            }
            count = (count + (count / 8).max(1)).min(most);
        }
    }

    /// Rows of the whole image, as a pass's bands count them.
    fn rows(&self, pass: &Pass) -> usize {
        self.network.base(pass).unwrap_or(1)
    }

    /// As many bands that none is computed more than twice: halos are no larger than what they surround.
    fn most_bands(&self, pass: &Pass, rows: usize) -> usize {
        let halo: usize = self.halo(pass, rows).iter().sum();
        let least = halo.max(self.unit(pass, rows));
        (rows / least.next_multiple_of(self.unit(pass, rows))).max(1)
    }

    /// Rows above and below that an inner edge needs.
    fn halo(&self, pass: &Pass, rows: usize) -> [usize; 2] {
        let unit = self.unit(pass, rows);
        let reach = match self.network.base(pass) {
            Some(base) => self.network.reach(pass, base),
            None => [0, 0],
        };
        reach.map(|reach| reach.next_multiple_of(unit))
    }

    /// Bytes of the device's memory.
    fn needed(&self, arena_bytes: usize, host_bytes: usize) -> usize {
        arena_bytes
            + if self.transfer.same_memory {
                host_bytes
            } else {
                0
            }
    }

    /// Base rows by which bands may differ, so that they consist of whole blocks of what they gather.
    fn unit(&self, pass: &Pass, base: usize) -> usize {
        let of = |unit: usize, statistics: &Statistics| {
            let factor = height(self.graph(), statistics.of).unwrap_or(base) / base;
            let own = statistics.blocks.rows / gcd(statistics.blocks.rows, factor);
            unit / gcd(unit, own) * own
        };
        let normalised = pass.gathers.iter().chain(&pass.given);
        normalised.fold(1, of)
    }

    /// `count` bands of about as many of the `rows`, each with the halo that its inner edges need.
    fn bands(&self, pass: &Pass, rows: usize, count: usize) -> Vec<Band> {
        let unit = self.unit(pass, rows);
        let [above, below] = self.halo(pass, rows);
        let band = |index: usize| {
            let wanted = [index, index + 1].map(|at| at * (rows / unit) / count * unit);
            let first = wanted[0].saturating_sub(above);
            let end = (wanted[1] + below).min(rows);
            Band {
                first,
                rows: end - first,
                wanted,
            }
        };
        (0..count).map(band).collect()
    }

    /// Cuts every pass.
    fn schedule(&self, passes: Vec<Pass>) -> Result<Schedule> {
        let held = self.held(&passes);
        let mut cut = Vec::with_capacity(passes.len());
        for (pass, held) in passes.iter().zip(held) {
            cut.push(
                self.cut(pass, held)?
                    .ok_or_else(|| self.misfit(pass, self.limit + 1))?,
            );
        }
        let most = |of: &dyn Fn(&Pass) -> usize| cut.iter().map(of).max().unwrap_or(0);
        Ok(Schedule {
            arena_bytes: most(&|pass| pass.arena_bytes),
            host_bytes: most(&|pass| pass.host_bytes),
            peak_bytes: most(&|pass| self.needed(pass.arena_bytes, pass.host_bytes)),
            passes: cut,
        })
    }

    /// The refusal of the pass that exceeds the limit most.
    fn refusal(&self, kept: &BTreeSet<Value>) -> Result<Error> {
        let passes = self.network.passes(kept);
        let mut worst = (0, None);
        for (pass, held) in passes.iter().zip(self.held(&passes)) {
            let needed = self.needed_at_least(pass, held)?;
            if needed > worst.0 {
                worst = (needed, Some(pass));
            }
        }
        let (needed, pass) = worst;
        Ok(self.misfit(pass.unwrap_or(&Pass::default()), needed))
    }

    fn misfit(&self, pass: &Pass, needed: usize) -> Error {
        let last = pass
            .nodes
            .last()
            .map(|&index| &*self.graph().nodes()[index].name);
        Error::Memory(format!(
            "computed in bands, `{}` still needs {} of memory beside the weights, and {} are left for it; use a smaller size, or allow more",
            last.unwrap_or("the input"),
            size(needed),
            size(self.limit),
        ))
    }
}

/// Bytes for people, rounded up where that matters: what is needed must not look like what there is.
fn size(bytes: usize) -> String {
    match bytes >> 20 {
        0 => format!("{} KiB", bytes.div_ceil(1 << 10)),
        1..100 => format!("{:.2} MiB", bytes as f64 / f64::from(1 << 20)),
        _ => format!("{} MiB", bytes.div_ceil(1 << 20)),
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
