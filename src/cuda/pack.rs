//! Weights as kernels read them: a checkpoint's tensor to a device's bytes, by a [`Layout`]. Pure functions, parallel over rows.

use super::{Layout, Precision};
use crate::tensor::Shape;
use crate::weights::TensorView;
use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

/// A tensor as rows, each of the same number of elements, and where an element comes from.
struct Rows {
    /// Rows of the checkpoint.
    stored: usize,
    /// Input channels of a row.
    channels: usize,
    /// Filter taps per channel.
    taps: usize,
    /// Rows on the device.
    rows: usize,
    /// Elements of a row on the device.
    columns: usize,
    /// The two halves of the rows alternate.
    gated: bool,
    /// The elements' type on the device.
    precision: Precision,
}

impl Rows {
    fn new(layout: Layout, precision: Precision, shape: Shape) -> Result<Self, String> {
        let elements = shape.len();
        let stored = match layout {
            Layout::Vector | Layout::GatedVector => elements,
            Layout::Table | Layout::Matrix { .. } => shape.batch(),
        };
        let length = elements.checked_div(stored).unwrap_or(0);
        let taps = match layout {
            Layout::Matrix { .. } => shape.dims().iter().skip(2).product(),
            Layout::Vector | Layout::GatedVector | Layout::Table => 1,
        };
        let (rows, columns, gated) = match layout {
            Layout::Vector | Layout::Table => (stored, length, false),
            Layout::GatedVector => (stored, length, true),
            Layout::Matrix {
                rows,
                columns,
                gated,
            } => (rows, columns, gated),
        };
        if rows < stored || columns < length || (gated && stored % 2 == 1) {
            return Err(format!("is {shape}, which {layout:?} does not hold"));
        }
        Ok(Self {
            stored,
            channels: length.checked_div(taps).unwrap_or(0),
            taps,
            rows,
            columns,
            gated,
            precision: layout.precision(precision),
        })
    }

    fn row_bytes(&self) -> usize {
        self.columns * self.precision.bytes()
    }

    /// The checkpoint's row that is row `row` on the device.
    fn source(&self, row: usize) -> Option<usize> {
        let half = self.stored / 2;
        let source = if self.gated {
            row / 2 + row % 2 * half
        } else {
            row
        };
        (row < self.stored).then_some(source)
    }
}

/// Bytes that a tensor of `shape` takes on a device.
///
/// # Errors
/// A sentence, if the layout is too small for the tensor.
pub(super) fn bytes(layout: Layout, precision: Precision, shape: Shape) -> Result<usize, String> {
    let rows = Rows::new(layout, precision, shape)?;
    Ok(rows.rows * rows.row_bytes())
}

/// The bytes of `tensor` on a device.
///
/// # Errors
/// As [`bytes`].
pub(super) fn pack(
    layout: Layout,
    precision: Precision,
    tensor: &TensorView,
) -> Result<Vec<u8>, String> {
    let rows = Rows::new(layout, precision, tensor.shape())?;
    let mut packed = vec![0; rows.rows * rows.row_bytes()];
    if packed.is_empty() {
        return Ok(packed);
    }
    // Buffers for a row as it is stored and as it will be, one pair per thread and not per row.
    let buffers = || [rows.channels * rows.taps, rows.columns].map(|len| vec![0f32; len]);
    packed
        .par_chunks_mut(rows.row_bytes())
        .enumerate()
        .with_min_len(64)
        .for_each_init(buffers, |[stored, ordered], (row, packed)| {
            let Some(source) = rows.source(row) else {
                return;
            };
            tensor.read_f32(source * stored.len(), stored);
            for (channel, taps) in stored.chunks(rows.taps).enumerate() {
                for (tap, value) in taps.iter().enumerate() {
                    ordered[tap * rows.channels + channel] = *value;
                }
            }
            write(ordered, rows.precision, packed);
        });
    Ok(packed)
}

/// Elements as a device holds them. What a half cannot hold becomes infinite.
pub(super) fn write(values: &[f32], precision: Precision, bytes: &mut [u8]) {
    match precision {
        Precision::F32 => bytes.copy_from_slice(bytemuck::cast_slice(values)),
        Precision::F16 => {
            let mut halves = [f16::ZERO; 512];
            for (values, bytes) in values.chunks(512).zip(bytes.chunks_mut(1024)) {
                let halves = &mut halves[..values.len()];
                halves.convert_from_f32_slice(values);
                bytes.copy_from_slice(bytemuck::cast_slice(halves));
            }
        }
    }
}

/// What [`write`] stored.
pub(super) fn read(bytes: &[u8], precision: Precision, values: &mut [f32]) {
    match precision {
        Precision::F32 => bytemuck::cast_slice_mut(values).copy_from_slice(bytes),
        Precision::F16 => {
            let mut halves = [f16::ZERO; 512];
            for (values, bytes) in values.chunks_mut(512).zip(bytes.chunks(1024)) {
                let halves = &mut halves[..values.len()];
                bytemuck::cast_slice_mut(halves).copy_from_slice(bytes);
                halves.convert_to_f32_slice(values);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::Weights;

    fn packed(
        layout: Layout,
        precision: Precision,
        shape: impl Into<Shape>,
    ) -> (Vec<f32>, Vec<f32>) {
        let shape = shape.into();
        let tensor = Weights::synthetic(3).get("w", &shape).unwrap();
        let bytes = pack(layout, precision, &tensor).unwrap();
        let precision = layout.precision(precision);
        assert_eq!(Ok(bytes.len()), super::bytes(layout, precision, shape));
        let mut values = vec![0.0; bytes.len() / precision.bytes()];
        read(&bytes, precision, &mut values);
        (tensor.to_f32(), values)
    }

    #[test]
    fn a_matrix_has_taps_first_then_channels_and_zeros_around() {
        let layout = Layout::Matrix {
            rows: 5,
            columns: 30,
            gated: false,
        };
        for precision in [Precision::F16, Precision::F32] {
            let (stored, packed) = packed(layout, precision, [4, 3, 3, 3]);
            for (i, &value) in packed.iter().enumerate() {
                let (o, tap, c) = (i / 30, i % 30 / 3, i % 3);
                let inside = o < 4 && tap < 9;
                let expected = if inside {
                    stored[(o * 3 + c) * 9 + tap]
                } else {
                    0.0
                };
                assert_eq!(value, expected, "{precision:?}, element {i}");
            }
        }
    }

    #[test]
    fn gated_rows_alternate_with_their_gates() {
        let layout = Layout::Matrix {
            rows: 6,
            columns: 2,
            gated: true,
        };
        let (stored, packed) = packed(layout, Precision::F16, [6, 2]);
        let rows = [0, 3, 1, 4, 2, 5];
        let expected: Vec<f32> = rows
            .iter()
            .flat_map(|r| stored[r * 2..][..2].to_vec())
            .collect();
        assert_eq!(packed, expected);
        let (stored, packed) = self::packed(Layout::GatedVector, Precision::F16, [6]);
        assert_eq!(packed, rows.map(|r| stored[r]));
    }

    #[test]
    fn vectors_are_floats_and_tables_as_stored() {
        assert_eq!(bytes(Layout::Vector, Precision::F16, [7].into()), Ok(28));
        assert_eq!(bytes(Layout::Table, Precision::F16, [7, 3].into()), Ok(42));
        let (stored, packed) = packed(Layout::Table, Precision::F16, [70, 3]);
        assert_eq!(stored, packed);
    }

    #[test]
    fn a_layout_that_is_too_small_is_refused() {
        let narrow = Layout::Matrix {
            rows: 4,
            columns: 26,
            gated: false,
        };
        assert!(bytes(narrow, Precision::F16, [4, 3, 3, 3].into()).is_err());
        assert!(bytes(Layout::GatedVector, Precision::F16, [5].into()).is_err());
    }

    #[test]
    fn halves_end_at_their_range() {
        let values: Vec<f32> = (0..1000).map(|i| i as f32).chain([65504.0, 7e4]).collect();
        let mut bytes = vec![0; 2 * values.len()];
        write(&values, Precision::F16, &mut bytes);
        let mut back = vec![0.0; values.len()];
        read(&bytes, Precision::F16, &mut back);
        assert_eq!(back[..1001], values[..1001]);
        assert_eq!(back[1001], f32::INFINITY);
    }
}
