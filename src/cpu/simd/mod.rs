//! The machine's vector units: which there are, and the few loops written for each.
//!
//! A product of panels is written three times: for AVX-512, for AVX2 with FMA, and in plain Rust for every other processor. All else
//! is plain Rust that the compiler vectorises: a [`Loop`] is compiled once per instruction set. The only `unsafe` of the CPU device is
//! here: calling a function compiled for the instruction set that was found.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
mod stored;

#[cfg(target_arch = "x86_64")]
use std::sync::LazyLock;
pub(super) use stored::{Ahead, Stored, Stripe};

/// Columns of a panel.
pub(super) const WIDTH: usize = 32;

/// Half a panel: the columns that are packed together.
pub(super) const HALF: usize = WIDTH / 2;

/// The most products in one block of a sum: a panel's block (40 KiB) and the rows that meet it stay in the fast caches.
pub(super) const BLOCK: usize = 320;

/// One block of a row of the left factor. The padding keeps rows from falling on the same cache sets.
pub(super) type Row = [f32; BLOCK + 16];

/// One row of a panel.
pub(super) type Lane = [f32; WIDTH];

/// A loop that the compiler vectorises for the machine it runs on. Implementations mark [`run`](Self::run), and what it calls,
/// `#[inline(always)]`: only what is inlined is compiled for the instruction set. `FUSED` says whether that has
/// multiply-add instructions: elsewhere [`f32::mul_add`] calls a function.
pub(super) trait Loop {
    fn run<const FUSED: bool>(self);
}

#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
enum Isa {
    Avx512,
    Avx2,
    Portable,
}

#[cfg(target_arch = "x86_64")]
static ISA: LazyLock<Isa> = LazyLock::new(|| {
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("f16c") {
        Isa::Avx512
    } else if is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
    {
        Isa::Avx2
    } else {
        Isa::Portable
    }
});

/// `out = a b`, or `out += a b` where `add`: `a` holds blocks of rows, `b` one panel with as many rows as are summed (at most [`BLOCK`]).
/// Only the first [`HALF`] columns are computed where `narrow`.
///
/// Each element is one sum in the order of `b`'s rows, whatever the number of rows in `a`. Meanwhile what is packed next is fetched from memory.
pub(super) fn product(
    a: &[Row],
    b: &[Lane],
    narrow: bool,
    out: &mut [Lane],
    add: bool,
    #[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables))] ahead: &Ahead,
) {
    #[cfg(target_arch = "x86_64")]
    match *ISA {
        // SAFETY: this instruction set was detected.
        Isa::Avx512 => return unsafe { avx512::product(a, b, narrow, out, add, ahead) },
        // SAFETY: this instruction set was detected.
        Isa::Avx2 => return unsafe { avx2::product(a, b, narrow, out, add, ahead) },
        Isa::Portable => {}
    }
    portable::product(a, b, narrow, out, add);
}

/// Transposes a stripe into half a panel: element `k` of the stripe's row `j` becomes column `j` of that half in lane
/// `order[k]`, or where `add`, is added to it. Columns beyond the stripe's rows become zero, or stay.
pub(super) fn pack(stripe: Stripe, order: &[usize], out: &mut [Lane], half: usize, add: bool) {
    #[cfg(target_arch = "x86_64")]
    match *ISA {
        // SAFETY: this instruction set was detected.
        Isa::Avx512 => return unsafe { avx512::pack(stripe, order, out, half, add) },
        // SAFETY: this instruction set was detected.
        Isa::Avx2 => return unsafe { avx2::pack(stripe, order, out, half, add) },
        Isa::Portable => {}
    }
    portable::pack(stripe, 0, order, out, half, add);
}

/// Asks for the cache line of `byte`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn prefetch(byte: &u8) {
    use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
    // SAFETY: the address is that of a reference, and prefetching reads nothing that a program can see.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(byte).cast()) };
}

/// Runs a loop with the machine's widest vectors.
pub(super) fn vectorised(work: impl Loop) {
    #[cfg(target_arch = "x86_64")]
    match *ISA {
        // SAFETY: this instruction set was detected.
        Isa::Avx512 => return unsafe { avx512::run(work) },
        // SAFETY: this instruction set was detected.
        Isa::Avx2 => return unsafe { avx2::run(work) },
        Isa::Portable => {}
    }
    work.run::<{ cfg!(target_arch = "aarch64") }>();
}

/// How high the tiles are that `rows` rows are cut into, so that they differ little and none exceeds `most`.
fn tile_rows(rows: usize, most: usize) -> usize {
    rows.div_ceil(rows.div_ceil(most).max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::Dtype;

    type Product = fn(&[Row], &[Lane], bool, &mut [Lane], bool);
    type Pack = fn(Stripe, &[usize], &mut [Lane], usize, bool);

    /// Every implementation that this machine can run.
    fn implementations() -> Vec<(&'static str, Product, Pack)> {
        let mut all: Vec<(&'static str, Product, Pack)> =
            vec![("portable", portable::product, |s, o, out, half, add| {
                portable::pack(s, 0, o, out, half, add);
            })];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
            {
                // SAFETY: this instruction set was detected.
                let product: Product = |a, b, narrow, out, add| unsafe {
                    avx2::product(a, b, narrow, out, add, &Ahead::default())
                };
                // SAFETY: as above.
                all.push(("avx2", product, |s, o, out, half, add| unsafe {
                    avx2::pack(s, o, out, half, add)
                }));
            }
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("f16c") {
                // SAFETY: this instruction set was detected.
                let product: Product = |a, b, narrow, out, add| unsafe {
                    avx512::product(a, b, narrow, out, add, &Ahead::default())
                };
                // SAFETY: as above.
                all.push(("avx512", product, |s, o, out, half, add| unsafe {
                    avx512::pack(s, o, out, half, add)
                }));
            }
        }
        all
    }

    /// Small integers, whose products and sums are exact in any order.
    fn integer(i: usize) -> f32 {
        ((i * 2_654_435_761) >> 7 & 15) as f32 - 7.0
    }

    #[test]
    fn products_of_integers_are_exact_for_every_height() {
        for (name, product, _) in implementations() {
            for rows in (0..40).chain([97]) {
                for depth in [1, 7, BLOCK] {
                    let mut a = vec![[f32::NAN; BLOCK + 16]; rows];
                    for (i, row) in a.iter_mut().enumerate() {
                        (0..depth).for_each(|k| row[k] = integer(i * 331 + k));
                    }
                    let b: Vec<Lane> = (0..depth)
                        .map(|k| std::array::from_fn(|j| integer(k * 37 + j)))
                        .collect();
                    let sum =
                        |i: usize, j: usize| (0..depth).map(|k| a[i][k] * b[k][j]).sum::<f32>();
                    let mut out = vec![[1.0; WIDTH]; rows];
                    product(&a, &b, false, &mut out, false);
                    product(&a, &b, true, &mut out, true);
                    for (i, lane) in out.iter().enumerate() {
                        for (j, value) in lane.iter().enumerate() {
                            let times = if j < HALF { 2.0 } else { 1.0 };
                            assert_eq!(
                                *value,
                                times * sum(i, j),
                                "{name} {rows}x{depth} at {i}, {j}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn packing_transposes_every_precision_at_every_alignment() {
        let (pitch, start) = (61, 3);
        for (name, _, pack) in implementations() {
            for dtype in [Dtype::F16, Dtype::BF16, Dtype::F32] {
                for (rows, columns, odd) in [(16, 48, 0), (16, 37, 1), (5, 50, 1), (0, 20, 0)] {
                    let mut bytes = vec![0u8; odd];
                    for x in (0..start + 16 * pitch).map(integer) {
                        match dtype {
                            Dtype::F16 => bytes.extend(half::f16::from_f32(x).to_le_bytes()),
                            Dtype::BF16 => bytes.extend(half::bf16::from_f32(x).to_le_bytes()),
                            Dtype::F32 => bytes.extend(x.to_le_bytes()),
                        }
                    }
                    let matrix = Stored {
                        dtype,
                        bytes: &bytes[odd..],
                    };
                    let stripe = Stripe {
                        matrix,
                        pitch,
                        start,
                        rows,
                        columns,
                    };
                    let order: Vec<usize> = (0..columns).rev().collect();
                    let mut out = vec![[9.0; WIDTH]; columns];
                    pack(stripe, &order, &mut out, 1, false);
                    pack(stripe, &order, &mut out, 1, true);
                    for (place, lane) in out.iter().enumerate() {
                        let expected = |row: usize| {
                            if row < rows {
                                2.0 * integer(start + row * pitch + columns - 1 - place)
                            } else {
                                0.0
                            }
                        };
                        assert_eq!(lane[..HALF], [9.0; HALF], "the other half is left alone");
                        assert!(
                            (0..HALF).all(|j| lane[HALF + j] == expected(j)),
                            "{name} {dtype:?} {rows}x{columns}"
                        );
                    }
                }
            }
        }
    }
}
