//! The product of panels for AVX-512.
//!
//! A tile of 14 rows and 32 columns keeps 28 of the 32 registers as accumulators. Per step along the sum it takes two loads of the panel
//! and 14 broadcasts for 28 multiply-adds, so the two multiply-add units never wait for the two load units.

use super::{Ahead, BLOCK, HALF, Lane, Loop, Row, Stripe, portable, prefetch, tile_rows};
use crate::weights::Dtype;
use std::arch::x86_64::*;

/// The highest tile.
const ROWS: usize = 14;

#[target_feature(enable = "avx512f,f16c")]
pub(super) fn run(work: impl Loop) {
    work.run::<true>();
}

#[target_feature(enable = "avx512f")]
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
        if narrow {
            tile_of::<1>(a, b, out, add, ahead);
        } else {
            tile_of::<2>(a, b, out, add, ahead);
        }
    }
}

#[target_feature(enable = "avx512f")]
fn tile_of<const V: usize>(a: &[Row], b: &[Lane], out: &mut [Lane], add: bool, ahead: &[&u8]) {
    macro_rules! by_rows {
        ($($rows:literal)+) => {
            match a.len() {
                $($rows => if let (Some(a), Some(out)) = (a.first_chunk(), out.first_chunk_mut()) {
                    tile::<$rows, V>(a, b, out, add, ahead);
                },)+
                _ => {}
            }
        };
    }
    by_rows!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
}

/// Does something for each of `$M` rows, at most 16. Written out, since where the compiler leaves a loop, rows stay in memory.
macro_rules! for_rows {
    ($M:ident, $m:ident => $body:block) => {
        for_rows!($M, $m => $body; 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    ($M:ident, $m:ident => $body:block; $($row:literal)+) => {
        $(if $row < $M {
            let $m = $row;
            $body
        })+
    };
}

#[target_feature(enable = "avx512f")]
fn tile<const M: usize, const V: usize>(
    a: &[Row; M],
    b: &[Lane],
    out: &mut [Lane; M],
    add: bool,
    ahead: &[&u8],
) {
    let mut sums = [[_mm512_setzero_ps(); V]; M];
    for (k, lane) in b[..b.len().min(BLOCK)].iter().enumerate() {
        if let Some(line) = ahead.get(k) {
            prefetch(line);
        }
        let [left, right] = bytemuck::must_cast::<Lane, [__m512; 2]>(*lane);
        for_rows!(M, m => {
            let factor = _mm512_set1_ps(a[m][k]);
            sums[m][0] = _mm512_fmadd_ps(factor, left, sums[m][0]);
            if V > 1 {
                sums[m][V - 1] = _mm512_fmadd_ps(factor, right, sums[m][V - 1]);
            }
        });
    }
    for_rows!(M, m => {
        let out: &mut [[f32; HALF]; 2] = bytemuck::must_cast_mut(&mut out[m]);
        for v in 0..V {
            let sum = if add {
                _mm512_add_ps(bytemuck::must_cast(out[v]), sums[m][v])
            } else {
                sums[m][v]
            };
            out[v] = bytemuck::must_cast(sum);
        }
    });
}

#[target_feature(enable = "avx512f,f16c")]
pub(super) fn pack(stripe: Stripe, order: &[usize], out: &mut [Lane], half: usize, add: bool) {
    let whole = match (stripe.rows, stripe.matrix.dtype, add) {
        (HALF, Dtype::F16, false) => pack_whole::<F16, 32, false>(stripe, order, out, half),
        (HALF, Dtype::F16, true) => pack_whole::<F16, 32, true>(stripe, order, out, half),
        (HALF, Dtype::BF16, false) => pack_whole::<BF16, 32, false>(stripe, order, out, half),
        (HALF, Dtype::BF16, true) => pack_whole::<BF16, 32, true>(stripe, order, out, half),
        (HALF, Dtype::F32, false) => pack_whole::<F32, 64, false>(stripe, order, out, half),
        (HALF, Dtype::F32, true) => pack_whole::<F32, 64, true>(stripe, order, out, half),
        _ => 0,
    };
    portable::pack(stripe, whole, order, out, half, add);
}

const F16: u8 = 0;
const BF16: u8 = 1;
const F32: u8 = 2;

/// Packs blocks of 16 by 16 numbers, each row of them `BYTES` long; returns how many columns that covers.
#[target_feature(enable = "avx512f,f16c")]
fn pack_whole<const DTYPE: u8, const BYTES: usize, const ADD: bool>(
    stripe: Stripe,
    order: &[usize],
    out: &mut [Lane],
    half: usize,
) -> usize {
    const ROWS: usize = HALF;
    let (blocks, _) = order.as_chunks::<HALF>();
    let mut rows: [&[[u8; BYTES]]; ROWS] = [&[]; ROWS];
    for (i, row) in rows.iter_mut().enumerate() {
        *row = stripe.row(i).as_chunks().0;
    }
    for (i, places) in blocks.iter().enumerate() {
        let mut block = [_mm512_setzero_ps(); ROWS];
        for_rows!(ROWS, m => { block[m] = convert::<DTYPE>(&rows[m][i]); });
        let block = transpose(block);
        for_rows!(ROWS, m => {
            let lane: &mut [[f32; HALF]; 2] = bytemuck::must_cast_mut(&mut out[places[m]]);
            let before = bytemuck::must_cast(lane[half]);
            let after = if ADD { _mm512_add_ps(before, block[m]) } else { block[m] };
            lane[half] = bytemuck::must_cast(after);
        });
    }
    blocks.len() * HALF
}

/// Sixteen stored numbers as f32.
#[inline]
#[target_feature(enable = "avx512f,f16c")]
fn convert<const DTYPE: u8>(bytes: &[u8]) -> __m512 {
    match DTYPE {
        // Without suppressing exceptions, the conversion reads memory itself.
        F16 => _mm512_cvt_roundph_ps::<_MM_FROUND_CUR_DIRECTION>(bytemuck::must_cast(chunk::<32>(
            bytes,
        ))),
        BF16 => {
            let halves = _mm512_cvtepu16_epi32(bytemuck::must_cast(chunk::<32>(bytes)));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(halves))
        }
        _ => bytemuck::must_cast(chunk::<64>(bytes)),
    }
}

#[inline(always)]
fn chunk<const N: usize>(bytes: &[u8]) -> [u8; N] {
    *bytes.first_chunk().unwrap_or(&[0; N])
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
