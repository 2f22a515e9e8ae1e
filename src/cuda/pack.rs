//! Weights as kernels read them: a checkpoint's tensors to a device's bytes, by a [`Layout`]. Pure functions, parallel over rows; `packed.rs` keeps
//! what they make.

mod rows;

use super::{Layout, Precision};
use crate::tensor::Shape;
use crate::weights::TensorView;
use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;
use rows::Rows;

/// Counts what layouts have stood for: raised whenever one of them comes to mean other bytes, so that none that were kept are taken for them.
pub(super) const VERSION: u32 = 1;

/// How a device's rows are made of tensors.
struct Packing {
    /// Whose rows they are.
    source: Rows,
    /// Which of the tensors those are: the first, and the one behind the last.
    tensors: [usize; 2],
    /// What becomes of a row.
    finish: Finish,
    /// Rows on the device.
    rows: usize,
    /// Elements of a row on the device.
    columns: usize,
    /// The two halves of the rows alternate.
    gated: bool,
    /// The elements' type on the device.
    precision: Precision,
}

/// What becomes of a row.
enum Finish {
    /// It is stored.
    Store,
    /// Its elements are added up.
    Sum,
    /// It is stored, each element times one of the first tensor.
    Scale,
    /// Its elements, scaled and rounded to this type, are added up.
    ScaleSum(Precision),
    /// Its elements, each times one of the first tensor, are added up, and the element of that number of the last tensors.
    Weigh(Rows),
}

impl Packing {
    fn new(layout: Layout, working: Precision, shapes: &[Shape]) -> Result<Self, String> {
        let refused = || {
            let shapes: Vec<String> = shapes.iter().map(Shape::to_string).collect();
            format!(
                "is {}, which {layout:?} does not hold",
                shapes.join(" and ")
            )
        };
        let all = [0, shapes.len()];
        let (tensors, matrices) = match layout {
            Layout::Scaled { .. } | Layout::ScaledSums { .. } => ([1, shapes.len()], 0),
            Layout::Addends { matrices, .. } => ([1, 1 + matrices], matrices),
            _ => (all, 0),
        };
        let own = shapes.get(tensors[0]..tensors[1]).ok_or_else(refused)?;
        let source = match layout {
            Layout::Vector | Layout::GatedVector => Rows::of_vectors(own),
            Layout::Total => Rows::of_vectors(own).beside(),
            Layout::Table => Rows::of_table(own),
            Layout::Beside { .. } => Rows::of_matrices(own).beside(),
            Layout::Phases { .. } => Rows::of_phases(own).ok_or_else(refused)?,
            Layout::Matrix { .. }
            | Layout::Scaled { .. }
            | Layout::ScaledSums { .. }
            | Layout::Addends { .. } => Rows::of_matrices(own),
        };
        let [count, width] = [source.count(), source.width()];
        let (finish, [rows, columns], gated) = match layout {
            Layout::Vector => (Finish::Store, [count, 1], false),
            Layout::GatedVector => (Finish::Store, [count, 1], true),
            Layout::Table => (Finish::Store, [count, width], false),
            Layout::Total => (Finish::Sum, [count, 1], false),
            Layout::Beside { rows, columns } => (Finish::Store, [rows, columns], false),
            Layout::Phases { columns } => (Finish::Store, [count, columns], false),
            Layout::Matrix {
                rows,
                columns,
                gated,
            } => (Finish::Store, [rows, columns], gated),
            Layout::Scaled {
                rows,
                columns,
                gated,
            } => (Finish::Scale, [rows, columns], gated),
            Layout::ScaledSums { gated } => (Finish::ScaleSum(working), [count, 1], gated),
            Layout::Addends { gated, .. } => {
                let biases = Rows::of_vectors(&shapes[1 + matrices..]);
                let fit = biases.count() == 0 || biases.count() == count;
                let finish = fit.then_some(Finish::Weigh(biases)).ok_or_else(refused)?;
                (finish, [count, 1], gated)
            }
        };
        let (stored, factors) = match finish {
            Finish::Store => (width, None),
            Finish::Sum => (1, None),
            Finish::Scale => (width, shapes.first()),
            Finish::ScaleSum(_) | Finish::Weigh(_) => (1, shapes.first()),
        };
        let fit = source.fit() && factors.is_none_or(|factors| factors.len() == width);
        if !fit || rows < count || columns < stored || (gated && count % 2 == 1) {
            return Err(refused());
        }
        Ok(Self {
            source,
            tensors,
            finish,
            rows,
            columns,
            gated,
            precision: layout.precision(working),
        })
    }

    fn row_bytes(&self) -> usize {
        self.columns * self.precision.bytes()
    }

    /// The row of the source that is row `row` on the device.
    fn source_row(&self, row: usize) -> Option<usize> {
        let count = self.source.count();
        let source = if self.gated {
            row / 2 + row % 2 * (count / 2)
        } else {
            row
        };
        (row < count).then_some(source)
    }

    /// Row `row` of the source, as read into `values`, to the device's bytes. `tensors` are all of them, `factors` the first.
    fn finish(
        &self,
        row: usize,
        values: &mut [f32],
        (tensors, factors): (&[TensorView], &[f32]),
        packed: &mut [u8],
    ) {
        let weighed = |values: &[f32]| -> f64 {
            let pairs = values.iter().zip(factors);
            pairs.map(|(v, f)| f64::from(*v) * f64::from(*f)).sum()
        };
        let scale = |values: &mut [f32]| values.iter_mut().zip(factors).for_each(|(v, f)| *v *= f);
        let total = |values: &[f32]| values.iter().map(|v| f64::from(*v)).sum::<f64>();
        let sum = match &self.finish {
            Finish::Store => return write(values, self.precision, packed),
            Finish::Scale => {
                scale(values);
                return write(values, self.precision, packed);
            }
            Finish::Sum => total(values),
            Finish::ScaleSum(rounded) => {
                scale(values);
                let mut bytes = vec![0; values.len() * rounded.bytes()];
                write(values, *rounded, &mut bytes);
                read(&bytes, *rounded, values);
                total(values)
            }
            Finish::Weigh(biases) => {
                let mut bias = [0.0];
                let biases_of = &tensors[self.tensors[1]..];
                biases.read(biases_of, row, &mut [0.0], &mut bias);
                weighed(values) + f64::from(bias[0])
            }
        };
        write(&[sum as f32], self.precision, packed);
    }
}

/// Bytes that tensors of `shapes` take on a device, together.
///
/// # Errors
/// A sentence, if the layout is too small for the tensors, or they do not fit together.
pub(super) fn bytes(
    layout: Layout,
    precision: Precision,
    shapes: &[Shape],
) -> Result<usize, String> {
    let packing = Packing::new(layout, precision, shapes)?;
    Ok(packing.rows * packing.row_bytes())
}

/// The bytes of `tensors` on a device.
///
/// # Errors
/// As [`bytes`].
pub(super) fn pack(
    layout: Layout,
    precision: Precision,
    tensors: &[TensorView],
) -> Result<Vec<u8>, String> {
    let shapes: Vec<Shape> = tensors.iter().map(TensorView::shape).collect();
    let packing = Packing::new(layout, precision, &shapes)?;
    let mut packed = vec![0; packing.rows * packing.row_bytes()];
    if packed.is_empty() {
        return Ok(packed);
    }
    let [first, last] = packing.tensors;
    let factors = if first > 0 {
        tensors[0].to_f32()
    } else {
        vec![]
    };
    let width = packing.source.width();
    // Buffers for a row as it is stored and as it will be, one pair per thread and not per row.
    let stored = packing.source.stored_width();
    let buffers = || [stored, width.max(packing.columns)].map(|len| vec![0f32; len]);
    packed
        .par_chunks_mut(packing.row_bytes())
        .enumerate()
        .with_min_len(64)
        .for_each_init(buffers, |[stored, ordered], (row, packed)| {
            let Some(source) = packing.source_row(row) else {
                return;
            };
            (packing.source).read(&tensors[first..last], source, stored, ordered);
            let values = match packing.finish {
                Finish::Store | Finish::Scale => &mut ordered[..packing.columns],
                _ => &mut ordered[..width],
            };
            packing.finish(source, values, (tensors, &factors), packed);
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
mod tests;
