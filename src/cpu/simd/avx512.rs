//! The product of panels for AVX-512.
//!
//! A tile of 14 rows and 32 columns keeps 28 of the 32 registers as accumulators. Per step along the sum it takes two loads of the panel
//! and 14 broadcasts for 28 multiply-adds, so the two multiply-add units never wait for the two load units.

use super::{BLOCK, HALF, Lane, Loop, Row, Stripe, portable, tile_rows};
use crate::weights::Dtype;
use std::arch::x86_64::*;

/// The highest tile.
const ROWS: usize = 14;

#[target_feature(enable = "avx512f,f16c")]
pub(super) fn run(work: impl Loop) {
    work.run();
}

#[target_feature(enable = "avx512f")]
pub(super) fn product(a: &[Row], b: &[Lane], narrow: bool, out: &mut [Lane], add: bool) {
    let rows = tile_rows(a.len(), ROWS);
    for (a, out) in a.chunks(rows).zip(out.chunks_mut(rows)) {
        if narrow {
            tile_of::<1>(a, b, out, add);
        } else {
            tile_of::<2>(a, b, out, add);
        }
    }
}

#[target_feature(enable = "avx512f")]
fn tile_of<const V: usize>(a: &[Row], b: &[Lane], out: &mut [Lane], add: bool) {
    macro_rules! by_rows {
        ($($rows:literal)+) => {
            match a.len() {
                $($rows => if let (Some(a), Some(out)) = (a.first_chunk(), out.first_chunk_mut()) {
                    tile::<$rows, V>(a, b, out, add);
                },)+
                _ => {}
            }
        };
    }
    by_rows!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
}

#[target_feature(enable = "avx512f")]
fn tile<const M: usize, const V: usize>(a: &[Row; M], b: &[Lane], out: &mut [Lane; M], add: bool) {
    let mut sums = [[_mm512_setzero_ps(); V]; M];
    for (k, lane) in b[..b.len().min(BLOCK)].iter().enumerate() {
        let lane: &[[f32; HALF]; 2] = bytemuck::cast_ref(lane);
        let mut column = [_mm512_setzero_ps(); V];
        for v in 0..V {
            column[v] = bytemuck::cast(lane[v]);
        }
        for m in 0..M {
            let factor = _mm512_set1_ps(a[m][k]);
            for v in 0..V {
                sums[m][v] = _mm512_fmadd_ps(factor, column[v], sums[m][v]);
            }
        }
    }
    for m in 0..M {
        let out: &mut [[f32; HALF]; 2] = bytemuck::cast_mut(&mut out[m]);
        for v in 0..V {
            let sum = if add {
                _mm512_add_ps(bytemuck::cast(out[v]), sums[m][v])
            } else {
                sums[m][v]
            };
            out[v] = bytemuck::cast(sum);
        }
    }
}

#[target_feature(enable = "avx512f,f16c")]
pub(super) fn pack(stripe: Stripe, order: &[usize], out: &mut [Lane], first: usize) {
    let whole = if stripe.rows == HALF {
        order.len() / HALF * HALF
    } else {
        0
    };
    for (i, order) in order[..whole].chunks_exact(HALF).enumerate() {
        let mut block = [_mm512_setzero_ps(); HALF];
        for (row, vector) in block.iter_mut().enumerate() {
            let at = stripe.start + row * stripe.pitch + i * HALF;
            *vector = load(stripe.matrix.dtype, stripe.matrix.bytes, at);
        }
        let block = transpose(block);
        for (place, vector) in order.iter().zip(block) {
            if let Some(lane) = out[*place][first..].first_chunk_mut::<HALF>() {
                *lane = bytemuck::cast(vector);
            }
        }
    }
    portable::pack(stripe, whole, order, out, first);
}

/// Sixteen stored numbers from element `at` on.
#[inline]
#[target_feature(enable = "avx512f,f16c")]
fn load(dtype: Dtype, bytes: &[u8], at: usize) -> __m512 {
    match dtype {
        Dtype::F16 => _mm512_cvtph_ps(bytemuck::cast(array::<32>(bytes, at * 2))),
        Dtype::BF16 => {
            let halves = _mm512_cvtepu16_epi32(bytemuck::cast(array::<32>(bytes, at * 2)));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(halves))
        }
        Dtype::F32 => bytemuck::cast(array::<64>(bytes, at * 4)),
    }
}

#[inline(always)]
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().unwrap_or(&[0; N])
}

/// The transpose of sixteen vectors: pairs, then quadruples within each quarter, then the quarters.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(rows: [__m512; HALF]) -> [__m512; HALF] {
    let mut pairs = rows;
    for i in 0..8 {
        pairs[2 * i] = _mm512_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
    }
    // fours[4 i + j] holds column 4 q + j of rows 4 i .. 4 i + 4 in its quarter q.
    let mut fours = pairs;
    for i in 0..4 {
        let [a, b, c, d] = [0, 1, 2, 3].map(|j| _mm512_castps_pd(pairs[4 * i + j]));
        fours[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
        fours[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
        fours[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
        fours[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
    }
    let mut columns = fours;
    for j in 0..4 {
        let [a, b, c, d] = [fours[j], fours[4 + j], fours[8 + j], fours[12 + j]];
        let [ab_even, ab_odd] = [
            _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b),
            _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b),
        ];
        let [cd_even, cd_odd] = [
            _mm512_shuffle_f32x4::<0b10_00_10_00>(c, d),
            _mm512_shuffle_f32x4::<0b11_01_11_01>(c, d),
        ];
        columns[j] = _mm512_shuffle_f32x4::<0b10_00_10_00>(ab_even, cd_even);
        columns[8 + j] = _mm512_shuffle_f32x4::<0b11_01_11_01>(ab_even, cd_even);
        columns[4 + j] = _mm512_shuffle_f32x4::<0b10_00_10_00>(ab_odd, cd_odd);
        columns[12 + j] = _mm512_shuffle_f32x4::<0b11_01_11_01>(ab_odd, cd_odd);
    }
    columns
}
