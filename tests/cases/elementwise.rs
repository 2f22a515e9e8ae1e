//! Non-linearities, gates and sums.

use super::{CHANNELS, Case, IMAGES, Operand, case, channels_name, param};
use latent_diffusion::Shape;
use latent_diffusion::ops::{
    Activate, Activation, Add, AddChannels, AddPositions, AveragePool2x, Geglu, ScaleShift,
};

pub(super) fn cases() -> Vec<Case> {
    let shapes: [Shape; 4] = [
        [IMAGES, 1, 1].into(),
        [IMAGES, 5, 14].into(),
        [IMAGES, 3, 5, 7].into(),
        [IMAGES, 9, 9, 66].into(),
    ];
    let mut all = vec![];
    for shape in shapes {
        all.push(case(shape, Add, vec![Operand::normal(shape); 2]));
        for channels in CHANNELS {
            let operands = [
                vec![Operand::normal(shape)],
                super::channels(channels, shape),
            ];
            let what = format!("{shape}{}", channels_name(channels));
            all.push(case(what, AddChannels { channels }, operands.concat()));
            let operands = [
                vec![Operand::normal(shape)],
                super::channels(channels, shape.with_channels(2 * shape.channels())),
            ];
            let what = format!("{shape}{}", channels_name(channels));
            all.push(case(what, ScaleShift { channels }, operands.concat()));
        }
    }
    // Odd sizes, of which the last line and column are left out, and whole packs.
    for [h, w, c] in [[2, 2, 1], [3, 5, 7], [5, 2, 33], [8, 6, 16], [7, 9, 48]] {
        let x = Operand::normal([IMAGES, h, w, c]);
        all.push(case(x.shape, AveragePool2x, vec![x]));
    }
    for activation in [Activation::Silu, Activation::Gelu, Activation::QuickGelu] {
        // Deviation 30: far into both tails, where an exponential overflows or vanishes.
        for (shape, deviation) in [([IMAGES, 7, 33], 1.0), ([IMAGES, 40, 40], 30.0)] {
            let what = format!("{activation:?} of {shape:?}, deviation {deviation}");
            let x = Operand::spread(shape, 0.0, deviation);
            all.push(case(what, Activate { activation }, vec![x]));
        }
    }
    for (shape, deviation) in [
        ([IMAGES, 1, 2], 1.0),
        ([IMAGES, 5, 34], 1.0),
        ([IMAGES, 9, 66], 9.0),
    ] {
        let what = format!("{shape:?}, deviation {deviation}");
        all.push(case(
            what,
            Geglu,
            vec![Operand::spread(shape, 0.0, deviation)],
        ));
    }
    for (tokens, positions) in [(77, 77), (5, 77), (1, 1)] {
        let table = param("weight", [positions, 33]);
        let what = format!("{tokens} of {positions}");
        let x = Operand::normal([IMAGES, tokens, 33]);
        all.push(case(what, AddPositions { table }, vec![x]));
    }
    all
}
