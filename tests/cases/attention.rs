//! Attention: every head size of the published networks and those around them, few keys and many, causal, sharp.

use super::{Case, IMAGES, Operand, case, repeat};
use latent_diffusion::ops::{Attention, Qkv};

pub(super) fn cases() -> Vec<Case> {
    // Queries, keys, heads, head size.
    let mut sizes: Vec<[usize; 4]> = [
        8, 24, 32, 40, 48, 64, 80, 96, 128, 160, 161, 168, 384, 512, 576, 960,
    ]
    .map(|size| [5, 77, 1, size])
    .to_vec();
    sizes.extend([
        [1, 1, 2, 8],
        [1, 77, 2, 40],
        [9, 1, 3, 40],
        [64, 64, 2, 32],
        [65, 92, 2, 40],
        [4, 21, 8, 5],
        [33, 130, 1, 16],
        [3, 4096, 1, 8],
        [2, 16384, 1, 8],
        [4, 4, 2, 32],
        [300, 77, 3, 40],
        [40, 700, 2, 24],
        [50, 50, 1, 350],
        [16, 16, 7, 33],
        // One key beyond a tile, a full tile, a padded head.
        [130, 65, 2, 56],
        [33, 80, 1, 160],
        [70, 92, 1, 104],
        // So many keys that stages are used again, with a part of a tile behind; so many queries that groups of a block have some, and have none.
        [190, 600, 1, 40],
        [180, 450, 1, 64],
        [70, 400, 2, 80],
        [70, 300, 1, 160],
        // So many heads that each multiprocessor of a large GPU has one.
        [2, 3, 108, 24],
        [2, 3, 108, 40],
        [2, 3, 108, 56],
    ]);
    let plain = sizes.into_iter().map(|size| attention(size, false, 1.0));
    // The last ones see the edges of their tiles, and pass beyond them.
    let causal = [
        [77, 77, 2, 64],
        [1, 1, 1, 8],
        [40, 40, 3, 24],
        [3, 3, 108, 40],
        [130, 130, 1, 64],
        [81, 81, 2, 160],
        [150, 150, 1, 176],
        [70, 70, 1, 33],
    ];
    let causal = causal.into_iter().map(|size| attention(size, true, 1.0));
    // Logits far apart: without the largest subtracted, their exponentials overflow.
    let sharp = [[17, 77, 2, 40], [20, 300, 1, 64]];
    let sharp = sharp.into_iter().map(|size| attention(size, false, 5.0));
    let shifted = [[20, 90, 2, 40], [9, 70, 1, 200]].map(shifted);
    let stacked = [Qkv::HeadByHead, Qkv::Thirds].map(|order| {
        [
            [4, 4, 14, 32],
            [77, 77, 3, 24],
            [65, 65, 2, 40],
            [130, 130, 8, 64],
            [64, 64, 2, 96],
            [64, 64, 1, 128],
            [33, 33, 2, 176],
            [20, 20, 3, 5],
            [2, 2, 108, 32],
        ]
        .map(|size| self::stacked(size, order))
    });
    let stacked = stacked.into_iter().flatten();
    // Queries that both halves of guidance share.
    let repeated = [
        [5, 77, 1, 40],
        [65, 92, 2, 40],
        [9, 1, 3, 40],
        [4, 21, 8, 5],
        [33, 130, 1, 16],
        [130, 65, 2, 56],
        [70, 400, 2, 80],
        [70, 77, 1, 160],
        [5, 77, 1, 384],
        [33, 80, 2, 161],
    ];
    let repeated = repeated.map(|size| repeat(attention(size, false, 1.0), 0));
    let all = plain.chain(causal).chain(sharp).chain(shifted);
    all.chain(stacked).chain(repeated).collect()
}

/// Attention on one operand that holds queries, keys and values in that order.
fn stacked([tokens, keys, heads, size]: [usize; 4], order: Qkv) -> Case {
    let mut case = attention([tokens, keys, heads, size], false, 1.0);
    if let latent_diffusion::ops::Op::Attention(op) = &mut case.op {
        op.operands = order;
    }
    case.operands = vec![Operand::normal([IMAGES, tokens, 3 * heads * size])];
    case.name.push_str(&format!(", {order:?}"));
    case
}

/// Attention on values that are far from zero, and close together.
fn shifted(size: [usize; 4]) -> Case {
    let mut case = attention(size, false, 1.0);
    case.name.push_str(", values about 30");
    case.operands[2] = Operand::spread(case.operands[2].shape, 30.0, 1.0);
    case
}

/// Attention on keys and queries of the given standard deviation.
pub fn attention([queries, keys, heads, size]: [usize; 4], causal: bool, deviation: f32) -> Case {
    let op = Attention {
        heads,
        scale: (1.0 / (size as f64).sqrt()) as f32,
        causal,
        operands: Qkv::Separate,
    };
    let width = heads * size;
    let operands = vec![
        Operand::spread([IMAGES, queries, width], 0.0, deviation),
        Operand::spread([IMAGES, keys, width], 0.0, deviation),
        Operand::normal([IMAGES, keys, width]),
    ];
    let causal = if causal { ", causal" } else { "" };
    let what =
        format!("{queries} on {keys}, {heads} heads of {size}, deviation {deviation}{causal}");
    case(what, op, operands)
}
