//! One tensor of a checkpoint, in the precision it has on disk.

use super::map::Bytes;
use crate::tensor::Shape;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use std::fmt;

#[cfg(not(target_endian = "little"))]
compile_error!("safetensors files are little-endian, and their bytes are used as they are");

/// The precision of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    BF16,
    /// IEEE single precision.
    F32,
}

impl Dtype {
    /// Bytes per element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F16 | Self::BF16 => 2,
            Self::F32 => 4,
        }
    }

    /// The same precision in the file format's own words, or `None` for the types that no weight has.
    pub(super) fn from_safetensors(dtype: safetensors::Dtype) -> Option<Self> {
        match dtype {
            safetensors::Dtype::F16 => Some(Self::F16),
            safetensors::Dtype::BF16 => Some(Self::BF16),
            safetensors::Dtype::F32 => Some(Self::F32),
            _ => None,
        }
    }
}

/// A tensor of a checkpoint: shared bytes, converted where they are used.
///
/// Cloning shares the bytes. They may lie at any address, odd ones included, so they are read through
/// [`read_f32`](Self::read_f32) or as [`bytes`](Self::bytes), never by casting.
#[derive(Clone)]
pub struct TensorView {
    dtype: Dtype,
    shape: Shape,
    bytes: Bytes,
}

impl TensorView {
    /// A view of `bytes`, whose number the caller has checked.
    pub(super) fn new(dtype: Dtype, shape: Shape, bytes: Bytes) -> Self {
        debug_assert_eq!(bytes.len(), shape.len() * dtype.bytes());
        Self {
            dtype,
            shape,
            bytes,
        }
    }

    /// The precision of the bytes.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The sizes, as the graph asked for them.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The elements, row-major and little-endian, at any alignment.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Lets the memory behind the bytes go, if they are a part of a mapped file; they are read again when they are used again.
    pub fn release(&self) {
        self.bytes.release();
    }

    /// Elements `start..start + out.len()` (row-major) as f32, exactly.
    ///
    /// # Panics
    /// If that reaches beyond the last element.
    pub fn read_f32(&self, start: usize, out: &mut [f32]) {
        let size = self.dtype.bytes();
        let bytes = &self.bytes[start * size..(start + out.len()) * size];
        match self.dtype {
            Dtype::F16 => read_halves::<f16>(bytes, out),
            Dtype::BF16 => read_halves::<bf16>(bytes, out),
            Dtype::F32 => bytemuck::cast_slice_mut(out).copy_from_slice(bytes),
        }
    }

    /// All elements as f32.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.shape.len()];
        self.read_f32(0, &mut values);
        values
    }

    /// How many elements are NaN or infinite.
    pub(super) fn count_not_finite(&self) -> usize {
        let mut values = [0.0; 4096];
        let mut count = 0;
        for start in (0..self.shape.len()).step_by(values.len()) {
            let part = values.len().min(self.shape.len() - start);
            self.read_f32(start, &mut values[..part]);
            count += values[..part].iter().filter(|x| !x.is_finite()).count();
        }
        count
    }
}

impl fmt::Debug for TensorView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TensorView {:?} {}", self.dtype, self.shape)
    }
}

/// Converts two-byte floats, through a small aligned buffer where the bytes lie at an odd address.
fn read_halves<H>(bytes: &[u8], out: &mut [f32])
where
    H: bytemuck::Pod,
    [H]: HalfFloatSliceExt,
{
    if let Ok(halves) = bytemuck::try_cast_slice::<u8, H>(bytes) {
        return halves.convert_to_f32_slice(out);
    }
    let mut aligned = [H::zeroed(); 512];
    for (bytes, out) in bytes.chunks(1024).zip(out.chunks_mut(512)) {
        let halves = &mut aligned[..out.len()];
        bytemuck::cast_slice_mut(halves).copy_from_slice(bytes);
        halves.convert_to_f32_slice(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `values` in `dtype`, at an even or an odd address.
    fn view(dtype: Dtype, values: &[f32], odd: bool) -> TensorView {
        let mut bytes = vec![0; usize::from(odd)];
        for &x in values {
            match dtype {
                Dtype::F16 => bytes.extend(f16::from_f32(x).to_le_bytes()),
                Dtype::BF16 => bytes.extend(bf16::from_f32(x).to_le_bytes()),
                Dtype::F32 => bytes.extend(x.to_le_bytes()),
            }
        }
        let end = bytes.len();
        let bytes = Bytes::from_vec(bytes).slice(usize::from(odd)..end).unwrap();
        TensorView::new(dtype, [values.len()].into(), bytes)
    }

    #[test]
    fn every_precision_reads_back_at_every_alignment() {
        // Eighths up to 255 are exact in each of the three, whose shortest significand has 8 bits.
        let values: Vec<f32> = (0..1500).map(|i| (i % 256) as f32 / 8.0 - 4.0).collect();
        for dtype in [Dtype::F16, Dtype::BF16, Dtype::F32] {
            for odd in [false, true] {
                let view = view(dtype, &values, odd);
                assert_eq!(view.to_f32(), values, "{dtype:?}, odd: {odd}");
                let mut part = [0.0; 700];
                view.read_f32(301, &mut part);
                assert_eq!(part, values[301..1001], "{dtype:?}, odd: {odd}");
            }
        }
    }
}
