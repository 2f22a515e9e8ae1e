//! The product of panels in plain Rust, for processors without a file of their own.

use super::{HALF, Lane, Row, Stripe, WIDTH};

/// Rows and columns of a tile: 8 four-wide accumulators fit the 16 registers of SSE2 and the 32 of NEON.
const ROWS: usize = 4;
const COLUMNS: usize = 8;

pub(super) fn product(a: &[Row], b: &[Lane], narrow: bool, out: &mut [Lane], add: bool) {
    let width = if narrow { HALF } else { WIDTH };
    for (a, out) in a.chunks(ROWS).zip(out.chunks_mut(ROWS)) {
        for first in (0..width).step_by(COLUMNS) {
            match a.len() {
                1 => tile::<1>(a, b, first, out, add),
                2 => tile::<2>(a, b, first, out, add),
                3 => tile::<3>(a, b, first, out, add),
                _ => tile::<ROWS>(a, b, first, out, add),
            }
        }
    }
}

fn tile<const M: usize>(a: &[Row], b: &[Lane], first: usize, out: &mut [Lane], add: bool) {
    let mut sums = [[0.0f32; COLUMNS]; M];
    for (k, lane) in b.iter().enumerate() {
        let lane = &lane[first..first + COLUMNS];
        for (sums, a) in sums.iter_mut().zip(a) {
            let a = a[k];
            for (sum, b) in sums.iter_mut().zip(lane) {
                *sum = multiply_add(a, *b, *sum);
            }
        }
    }
    for (out, sums) in out.iter_mut().zip(sums) {
        for (out, sum) in out[first..].iter_mut().zip(sums) {
            *out = if add { *out + sum } else { sum };
        }
    }
}

/// Fused where that is one instruction; elsewhere fusing would call a function.
fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
        a.mul_add(b, c)
    } else {
        a * b + c
    }
}

/// As [`super::pack`], for the stripe's columns from `from` on.
pub(super) fn pack(
    stripe: Stripe,
    from: usize,
    order: &[usize],
    out: &mut [Lane],
    half: usize,
    add: bool,
) {
    // Columns of the stripe, as many as fit a corner of the cache.
    let mut block = [[0.0f32; HALF]; HALF];
    for (i, places) in order[from..].chunks(HALF).enumerate() {
        for (row, block) in block[..stripe.rows.min(HALF)].iter_mut().enumerate() {
            stripe.read(row, from + i * HALF, &mut block[..places.len()]);
        }
        for (column, place) in places.iter().enumerate() {
            let lane = &mut out[*place][half * HALF..][..HALF];
            for (value, row) in lane.iter_mut().zip(&block) {
                *value = if add {
                    *value + row[column]
                } else {
                    row[column]
                };
            }
        }
    }
}
