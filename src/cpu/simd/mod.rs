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

use crate::weights::{Dtype, TensorView};
#[cfg(target_arch = "x86_64")]
use std::sync::LazyLock;

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

/// Numbers as a checkpoint or an activation stores them.
#[derive(Clone, Copy)]
pub(super) struct Stored<'a> {
    pub dtype: Dtype,
    /// Little-endian, at any address.
    pub bytes: &'a [u8],
}

impl<'a> From<&'a TensorView> for Stored<'a> {
    fn from(view: &'a TensorView) -> Self {
        Self {
            dtype: view.dtype(),
            bytes: view.bytes(),
        }
    }
}

impl<'a> From<&'a [f32]> for Stored<'a> {
    fn from(values: &'a [f32]) -> Self {
        Self {
            dtype: Dtype::F32,
            bytes: bytemuck::cast_slice(values),
        }
    }
}

impl Stored<'_> {
    /// Element `index` as f32, exactly.
    fn get(&self, index: usize) -> f32 {
        let size = self.dtype.bytes();
        let bytes = &self.bytes[index * size..][..size];
        match (self.dtype, bytes) {
            (Dtype::F16, &[a, b]) => half::f16::from_le_bytes([a, b]).to_f32(),
            (Dtype::BF16, &[a, b]) => half::bf16::from_le_bytes([a, b]).to_f32(),
            (Dtype::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
            _ => f32::NAN,
        }
    }
}

/// Some rows of a stored matrix, of which a stretch of columns becomes columns of a panel.
#[derive(Clone, Copy)]
pub(super) struct Stripe<'a> {
    pub matrix: Stored<'a>,
    /// Elements from one row to the next.
    pub pitch: usize,
    /// Index of the first element of the first row.
    pub start: usize,
    /// Rows, at most [`HALF`].
    pub rows: usize,
}

/// A loop that the compiler vectorises for the machine it runs on. Implementations mark [`run`](Self::run), and what it calls,
/// `#[inline(always)]`: only what is inlined is compiled for the instruction set.
pub(super) trait Loop {
    fn run(self);
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
/// Each element is one sum in the order of `b`'s rows, whatever the number of rows in `a`.
pub(super) fn product(a: &[Row], b: &[Lane], narrow: bool, out: &mut [Lane], add: bool) {
    #[cfg(target_arch = "x86_64")]
    match *ISA {
        // SAFETY: this instruction set was detected.
        Isa::Avx512 => return unsafe { avx512::product(a, b, narrow, out, add) },
        // SAFETY: this instruction set was detected.
        Isa::Avx2 => return unsafe { avx2::product(a, b, narrow, out, add) },
        Isa::Portable => {}
    }
    portable::product(a, b, narrow, out, add);
}

/// Transposes a stripe into half a panel: element `k` of the stripe's row `j` becomes column `j` of that half in lane
/// `order[k]`; columns beyond the stripe's rows become zero.
pub(super) fn pack(stripe: Stripe, order: &[usize], out: &mut [Lane], half: usize) {
    #[cfg(target_arch = "x86_64")]
    match *ISA {
        // SAFETY: this instruction set was detected.
        Isa::Avx512 => return unsafe { avx512::pack(stripe, order, out, half) },
        // SAFETY: this instruction set was detected.
        Isa::Avx2 => return unsafe { avx2::pack(stripe, order, out, half) },
        Isa::Portable => {}
    }
    portable::pack(stripe, 0, order, out, half);
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
    work.run();
}

/// How high the tiles are that `rows` rows are cut into, so that they differ little and none exceeds `most`.
fn tile_rows(rows: usize, most: usize) -> usize {
    rows.div_ceil(rows.div_ceil(most).max(1)).max(1)
}
