//! What a product does to its sums before storing them, panel by panel.

use super::math;
use super::simd::{self, HALF, Lane, Loop, WIDTH};
use crate::ops::{Activation, Epilogue, Slice};
use std::ops::Range;

/// An [`Epilogue`] with its operands.
pub(super) struct Finish<'a> {
    epilogue: Epilogue,
    /// Channels of the product, before a gate halves them.
    outputs: usize,
    bias: Vec<f32>,
    /// Those of an epilogue that adds channels begin with them; a residual is the last.
    operands: &'a [Slice<'a>],
    rows_per_image: usize,
}

impl<'a> Finish<'a> {
    /// The epilogue of a product of `outputs` channels, with its extra operands in order.
    pub fn new(
        epilogue: Epilogue,
        outputs: usize,
        bias: Option<Vec<f32>>,
        rows_per_image: usize,
        operands: &'a [Slice<'a>],
    ) -> Self {
        Self {
            epilogue,
            outputs,
            bias: bias.unwrap_or_else(|| vec![0.0; outputs]),
            operands,
            rows_per_image: rows_per_image.max(1),
        }
    }

    /// Channels of the result.
    fn width(&self) -> usize {
        if self.epilogue.gate {
            self.outputs / 2
        } else {
            self.outputs
        }
    }

    /// Channels of the result that one panel makes.
    pub fn panel_width(&self) -> usize {
        if self.epilogue.gate { HALF } else { WIDTH }
    }

    /// The channels of the product in each half of a panel. A gate and what it multiplies share a panel.
    pub fn halves(&self, panel: usize) -> [Range<usize>; 2] {
        let half = |start: usize, end: usize| start.min(end)..(start + HALF).min(end);
        if self.epilogue.gate {
            let middle = self.width();
            [
                half(panel * HALF, middle),
                half(middle + panel * HALF, self.outputs),
            ]
        } else {
            let start = panel * WIDTH;
            [half(start, self.outputs), half(start + HALF, self.outputs)]
        }
    }

    /// Finishes a panel and stores it from `column` of `output` on: parts of rows of the result, each with the row's number.
    pub fn panel(
        &self,
        panel: usize,
        sums: &mut [Lane],
        column: usize,
        output: &mut [(usize, &mut [f32])],
    ) {
        simd::vectorised(Panel {
            finish: self,
            halves: self.halves(panel),
            first_column: panel * self.panel_width(),
            sums,
            column,
            output,
        });
    }
}

struct Panel<'a, 'b, 'c> {
    finish: &'a Finish<'a>,
    halves: [Range<usize>; 2],
    first_column: usize,
    sums: &'a mut [Lane],
    column: usize,
    output: &'b mut [(usize, &'c mut [f32])],
}

impl Panel<'_, '_, '_> {
    /// The panel's part of a row of values per channel of the product; zero beyond the last channel.
    #[inline(always)]
    fn part(&self, row: &[f32]) -> Lane {
        let mut part = [0.0; WIDTH];
        for (half, part) in self.halves.iter().zip(part.chunks_exact_mut(HALF)) {
            part[..half.len()].copy_from_slice(&row[half.clone()]);
        }
        part
    }
}

impl Loop for Panel<'_, '_, '_> {
    #[inline(always)]
    fn run<const FUSED: bool>(mut self) {
        let finish = self.finish;
        let width = finish.width();
        let bias = self.part(&finish.bias);
        let mut sums = std::mem::take(&mut self.sums).iter_mut();
        let outputs = std::mem::take(&mut self.output);
        let residual = finish.operands.last().filter(|_| finish.epilogue.residual);
        let mut image = usize::MAX;
        let mut offset = bias;
        for ((row, output), lane) in outputs.iter_mut().zip(&mut sums) {
            let row = *row;
            if let Some(channels) = finish.epilogue.channels
                && image != row / finish.rows_per_image
            {
                image = row / finish.rows_per_image;
                offset = self.part(channels.of_image(image, finish.operands));
                add(&mut offset, &bias);
            }
            add(lane, &offset);
            if let Some(activation) = finish.epilogue.activation {
                math::activate::<FUSED>(activation, lane);
            }
            let made = if finish.epilogue.gate {
                gate::<FUSED>(lane);
                HALF
            } else {
                WIDTH
            };
            let columns = made.min(width - self.first_column);
            if let Some(residual) = residual {
                let row = row % residual.shape.rows();
                let residual = &residual.data[row * width + self.first_column..][..columns];
                lane.iter_mut().zip(residual).for_each(|(y, r)| *y += r);
            }
            output[self.column..][..columns].copy_from_slice(&lane[..columns]);
        }
    }
}

#[inline(always)]
fn add(lane: &mut Lane, other: &Lane) {
    for (y, x) in lane.iter_mut().zip(other) {
        *y += x;
    }
}

/// Multiplies the first half by GELU of the second.
#[inline(always)]
fn gate<const FUSED: bool>(lane: &mut Lane) {
    let (values, gates) = lane.split_at_mut(HALF);
    math::activate::<FUSED>(Activation::Gelu, gates);
    values.iter_mut().zip(gates).for_each(|(v, g)| *v *= *g);
}
