//! The one matrix product: linear maps and convolutions differ only in where its rows come from.
//!
//! The result is cut into tasks of some rows and some panels of 32 columns. A task gathers blocks of its rows into a dense buffer (for a
//! convolution that is the whole of "im2col", and no more than a cache's worth of it exists), converts and transposes the matching
//! weights a panel at a time straight from the checkpoint's bytes, multiplies, and finishes each panel while it is hot.
//!
//! # Reproducibility
//! Each element is a sum over the blocks of [`Depth`] in order, and within a block over its products in order: how the
//! result is cut into tasks and tiles changes nothing. So tasks may follow the number of threads.

use super::epilogue::Finish;
use super::simd::{self, Ahead, Lane, Row, Stored, Stripe, WIDTH};
use crate::ops::Slice;
use crate::plan::depth::Depth;
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

/// The most rows of a task: its sums (128 bytes a row and panel) and blocks of rows share the second-level cache.
const MOST_ROWS: usize = 512;

/// The most panels of a task.
const MOST_PANELS: usize = 16;

/// The most row blocks that a task keeps gathered (1 MiB). Few rows may be gathered for the whole sum at once, and then each weight
/// row is read in one go.
const MOST_GATHERED: usize = 780;

/// Where a product's rows come from.
pub(super) trait Rows: Sync {
    /// The number of rows of the result.
    fn count(&self) -> usize;

    /// Which of the factor's parts makes a row of the result. Each makes as many.
    fn part(&self, row: usize) -> usize {
        let _ = row;
        0
    }

    /// Writes, for each of a part's `rows`, the given channels of every pixel under the filter, pixel after pixel.
    fn gather(&self, part: usize, rows: Range<usize>, channels: Range<usize>, out: &mut [Row]);
}

/// The parts of `channels` that lie in each source, where the sources are joined along the channels: the source, its own channels, and
/// how many of `channels` come before them.
pub(super) fn parts<'a>(
    sources: &'a [Slice<'a>],
    channels: &Range<usize>,
) -> impl Iterator<Item = (Slice<'a>, Range<usize>, usize)> {
    let (channels, mut first) = (channels.clone(), 0);
    sources.iter().filter_map(move |source| {
        let own = first..first + source.shape.channels();
        first = own.end;
        let [start, end] = [channels.start.max(own.start), channels.end.min(own.end)];
        (start < end).then(|| {
            let part = start - own.start..end - own.start;
            (*source, part, start - channels.start)
        })
    })
}

/// The weights of a product: `[outputs, channels, taps]` as stored.
pub(super) struct Factor<'a> {
    pub stored: Stored<'a>,
    pub outputs: usize,
    /// One for each part.
    pub depths: Vec<Depth>,
}

/// Buffers of one thread, kept from task to task.
#[derive(Default)]
struct Scratch {
    gathered: Vec<Row>,
    panel: Vec<Lane>,
    sums: Vec<Lane>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// A piece of the result: some columns of some rows.
struct Task<'a> {
    part: usize,
    /// The first row, among those of the part.
    first_row: usize,
    panels: Range<usize>,
    /// Pieces of rows, each with the row's number.
    output: Vec<(usize, &'a mut [f32])>,
}

/// Computes every row times every weight, finishes it and stores it in `output`.
pub(super) fn multiply(rows: &impl Rows, factor: &Factor, finish: &Finish, output: &mut [f32]) {
    let tasks = tasks(rows, factor, finish, output);
    tasks.into_par_iter().with_max_len(1).for_each(|mut task| {
        SCRATCH.with_borrow_mut(|scratch| run(&mut task, rows, factor, finish, scratch));
    });
}

/// Cuts the result into tasks, enough for every thread.
fn tasks<'a>(
    rows: &impl Rows,
    factor: &Factor,
    finish: &Finish,
    output: &'a mut [f32],
) -> Vec<Task<'a>> {
    let parts = factor.depths.len();
    let part_rows = rows.count() / parts;
    let task_rows = part_rows.div_ceil(part_rows.div_ceil(MOST_ROWS));
    let row_tasks = part_rows.div_ceil(task_rows);
    let panels = factor.outputs.div_ceil(WIDTH);
    let wanted = (2 * rayon::current_num_threads()).div_ceil(parts * row_tasks);
    let task_panels = panels.div_ceil(panels.div_ceil(MOST_PANELS).max(wanted).min(panels));
    let panel_tasks = panels.div_ceil(task_panels);
    let mut tasks: Vec<Task> = (0..parts * row_tasks * panel_tasks)
        .map(|i| {
            let (group, first_panel) = (i / panel_tasks, i % panel_tasks * task_panels);
            Task {
                part: group / row_tasks,
                first_row: group % row_tasks * task_rows,
                panels: first_panel..(first_panel + task_panels).min(panels),
                output: Vec::with_capacity(task_rows),
            }
        })
        .collect();
    let mut filled = vec![0; parts];
    for (row, output) in output.chunks_mut(output.len() / rows.count()).enumerate() {
        let part = rows.part(row);
        let group = part * row_tasks + filled[part] / task_rows;
        filled[part] += 1;
        let mut rest = output;
        for task in &mut tasks[group * panel_tasks..][..panel_tasks] {
            let columns = (task.panels.len() * finish.panel_width()).min(rest.len());
            let (head, tail) = rest.split_at_mut(columns);
            task.output.push((row, head));
            rest = tail;
        }
    }
    tasks
}

fn run(task: &mut Task, rows: &impl Rows, factor: &Factor, finish: &Finish, scratch: &mut Scratch) {
    let height = task.output.len();
    let row_range = task.first_row..task.first_row + height;
    let depth = &factor.depths[task.part];
    let folded = depth.places() < depth.taps();
    let zero = [0.0; WIDTH];
    let blocks: Vec<Range<usize>> = depth.blocks().collect();
    let at_once = (MOST_GATHERED / height).max(1);
    let slabs = blocks.chunks(at_once);
    // Where one slab is the whole sum, a panel is finished before the next begins.
    let kept = if slabs.len() == 1 {
        1
    } else {
        task.panels.len()
    };
    scratch.sums.resize(kept * height, zero);
    scratch.panel.resize(simd::BLOCK, zero);
    // Every panel and block in the order below, one step ahead of it.
    let mut next = slabs.clone().flat_map(|slab| {
        let panels = task.panels.clone();
        panels.flat_map(move |panel| slab.iter().map(move |block| (panel, block)))
    });
    next.next();
    let mut ahead = Ahead::default();
    let mut order = Vec::new();
    for (slab, slab_blocks) in slabs.clone().enumerate() {
        let last = slab + 1 == slabs.len();
        let gathered = &mut scratch.gathered;
        gathered.resize(slab_blocks.len() * height, [0.0; simd::BLOCK + 16]);
        for (block, gathered) in slab_blocks.iter().zip(gathered.chunks_mut(height)) {
            rows.gather(task.part, row_range.clone(), block.clone(), gathered);
        }
        for (i, index) in task.panels.clone().enumerate() {
            let sums = &mut scratch.sums[i % kept * height..][..height];
            for (k, block) in slab_blocks.iter().enumerate() {
                let stripes = factor.stripes(finish, depth, index, block);
                if order.len() != stripes[0].columns {
                    order = depth.order(block.len());
                }
                let panel = &mut scratch.panel[..depth.places() * block.len()];
                if folded {
                    panel.fill(zero);
                }
                for (half, stripe) in stripes.into_iter().enumerate() {
                    simd::pack(stripe, &order, panel, half, folded);
                }
                let stripes_of = |(index, block)| factor.stripes(finish, depth, index, block);
                ahead.ask(next.next().into_iter().flat_map(stripes_of));
                let (gathered, narrow) = (&gathered[k * height..][..height], stripes[1].rows == 0);
                simd::product(gathered, panel, narrow, sums, slab + k > 0, &ahead);
            }
            if last {
                finish.panel(index, sums, i * finish.panel_width(), &mut task.output);
            }
        }
    }
}

impl Factor<'_> {
    /// The weights of a block of channels that become each half of a panel.
    fn stripes(
        &self,
        finish: &Finish,
        depth: &Depth,
        panel: usize,
        block: &Range<usize>,
    ) -> [Stripe<'_>; 2] {
        let pitch = depth.channels() * depth.taps();
        finish.halves(panel).map(|outputs| Stripe {
            matrix: self.stored,
            pitch,
            start: outputs.start * pitch + block.start * depth.taps(),
            rows: outputs.len(),
            columns: block.len() * depth.taps(),
        })
    }
}
