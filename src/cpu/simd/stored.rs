//! Numbers as a checkpoint or an activation stores them, and which of them are packed now or next.

use crate::weights::{Dtype, TensorView};
use half::{bf16, f16};

/// Bytes that travel together from memory.
const LINE: usize = 64;

/// A matrix as it is stored.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Stored<'a> {
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

/// Some rows of a stored matrix, of which a stretch of columns becomes columns of a panel.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Stripe<'a> {
    pub matrix: Stored<'a>,
    /// Elements from one row to the next.
    pub pitch: usize,
    /// Index of the first element of the first row.
    pub start: usize,
    /// Rows, at most [`HALF`](super::HALF).
    pub rows: usize,
    /// Elements of each row.
    pub columns: usize,
}

impl<'a> Stripe<'a> {
    /// The bytes of a row.
    #[inline(always)]
    pub(super) fn row(&self, row: usize) -> &'a [u8] {
        let size = self.matrix.dtype.bytes();
        &self.matrix.bytes[(self.start + row * self.pitch) * size..][..self.columns * size]
    }

    /// Elements of a row from `column` on as f32, exactly.
    pub(super) fn read(&self, row: usize, column: usize, out: &mut [f32]) {
        let size = self.matrix.dtype.bytes();
        let bytes = &self.row(row)[column * size..][..out.len() * size];
        let halves = bytes.as_chunks().0.iter().zip(&mut *out);
        match self.matrix.dtype {
            Dtype::F16 => halves.for_each(|(x, y)| *y = f16::from_le_bytes(*x).to_f32()),
            Dtype::BF16 => halves.for_each(|(x, y)| *y = bf16::from_le_bytes(*x).to_f32()),
            Dtype::F32 => bytemuck::cast_slice_mut(out).copy_from_slice(bytes),
        }
    }
}

/// Cache lines that are fetched from memory while something else is computed. Reading a checkpoint is as much work for the
/// memory as computing is for the arithmetic units where there are few pixels; side by side they take half the time.
#[derive(Default)]
pub(in crate::cpu) struct Ahead<'a> {
    lines: Vec<&'a u8>,
}

impl<'a> Ahead<'a> {
    /// Forgets what was asked for and asks for `stripes`.
    pub fn ask(&mut self, stripes: impl IntoIterator<Item = Stripe<'a>>) {
        self.lines.clear();
        for stripe in stripes {
            for row in 0..stripe.rows {
                self.lines.extend(stripe.row(row).iter().step_by(LINE));
            }
        }
    }

    /// The lines, in as many parts as there are `tiles`, one for each.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "only x86-64 is asked for lines")
    )]
    pub(super) fn parts(&self, tiles: usize) -> impl Iterator<Item = &[&'a u8]> {
        let each = self.lines.len().div_ceil(tiles.max(1)).max(1);
        self.lines.chunks(each).chain(std::iter::repeat(&[][..]))
    }
}
