//! Operations that move values and change none, and the search for what to move.

use super::{Case, IMAGES, Operand, case, param};
use latent_diffusion::ops::{Axis, Codebook, Concat, Embedding, GatherToken, Reshape, Upsample2x};

pub(super) fn cases() -> Vec<Case> {
    let mut all = vec![];
    for widths in [&[5, 7][..], &[1, 33, 2], &[64, 32], &[9]] {
        let operands = widths
            .iter()
            .map(|&c| Operand::normal([IMAGES, 3, 5, c]))
            .collect();
        let op = Concat {
            axis: Axis::Channels,
        };
        all.push(case(format!("channels {widths:?}"), op, operands));
    }
    for batches in [[1, 1], [2, 3]] {
        let operands = batches.map(|n| Operand::normal([n, 4, 5])).to_vec();
        let op = Concat { axis: Axis::Batch };
        all.push(case(format!("batches {batches:?}"), op, operands));
    }
    for [h, w, c] in [[1, 1, 1], [3, 5, 7], [1, 4, 33]] {
        let x = Operand::normal([IMAGES, h, w, c]);
        all.push(case(x.shape, Upsample2x, vec![x]));
    }
    let x = Operand::normal([IMAGES, 2, 3, 5]);
    let shape = [IMAGES, 6, 5].into();
    all.push(case(x.shape, Reshape { shape }, vec![x]));
    for (rows, width) in [(1, 1), (748, 33), (50, 128)] {
        let table = param("weight", [rows, width]);
        let ids = Operand::below([IMAGES, 11], rows);
        all.push(case(
            format!("{rows} rows of {width}"),
            Embedding { table },
            vec![ids],
        ));
    }
    let table = param("weight", [1001, 12]);
    let classes = Operand::below([IMAGES], 1001);
    all.push(case(
        "one class per image",
        Embedding { table },
        vec![classes],
    ));
    for (codes, width) in [(2, 1), (300, 3), (256, 4), (1000, 8), (40, 13)] {
        let shape = [IMAGES, 5, 7, width];
        for (x, exact) in [
            (Operand::normal(shape), false),
            (Operand::below(shape, 4), true),
        ] {
            let codes = param("weight", [codes, width]);
            let what = format!("{} codes of {width}, exact: {exact}", codes.shape.batch());
            all.push(case(what, Codebook { codes, exact }, vec![x]));
        }
    }
    for tokens in [1, 77] {
        let operands = vec![
            Operand::normal([IMAGES, tokens, 9]),
            Operand::below([IMAGES], tokens),
        ];
        all.push(case(format!("one of {tokens}"), GatherToken, operands));
    }
    all
}
