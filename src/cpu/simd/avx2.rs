//! The product of panels for AVX2 with FMA.
//!
//! A tile of 6 rows and 16 columns keeps 12 of the 16 registers as accumulators.

use super::{Ahead, BLOCK, HALF, Lane, Loop, Row, Stripe, portable, prefetch, tile_rows};
use std::arch::x86_64::*;

/// The highest tile.
const ROWS: usize = 6;

/// Columns of a vector.
const LANES: usize = 8;

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn run(work: impl Loop) {
    work.run::<true>();
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn product(
    a: &[Row],
    b: &[Lane],
    narrow: bool,
    out: &mut [Lane],
    add: bool,
    ahead: &Ahead,
) {
    let rows = tile_rows(a.len(), ROWS);
    let parts = ahead.parts(a.len().div_ceil(rows));
    for ((a, out), ahead) in a.chunks(rows).zip(out.chunks_mut(rows)).zip(parts) {
        ahead.iter().for_each(|line| prefetch(line));
        for half in 0..if narrow { 1 } else { 2 } {
            macro_rules! by_rows {
                ($($rows:literal)+) => {
                    match a.len() {
                        $($rows => if let (Some(a), Some(out)) = (a.first_chunk(), out.first_chunk_mut()) {
                            tile::<$rows>(a, b, half, out, add);
                        },)+
                        _ => {}
                    }
                };
            }
            by_rows!(1 2 3 4 5 6);
        }
    }
}

#[target_feature(enable = "avx2,fma")]
fn tile<const M: usize>(a: &[Row; M], b: &[Lane], half: usize, out: &mut [Lane; M], add: bool) {
    let mut sums = [[_mm256_setzero_ps(); 2]; M];
    for (k, lane) in b[..b.len().min(BLOCK)].iter().enumerate() {
        let lane: &[[[f32; LANES]; 2]; 2] = bytemuck::cast_ref(lane);
        let column: [__m256; 2] = bytemuck::cast(lane[half]);
        for m in 0..M {
            let factor = _mm256_set1_ps(a[m][k]);
            sums[m][0] = _mm256_fmadd_ps(factor, column[0], sums[m][0]);
            sums[m][1] = _mm256_fmadd_ps(factor, column[1], sums[m][1]);
        }
    }
    for m in 0..M {
        let out: &mut [[[f32; LANES]; 2]; 2] = bytemuck::cast_mut(&mut out[m]);
        let mut sum = sums[m];
        if add {
            let before: [__m256; 2] = bytemuck::cast(out[half]);
            sum = [
                _mm256_add_ps(before[0], sum[0]),
                _mm256_add_ps(before[1], sum[1]),
            ];
        }
        out[half] = bytemuck::cast(sum);
    }
}

/// As [`super::pack`]: conversions and transposition are left to the compiler.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn pack(stripe: Stripe, order: &[usize], out: &mut [Lane], half: usize, add: bool) {
    debug_assert!(stripe.rows <= HALF);
    portable::pack(stripe, 0, order, out, half, add);
}
