//! What several blocks make together.

use crate::cases::{Case, Expected, bits, integer, warp};
use crate::layout::WARP;

/// Each block turns its words, and the last to arrive adds up what all have written: integers, whose sums are exact.
pub fn last_to_arrive(blocks: usize) -> Case {
    let value = |block: usize, lane: usize| integer(1, block, lane);
    let all = |turn: usize| (0..blocks * WARP).map(move |i| value(i / WARP, (i % WARP) ^ turn));
    let x: Vec<f32> = all(0).collect();
    let sum = |lane: usize| (0..blocks).map(|block| value(block, lane ^ 1)).sum();
    let expected = all(1).chain((0..WARP).map(sum)).collect();
    Case {
        threads: blocks * WARP,
        ..warp(
            "primitive_last_to_arrive",
            bits(&x),
            None,
            Expected::Floats(expected),
        )
    }
}
