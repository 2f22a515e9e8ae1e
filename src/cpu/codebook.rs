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

/// Pixels that meet a code while it is in registers.
const ROWS: usize = 4;

/// Pixels of a task.
const TASK: usize = 16 * ROWS;

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
        let width = self.packed.width;
        let x = self.x.chunks(ROWS * width);
        for (y, x) in self.y.chunks_mut(ROWS).zip(x) {
            // Rows that are not there are the last again.
            let rows: [&[f32]; ROWS] =
                std::array::from_fn(|row| &x[row.min(y.len() - 1) * width..][..width]);
            let found = nearest::<FUSED>(self.packed, rows);
            y.iter_mut().zip(found).for_each(|(y, found)| *y = found);
        }
    }
}

#[inline(always)]
fn nearest<const FUSED: bool>(packed: &Packed, rows: [&[f32]; ROWS]) -> [f32; ROWS] {
    let own = rows.map(square);
    let mut least = [[f32::INFINITY; LANES]; ROWS];
    let mut at = [[0u32; LANES]; ROWS];
    let blocks = packed.codes.chunks_exact(packed.width);
    for (number, (codes, squares)) in blocks.zip(&packed.squares).enumerate() {
        let mut products = [[0f32; LANES]; ROWS];
        for (channel, code) in codes.iter().enumerate() {
            for (row, products) in rows.iter().zip(&mut products) {
                for (product, e) in products.iter_mut().zip(code) {
                    *product = match FUSED {
                        true => row[channel].mul_add(*e, *product),
                        false => *product + row[channel] * e,
                    };
                }
            }
        }
        for row in 0..ROWS {
            for lane in 0..LANES {
                let distance = (own[row] + squares[lane]) - 2.0 * products[row][lane];
                let nearer = distance < least[row][lane];
                least[row][lane] = if nearer { distance } else { least[row][lane] };
                at[row][lane] = if nearer { number as u32 } else { at[row][lane] };
            }
        }
    }
    std::array::from_fn(|row| {
        let mut nearest = (f32::INFINITY, f32::NAN);
        for (lane, &distance) in least[row].iter().enumerate() {
            let code = (at[row][lane] as usize * LANES + lane) as f32;
            if distance < nearest.0 || (distance == nearest.0 && code < nearest.1) {
                nearest = (distance, code);
            }
        }
        nearest.1
    })
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
