//! Convolutions: one pixel, one row, both downsamplings, upsampling folded in, and every epilogue.

use super::{Case, IMAGES, Operand, case, epilogue_name, epilogues, extras, join, param, repeat};
use latent_diffusion::Shape;
use latent_diffusion::ops::{Affine, Beside, Conv2d, Epilogue, Op, Operator, Padding, Upsampling};

/// The attributes of a convolution.
#[derive(Clone, Copy)]
pub struct Filter {
    /// Its side.
    pub size: usize,
    /// Pixels between outputs.
    pub stride: usize,
    /// Zeros around the image.
    pub padding: Padding,
    /// Whether the image is upsampled first.
    pub upsampling: Upsampling,
}

/// The filter of nearly every convolution here.
const SAME: Filter = Filter {
    size: 3,
    stride: 1,
    padding: Padding {
        top: 1,
        left: 1,
        bottom: 1,
        right: 1,
    },
    upsampling: Upsampling::None,
};

pub(super) fn cases() -> Vec<Case> {
    // Height, width, channels in, channels out. The published networks begin with 3, 4, 6, 7, 9 and 16 channels.
    let sizes = [
        (1, 1, 5, 7),
        (1, 1, 64, 64),
        (1, 9, 7, 33),
        (9, 1, 33, 5),
        (2, 2, 300, 8),
        (5, 7, 3, 32),
        (4, 6, 4, 20),
        (3, 5, 6, 16),
        (3, 3, 7, 16),
        (6, 5, 9, 16),
        (5, 4, 16, 48),
        (8, 8, 33, 31),
        (7, 9, 64, 48),
        (4, 3, 136, 72),
        (3, 4, 8, 136),
        (15, 14, 16, 100),
        (15, 14, 16, 136),
        (11, 13, 8, 3),
        (16, 16, 12, 18),
    ];
    let plain =
        sizes.map(|(h, w, c, o)| conv2d([IMAGES, h, w, c].into(), o, SAME, Epilogue::default()));
    let one_side = |top, left, bottom, right| Padding {
        top,
        left,
        bottom,
        right,
    };
    let filters = [
        ("stride 2", Filter { stride: 2, ..SAME }),
        (
            "stride 2, padded below and right",
            Filter {
                stride: 2,
                padding: Padding::bottom_right(),
                ..SAME
            },
        ),
        (
            "stride 3, no padding",
            Filter {
                stride: 3,
                padding: Padding::default(),
                ..SAME
            },
        ),
        (
            "padded above",
            Filter {
                padding: one_side(2, 0, 0, 0),
                ..SAME
            },
        ),
        (
            "padded left",
            Filter {
                padding: one_side(0, 2, 0, 0),
                ..SAME
            },
        ),
        (
            "uneven padding",
            Filter {
                padding: one_side(0, 1, 3, 2),
                ..SAME
            },
        ),
        (
            "upsampled",
            Filter {
                upsampling: Upsampling::Repeated,
                ..SAME
            },
        ),
        (
            "upsampled, stride 2",
            Filter {
                upsampling: Upsampling::Repeated,
                stride: 2,
                ..SAME
            },
        ),
        (
            "1x1",
            Filter {
                size: 1,
                padding: Padding::default(),
                ..SAME
            },
        ),
        (
            "5x5",
            Filter {
                size: 5,
                padding: Padding::all(2),
                ..SAME
            },
        ),
        (
            "4x4, stride 2",
            Filter {
                size: 4,
                stride: 2,
                ..SAME
            },
        ),
    ];
    let filtered = filters.into_iter().flat_map(|(what, filter)| {
        // Even sides and odd ones: with stride 2 they end differently. Channels that are whole vectors, and are not, and whole stages of a
        // Hopper GPU's ring.
        let shapes = [[8, 6, 10, 9], [7, 5, 5, 9], [8, 7, 24, 16], [7, 6, 64, 10]];
        shapes.map(|[h, w, channels, out]| {
            let x = [IMAGES, h, w, channels].into();
            let mut case = conv2d(x, out, filter, Epilogue::default());
            case.name += &format!(", {what}");
            case
        })
    });
    let fused = epilogues(&[false]).into_iter().flat_map(|epilogue| {
        [(10, 19), (16, 24), (64, 88)]
            .map(|(channels, out)| conv2d([IMAGES, 5, 6, channels].into(), out, SAME, epilogue))
    });
    // Over the large image, and in phases: channels that are whole vectors and not, an epilogue that follows the pixels' order, one pixel.
    let sizes = [
        (1, 1, 8, 8),
        (3, 4, 7, 18),
        (8, 9, 24, 16),
        (9, 11, 33, 16),
        (6, 16, 64, 136),
    ];
    let ways = [Upsampling::Repeated, Upsampling::Phases];
    let upsampled = ways.into_iter().flat_map(|upsampling| {
        sizes.map(|(h, w, c, o)| {
            let filter = Filter { upsampling, ..SAME };
            let epilogue = Epilogue {
                residual: true,
                ..Epilogue::default()
            };
            let mut case = conv2d([IMAGES, h, w, c].into(), o, filter, epilogue);
            case.name += &format!(", {upsampling:?}");
            case
        })
    });
    // More taps than the CPU multiplies in one block.
    let wide = Filter {
        size: 18,
        padding: Padding::default(),
        ..SAME
    };
    let wide = conv2d([IMAGES, 18, 19, 1].into(), 5, wide, Epilogue::default());
    // The large tiles of Hopper GPUs.
    let large = [(8, 160), (16, 128), (16, 160)]
        .map(|(w, out)| conv2d([IMAGES, 8, w, 64].into(), out, SAME, Epilogue::default()));
    let joined = [[8, 8], [24, 40], [5, 4], [40, 30], [128, 64]].map(|channels| {
        let x = [IMAGES, 5, 6, channels[0] + channels[1]].into();
        join(conv2d(x, 12, SAME, Epilogue::default()), channels)
    });
    plain
        .into_iter()
        .chain(joined)
        .chain(filtered)
        .chain(fused)
        .chain(upsampled)
        .chain([wide])
        .chain(large)
        .chain(beside())
        .chain(repeated())
        .collect()
}

/// Residuals that both halves of guidance share, of images of every alignment and in phases; and second sources of skip connections.
fn repeated() -> Vec<Case> {
    let epilogue = Epilogue {
        residual: true,
        ..Epilogue::default()
    };
    let phases = Filter {
        upsampling: Upsampling::Phases,
        ..SAME
    };
    let sizes = [
        ([5, 6, 10], 19, SAME),
        ([7, 9, 64], 48, SAME),
        ([8, 16, 64], 160, SAME),
        ([8, 9, 24], 16, phases),
        ([6, 16, 64], 136, phases),
    ];
    let all = sizes.map(|([h, w, c], out, filter)| {
        let mut case = conv2d([IMAGES, h, w, c].into(), out, filter, epilogue);
        case.name += &format!(", {:?}", filter.upsampling);
        repeat(case, 1)
    });
    let skips = beside().into_iter().filter_map(|case| match &case.op {
        Op::Conv2d(op) if op.beside.as_ref()?.sources == 2 => Some(repeat(case, 2)),
        _ => None,
    });
    all.into_iter().chain(skips).collect()
}

/// Skip connections of one source and of two, as whole vectors and not, behind filters and sources of every kind; one so deep that a GPU splits
/// the sum, some in whole stages of a Hopper GPU's ring, and one of whole tiles.
fn beside() -> Vec<Case> {
    let wide = Filter { stride: 2, ..SAME };
    let sizes = [
        (SAME, [6, 5, 24], vec![16], 24, true),
        (SAME, [9, 11, 40], vec![72, 8], 136, true),
        (SAME, [3, 4, 8], vec![8, 40], 19, false),
        (SAME, [5, 6, 7], vec![3, 10], 12, true),
        (SAME, [2, 2, 120], vec![200], 16, true),
        (wide, [8, 7, 16], vec![24], 40, true),
        (SAME, [6, 5, 64], vec![128, 64], 24, true),
        (SAME, [9, 16, 64], vec![64, 64], 24, true),
        (SAME, [16, 24, 64], vec![64, 128], 80, true),
        (wide, [8, 7, 128], vec![64], 88, false),
    ];
    let all = sizes
        .into_iter()
        .flat_map(|(filter, [h, w, c], channels, out, bias)| {
            let shared = Epilogue {
                channels: Some(latent_diffusion::ops::Channels::Row),
                ..Epilogue::default()
            };
            [Epilogue::default(), shared].map(|epilogue| {
                let mut case = conv2d([IMAGES, h, w, c].into(), out, filter, epilogue);
                let Op::Conv2d(op) = &mut case.op else {
                    panic!("a convolution")
                };
                let shapes: Vec<Shape> = case.operands.iter().map(|x| x.shape).collect();
                let result = op.infer(&shapes).expect("a filter that fits its image");
                op.beside = Some(Beside {
                    sources: channels.len(),
                    map: Affine {
                        weight: param("beside.weight", [out, channels.iter().sum()]),
                        bias: bias.then(|| param("beside.bias", [out])),
                    },
                });
                let image = |&c: &usize| Operand::normal(result.with_channels(c));
                case.operands.splice(1..1, channels.iter().map(image));
                case.name += &format!(" beside {channels:?}");
                case
            })
        });
    all.collect()
}

/// A convolution of `x` to `out` channels.
pub fn conv2d(x: Shape, out: usize, filter: Filter, epilogue: Epilogue) -> Case {
    let plain = Conv2d {
        sources: 1,
        weight: param("weight", [out, x.channels(), filter.size, filter.size]),
        bias: Some(param("bias", [out])),
        stride: filter.stride,
        padding: filter.padding,
        upsampling: filter.upsampling,
        beside: None,
        epilogue: Epilogue::default(),
    };
    let product = plain.infer(&[x]).expect("a filter that fits its image");
    let operands = [vec![Operand::normal(x)], extras(epilogue, product, product)].concat();
    let name = format!("{x} to {out}{}", epilogue_name(epilogue));
    case(name, Conv2d { epilogue, ..plain }, operands)
}
