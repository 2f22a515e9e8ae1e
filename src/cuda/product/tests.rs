//! What every choice for a product keeps to, whatever its sizes.

use super::*;
use crate::cuda::Layout;
use crate::cuda::table::{self, Kind};
use crate::graph::Param;
use crate::ops::{Conv2d, Linear, Padding, Upsampling};

const PRECISIONS: [Precision; 2] = [Precision::F16, Precision::F32];

fn param(dims: &[usize]) -> Param {
    Param {
        name: "p".into(),
        shape: Shape::new(dims),
    }
}

/// With everything that an epilogue can have.
fn linear(rows: usize, [first, second]: [usize; 2], n: usize, precision: Precision) -> Kernel {
    let op = Linear {
        sources: 2,
        weight: param(&[n, first + second]),
        bias: Some(param(&[n])),
        stacked: vec![],
        norm: None,
        epilogue: Epilogue {
            channels: Some(Channels::Row),
            activation: Some(Activation::Silu),
            gate: true,
            residual: true,
        },
    };
    let output = [2, rows, n / 2].into();
    let inputs = [
        [2, rows, first].into(),
        [2, rows, second].into(),
        [5, n].into(),
        [1].into(),
        output,
    ];
    crate::cuda::linear::select(
        &op,
        &inputs,
        output,
        &Target::a100(precision),
        Asked::Nothing,
    )
    .unwrap()
}

fn conv2d(side: usize, channels: usize, n: usize, precision: Precision) -> Kernel {
    let op = Conv2d {
        sources: 1,
        weight: param(&[n, channels, 3, 3]),
        bias: None,
        stride: 1,
        padding: Padding::all(1),
        upsampling: Upsampling::None,
        beside: None,
        epilogue: Epilogue::default(),
    };
    let [x, output] = [channels, n].map(|c| [1, side, side, c].into());
    crate::cuda::conv2d::select(&op, &[x], output, &Target::a100(precision), Asked::Nothing)
        .unwrap()
}

fn kernels(precision: Precision) -> Vec<Kernel> {
    let mut kernels = vec![];
    for rows in [1, 16, 77, 300, 4096] {
        for channels in [[320, 640], [1280, 1280], [3, 4]] {
            kernels.push(linear(rows, channels, 320, precision));
        }
    }
    for (side, channels, n) in [(64, 320, 320), (64, 4, 320), (8, 1280, 1280), (9, 64, 31)] {
        kernels.push(conv2d(side, channels, n, precision));
    }
    kernels
}

#[test]
fn every_entry_exists_and_takes_these_arguments() {
    for kernel in PRECISIONS.into_iter().flat_map(kernels) {
        for launch in &kernel.launches {
            let entry = table::entry(&launch.entry).expect(&launch.entry);
            let pointers = launch.arguments.iter().map(|argument| {
                let number = matches!(argument, Argument::Int(_) | Argument::Float(_));
                !number
            });
            let expected = entry
                .parameters
                .iter()
                .map(|parameter| matches!(parameter.kind, Kind::Pointer { .. }));
            assert!(pointers.eq(expected), "{launch}");
        }
    }
}

#[test]
fn scratch_memory_holds_every_part() {
    let kernel = conv2d(8, 1280, 1280, Precision::F16);
    let [launch] = &kernel.launches[..] else {
        panic!("the last block adds up: {kernel:?}");
    };
    let [tiles, parts, _] = launch.grid.map(|blocks| blocks as usize);
    assert!(
        parts > 1,
        "64 rows by 1280 columns are too few tiles: {launch}"
    );
    assert!(launch.arguments.contains(&Argument::Counters(tiles)));
    assert!(kernel.workspace_bytes >= parts * 64 * 1280 * 4);
    assert_eq!(conv2d(64, 4, 320, Precision::F16).workspace_bytes, 0);
}

#[test]
fn weights_are_padded_to_whole_stages_and_gates_alternate() {
    let kernel = linear(4, [3, 4], 32, Precision::F16);
    let matrix = Layout::Matrix {
        rows: 32,
        columns: 64,
        gated: true,
    };
    let expected = Recipe::each([matrix, Layout::GatedVector]);
    assert_eq!(kernel.recipes, expected);
    assert!(kernel.launches[0].entry.starts_with("linear_any_f16"));
}

#[test]
fn what_cannot_be_counted_is_refused() {
    let op = Linear {
        sources: 1,
        weight: param(&[1 << 17, 1 << 17]),
        bias: None,
        stacked: vec![],
        norm: None,
        epilogue: Epilogue::default(),
    };
    let [x, output] = [[1, 1, 1 << 17].into(); 2];
    let refused = crate::cuda::linear::select(
        &op,
        &[x],
        output,
        &Target::a100(Precision::F16),
        Asked::Nothing,
    );
    assert!(refused.unwrap_err().contains("too large"));
    let nothing = Linear {
        weight: param(&[4, 0]),
        ..op
    };
    let refused = crate::cuda::linear::select(
        &nothing,
        &[[1, 2, 0].into()],
        [1, 2, 4].into(),
        &Target::a100(Precision::F16),
        Asked::Nothing,
    );
    assert!(refused.unwrap_err().contains("no channels"));
}
