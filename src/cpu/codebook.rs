//! The nearest of many codes, for all pixels.
//!
//! Distances are those of the published quantiser, term by term in f32: `(|x|^2 + |e|^2) - 2 x e`. Where codes lie so close together that
//! its rounding decides between them, it decides here as there.

use super::simd::{self, Loop};
use crate::ops::{Codebook, Slice};
use crate::weights::TensorView;
use rayon::prelude::*;

/// Codes that are compared at once.
const LANES: usize = 16;

/// Pixels of a task.
const TASK: usize = 64;

/// The codes, in blocks of [`LANES`] of which each holds one channel after another.
struct Packed {
    width: usize,
    codes: Vec<[f32; LANES]>,
    /// `|e|^2`, infinite for the codes that fill up the last block.
    squares: Vec<[f32; LANES]>,
}

impl Packed {
    fn new(codes: &[f32], width: usize) -> Self {
        let mut packed = Self {
            width,
            codes: vec![],
            squares: vec![],
        };
        for block in codes.chunks(LANES * width) {
            let mut squares = [f32::INFINITY; LANES];
            let mut lanes = vec![[0.0; LANES]; width];
            for (lane, code) in block.chunks(width).enumerate() {
                squares[lane] = square(code);
                for (to, value) in lanes.iter_mut().zip(code) {
                    to[lane] = *value;
                }
            }
            packed.codes.append(&mut lanes);
            packed.squares.push(squares);
        }
        packed
    }
}

#[inline(always)]
fn square(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |sum, x| sum + x * x)
}

struct Search<'a> {
    packed: &'a Packed,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Loop for Search<'_> {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let rows = self.x.chunks_exact(self.packed.width);
        for (y, row) in self.y.iter_mut().zip(rows) {
            *y = nearest::<FUSED>(self.packed, row);
        }
    }
}

/// The nearest code of one pixel. The best of each lane, and its block, stay in registers.
#[inline(always)]
fn nearest<const FUSED: bool>(packed: &Packed, row: &[f32]) -> f32 {
    let own = square(row);
    let mut least = [f32::INFINITY; LANES];
    let mut at = [0.0; LANES];
    let mut number = 0.0;
    for (codes, squares) in packed.codes.chunks_exact(packed.width).zip(&packed.squares) {
        let mut product = [0f32; LANES];
        for (x, code) in row.iter().zip(codes) {
            for lane in 0..LANES {
                product[lane] = match FUSED {
                    true => x.mul_add(code[lane], product[lane]),
                    false => product[lane] + x * code[lane],
                };
            }
        }
        for lane in 0..LANES {
            let distance = (own + squares[lane]) - 2.0 * product[lane];
            let nearer = distance < least[lane];
            at[lane] = if nearer { number } else { at[lane] };
            least[lane] = if nearer { distance } else { least[lane] };
        }
        number += 1.0;
    }
    let mut nearest = (f32::INFINITY, f32::NAN);
    for lane in 0..LANES {
        let code = at[lane] * LANES as f32 + lane as f32;
        if least[lane] < nearest.0 || (least[lane] == nearest.0 && code < nearest.1) {
            nearest = (least[lane], code);
        }
    }
    nearest.1
}

pub(super) fn run(op: &Codebook, inputs: &[Slice], weights: &[TensorView], output: &mut [f32]) {
    let width = op.codes.shape.channels();
    if width == 0 {
        output.fill(f32::NAN);
        return;
    }
    let packed = Packed::new(&weights[0].to_f32(), width);
    let x = inputs[0].data.par_chunks(TASK * width);
    x.zip(output.par_chunks_mut(TASK)).for_each(|(x, y)| {
        let packed = &packed;
        simd::vectorised(Search { packed, x, y });
    });
}
