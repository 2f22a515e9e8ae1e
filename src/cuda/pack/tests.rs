//! Every layout, to plain indices.

use super::*;
use crate::weights::Weights;
use sha2::Digest;

fn packed(layout: Layout, precision: Precision, shape: impl Into<Shape>) -> (Vec<f32>, Vec<f32>) {
    let shape = shape.into();
    let tensor = Weights::synthetic(3).get("w", &shape).unwrap();
    let bytes = pack(layout, precision, std::slice::from_ref(&tensor)).unwrap();
    let precision = layout.precision(precision);
    assert_eq!(Ok(bytes.len()), super::bytes(layout, precision, &[shape]));
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
fn phases_add_up_what_falls_on_one_pixel() {
    let layout = Layout::Phases { columns: 10 };
    let (stored, packed) = packed(layout, Precision::F32, [3, 2, 3, 3]);
    for (i, &value) in packed.iter().enumerate() {
        let (phase, o, place, c) = (i / 30, i / 10 % 3, i % 10 / 2, i % 2);
        // The rows or columns of the filter over the first pixel, and over the second.
        let taps = |odd: usize, second: usize| match (odd, second) {
            (0, 0) => 0..1,
            (0, _) => 1..3,
            (_, 0) => 0..2,
            _ => 2..3,
        };
        let mut expected = 0.0;
        if place < 4 {
            for r in taps(phase / 2, place / 2) {
                for s in taps(phase % 2, place % 2) {
                    expected += stored[((o * 2 + c) * 3 + r) * 3 + s];
                }
            }
        }
        assert_eq!(value, expected, "element {i}");
    }
    assert!(bytes(layout, Precision::F16, &[[3, 2, 5, 5].into()]).is_err());
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
    assert_eq!(bytes(Layout::Vector, Precision::F16, &[[7].into()]), Ok(28));
    assert_eq!(
        bytes(Layout::Table, Precision::F16, &[[7, 3].into()]),
        Ok(42)
    );
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
    assert!(bytes(narrow, Precision::F16, &[[4, 3, 3, 3].into()]).is_err());
    assert!(bytes(Layout::GatedVector, Precision::F16, &[[5].into()]).is_err());
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

/// Tensors of these shapes, and what `layout` makes of all of them, as floats.
fn made(layout: Layout, shapes: &[Shape]) -> (Vec<Vec<f32>>, Vec<f32>) {
    let weights = Weights::synthetic(5);
    let tensors: Vec<_> = (shapes.iter().enumerate())
        .map(|(i, shape)| weights.get(&format!("w{i}"), shape).unwrap())
        .collect();
    let bytes = pack(layout, Precision::F16, &tensors).unwrap();
    let expected = super::bytes(layout, Precision::F16, shapes);
    assert_eq!(Ok(bytes.len()), expected);
    let precision = layout.precision(Precision::F16);
    let mut values = vec![0.0; bytes.len() / precision.bytes()];
    read(&bytes, precision, &mut values);
    (tensors.iter().map(|t| t.to_f32()).collect(), values)
}

#[test]
fn matrices_and_vectors_follow_one_another() {
    let layout = Layout::Matrix {
        rows: 5,
        columns: 4,
        gated: false,
    };
    let (stored, packed) = made(layout, &[[2, 3].into(), [3, 3, 1, 1].into()]);
    for (i, &value) in packed.iter().enumerate() {
        let (row, column) = (i / 4, i % 4);
        let expected = match (row, column) {
            (_, 3) => 0.0,
            (0 | 1, _) => stored[0][row * 3 + column],
            _ => stored[1][(row - 2) * 3 + column],
        };
        assert_eq!(value, expected, "element {i}");
    }
    let (stored, packed) = made(Layout::Vector, &[[2].into(), [70].into()]);
    assert_eq!(packed, stored.concat());
}

#[test]
fn a_convolution_goes_on_with_what_stands_beside_it() {
    let layout = Layout::Beside {
        rows: 4,
        columns: 16,
    };
    let (stored, packed) = made(layout, &[[4, 2, 2, 2].into(), [4, 5].into()]);
    for (i, &value) in packed.iter().enumerate() {
        let (row, column) = (i / 16, i % 16);
        let expected = match column {
            0..8 => stored[0][(row * 2 + column % 2) * 4 + column / 2],
            8..13 => stored[1][row * 5 + column - 8],
            _ => 0.0,
        };
        assert_eq!(value, expected, "element {i}");
    }
    let (stored, packed) = made(Layout::Total, &[[3].into(), [3].into()]);
    let sums: Vec<f32> = (0..3).map(|i| stored[0][i] + stored[1][i]).collect();
    assert_eq!(packed, sums);
}

#[test]
fn a_normalisation_is_folded_into_the_rows_behind_it() {
    let shapes: [Shape; 3] = [[3].into(), [2, 3].into(), [2, 3].into()];
    let gated = true;
    let layout = Layout::Scaled {
        rows: 4,
        columns: 3,
        gated,
    };
    let (stored, scaled) = made(layout, &shapes);
    // Rows 0 and 1 of the first matrix and of the second: a value, its gate, and so on.
    let row = |row: usize| &stored[1 + row / 2][row % 2 * 3..][..3];
    let order = [0, 2, 1, 3];
    for (i, &value) in scaled.iter().enumerate() {
        let exact = row(order[i / 3])[i % 3] * stored[0][i % 3];
        assert_eq!(value, f16::from_f32(exact).to_f32(), "element {i}");
    }
    let (_, sums) = made(Layout::ScaledSums { gated }, &shapes);
    let expected: Vec<f32> = scaled.chunks(3).map(|row| row.iter().sum()).collect();
    let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
    assert!(sums.len() == 4 && near(&sums, &expected), "{sums:?}");

    for biased in [false, true] {
        let biases: &[Shape] = if biased {
            &[[2].into(), [2].into()]
        } else {
            &[]
        };
        let layout = Layout::Addends { matrices: 2, gated };
        let (stored, addends) = made(layout, &[&shapes[..], biases].concat());
        let expected = order.map(|index| {
            let products = row(index).iter().zip(&stored[0]).map(|(w, b)| w * b);
            let bias = stored[3..].concat();
            products.sum::<f32>() + bias.get(index).copied().unwrap_or(0.0)
        });
        assert!(near(&addends, &expected), "{addends:?}, not {expected:?}");
    }
}

#[test]
fn tensors_that_do_not_fit_together_are_refused() {
    let refused = |layout, shapes: &[Shape]| {
        let problem = bytes(layout, Precision::F16, shapes).unwrap_err();
        assert!(problem.contains(" and "), "{problem}");
    };
    let matrix = Layout::Matrix {
        rows: 9,
        columns: 9,
        gated: false,
    };
    refused(matrix, &[[2, 3].into(), [2, 4].into()]);
    let beside = Layout::Beside {
        rows: 9,
        columns: 9,
    };
    refused(beside, &[[2, 3].into(), [3, 3].into()]);
    refused(Layout::Total, &[[2].into(), [3].into()]);
    let sums = Layout::ScaledSums { gated: false };
    refused(sums, &[[4].into(), [2, 3].into()]);
    let addends = Layout::Addends {
        matrices: 1,
        gated: false,
    };
    refused(addends, &[[3].into(), [2, 3].into(), [1].into()]);
}

#[test]
fn what_was_kept_is_what_would_be_packed_now() {
    let (rows, columns, gated) = (8, 40, true);
    let tensors = |shapes: &[&[usize]]| -> Vec<TensorView> {
        let named = shapes.iter().enumerate();
        named
            .map(|(i, dims)| {
                Weights::synthetic(3)
                    .get(&format!("w{i}"), &Shape::new(dims))
                    .unwrap()
            })
            .collect()
    };
    let matrix = Layout::Matrix {
        rows,
        columns,
        gated,
    };
    let beside = Layout::Beside { rows, columns };
    let scaled = Layout::Scaled {
        rows,
        columns,
        gated,
    };
    let addends = Layout::Addends { matrices: 1, gated };
    let all: [(Layout, &[&[usize]]); 10] = [
        (Layout::Vector, &[&[6]]),
        (Layout::GatedVector, &[&[6]]),
        (Layout::Total, &[&[6], &[6]]),
        (Layout::Table, &[&[5, 4]]),
        (matrix, &[&[6, 4, 3, 3]]),
        (Layout::Phases { columns: 16 }, &[&[3, 4, 3, 3]]),
        (beside, &[&[6, 2, 3, 3], &[6, 5]]),
        (scaled, &[&[5], &[6, 5]]),
        (Layout::ScaledSums { gated }, &[&[5], &[6, 5]]),
        (addends, &[&[5], &[6, 5], &[6]]),
    ];
    let mut hash = sha2::Sha256::new();
    for (layout, shapes) in all {
        for precision in [Precision::F16, Precision::F32] {
            hash.update(pack(layout, precision, &tensors(shapes)).unwrap());
        }
    }
    let hash = hash.finalize();
    // Where this changes, `VERSION` is raised with it.
    assert_eq!(
        (VERSION, &hash[..4]),
        (1, &[0x1f, 0x0f, 0x53, 0xc0][..]),
        "{:02x?}",
        &hash[..4]
    );
}
