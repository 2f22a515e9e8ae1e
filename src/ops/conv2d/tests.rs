//! The definition of a convolution, to results written down by hand.

use super::*;

fn conv(filter: usize, stride: usize, padding: Padding, upsampling: Upsampling) -> Conv2d {
    let weight = Param {
        name: "weight".into(),
        shape: [1, 1, filter, filter].into(),
    };
    Conv2d {
        sources: 1,
        weight,
        bias: None,
        stride,
        padding,
        upsampling,
        beside: None,
        epilogue: Epilogue::default(),
    }
}

fn run(op: &Conv2d, x: Slice, weight: &[f32]) -> (Shape, Vec<f32>) {
    let shape = op.infer(&[x.shape]).unwrap();
    let mut y = vec![0.0; shape.len()];
    op.eval(
        &[x],
        &[Slice {
            shape: op.weight.shape,
            data: weight,
        }],
        &mut y,
    );
    (shape, y)
}

#[test]
fn a_shift_filter_moves_the_image() {
    let x = Slice {
        shape: [1, 2, 2, 1].into(),
        data: &[1.0, 2.0, 3.0, 4.0],
    };
    let mut right_neighbour = [0.0; 9];
    right_neighbour[5] = 1.0;
    let (shape, y) = run(
        &conv(3, 1, Padding::all(1), Upsampling::None),
        x,
        &right_neighbour,
    );
    assert_eq!(shape, x.shape);
    assert_eq!(y, [2.0, 0.0, 4.0, 0.0]);
}

#[test]
fn one_sided_padding_with_stride_two() {
    let data: Vec<f32> = (0..16).map(|i| i as f32).collect();
    let x = Slice {
        shape: [1, 4, 4, 1].into(),
        data: &data,
    };
    let mut corner = [0.0; 9];
    corner[8] = 1.0;
    let (shape, y) = run(
        &conv(3, 2, Padding::bottom_right(), Upsampling::None),
        x,
        &corner,
    );
    assert_eq!(shape, [1, 2, 2, 1].into());
    assert_eq!(
        y,
        [10.0, 0.0, 0.0, 0.0],
        "the last row and column fall on the padding"
    );
}

#[test]
fn upsampling_repeats_each_pixel() {
    let x = Slice {
        shape: [1, 1, 2, 1].into(),
        data: &[5.0, 7.0],
    };
    let (shape, y) = run(
        &conv(1, 1, Padding::default(), Upsampling::Repeated),
        x,
        &[1.0],
    );
    assert_eq!(shape, [1, 2, 4, 1].into());
    assert_eq!(y, [5.0, 5.0, 7.0, 7.0, 5.0, 5.0, 7.0, 7.0]);
}

#[test]
fn a_filter_larger_than_the_image_is_refused() {
    let op = conv(3, 1, Padding::default(), Upsampling::None);
    assert!(op.infer(&[[1, 2, 2, 1].into()]).is_err());
    assert!(op.infer(&[[1, 3, 3, 2].into()]).is_err());
}

#[test]
fn what_stands_beside_is_added_pixel_by_pixel() {
    let map = Affine {
        weight: Param {
            name: "skip".into(),
            shape: [1, 2].into(),
        },
        bias: Some(Param {
            name: "bias".into(),
            shape: [1].into(),
        }),
    };
    let op = Conv2d {
        beside: Some(Beside { sources: 2, map }),
        ..conv(1, 1, Padding::default(), Upsampling::None)
    };
    let image = |data| Slice {
        shape: [1, 1, 2, 1].into(),
        data,
    };
    let inputs = [image(&[1.0, 2.0]), image(&[3.0, 4.0]), image(&[5.0, 6.0])];
    let slice = |shape: Shape, data| Slice { shape, data };
    let params = [
        slice([1, 1, 1, 1].into(), &[100.0]),
        slice([1, 2].into(), &[10.0, 1.0]),
        slice([1].into(), &[0.5]),
    ];
    let shapes = inputs.map(|x| x.shape);
    assert_eq!(op.infer(&shapes), Ok([1, 1, 2, 1].into()));
    assert_eq!(op.cost(&shapes, shapes[0]).flops, 2 * 2 * 3);
    let mut y = [0.0; 2];
    op.eval(&inputs, &params, &mut y);
    assert_eq!(y, [135.5, 246.5]);
    let small = [shapes[0], [1, 1, 1, 1].into(), [1, 1, 1, 1].into()];
    assert!(op.infer(&small).unwrap_err().contains("beside"));
}
