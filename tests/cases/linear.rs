//! Matrix products: sizes that are no multiple of any tile, and every epilogue.

use super::{Case, IMAGES, Operand, case, epilogue_name, epilogues, extras, join, param, repeat};
use latent_diffusion::Shape;
use latent_diffusion::ops::{Affine, Channels, Epilogue, LayerNorm, Linear, Op};

pub(super) fn cases() -> Vec<Case> {
    // Rows per image, channels in, channels out.
    let sizes = [
        (1, 1, 1),
        (1, 320, 17),
        (1, 5000, 9),
        (2, 2049, 33),
        (4, 64, 64),
        (5, 7, 33),
        (7, 33, 5),
        (13, 40, 130),
        (17, 48, 1100),
        (33, 257, 48),
        (64, 96, 31),
        (77, 24, 24),
        (130, 5, 7),
        // The large tiles of Hopper GPUs.
        (64, 128, 160),
        (128, 128, 128),
        (128, 128, 160),
        (150, 72, 128),
        (150, 72, 152),
        (713, 33, 45),
    ];
    let plain = sizes.map(|(rows, channels, out)| {
        let shape = [IMAGES, rows, channels].into();
        linear(shape, out, true, Epilogue::default())
    });
    // Each image alone makes fewer rows than a tile, and the batch more than one. Rows are whole vectors, and are not; the third has so few
    // rows and so much to sum that a GPU splits the sum, which a bound cannot follow through both an activation and a gate.
    let fused = epilogues(&[false, true]).into_iter().flat_map(|epilogue| {
        let sizes = [(11, 37, 46), (11, 40, 48), (2, 1032, 24)];
        let followed = if epilogue.gate && epilogue.activation.is_some() {
            2
        } else {
            3
        };
        sizes
            .into_iter()
            .take(followed)
            .map(move |(rows, channels, out)| {
                linear([IMAGES, rows, channels].into(), out, true, epilogue)
            })
    });
    let other = [
        linear([IMAGES, 6, 20].into(), 12, false, Epilogue::default()),
        linear([IMAGES, 40].into(), 24, true, Epilogue::default()),
        linear([IMAGES, 3, 5, 9].into(), 16, true, Epilogue::default()),
        linear([1, 1, 64].into(), 64, true, Epilogue::default()),
    ];
    let all = plain.into_iter().chain(fused).chain(other);
    all.chain(joined())
        .chain(stacked())
        .chain(normalised())
        .chain(repeated())
        .collect()
}

/// Residuals that both halves of guidance share: behind few rows and a split sum, a gate, channels of each image, and tiles of every kind.
fn repeated() -> Vec<Case> {
    let residual = Epilogue {
        residual: true,
        ..Epilogue::default()
    };
    let gate = Epilogue {
        gate: true,
        ..residual
    };
    let channels = Epilogue {
        channels: Some(Channels::PerImage),
        ..residual
    };
    let sizes = [
        (11, 37, 46, residual),
        (11, 40, 48, gate),
        (2, 1032, 24, residual),
        (33, 257, 48, channels),
        (150, 72, 152, residual),
        (128, 128, 160, residual),
    ];
    let all = sizes.map(|(rows, inner, out, epilogue)| {
        let case = linear([IMAGES, rows, inner].into(), out, true, epilogue);
        let last = case.operands.len() - 1;
        repeat(case, last)
    });
    all.into()
}

/// The skip connections of a UNet: two sources, joined at a multiple of a vector and not.
fn joined() -> Vec<Case> {
    let sizes = [
        (5, [32, 16], 24),
        (3, [640, 136], 33),
        (7, [330, 7], 33),
        (40, [3, 70], 9),
    ];
    let residual = Epilogue {
        residual: true,
        ..Epilogue::default()
    };
    let all = sizes.into_iter().flat_map(|(rows, channels, out)| {
        [Epilogue::default(), residual].map(|epilogue| {
            let x: Shape = [IMAGES, rows, channels[0] + channels[1]].into();
            join(linear(x, out, true, epilogue), channels)
        })
    });
    all.collect()
}

/// Queries, keys and values: three maps of one operand, and parts of other sizes.
fn stacked() -> Vec<Case> {
    let sizes = [
        (64, 40, [40, 40, 40]),
        (77, 24, [24, 24, 24]),
        (5, 7, [33, 1, 12]),
        (2, 1032, [8, 24, 16]),
    ];
    let all = sizes.into_iter().flat_map(|(rows, channels, outs)| {
        [false, true].map(|bias| {
            let x = [IMAGES, rows, channels].into();
            let mut case = linear(x, outs[0], bias, Epilogue::default());
            if let Op::Linear(op) = &mut case.op {
                let map = |(number, &out): (usize, &usize)| Affine {
                    weight: param(&format!("{number}.weight"), [out, channels]),
                    bias: bias.then(|| param(&format!("{number}.bias"), [out])),
                };
                op.stacked = outs.iter().enumerate().skip(1).map(map).collect();
            }
            case.name += &format!(" and {:?} stacked", &outs[1..]);
            case
        })
    });
    all.collect()
}

/// Rows normalised first: few and many, whole stages and not, gated and stacked, and rows whose mean is many deviations.
fn normalised() -> Vec<Case> {
    let gate = Epilogue {
        gate: true,
        ..Epilogue::default()
    };
    let sizes = [
        (1, 8, 16, Epilogue::default()),
        (5, 7, 33, Epilogue::default()),
        (17, 48, 1100, gate),
        (33, 264, 48, Epilogue::default()),
        (64, 96, 31, Epilogue::default()),
        (77, 24, 24, gate),
        (150, 72, 128, Epilogue::default()),
        (150, 40, 152, Epilogue::default()),
        (713, 40, 45, Epilogue::default()),
        (2, 1032, 24, Epilogue::default()),
        // The large tiles of Hopper GPUs.
        (64, 128, 160, Epilogue::default()),
        (128, 128, 128, Epilogue::default()),
        (128, 128, 160, Epilogue::default()),
    ];
    let plain = sizes.map(|(rows, channels, out, epilogue)| {
        linear([IMAGES, rows, channels].into(), out, true, epilogue)
    });
    let fused = epilogues(&[false, true]).into_iter();
    let fused = fused.map(|epilogue| linear([IMAGES, 11, 40].into(), 48, true, epilogue));
    let mut all: Vec<Case> = plain.into_iter().chain(fused).chain(stacked()).collect();
    all.extend(
        repeated()
            .into_iter()
            .filter(|case| !case.name.contains("37")),
    );
    let mut shifted = linear([IMAGES, 70, 320].into(), 40, false, Epilogue::default());
    shifted.operands[0] = Operand::spread(shifted.operands[0].shape, 30.0, 1.0);
    shifted.name += ", about 30";
    all.push(shifted);
    for case in &mut all {
        let channels = case.operands[0].shape.channels();
        if let Op::Linear(op) = &mut case.op {
            op.norm = Some(LayerNorm {
                eps: 1e-5,
                weight: param("norm.weight", [channels]),
                bias: param("norm.bias", [channels]),
            });
        }
        case.name += ", normalised";
    }
    all
}

/// A product of `x` to `out` channels.
pub fn linear(x: Shape, out: usize, bias: bool, epilogue: Epilogue) -> Case {
    let op = Linear {
        sources: 1,
        weight: param("weight", [out, x.channels()]),
        bias: bias.then(|| param("bias", [out])),
        stacked: vec![],
        norm: None,
        epilogue,
    };
    let product = x.with_channels(out);
    let output = product.with_channels(if epilogue.gate { out / 2 } else { out });
    let operands = [vec![Operand::normal(x)], extras(epilogue, product, output)].concat();
    let bias = if bias { "" } else { ", no bias" };
    let name = format!("{x} to {out}{bias}{}", epilogue_name(epilogue));
    case(name, op, operands)
}
