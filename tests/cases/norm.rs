//! Group and layer normalisation: every group size of the published networks, large means, tiny variances.

use super::{CHANNELS, Case, IMAGES, Operand, Values, case, channels_name, join, param, repeat};
use latent_diffusion::Shape;
use latent_diffusion::ops::{
    Blocks, Channels, GroupNorm, GroupNormalise, GroupStatistics, LayerNorm, Op, Summed,
};

/// Channels per group of the published networks, all of 32 groups.
const GROUP_SIZES: [usize; 28] = [
    4, 5, 6, 7, 8, 10, 12, 14, 15, 16, 18, 20, 21, 24, 28, 30, 35, 36, 40, 42, 48, 49, 56, 60, 70,
    84, 98, 112,
];

pub(super) fn cases() -> Vec<Case> {
    let mut all: Vec<Case> = GROUP_SIZES
        .map(|size| {
            group_norm(
                Operand::normal([IMAGES, 2, 3, 32 * size]),
                32,
                1e-5,
                size % 2 == 0,
            )
        })
        .to_vec();
    for (shape, groups) in [
        ([IMAGES, 1, 1, 64], 32),
        ([IMAGES, 1, 1, 33], 3),
        ([IMAGES, 1, 7, 5], 1),
        ([IMAGES, 5, 5, 7], 7),
        ([IMAGES, 33, 31, 8], 2),
        ([IMAGES, 32, 32, 24], 8),
        ([IMAGES, 33, 19, 96], 32),
        // Images that a GPU cuts into slices, and a group wider than a block of threads.
        ([IMAGES, 23, 25, 120], 8),
        ([IMAGES, 20, 30, 33], 3),
        ([IMAGES, 2, 3, 1026], 1),
    ] {
        all.push(group_norm(Operand::normal(shape), groups, 1e-6, true));
    }
    // Joined between two groups, and within one.
    for (channels, groups) in [
        ([32, 64], 12),
        ([20, 12], 2),
        ([640, 320], 32),
        ([3, 67], 7),
    ] {
        for [h, w] in [[9, 11], [23, 25]] {
            let x = Operand::normal([IMAGES, h, w, channels[0] + channels[1]]);
            let case = join(group_norm(x, groups, 1e-5, true), channels);
            all.extend([repeat(case.clone(), 1), case]);
        }
    }
    // In one launch and in two, whole packs and not.
    for channels in CHANNELS {
        for (shape, groups, silu) in [
            ([IMAGES, 2, 3, 192], 32, true),
            ([IMAGES, 23, 25, 120], 8, true),
            ([IMAGES, 20, 30, 33], 3, false),
        ] {
            let case = group_norm(Operand::normal(shape), groups, 1e-5, silu);
            all.push(scale_shift(case, channels));
        }
        let x = Operand::normal([IMAGES, 9, 11, 96]);
        let case = scale_shift(group_norm(x, 12, 1e-5, true), channels);
        all.push(join(case, [32, 64]));
    }
    let tokens = Operand::normal([IMAGES, 9, 48]);
    all.push(group_norm(tokens, 8, 1e-6, false));
    // A mean far from zero drowns a variance computed as the mean of squares less the square of the mean; at a variance near
    // epsilon, the wrong epsilon shows.
    for (mean, deviation) in [(30.0, 1.0), (-4.0, 0.1), (0.0, 0.003), (0.0, 300.0)] {
        for shape in [[IMAGES, 8, 8, 24], [IMAGES, 25, 23, 120]] {
            let image = Operand::spread(shape, mean, deviation);
            all.push(group_norm(image, 4, 1e-5, true));
        }
        let tokens = Operand::spread([IMAGES, 5, 33], mean, deviation);
        all.push(layer_norm(tokens));
    }
    // Bands of an image of ten blocks.
    for (shape, groups, rows) in [
        ([IMAGES, 4, 5, 32], 4, 2),
        ([IMAGES, 6, 33, 24], 8, 1),
        ([IMAGES, 3, 7, 15], 3, 3),
        ([IMAGES, 40, 9, 160], 32, 10),
    ] {
        let blocks = Blocks {
            rows,
            summed: Summed::Groups,
        };
        all.push(statistics(Operand::spread(shape, 3.0, 0.5), groups, blocks));
        all.push(normalise(shape, groups, blocks));
    }
    // The same by channels, as products find them: of one piece and of several, of eight blocks and of more, and in phases.
    for (shape, groups, rows, summed) in [
        ([IMAGES, 16, 64, 40], 5, 8, Summed::Channels),
        ([IMAGES, 8, 192, 64], 2, 8, Summed::Channels),
        ([IMAGES, 8, 128, 24], 3, 4, Summed::Phases),
        ([1, 16, 256, 8], 1, 8, Summed::Phases),
    ] {
        let blocks = Blocks { rows, summed };
        all.push(statistics(Operand::spread(shape, 3.0, 0.5), groups, blocks));
        all.push(normalise(shape, groups, blocks));
    }
    let shapes: [Shape; 6] = [
        [IMAGES, 1, 7].into(),
        [IMAGES, 7, 5].into(),
        [IMAGES, 77, 128].into(),
        [IMAGES, 3, 320].into(),
        [IMAGES, 1, 1280].into(),
        [IMAGES, 33].into(),
    ];
    all.extend(shapes.map(|shape| layer_norm(Operand::normal(shape))));
    all
}

/// Where the values come from, if not from the standard normal distribution.
fn spread(x: &Operand) -> String {
    match x.values {
        super::Values::Normal { mean, deviation } if (mean, deviation) != (0.0, 1.0) => {
            format!(" about {mean} +- {deviation}")
        }
        _ => String::new(),
    }
}

fn group_norm(x: Operand, groups: usize, eps: f32, silu: bool) -> Case {
    let channels = x.shape.channels();
    let op = GroupNorm {
        sources: 1,
        groups,
        eps,
        weight: param("weight", [channels]),
        bias: param("bias", [channels]),
        scale_shift: None,
        silu,
    };
    let silu = if silu { " + silu" } else { "" };
    let what = format!("{}{}, {groups} groups{silu}", x.shape, spread(&x));
    case(what, op, vec![x])
}

/// The case with a scale and a shift behind it.
fn scale_shift(mut case: Case, channels: Channels) -> Case {
    let x = case.operands[0].shape;
    let v = super::channels(channels, x.with_channels(2 * x.channels()));
    case.operands.extend(v);
    if let Op::GroupNorm(op) = &mut case.op {
        op.scale_shift = Some(channels);
    }
    case.name += &format!(", scaled and shifted{}", channels_name(channels));
    case
}

fn statistics(x: Operand, groups: usize, blocks: Blocks) -> Case {
    let Blocks { rows, summed } = blocks;
    let what = format!("{}, {groups} groups, {rows} rows, {summed:?}", x.shape);
    case(what, GroupStatistics { groups, blocks }, vec![x])
}

/// By the statistics of ten blocks, whose means are not the same.
fn normalise(shape: [usize; 4], groups: usize, blocks: Blocks) -> Case {
    let [n, _, w, channels] = shape;
    let Blocks { rows, summed } = blocks;
    let parts = blocks.parts(groups, channels);
    let count = (rows * w * (channels / parts)) as f32;
    let block = |i: usize| [(i % 7) as f32 * 0.1, count * (1.0 + (i % 3) as f32)];
    let values: Vec<f32> = (0..n * parts * 10).flat_map(block).collect();
    let op = GroupNormalise {
        groups,
        blocks,
        eps: 1e-6,
        weight: param("weight", [channels]),
        bias: param("bias", [channels]),
        silu: groups.is_multiple_of(8),
    };
    let statistics = Operand {
        values: Values::Exactly(values),
        ..Operand::normal([n, parts, 10, 2])
    };
    let operands = vec![Operand::normal(shape), statistics];
    case(
        format!("{shape:?}, {groups} groups, {rows} rows, {summed:?}"),
        op,
        operands,
    )
}

fn layer_norm(x: Operand) -> Case {
    let channels = x.shape.channels();
    let op = LayerNorm {
        eps: 1e-5,
        weight: param("weight", [channels]),
        bias: param("bias", [channels]),
    };
    case(format!("{}{}", x.shape, spread(&x)), op, vec![x])
}
