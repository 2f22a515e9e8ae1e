//! Where values live: lifetimes to offsets in one arena.
//!
//! Largest first, each into the tightest gap left by those it lives together with. Networks have many values of one size, and
//! which of these comes first decides a tenth of the arena, so two orders are tried and the better one is kept. That ends at the
//! lower bound on nearly every graph here, in a few milliseconds, and it is short enough to be read.
//!
//! # Source
//! Pisarchyk and Lee, arXiv:2001.03288, section 5.2 (greedy by size).

use std::cmp::Reverse;

/// Offsets are multiples of this many bytes: a cache line on the CPU, a memory transaction on a GPU.
pub const ALIGNMENT: usize = 256;

/// A run of bytes that must exist from step `first` to step `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// How many bytes; none takes no room.
    pub bytes: usize,
    /// The step that writes it.
    pub first: usize,
    /// The last step that reads it.
    pub last: usize,
}

impl Interval {
    fn meets(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Offsets for a list of intervals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes from the start of the arena, one per interval.
    pub offsets: Vec<usize>,
    /// Bytes of the arena.
    pub bytes: usize,
    /// Bytes of all intervals side by side.
    pub sum_bytes: usize,
    /// The most bytes that live at one step.
    pub lower_bound_bytes: usize,
}

/// Lays out `intervals` so that no two that live at the same step overlap.
pub fn lay_out(intervals: &[Interval]) -> Layout {
    let mut order: Vec<usize> = (0..intervals.len())
        .filter(|&i| intervals[i].bytes > 0)
        .collect();
    order.sort_by_key(|&i| (Reverse(intervals[i].bytes), i));
    let in_time = place(intervals, &order);
    order.sort_by_key(|&i| {
        let interval = &intervals[i];
        (
            Reverse(interval.bytes),
            Reverse(interval.last - interval.first),
        )
    });
    let longest_first = place(intervals, &order);
    if longest_first.bytes < in_time.bytes {
        longest_first
    } else {
        in_time
    }
}

/// Gives the intervals their offsets in the given order.
fn place(intervals: &[Interval], order: &[usize]) -> Layout {
    let mut offsets = vec![0usize; intervals.len()];
    // Placed intervals by offset, so that gaps are met from left to right.
    let mut placed: Vec<usize> = Vec::with_capacity(order.len());
    for &index in order {
        let needed = size(&intervals[index]);
        let (mut end, mut best) = (0, None::<(usize, usize)>);
        for &other in placed
            .iter()
            .filter(|&&other| intervals[other].meets(&intervals[index]))
        {
            let gap = offsets[other].saturating_sub(end);
            if gap >= needed && best.is_none_or(|(smallest, _)| gap < smallest) {
                best = Some((gap, end));
            }
            end = end.max(offsets[other] + size(&intervals[other]));
        }
        offsets[index] = best.map_or(end, |(_, offset)| offset);
        let at = placed.partition_point(|&other| offsets[other] <= offsets[index]);
        placed.insert(at, index);
    }
    let bytes = order
        .iter()
        .map(|&i| offsets[i] + size(&intervals[i]))
        .max()
        .unwrap_or(0);
    Layout {
        bytes,
        sum_bytes: intervals.iter().map(size).sum(),
        lower_bound_bytes: lower_bound(intervals),
        offsets,
    }
}

/// The bytes an interval takes in the arena.
fn size(interval: &Interval) -> usize {
    interval.bytes.next_multiple_of(ALIGNMENT)
}

/// The most bytes alive at one step.
fn lower_bound(intervals: &[Interval]) -> usize {
    let steps = intervals.iter().map(|i| i.last + 1).max().unwrap_or(0);
    let mut change = vec![0isize; steps + 1];
    for interval in intervals {
        change[interval.first] += size(interval) as isize;
        change[interval.last + 1] -= size(interval) as isize;
    }
    let mut alive = 0;
    change
        .iter()
        .map(|step| {
            alive += step;
            alive as usize
        })
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nothing_alive_overlaps(raw in prop::collection::vec((0usize..5000, 0usize..40, 0usize..10), 0..60)) {
            let intervals: Vec<Interval> = raw
                .into_iter()
                .map(|(bytes, first, length)| Interval { bytes, first, last: first + length })
                .collect();
            let layout = lay_out(&intervals);
            prop_assert!(layout.lower_bound_bytes <= layout.bytes);
            prop_assert!(layout.bytes <= layout.sum_bytes);
            for (i, a) in intervals.iter().enumerate() {
                prop_assert_eq!(layout.offsets[i] % ALIGNMENT, 0);
                for (j, b) in intervals.iter().enumerate().take(i) {
                    let apart = layout.offsets[i] + a.bytes <= layout.offsets[j]
                        || layout.offsets[j] + b.bytes <= layout.offsets[i];
                    prop_assert!(apart || !a.meets(b) || a.bytes == 0 || b.bytes == 0, "{i} and {j}");
                }
            }
        }
    }

    #[test]
    fn a_chain_needs_two_buffers() {
        let chain: Vec<Interval> = (0..10)
            .map(|i| Interval {
                bytes: 1000,
                first: i,
                last: i + 1,
            })
            .collect();
        let layout = lay_out(&chain);
        assert_eq!(layout.bytes, 2048);
        assert_eq!(layout.lower_bound_bytes, 2048);
        assert_eq!(layout.sum_bytes, 10240);
    }
}
